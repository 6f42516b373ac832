"""CrossBatchMemory: a queue that holds the batch, and in which no anchor finds its own copy."""

import copy
import inspect
import io
import pickle

import pytest
import torch

from hardmine import losses, ops
from hardmine.losses import CrossBatchMemory, EPHNLoss, TripletLoss, TupletLoss
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

DIM = 4
WITH_REFS = [
    name
    for name in losses.__all__
    if name != "CrossBatchMemory" and "ref_embeddings" in inspect.signature(getattr(losses, name).forward).parameters
]
HINGE = {"positive": "hardest", "negative": "hardest", "term": "hinge", "margin": 1.0, "similarity": "dot"}


def batch(rows, seed, classes=3, dtype=torch.float32):
    """Embeddings that require a gradient, and labels."""
    x = torch.randn(rows, DIM, generator=seeded(seed), dtype=torch.float64).to(dtype).requires_grad_()
    return x, torch.randint(classes, (rows,), generator=seeded(seed + 1000))


def value_and_gradient(function, embeddings, *arguments, **options):
    loss = function(embeddings, *arguments, **options)
    return loss.detach(), torch.autograd.grad(loss, embeddings)[0]


def assert_same_memory(memory, other):
    for buffer, expected in zip(memory.buffers(), other.buffers(), strict=True):
        assert_bitwise_equal(buffer, expected)


class ListQueue:
    """A queue as a list of slots, with one number per row that was put in."""

    def __init__(self, loss, size):
        self.loss, self.slots, self.size, self.total = loss, [], size, 0

    def __call__(self, embeddings, labels, ids=None, **returns):
        """The loss of a batch; ``ids`` are small, and the numbers of other rows are large."""
        numbers = 1000 + self.total + torch.arange(len(labels))
        ids = numbers if ids is None else torch.where(ids >= 0, ids, numbers)
        for row in zip(embeddings.detach().clone(), labels, ids, strict=True):
            slot = self.total % self.size
            self.slots[slot : slot + 1] = [row]
            self.total += 1
        refs, ref_labels, ref_ids = (torch.stack(parts) for parts in zip(*self.slots, strict=True))
        return self.loss(embeddings, labels, refs, ref_labels, ids=ids, ref_ids=ref_ids, **returns)


# Hand-worked, and against pytorch-metric-learning

# Embeddings, labels, rows that enter only, and the loss and gradient, for a memory of 4 rows and HINGE.
HAND_STEPS = [
    ([[1, 0], [0, 2]], [0, 1], None, 0.0, [[0, 0], [0, 0]]),  # no positive but the own copy
    ([[2, 1], [1, 2]], [0, 1], None, (4 - 2 + 1 + 4 - 4 + 1) / 2, [[0, 1], [1, -0.5]]),
    ([[1, 3]], [0], None, 7 - 5 + 1, [[-1, 1]]),  # replaces (1, 0)
    ([[2, 0], [3, 1]], [1, 0], None, (6 - 2 + 1 + 6 - 6 + 1) / 2, [[1, -0.5], [0.5, -1.5]]),
    ([[2, 0], [0, 1]], [0, 1], [False, True], 4 - 2 + 1, [[1, -3], [0, 0]]),  # replaces (1, 2), wraps
]


def check_hand_steps(memory):
    for rows, labels, mask, expected, gradient in HAND_STEPS:
        x = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
        options = {} if mask is None else {"enqueue_mask": torch.tensor(mask)}
        loss, grad = value_and_gradient(memory, x, torch.tensor(labels), **options)
        assert loss.item() == pytest.approx(expected)
        assert grad.tolist() == gradient


def test_memory_hand_worked_steps_match():
    memory = CrossBatchMemory(TripletLoss(**HINGE), 4, 2)
    check_hand_steps(memory)
    assert memory.embeddings.tolist() == [[1, 3], [2, 0], [3, 1], [0, 1]]
    assert memory.labels.tolist() == [0, 1, 0, 1]


