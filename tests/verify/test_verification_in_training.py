"""hardmine.verify around a training: what it counts, reports and saves, and that it does not affect the training."""

import re

import numpy
import pytest
import torch

import hardmine
from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal, assert_results_bitwise_equal
from support.inputs import Inputs, random_inputs
from support.ops import OPS, SELECTED_LOSSES, SELECTING_OPS, each_of
from support.runs import arguments_of, differentiable_outputs, evaluate, leaves_of, run
from verification_cases import break_output

each_op = each_of(OPS)

# The compiled op of each, and an output of it that verify checks
BREAKABLE = {
    **dict.fromkeys(SELECTED_LOSSES, ("triplet_loss", -4)),
    "select_triplets": ("select_triplets", -4),
    "tuplet_loss": ("tuplet_loss", 0),
    "batch_all_triplet_loss": ("batch_all_triplet_loss", 0),
    "knn": ("knn", 0),
}


@pytest.fixture
def save_dir(tmp_path):
    """A folder that does not exist yet."""
    return tmp_path / "some" / "where"


def train(steps: int = 5) -> list[torch.Tensor]:
    """The weights after a short training with dropout, and a random number drawn after it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    loss_of = losses.SCTLoss(lam=0.3)
    for step in range(steps):
        inputs = random_inputs(seed=step)
        optimizer.zero_grad()
        loss_of(model(inputs.embeddings), inputs.labels).backward()
        optimizer.step()
    return [*model.parameters(), torch.rand(3)]


def test_verify_around_training_leaves_weights_and_draws_equal(save_dir):
    expected = train()
    with hardmine.verify(every=1, save_dir=save_dir) as report:
        actual = train()
    assert report.checks == 5
    for a, b in zip(actual, expected, strict=True):
        assert_bitwise_equal(a, b)
    assert not save_dir.exists(), "nothing was wrong, nothing is saved"


@each_op
def test_verify_around_op_leaves_results_and_gradients_equal(name, save_dir):
    inputs = random_inputs(refs=30)
    expected = run(getattr(ops, name), inputs)
    with hardmine.verify(every=1, save_dir=save_dir) as report:
        assert_results_bitwise_equal(run(getattr(ops, name), inputs), expected)
    assert report.checks == 1


@each_op
def test_verify_around_op_leaves_inputs_and_grads_unchanged(name, save_dir):
    inputs = random_inputs(refs=30)
    copies = [t.clone() for t in inputs]
    leaves = leaves_of(inputs)
    with hardmine.verify(every=1, save_dir=save_dir):
        getattr(ops, name)(*arguments_of(name, inputs))
    assert not any(leaf.grad is not None for leaf in leaves)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


@each_op
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_verify_without_gradients_still_checks(name, mode, save_dir, monkeypatch):
    with mode(), hardmine.verify(every=1, save_dir=save_dir) as report:
        inputs = random_inputs(refs=30)
        getattr(ops, name)(*arguments_of(name, inputs))
        assert not torch.is_grad_enabled()
    assert report.checks == 1
    assert "gradient" in report.ops[name].deviation
    break_output(monkeypatch, *BREAKABLE[name], lambda s: s + 0.1)
    with mode(), hardmine.verify(every=1, save_dir=save_dir), pytest.raises(hardmine.VerificationError):
        getattr(ops, name)(*arguments_of(name, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_verify_under_autocast_checks_without_it(dtype, save_dir):
    inputs = random_inputs(refs=30)
    with torch.autocast("cpu", torch.bfloat16), hardmine.verify(every=1, save_dir=save_dir) as report:
        embeddings = (inputs.embeddings @ torch.eye(8)).to(dtype)
        ops.triplet_loss(*inputs._replace(embeddings=embeddings, ref_embeddings=inputs.ref_embeddings.to(dtype)))
    assert report.checks == 1
    assert report.ops["triplet_loss"].deviation["similarity"] < 1e-6


# Counting, and the report


@pytest.mark.parametrize(("every", "checks"), [(1, 7), (2, 4), (numpy.int64(2), 4), (3, 3), (7, 1), (100, 1)])
def test_verify_every_checks_first_and_every_nth_call(every, checks, save_dir):
    inputs = random_inputs()
    with hardmine.verify(every=every, save_dir=save_dir) as report:
        for _ in range(7):
            ops.triplet_loss(*inputs)
            ops.sct_loss(*inputs)
    assert {name: (op.calls, op.checks) for name, op in report.ops.items()} == {
        "triplet_loss": (7, checks),
        "sct_loss": (7, checks),
    }
    assert report.checks == 2 * checks
    assert report.ops["sct_loss"].choices == checks * 2 * len(inputs.labels)


def test_verify_skipped_calls_are_not_checked(save_dir, monkeypatch):
    inputs = random_inputs()
    with hardmine.verify(every=3, save_dir=save_dir):
        ops.select_triplets(*inputs)
        break_output(monkeypatch, "select_triplets", -4, lambda s: s + 1)
        ops.select_triplets(*inputs)
        ops.select_triplets(*inputs)
        with pytest.raises(hardmine.VerificationError, match=r"select_triplets \(call 4\)"):
            ops.select_triplets(*inputs)


def fail_inside(verify, inputs):
    """The report of a training that fails after one call."""
    try:
        with verify as report:
            ops.select_triplets(*inputs)
            raise KeyError("the training fails")
    except KeyError:
        return report


def test_verify_checks_only_calls_inside_context(save_dir):
    inputs = random_inputs()
    ops.select_triplets(*inputs)
    report = fail_inside(hardmine.verify(every=1, save_dir=save_dir), inputs)
    ops.select_triplets(*inputs)
    assert report.ops["select_triplets"].calls == 1


def test_verify_nested_only_inner_one_checks(save_dir):
    inputs = random_inputs()
    with hardmine.verify(every=1, save_dir=save_dir) as outer:
        with hardmine.verify(every=1, save_dir=save_dir) as inner:
            ops.select_triplets(*inputs)
        assert (outer.checks, inner.checks) == (0, 1)
        ops.select_triplets(*inputs)
    assert (outer.checks, inner.checks) == (1, 1)


def test_verify_invalid_arguments_get_error_of_op(save_dir):
    with hardmine.verify(every=1, save_dir=save_dir) as report:
        with pytest.raises(ValueError, match="positive must be one of"):
            ops.select_triplets(*random_inputs(), positive="easy")
        with pytest.raises(TypeError):
            ops.select_triplets()
    assert report.checks == 0


def test_report_summary_lists_calls_and_deviations(save_dir):
    inputs = random_inputs()
    with hardmine.verify(every=2, save_dir=save_dir) as report:
        for _ in range(5):
            ops.triplet_loss(*inputs)
        ops.select_triplets(*inputs)
    number = r"\d\.\de[-+]\d\d"
    line = "{}; largest deviation: similarity {n}, loss {n}, gradient {n}; selections that differ by a tie: 0 of {}"
    first = line.format("triplet_loss: 3 of 5 calls checked", 2 * 3 * 48, n=number)
    second = line.format("select_triplets: 1 of 1 calls checked", 2 * 48, n=number)
    assert re.fullmatch(f"{first}\n{second}", report.summary())
    assert str(report) == report.summary()
    deviations = [value for op in report.ops.values() for value in op.deviation.values()]
    assert report.largest_deviation == max(deviations) > 0


def test_report_summary_has_every_kind_of_op(save_dir):
    inputs = random_inputs()
    triplets = torch.tensor([[0, 1, 2], [3, 4, 5]])
    with hardmine.verify(every=1, save_dir=save_dir) as report:
        ops.tuplet_loss(*inputs)
        ops.batch_all_triplet_loss(*inputs[:2])
        ops.knn(inputs.embeddings, k=5)
        ops.indexed_triplet_loss(inputs.embeddings, triplets)
        ops.global_loss(inputs.embeddings, triplets)
    same = (inputs.labels[:, None] == inputs.labels).sum(1)
    total = int(((same - 1) * (48 - same)).sum())
    n = r"\d\.\de[-+]\d\d"
    lines = [
        f"tuplet_loss: {{}}logsumexp {n}, similarity {n}, loss {n}, gradient {n}; "
        "positives that differ by a tie: 0 of 48",
        f"batch_all_triplet_loss: {{}}loss {n}, gradient {n}; active triplets that differ by a tie: 0 of {total}",
        f"knn: {{}}similarity {n}, loss {n}, gradient {n}; neighbors that differ by a tie: 0 of 240",
        f"indexed_triplet_loss: {{}}loss {n}, gradient {n}",
        f"global_loss: {{}}loss {n}, gradient {n}",
    ]
    checked = "1 of 1 calls checked; largest deviation: "
    assert re.fullmatch("\n".join(line.format(checked) for line in lines), report.summary())


def test_report_summary_without_checks_says_so(save_dir):
    with hardmine.verify(save_dir=save_dir) as report:
        pass
    assert report.summary() == str(report) == "hardmine.verify: nothing was checked (no op was called in eager mode)"
    assert (report.checks, report.largest_deviation) == (0, 0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@each_op
def test_verify_around_compiled_call_checks_nothing(name, save_dir):
    def first_output(*inputs):
        return differentiable_outputs(name, Inputs(*inputs))[0]

    torch.compiler.reset()
    compiled = torch.compile(first_output, fullgraph=True, backend="aot_eager")
    inputs = random_inputs()
    expected = first_output(*inputs)
    with hardmine.verify(every=1, save_dir=save_dir) as report:
        assert_bitwise_equal(compiled(*inputs), expected)
    assert report.checks == 0
    assert "nothing was checked" in report.summary()
    assert_bitwise_equal(compiled(*inputs), expected)
    with hardmine.verify(every=1, save_dir=save_dir) as report:
        first_output(*inputs)
    assert report.checks == 1, "and eager calls still are"


# What a disagreement leaves behind


def disagreement(name: str, inputs: Inputs, save_dir, monkeypatch, **options) -> hardmine.VerificationError:
    """The error of an op that gives wrong similarities."""
    with monkeypatch.context() as context:
        break_output(context, *BREAKABLE[name], lambda s: s + 0.1)
        with hardmine.verify(every=1, save_dir=save_dir), pytest.raises(hardmine.VerificationError) as caught:
            getattr(ops, name)(*arguments_of(name, inputs), **options)
    return caught.value


@each_of(SELECTING_OPS)
def test_verify_disagreement_saves_inputs_and_outputs(name, save_dir, monkeypatch):
    inputs = random_inputs(refs=30)
    leaves_of(inputs)
    error = disagreement(name, inputs, save_dir, monkeypatch, positive="hardest")
    assert error.path == save_dir / f"{name}-call1.pt"
    assert isinstance(error, AssertionError)
    assert str(error).startswith(f"{name} (call 1) disagrees with its reference: positive_similarity deviates by ")
    assert str(error).endswith(f"were saved to {error.path}")

    saved = torch.load(error.path)
    assert saved["op"] == name
    assert saved["disagreement"] in str(error)
    assert saved["arguments"]["positive"] == "hardest"
    assert not saved["arguments"]["embeddings"].requires_grad
    for key, tensor in inputs._asdict().items():
        assert_bitwise_equal(saved["arguments"][key], tensor)
    outputs = saved["outputs"]
    right = ops.select_triplets(*inputs, positive="hardest", negative=saved["arguments"]["negative"])
    for error_made, output, expected in zip((0, 0, 0.1, 0), outputs["selection"], right, strict=True):
        torch.testing.assert_close(output, expected.detach() + error_made, equal_nan=True)
    assert outputs["loss"].shape == ((48,) if name == "select_triplets" else ())
    assert [gradient.shape for gradient in outputs["gradients"]] == [(48, 8), (30, 8)]
    getattr(ops, name)(**saved["arguments"])  # runs again with the saved arguments


@pytest.mark.parametrize(
    ("name", "returned", "options", "message"),
    [
        ("tuplet_loss", "terms", {"positive": "all"}, "the loss deviates by "),
        ("batch_all_triplet_loss", "counts", {"margin": torch.full((6, 6), 0.3)}, "the loss deviates by "),
        ("knn", "neighbors", {"k": 3}, "similarity deviates by "),
    ],
)
def test_verify_disagreement_saves_other_returned_values(name, returned, options, message, save_dir, monkeypatch):
    inputs = random_inputs(refs=30)
    inputs = inputs._replace(labels=(inputs.labels + 4) // 3, ref_labels=(inputs.ref_labels + 4) // 3)
    error = disagreement(name, inputs, save_dir, monkeypatch, **options)
    assert str(error).startswith(f"{name} (call 1) disagrees with its reference: {message}")
    saved = torch.load(error.path)
    for key, value in options.items():
        kept = saved["arguments"][key]
        assert torch.equal(kept, value) if isinstance(value, torch.Tensor) else kept == value
    right = evaluate(getattr(ops, name), inputs, **options)[1]
    assert len(saved["outputs"][returned]) == len(right)
    assert all(not t.requires_grad for t in saved["outputs"][returned])
    assert [gradient.shape for gradient in saved["outputs"]["gradients"]] == [(48, 8), (30, 8)][
        : len(leaves_of(inputs))
    ]
    getattr(ops, name)(**saved["arguments"])


def test_verify_repeated_disagreement_overwrites_no_file(save_dir, monkeypatch):
    inputs = random_inputs()
    paths = [disagreement("select_triplets", inputs, save_dir, monkeypatch).path for _ in range(3)]
    assert [path.name for path in paths] == [f"select_triplets-call1{suffix}.pt" for suffix in ("", "-2", "-3")]
    assert all(path.exists() for path in paths)


def test_verify_after_disagreement_observes_no_more(save_dir, monkeypatch):
    disagreement("select_triplets", random_inputs(), save_dir, monkeypatch)
    break_output(monkeypatch, "select_triplets", -4, lambda s: s + 0.1)
    ops.select_triplets(*random_inputs())


# Invalid arguments


@pytest.mark.parametrize("every", [0, -1, 2.0, True, None, "3"])
def test_verify_invalid_every_raises(every):
    with pytest.raises(ValueError, match=f"^every must be an integer >= 1, got {every!r}$"):
        hardmine.verify(every=every)


@pytest.mark.parametrize("tolerance", [0, -1e-3, float("nan")])
def test_verify_invalid_tolerance_raises(tolerance):
    with pytest.raises(ValueError, match=f"^tolerance must be > 0, got {tolerance!r}$"):
        hardmine.verify(tolerance=tolerance)


@pytest.mark.parametrize("below", ["", "folder"])
def test_verify_unwritable_save_dir_raises_at_start(below, tmp_path):
    """The error is raised at the start, not after hours of training."""
    (tmp_path / "file").touch()
    save_dir = tmp_path / "file" / below
    message = f"save_dir must be a folder that can be written to, got '{save_dir}'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hardmine.verify(save_dir=save_dir)
