"""torch.vmap runs an op on each problem, as a Python loop does; torch.func.grad equals torch.autograd."""

import pytest
import torch
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vjp

from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs, seeded

PROBLEMS, ROWS, DEPTH = 3, 12, 5
DRAWN = [random_inputs(ROWS, DEPTH, 3, refs=9, seed=seed) for seed in range(PROBLEMS)]
X, Y, REFS, REF_LABELS = (torch.stack(tensors) for tensors in zip(*DRAWN, strict=True))
TRIPLETS = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
IDS = torch.randint(4, (PROBLEMS, ROWS), generator=seeded(1))
WEIGHTS = torch.rand(PROBLEMS, ROWS, generator=seeded(2))
ONE_BAD = WEIGHTS.clone()
ONE_BAD[1, 4] = -1
TEMPERATURES = torch.tensor([0.1, 0.2, 0.5])
BATCH = X, Y, REFS, REF_LABELS, IDS, WEIGHTS, TEMPERATURES
WITH_GRADIENT = (0, 2, 5, 6)

# Calls with the rows of a problem, their labels, refs, their labels, ids, weights and a temperature
CALLS = {
    "select_triplets": lambda x, y, r, z, i, w, t: ops.select_triplets(x, y, r, z).negative_similarity,
    "triplet_loss": lambda x, y, r, z, i, w, t: ops.triplet_loss(x, y),
    "triplet_loss, refs": lambda x, y, r, z, i, w, t: ops.triplet_loss(x, y, r, z, negative="hardest"),
    "triplet_loss, all positives": lambda x, y, r, z, i, w, t: ops.triplet_loss(x, y, positive="all"),
    "triplet_loss, ranks": lambda x, y, r, z, i, w, t: ops.triplet_loss(
        x, y, negative="hardest", negative_ranks=(1, 3)
    ),
    "triplet_loss, tensors": lambda x, y, r, z, i, w, t: ops.triplet_loss(x, y, ids=i, weights=w, temperature=t),
    "triplet_loss, ignore_index": lambda x, y, r, z, i, w, t: ops.triplet_loss(x, y, ignore_index=2),
    "triplet_loss, hyperbolic": lambda x, y, r, z, i, w, t: ops.triplet_loss(x * 0.05, y, similarity="hyperbolic"),
    "sct_loss": lambda x, y, r, z, i, w, t: ops.sct_loss(x, y, ids=i, reduction="none"),
    "tuplet_loss": lambda x, y, r, z, i, w, t: ops.tuplet_loss(x, y, r, z, positive="all"),
    "tuplet_loss, temperature": lambda x, y, r, z, i, w, t: ops.tuplet_loss(x, y, temperature=t, reduction="sum"),
    "batch_all_triplet_loss": lambda x, y, r, z, i, w, t: ops.batch_all_triplet_loss(x, y, r, z, margin=0.4),
    "indexed_triplet_loss": lambda x, y, r, z, i, w, t: ops.indexed_triplet_loss(x, TRIPLETS),
    "global_loss": lambda x, y, r, z, i, w, t: ops.global_loss(x, TRIPLETS),
    "knn": lambda x, y, r, z, i, w, t: ops.knn(x, r, k=4).similarity,
    "logsumexp": lambda x, y, r, z, i, w, t: ops.logsumexp(x, y, r, z, temperature=t),
    "supcon_loss": lambda x, y, r, z, i, w, t: ops.supcon_loss(x, y, temperature=t, weights=w),
    "multi_similarity_loss": lambda x, y, r, z, i, w, t: ops.multi_similarity_loss(x, y, ids=i),
    "circle_loss": lambda x, y, r, z, i, w, t: ops.circle_loss(x, y, r, z),
    "info_nce_loss": lambda x, y, r, z, i, w, t: ops.info_nce_loss(x[:9], r, symmetric=True, temperature=t),
    "info_nce_loss, ids": lambda x, y, r, z, i, w, t: ops.info_nce_loss(x[:9], r, ids=i[:9]),
    "sigmoid_loss": lambda x, y, r, z, i, w, t: ops.sigmoid_loss(x[:9], r, logit_scale=t, weights=w[:9]),
}
each_call = pytest.mark.parametrize("name", CALLS)