def pml_memory(size, dim, similarity):
    """The memory of pytorch-metric-learning with batch-hard triplets, or with all pairs if there is no similarity."""
    pml = pytest.importorskip("pytorch_metric_learning")
    assert pml.__version__ == "2.9.0"
    from pytorch_metric_learning import distances, miners, reducers
    from pytorch_metric_learning import losses as pml_losses

    if similarity is None:
        return pml_losses.CrossBatchMemory(pml_losses.NTXentLoss(temperature=0.5), dim, size)
    normalize = similarity == "cosine"
    distance = distances.DotProductSimilarity(normalize_embeddings=normalize)
    loss = pml_losses.TripletMarginLoss(margin=1.0, distance=distance, reducer=reducers.MeanReducer())
    return pml_losses.CrossBatchMemory(loss, dim, size, miner=miners.BatchHardMiner(distance=distance))


def test_pml_memory_hand_worked_steps_match():
    check_hand_steps(pml_memory(4, 2, "dot"))


@pytest.mark.parametrize("masked", [False, True])
def test_memory_batch_hard_matches_pml(masked):
    """With cosine similarities, an own copy is never the hardest of several positives, which PML removes at the end."""
    theirs = pml_memory(23, DIM, "cosine")
    ours = CrossBatchMemory(TripletLoss(**{**HINGE, "similarity": "cosine"}), 23, DIM, dtype=torch.float64)
    largest = 0.0
    for step, rows in enumerate([5, 5, 9, 1, 7, 23, 2, 11, 8, 8]):
        x, labels = batch(rows, step, dtype=torch.float64)
        options = {"enqueue_mask": torch.rand(rows, generator=seeded(step)) < 0.5} if masked else {}
        loss, grad = value_and_gradient(ours, x, labels, **options)
        expected, expected_grad = value_and_gradient(theirs, x, labels, **options)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-14)
        largest = max(largest, loss.item())
    assert largest > 1
    assert_bitwise_equal(ours.embeddings, theirs.embedding_memory)
    assert_bitwise_equal(ours.labels, theirs.label_memory)


def test_memory_of_all_pairs_matches_pml():
    """PML averages over pairs, and hardmine over anchors: with as many positives each, these are equal."""
    theirs = pml_memory(12, DIM, None)
    ours = CrossBatchMemory(TupletLoss(positive="all", temperature=0.5), 12, DIM, dtype=torch.float64)
    for step in range(7):
        x, _ = batch(4, step, dtype=torch.float64)
        loss, grad = value_and_gradient(ours, x, torch.arange(4))
        expected, expected_grad = value_and_gradient(theirs, x, torch.arange(4))
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-14)
        assert step == 0 or loss > 0.5


# Against a list


@pytest.mark.parametrize("name", WITH_REFS)
@pytest.mark.parametrize("with_ids", [False, True], ids=["own", "ids"])
def test_memory_equals_queue_of_lists(name, with_ids):
    """Batches of other sizes, a queue that is not full, and one that wraps within a batch."""
    own_options = {
        "HierarchicalTripletLoss": {"classes": 3},
        "CircleLoss": {"gamma": 3.0},
        "MultiSimilarityLoss": {"similarity": "dot"},
    }
    loss_of = getattr(losses, name)(**own_options.get(name, {"similarity": "euclidean"}))
    memory, expected = CrossBatchMemory(loss_of, 17, DIM), ListQueue(loss_of, 17)
    for step, rows in enumerate([3, 1, 0, 8, 7, 17, 2, 9, 4]):
        x, labels = batch(rows, step)
        options = {"ids": torch.randint(-3, 6, (rows,), generator=seeded(step))} if with_ids else {}
        for got, wanted in zip(*(value_and_gradient(f, x, labels, **options) for f in (memory, expected)), strict=True):
            assert_bitwise_equal(got, wanted)
        assert memory.filled == min(memory.counters[0], 17)
    assert memory.counters.tolist() == [51, 9]


def test_memory_after_wrap_excludes_own_copy():
    """Each class has one row: its own copy would be the only positive."""
    memory = CrossBatchMemory(EPHNLoss(reduction="none"), 5, DIM)
    for step in range(6):
        x, _ = batch(3, step)
        loss, selection = memory(x, torch.arange(3) + 3 * step, return_selection=True)
        assert (selection.positive_index == -1).all()
        assert loss.tolist() == [0, 0, 0]


def test_memory_index_is_row_of_the_queue():
    memory = CrossBatchMemory(EPHNLoss(), 5, DIM)
    for step, rows in enumerate([3, 4]):
        x, labels = batch(rows, step, classes=2)
        _, selection, count = memory(x, labels, return_selection=True, return_count=True)
    chosen = memory.embeddings[selection.negative_index]
    similarity = torch.cosine_similarity(x, chosen)
    torch.testing.assert_close(similarity, selection.negative_similarity)
    assert count == selection.count()


def test_memory_image_numbers_exclude_earlier_copies():
    memory, numbers = CrossBatchMemory(EPHNLoss(), 8, DIM), torch.tensor([7, 8])
    for step in range(3):
        x, _ = batch(2, step)
        _, selection = memory(x, torch.tensor([0, 1]), ids=numbers, return_selection=True)
        assert selection.positive_index.tolist() == [-1, -1]
    _, selection = memory(x, torch.tensor([0, 1]), return_selection=True)  # earlier copies are candidates
    assert (selection.positive_index >= 0).all()


def test_memory_mask_of_momentum_encoder_compares_only_anchors():
    loss_of = EPHNLoss(reduction="none")
    memory = CrossBatchMemory(loss_of, 6, DIM)
    x, labels = batch(5, 0, classes=2)
    mask = torch.tensor([True, False, True, True, False])
    loss = memory(x, labels, enqueue_mask=mask)
    expected = loss_of(x[~mask], labels[~mask], x[mask].detach(), labels[mask])
    assert_bitwise_equal(loss, expected)
    assert len(loss) == 2
    (grad,) = torch.autograd.grad(loss.sum(), x)
    assert grad[mask].eq(0).all()
    assert grad[~mask].ne(0).any()
    ids = torch.tensor([4, 9, 5, 6, 4])  # the second anchor has a copy in the queue
    _, selection = CrossBatchMemory(EPHNLoss(), 6, DIM)(
        x, labels * 0, ids=ids, enqueue_mask=mask, return_selection=True
    )
    assert (selection.positive_index != 0).tolist()[1]


@pytest.mark.parametrize("value", [True, False])
def test_memory_mask_of_one_value(value):
    """All rows enter and none is an anchor, or the reverse."""
    memory = CrossBatchMemory(EPHNLoss(), 6, DIM)
    memory(*batch(3, 0))
    loss, selection = memory(*batch(2, 1), enqueue_mask=torch.full((2,), value), return_selection=True)
    assert memory.filled == (5 if value else 3)
    assert len(selection.positive_index) == (0 if value else 2)
    assert loss.isfinite()


# Warm-up, modes and reset


def test_memory_warmup_compares_with_the_batch_only():
    loss_of = TupletLoss(positive="all")
    memory = CrossBatchMemory(loss_of, 20, DIM, warmup=2)
    for step in range(4):
        x, labels = batch(6, step)
        results = value_and_gradient(memory, x, labels)
        ids = torch.arange(6)
        alone = value_and_gradient(loss_of, x, labels, x.detach(), labels, ids=ids, ref_ids=ids)
        assert all(torch.equal(*pair) for pair in zip(results, alone, strict=True)) == (step < 2)
    assert memory.filled == 18


def test_memory_in_evaluation_does_not_change():
    memory = CrossBatchMemory(EPHNLoss(), 6, DIM, warmup=2)
    memory(*batch(4, 0))
    before = copy.deepcopy(memory)
    x, labels = batch(5, 1)
    memory.eval()
    loss = memory(x, labels)
    assert_same_memory(memory, before)
    assert_bitwise_equal(loss, EPHNLoss()(x, labels, memory.embeddings[:4], memory.labels[:4]))
    assert CrossBatchMemory(EPHNLoss(), 6, DIM).eval()(x, labels) == 0  # an empty memory
    memory.train()(x, labels)
    assert memory.counters.tolist() == [5, 2]


def test_memory_reset_is_as_new():
    memory, new = (CrossBatchMemory(EPHNLoss(), 6, DIM, warmup=1) for _ in range(2))
    for step in range(3):
        memory(*batch(4, step))
    memory.reset()
    assert memory.filled == 0
    for step in range(3, 6):
        for got, wanted in zip(*(value_and_gradient(f, *batch(4, step)) for f in (memory, new)), strict=True):
            assert_bitwise_equal(got, wanted)


def test_memory_gets_no_gradient_and_keeps_no_graph():
    memory = CrossBatchMemory(EPHNLoss(), 12, DIM)
    first, labels = batch(4, 0)
    total = memory(first, labels)
    second, labels = batch(4, 1)
    total = total + memory(second, labels)  # before the backward pass of the first call
    total.backward()
    assert not any(buffer.requires_grad for buffer in memory.buffers())
    alone = CrossBatchMemory(EPHNLoss(), 12, DIM)
    _, expected = value_and_gradient(alone, *batch(4, 0))
    assert_bitwise_equal(first.grad, expected)