def problem(g):
    return [tensor[g] for tensor in BATCH]


def total(name):
    """The call with one number as result, in which every value of the call has another weight."""

    def call(*tensors):
        values = CALLS[name](*tensors)
        return (values * torch.linspace(1, 2, values.numel(), dtype=values.dtype).view(values.shape)).nansum()

    return call


def gradients(name, tensors):
    """The gradients of torch.autograd by rows, refs, weights and temperature."""
    leaves = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in tensors]
    wanted = [leaves[k] for k in WITH_GRADIENT]
    return torch.autograd.grad(total(name)(*leaves), wanted, allow_unused=True, materialize_grads=True)


def gradients_of_loop(name):
    return map(torch.stack, zip(*(gradients(name, problem(g)) for g in range(PROBLEMS)), strict=True))


def assert_all_bitwise_equal(values, expected):
    for value, other in zip(values, expected, strict=True):
        assert_bitwise_equal(value, other)


@each_call
def test_vmap_equals_loop(name):
    batch = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in BATCH]
    expected = torch.stack([CALLS[name](*problem(g)) for g in range(PROBLEMS)])
    assert_bitwise_equal(torch.vmap(CALLS[name])(*batch).detach(), expected)
    assert len(set(expected.view(PROBLEMS, -1).nansum(1).tolist())) == PROBLEMS
    loss, wanted = torch.vmap(total(name))(*batch).sum(), [batch[k] for k in WITH_GRADIENT]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    assert_all_bitwise_equal(found, gradients_of_loop(name))


@each_call
def test_grad_equals_autograd(name):
    assert_all_bitwise_equal(grad(total(name), WITH_GRADIENT)(*problem(0)), gradients(name, problem(0)))


@each_call
def test_vmap_of_grad_equals_loop(name):
    assert_all_bitwise_equal(torch.vmap(grad(total(name), WITH_GRADIENT))(*BATCH), gradients_of_loop(name))


@each_call
def test_grad_of_vmap_equals_loop(name):
    found = grad(lambda *batch: torch.vmap(total(name))(*batch).sum(), WITH_GRADIENT)(*BATCH)
    assert_all_bitwise_equal(found, gradients_of_loop(name))


def test_vmap_of_rows_with_shared_refs_sums_their_gradients():
    refs = REFS[0].clone().requires_grad_()
    found = torch.vmap(ops.tuplet_loss, (0, None, None, None))(X, Y[0], refs, REF_LABELS[0])
    expected = torch.stack([ops.tuplet_loss(x, Y[0], refs, REF_LABELS[0]) for x in X])
    assert_bitwise_equal(found.detach(), expected.detach())
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), refs)[0] for loss in (found, expected)))


def test_vmap_of_grad_by_shared_rows_has_a_gradient_of_each_problem():
    found = torch.vmap(grad(ops.tuplet_loss), (None, 0))(X[0], Y)
    assert_bitwise_equal(found, torch.stack([grad(ops.tuplet_loss)(X[0], y) for y in Y]))


def test_vmap_over_another_dimension_takes_its_problems():
    found = torch.vmap(ops.triplet_loss, (1, 0), out_dims=0)(X.movedim(0, 1), Y)
    assert_bitwise_equal(found, torch.vmap(ops.triplet_loss)(X, Y))


@pytest.mark.parametrize("call", [ops.sct_loss, grad(ops.sct_loss)], ids=["loss", "grad"])
def test_vmap_of_vmap_equals_loops(call):
    found = torch.vmap(torch.vmap(call, (0, None)), (None, 0))(X, Y)
    assert_bitwise_equal(found, torch.stack([torch.stack([call(x, y) for x in X]) for y in Y]))


def test_vmap_of_module_gives_gradients_of_each_problem():
    module = losses.SupConLoss(temperature=torch.nn.Parameter(torch.tensor(0.2)))
    per_problem = grad(lambda parameters, x, y: functional_call(module, parameters, (x, y)))
    found = torch.vmap(per_problem, (None, 0, 0))(dict(module.named_parameters()), X, Y)
    expected = [torch.autograd.grad(module(x, y), module.temperature)[0] for x, y in zip(X, Y, strict=True)]
    assert_bitwise_equal(found["temperature"], torch.stack(expected))


def test_vmap_of_memory_raises():
    memory = losses.CrossBatchMemory(losses.TripletLoss(), size=24, dim=DEPTH)
    with pytest.raises(ValueError, match=r"^embeddings must not be batched by torch.vmap: the problems would share"):
        torch.vmap(memory)(X, Y)


def test_vmap_selection_has_a_dimension_of_problems():
    loss, selection = torch.vmap(lambda x, y: ops.triplet_loss(x, y, return_selection=True))(X, Y)
    for g in range(PROBLEMS):
        expected_loss, expected = ops.triplet_loss(X[g], Y[g], return_selection=True)
        assert_bitwise_equal(loss[g], expected_loss)
        assert_all_bitwise_equal([part[g] for part in selection], expected)


@pytest.mark.parametrize("is_grad", [False, True], ids=["vmap", "vmap of grad"])
@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        (ValueError, "weights must be finite and at least 0, got -1.0 at [4]", {"weights": ONE_BAD}),
        (ValueError, "temperature must be", {"temperature": torch.tensor([0.1, 0.0, 0.1])}),
        (ValueError, "labels must be [B] = [12], got [11]", {"labels": Y[:, :11]}),
        (TypeError, "labels must have an integer dtype, got torch.float32", {"labels": Y.float()}),
        (ValueError, "ids must be below 2^63", {"ids": torch.full(Y.shape, 2**64 - 1, dtype=torch.uint64)}),
        (ValueError, "embeddings must be [rows, D], got [5]", {"embeddings": X[:, 0]}),
    ],
    ids=["weights", "temperature", "shape", "dtype", "ids", "dimensions"],
)
def test_vmap_bad_argument_raises_as_loop(kind, message, change, is_grad):
    given = {"embeddings": X, "labels": Y} | change
    bad = 1 if "weights" in change or "temperature" in change else 0
    with pytest.raises(kind) as expected:
        ops.supcon_loss(**{name: value[bad] for name, value in given.items()})
    rows = given.pop("embeddings")

    def call(x, others):
        return ops.supcon_loss(x, **others)

    with pytest.raises(kind) as found:
        torch.vmap(grad(call) if is_grad else call)(rows, given)
    assert str(found.value) == str(expected.value)
    assert str(found.value).startswith(message)