def test_memory_under_checkpoint_raises():
    memory = CrossBatchMemory(EPHNLoss(), 12, DIM)
    x, labels = batch(4, 0)
    memory(*batch(4, 1))
    loss = torch.utils.checkpoint.checkpoint(memory, x, labels, use_reentrant=False)
    with pytest.raises(RuntimeError, match=r"^CrossBatchMemory must not be called in a backward pass"):
        loss.backward()
    assert memory.counters.tolist() == [8, 2]


# State


def test_memory_state_resumes_bitwise():
    memory = CrossBatchMemory(EPHNLoss(), 7, DIM, warmup=2)
    shapes = {name: value.shape for name, value in memory.state_dict().items()}
    assert shapes == {"embeddings": (7, DIM), "labels": (7,), "ids": (7,), "counters": (2,)}
    for step in range(6):
        file = io.BytesIO()
        torch.save(memory.state_dict(), file)
        file.seek(0)
        resumed = CrossBatchMemory(EPHNLoss(), 7, DIM, warmup=2)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        copies = [resumed, copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))]
        x, labels = batch(3, step)
        loss, grad = value_and_gradient(memory, x, labels)
        for other in copies:
            for got, wanted in zip(value_and_gradient(other, x, labels), (loss, grad), strict=True):
                assert_bitwise_equal(got, wanted)
            assert_same_memory(other, memory)
        assert {name: value.shape for name, value in memory.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("other", "error"),
    [
        (
            {"size": 8},
            r"memory\.embeddings must be floating-point \[size, dim\] = \[7, 4\], got torch.float32 \[8, 4\]",
        ),
        ({"dim": 3}, r"memory\.embeddings must be floating-point \[size, dim\] = \[7, 4\], got torch.float32 \[7, 3\]"),
        ({"labels": torch.zeros(7)}, r"memory\.labels must be integer \[size\] = \[7\], got torch.float32 \[7\]"),
        ({"counters": torch.tensor([-1, 0])}, r"memory\.counters must be at least 0, got \[-1, 0\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_memory_state_of_another_memory_raises_and_changes_nothing(other, error):
    holder = torch.nn.ModuleDict({"memory": CrossBatchMemory(EPHNLoss(), 7, DIM)})
    holder["memory"](*batch(3, 0))
    before = copy.deepcopy(holder)
    sizes = {"size": 7, "dim": DIM, **{name: n for name, n in other.items() if name in ("size", "dim")}}
    source = CrossBatchMemory(EPHNLoss(), **sizes)
    source(torch.ones(5, sizes["dim"]), torch.arange(5))
    state = {f"memory.{name}": other.get(name, value) for name, value in source.state_dict().items()}
    with pytest.raises(RuntimeError, match=error):
        holder.load_state_dict(state)
    assert_same_memory(holder["memory"], before["memory"])


def test_memory_state_without_a_buffer_raises():
    memory = CrossBatchMemory(EPHNLoss(), 7, DIM)
    state = memory.state_dict()
    del state["ids"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "ids"'):
        memory.load_state_dict(state)


# Dtypes and devices


@pytest.mark.parametrize("label_dtype", [torch.int32, torch.uint8, torch.uint64], ids=str)
def test_memory_labels_of_another_dtype_match(label_dtype):
    memories = [CrossBatchMemory(EPHNLoss(), 9, DIM) for _ in range(2)]
    for step in range(4):
        x, labels = batch(4, step)
        dtype = label_dtype if step % 2 else torch.int64
        got, expected = (m(x, labels.to(d)) for m, d in zip(memories, (dtype, torch.int64), strict=True))
        assert_bitwise_equal(got, expected)


@pytest.mark.parametrize(
    ("batch_dtype", "memory_dtype", "compared"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float64, torch.float64),
    ],
    ids=str,
)
def test_memory_of_another_dtype_compares_in_the_wider(batch_dtype, memory_dtype, compared):
    loss_of = EPHNLoss()
    memory = CrossBatchMemory(loss_of, 9, DIM, dtype=memory_dtype)
    memory(*batch(5, 0, dtype=batch_dtype))
    x, labels = batch(4, 1, dtype=batch_dtype)
    loss, grad = value_and_gradient(memory, x, labels)
    refs = torch.cat([batch(5, 0, dtype=batch_dtype)[0], x]).detach().to(memory_dtype).to(compared)
    ref_labels = torch.cat([batch(5, 0)[1], labels])
    ids = torch.arange(9)
    expected = value_and_gradient(
        lambda x: loss_of(x.to(compared), labels, refs, ref_labels, ids=ids[5:], ref_ids=ids), x
    )
    assert memory.embeddings.dtype == memory_dtype
    assert grad.dtype == batch_dtype
    assert_bitwise_equal(loss, expected[0])
    assert_bitwise_equal(grad, expected[1])


def test_memory_under_autocast_keeps_its_dtype():
    network, memory = torch.nn.Linear(DIM, DIM), CrossBatchMemory(EPHNLoss(), 9, DIM)
    for step in range(3):
        x, labels = batch(4, step)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = network(x)
            loss = memory(embeddings, labels)
        assert embeddings.dtype == torch.bfloat16
        assert (loss.dtype, memory.embeddings.dtype) == (torch.float32, torch.float32)
        loss.backward()
    assert loss > 0
    assert network.weight.grad.isfinite().all()


def test_memory_default_dtype_and_device_matter_when_made_only():
    try:
        torch.set_default_dtype(torch.float64)
        memory = CrossBatchMemory(EPHNLoss(), 9, DIM)
        torch.set_default_dtype(torch.float32)
        other = CrossBatchMemory(EPHNLoss(), 9, DIM, dtype=torch.float64)
        torch.set_default_device("meta")
        on_meta = CrossBatchMemory(EPHNLoss(), 9, DIM, dtype=torch.float64)
        assert on_meta.embeddings.is_meta
        torch.set_default_device("cpu")
        memories = [memory, other, on_meta.to_empty(device="cpu")]
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("meta")
        x, labels = (value.to("cpu") for value in batch_on_cpu())
        results = [m(x, labels) for m in memories for _ in range(2)][1::2]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert results[0] > 0
    assert_bitwise_equal(results[1], results[0])
    assert_bitwise_equal(results[2], results[0])


def batch_on_cpu():
    with torch.device("cpu"):
        return batch(4, 0, dtype=torch.float64)


def test_memory_counters_stay_on_the_cpu():
    memory = CrossBatchMemory(EPHNLoss(), 9, DIM)
    memory(*batch(4, 0))
    memory.to("meta")
    assert memory.embeddings.is_meta
    assert memory.counters.tolist() == [4, 1]
    assert memory.to_empty(device="cpu").bfloat16().embeddings.dtype == torch.bfloat16
    assert memory.counters.dtype == torch.int64


# torch.compile


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("masked", [False, True])
def test_memory_compiles_to_one_graph(backend, masked):
    eager = CrossBatchMemory(TupletLoss(), 10, DIM, warmup=1)
    other = copy.deepcopy(eager)
    compiled = torch.compile(lambda *args, **options: other(*args, **options), backend=backend, fullgraph=True)
    for step, rows in enumerate([4, 4, 4, 5, 3, 6, 2]):
        x, labels = batch(rows, step)
        options = {"enqueue_mask": torch.rand(rows, generator=seeded(step)) < 0.5} if masked else {}
        for got, wanted in zip(*(value_and_gradient(f, x, labels, **options) for f in (compiled, eager)), strict=True):
            assert_bitwise_equal(got, wanted)
        assert_same_memory(other, eager)


def test_memory_ops_pass_opcheck():
    memory = CrossBatchMemory(EPHNLoss(), 6, DIM)
    x, labels = batch(4, 0)
    queue = list(memory.buffers())
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for ids, offset, rows in ((None, None, 4), (labels, torch.tensor(1), 2)):
        arguments = (*queue, x.detach(), labels, ids, offset, rows, 0, torch.float64)
        torch.library.opcheck(torch.ops.hardmine.rows_with_batch.default, arguments, test_utils=tests)
    torch.library.opcheck(
        torch.ops.hardmine.enqueue_rows.default, (*queue, x.detach(), labels, labels, 0), test_utils=tests
    )
    memory(x, labels)
    torch.library.opcheck(torch.ops.hardmine.filled_rows.default, (*queue, torch.float64), test_utils=tests)
    torch.library.opcheck(torch.ops.hardmine.kept_rows.default, (labels == 1,), test_utils=tests)


# Invalid arguments


class FailingLoss(EPHNLoss):
    def forward(self, *args, **kwargs):
        raise RuntimeError("cannot allocate 1 bytes")


def test_memory_whose_loss_raises_does_not_change():
    memory = CrossBatchMemory(EPHNLoss(), 6, DIM, warmup=2)
    x, labels = batch(4, 0)
    memory(x, labels)
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    memory.loss = FailingLoss()
    with pytest.raises(RuntimeError, match="cannot allocate 1 bytes"):
        memory(x, labels)
    for name, value in memory.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("loss", "options", "error", "message"),
    [
        (losses.GlobalLoss(), {}, TypeError, "loss must take ref_embeddings, ref_labels, ids, ref_ids, got GlobalLoss"),
        (ops.triplet_loss, {}, TypeError, "loss must be a torch.nn.Module, got function"),
        (EPHNLoss(), {"size": 0}, ValueError, "size must be at least 1, got 0"),
        (EPHNLoss(), {"size": 2.0}, TypeError, "size must be an integer, got float"),
        (EPHNLoss(), {"dim": 0}, ValueError, "dim must be at least 1, got 0"),
        (EPHNLoss(), {"warmup": -1}, ValueError, "warmup must be at least 0, got -1"),
        (
            EPHNLoss(),
            {"dtype": torch.int8},
            TypeError,
            "dtype must be float32, float64, float16 or bfloat16, got torch",
        ),
        (EPHNLoss(), {"group": "world"}, TypeError, "group must be a torch.distributed.ProcessGroup or None, got str"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_memory_invalid_option_raises(loss, options, error, message):
    with pytest.raises(error, match=message):
        CrossBatchMemory(loss, **{"size": 4, "dim": 2, **options})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embeddings": torch.ones(3, 2)}, ValueError, r"embeddings must be \[B, dim\] with dim = 4, got \[3, 2\]"),
        ({"embeddings": torch.ones(3, 4, device="meta")}, ValueError, "embeddings must be on the device of the memory"),
        ({"labels": torch.arange(2)}, ValueError, r"labels must be \[B\] = \[3\], got \[2\]"),
        ({"labels": torch.ones(3)}, TypeError, "labels must have an integer dtype, got torch.float32"),
        (
            {"labels": torch.tensor([2**64 - 1] * 3, dtype=torch.uint64)},
            ValueError,
            "labels must be below 2.63, got 18446744073709551615",
        ),
        ({"ids": torch.arange(4)}, ValueError, r"ids must be \[B\] = \[3\], got \[4\]"),
        ({"ids": torch.tensor([0, 2**63 - 5, 1])}, ValueError, f"ids must be below 2.63 - size = {2**63 - 5}, got "),
        ({"enqueue_mask": torch.ones(3)}, TypeError, "enqueue_mask must be a torch.bool tensor, got torch.float32"),
        ({"enqueue_mask": [True] * 3}, TypeError, "enqueue_mask must be a torch.Tensor, got list"),
        ({"enqueue_mask": torch.ones(2).bool()}, ValueError, r"enqueue_mask must be \[B\] = \[3\], got \[2\]"),
        (
            {"embeddings": torch.ones(6, 4), "labels": torch.arange(6)},
            ValueError,
            "embeddings must have at most size = 5 rows to put in, got 6",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_memory_invalid_argument_raises_and_changes_nothing(change, error, message):
    memory = CrossBatchMemory(EPHNLoss(), 5, DIM)
    memory(*batch(3, 0))
    before = copy.deepcopy(memory)
    arguments = {"embeddings": torch.ones(3, DIM), "labels": torch.arange(3), **change}
    with pytest.raises(error, match=message):
        memory(arguments.pop("embeddings"), arguments.pop("labels"), **arguments)
    assert_same_memory(memory, before)


def test_memory_repr_shows_its_options():
    memory = CrossBatchMemory(EPHNLoss(temperature=0.2), 5, 3, dtype=torch.bfloat16, warmup=2)
    expected = (
        "CrossBatchMemory(\n  size=5, dim=3, dtype=torch.bfloat16, warmup=2\n  (loss): EPHNLoss(temperature=0.2)\n)"
    )
    assert repr(memory) == expected