def test_vmap_results_of_different_sizes_raise():
    labels = torch.stack([torch.arange(ROWS) // 2, torch.arange(ROWS) // 3])

    def call(x, y):
        return ops.triplet_loss(x, y, positive="all", return_selection=True)

    assert torch.vmap(lambda x, y: ops.triplet_loss(x, y, positive="all"))(X[:2], labels).shape == (2,)
    with pytest.raises(ValueError, match=r"^torch.vmap must get results of equal sizes, got \[12\] and \[24\]"):
        torch.vmap(call)(X[:2], labels)


def test_batch_of_problems_without_vmap_names_it():
    with pytest.raises(
        ValueError, match=r"^embeddings must be \[rows, D\], got \[3, 12, 5\]; torch.vmap takes a batch"
    ):
        ops.triplet_loss(X, Y)


def draw(x, y, **options):
    return ops.triplet_loss(x, y, positive="random", negative="random", reduction="none", **options)


@pytest.mark.parametrize("is_grad", [False, True], ids=["vmap", "vmap of grad"])
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_random_selections_follow_randomness(randomness, is_grad):
    call = grad(lambda x, y: draw(x, y).sum()) if is_grad else draw
    x, y = X[0].expand(20, -1, -1), Y[0].expand(20, -1)
    torch.manual_seed(0)
    found = torch.vmap(call, randomness=randomness)(x, y)
    torch.manual_seed(0)
    if randomness == "same":
        assert_bitwise_equal(found, call(x[0], y[0]).expand_as(found).contiguous())
    else:
        assert len(found.unique(dim=0)) == 20
        assert_bitwise_equal(found[0], call(x[0], y[0]))


def test_vmap_random_selections_of_one_call_differ_from_another():
    twice = torch.vmap(lambda x, y: torch.stack([draw(x, y), draw(x, y)]), randomness="different")(X, Y)
    assert not torch.equal(twice[:, 0], twice[:, 1])


def test_vmap_of_vmap_random_selections_with_same_randomness_are_equal():
    x, y = X[0].expand(3, 4, -1, -1), Y[0].expand(3, 4, -1)
    torch.manual_seed(0)
    found = torch.vmap(torch.vmap(draw, randomness="same"), randomness="same")(x, y)
    torch.manual_seed(0)
    assert_bitwise_equal(found, draw(x[0, 0], y[0, 0]).expand_as(found).contiguous())


def test_vmap_random_selections_with_randomness_error_raise():
    with pytest.raises(RuntimeError, match="randomness error mode"):
        torch.vmap(draw)(X, Y)


def losses_of_anchors(x):
    return ops.tuplet_loss(x, Y[0], reduction="none")


@pytest.mark.filterwarnings("error:There is a performance drop")  # of torch's own loop
def test_jacrev_equals_gradients_of_each_loss():
    leaf = X[0].clone().requires_grad_()
    values = losses_of_anchors(leaf)
    expected = torch.stack([torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in values])
    assert_bitwise_equal(jacrev(losses_of_anchors)(X[0]), expected)
    assert_bitwise_equal(torch.vmap(vjp(losses_of_anchors, X[0])[1])(torch.eye(ROWS))[0], expected)
    assert_bitwise_equal(torch.vmap(jacrev(losses_of_anchors))(X)[0], expected)


def loss_of(x):
    return ops.triplet_loss(x, Y[0])


def soft_loss_of(x):
    return ops.supcon_loss(x, Y[0])


@pytest.mark.parametrize("loss", [loss_of, soft_loss_of, losses_of_anchors])
@pytest.mark.parametrize(
    "second",
    [
        lambda loss: grad(lambda x: grad(loss)(x).sum())(X[0]),
        lambda loss: torch.vmap(grad(lambda x: grad(loss)(x).sum()))(X),
        lambda loss: grad(loss)(X[0].clone().requires_grad_()).sum().backward(),
        lambda loss: torch.vmap(grad(loss))(X.clone().requires_grad_()).sum().backward(),
        lambda loss: jacrev(jacrev(loss))(X[0]),
    ],
    ids=["grad of grad", "vmap of grad of grad", "backward of grad", "backward of vmap of grad", "jacrev of jacrev"],
)
def test_second_derivative_raises(loss, second):
    with pytest.raises(NotImplementedError, match=r"^hardmine::\w+ has no second derivative$"):
        second(lambda x: loss(x).sum())


@pytest.mark.parametrize("loss", [loss_of, soft_loss_of])
@pytest.mark.parametrize(
    "forward_mode",
    [
        lambda loss: jacfwd(loss)(X[0]),
        lambda loss: jvp(loss, (X[0],), (X[1],)),
        lambda loss: jvp(lambda x: torch.vmap(loss)(x), (X,), (X,)),
        lambda loss: torch.vmap(jacfwd(loss))(X),
    ],
    ids=["jacfwd", "jvp", "jvp of vmap", "vmap of jacfwd"],
)
def test_forward_mode_raises(loss, forward_mode):
    with pytest.raises(
        NotImplementedError, match=r"^embeddings must have no tangent: hardmine's ops have no forward-mode derivative$"
    ):
        forward_mode(loss)


@pytest.mark.parametrize("loss", [loss_of, soft_loss_of])
def test_hessian_raises(loss):
    with pytest.raises(NotImplementedError, match=r"^hardmine::\w+_backward has no forward-mode derivative$"):
        hessian(loss)(X[0])


def test_grad_without_gradients_is_zero():
    def constant(x):
        with torch.no_grad():
            return ops.triplet_loss(x, Y[0]) + 0 * x.sum()

    assert ops.triplet_loss(X[0], Y[0]) > 0
    assert not grad(constant)(X[0]).any()


@pytest.mark.slow
@pytest.mark.parametrize("op", [ops.triplet_loss, ops.supcon_loss, ops.batch_all_triplet_loss])
@pytest.mark.parametrize("transform", [torch.vmap, lambda op: torch.vmap(grad(op))], ids=["vmap", "vmap of grad"])
def test_compiled_transform_equals_eager(op, transform):
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: transform(op)(x, y), fullgraph=True)
    torch.testing.assert_close(compiled(X, Y), transform(op)(X, Y))


@pytest.mark.slow
@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("transform", [lambda op: op, grad], ids=["op", "grad"])
def test_compiled_vmap_of_random_selections_equals_eager(transform, randomness):
    def loss(x, y):
        return ops.triplet_loss(x, y, positive="random", negative="random")

    def mapped(x, y):
        return torch.vmap(transform(loss), randomness=randomness)(x, y)

    torch.compiler.reset()
    results = []
    with torch.random.fork_rng(devices=[]):
        for function in (torch.compile(mapped, fullgraph=True, backend="aot_eager"), mapped):
            torch.manual_seed(1)
            results.append(function(X, Y))
    torch.testing.assert_close(*results)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [losses.TripletLoss(), losses.SupConLoss()], ids=["triplet", "supcon"])
def test_train_step_is_one_compiled_graph(loss):
    """Forward, backward and update of a network."""
    torch.compiler.reset()
    network = torch.nn.Linear(DEPTH, 4)
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return torch._dynamo.backends.registry.lookup_backend("inductor")(graph, example_inputs)

    def step(parameters, x, y):
        gradients, value = grad_and_value(lambda p: loss(functional_call(network, p, (x,)), y))(parameters)
        return {name: p - 0.1 * gradients[name] for name, p in parameters.items()}, value

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    parameters = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    values = []
    for x, y in zip(X, Y, strict=True):
        parameters, value = compiled(parameters, x, y)
        values.append(value)
        optimizer.zero_grad()
        expected = loss(network(x), y)
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(parameters, dict(network.named_parameters()))
    assert len(graphs) == 1
    assert len({value.item() for value in values}) == PROBLEMS


@pytest.mark.parametrize("op", [ops.triplet_loss, ops.batch_all_triplet_loss, ops.supcon_loss])
def test_outer_derivative_of_inner_value_equals_autograd(op):
    """Rows that only an outer transform differentiates."""

    def scaled(x):
        one = torch.ones(())
        return grad_and_value(lambda t: op(x * torch.ones_like(x), Y[0]) * t)(one)[1]

    leaf = X[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(op(leaf, Y[0]), leaf)
    assert_bitwise_equal(grad(scaled)(X[0]), expected)


@pytest.mark.parametrize("positive", ["easiest", "all"])
def test_triplets_of_a_batch_of_selections_raise(positive):
    labels = torch.arange(ROWS) // 3  # equal numbers of pairs
    found = torch.vmap(lambda x: ops.select_triplets(x, labels, positive=positive, negative="hardest"))(X)
    with pytest.raises(ValueError, match=r"triplets\(\) must have a selection of one problem, .* got \[3, \d+\]"):
        found.triplets()
    first = type(found)(*(field[0] for field in found))
    expected = ops.select_triplets(X[0], labels, positive=positive, negative="hardest").triplets()
    for actual, wanted in zip(first.triplets(), expected, strict=True):
        assert torch.equal(actual, wanted)
