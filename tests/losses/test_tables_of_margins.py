"""Tables of margins as state: fixed keys and shapes before and after the first tree, for all that reads buffers."""

import copy
import io
import math
import pickle
import re
from fractions import Fraction

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hardmine import ops
from hardmine.losses import BatchAllTripletLoss, HierarchicalTripletLoss
from hardmine.mining import ClassDistances, ClassTree
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS

TABLE = torch.tensor([[0.0, 0.1], [0.5, 0.0]])
LABELS = torch.tensor([0, 1])
BATCH = HAND_POINTS[:2]  # classes 0 and 1
NAMED = BATCH[0], BATCH[1] * 995 + 7  # classes 7 and 1002
COLLAPSED, SPREAD = (
    ClassTree(ClassDistances(torch.tensor([7, 1002]), torch.tensor(sq_dist)), levels=levels)
    for sq_dist, levels in (([[0.0, 1.2], [1.2, 0.0]], 8), ([[0.25, 1.7], [1.7, 0.75]], 7))
)


def after(*trees: ClassTree, **options) -> HierarchicalTripletLoss:
    """A module updated with these trees."""
    module = HierarchicalTripletLoss(classes=[7, 1002], **options)
    for tree in trees:
        module.update(tree)
    return module


each_past = pytest.mark.parametrize("trees", [[], [COLLAPSED], [COLLAPSED, SPREAD]], ids=["none", "one", "two"])


# A number, or a table


def test_margin_number_has_empty_state():
    module = BatchAllTripletLoss(reduction="sum")
    for margin in (0.2, 0.7, -1):
        module.set_margin(margin)
        assert not module.state_dict()
        assert_bitwise_equal(module(*BATCH), ops.batch_all_triplet_loss(*BATCH, margin=margin, reduction="sum"))


def test_set_margin_replaces_table_in_place():
    module = BatchAllTripletLoss(margin=TABLE, margin_labels=LABELS.flip(0), reduction="sum")
    buffer, state = module.margin, module.state_dict()
    for margin in (TABLE * 3, TABLE.double().T, 0.3, Fraction(1, 3)):
        module.set_margin(margin)
        expected = margin if isinstance(margin, torch.Tensor) else torch.full((2, 2), float(margin))
        labels = {"margin_labels": LABELS.flip(0)}
        assert_bitwise_equal(
            module(*BATCH), ops.batch_all_triplet_loss(*BATCH, margin=expected.float(), **labels, reduction="sum")
        )
        assert module.margin is buffer
        assert state.keys() == module.state_dict().keys() == {"margin", "margin_labels"}
        assert_bitwise_equal(state["margin"], buffer)


def test_margin_table_is_a_copy():
    """Neither changes of the given tensors nor gradients reach the module's table."""
    table, labels = TABLE.clone().requires_grad_(), LABELS.clone()
    module = BatchAllTripletLoss(margin=table, margin_labels=labels)
    assert not module.margin.requires_grad
    before = module(*BATCH)
    with torch.no_grad():
        table += 1
    labels += 1
    assert_bitwise_equal(module(*BATCH), before)
    module.set_margin(table)
    assert not module.margin.requires_grad
    assert module(*BATCH) != before


WRONG_MARGINS = [
    (torch.zeros(2, 3), ValueError, "margin must be a number or [C, C], got [2, 3]"),
    (torch.full((2, 2), math.nan), ValueError, "margin must be finite, got nan at [0, 0]"),
    (torch.tensor([[0.0, 0.0], [math.inf, 0.0]]), ValueError, "margin must be finite, got inf at [1, 0]"),
    (torch.zeros(2, 2).int(), TypeError, "margin must be float32, float64, float16 or bfloat16, got torch.int32"),
    (math.nan, ValueError, "margin must be a number, got nan"),
    ("0.2", TypeError, "margin must be a number, got str"),
]


@pytest.mark.parametrize(("margin", "error", "message"), WRONG_MARGINS, ids=[wrong[2] for wrong in WRONG_MARGINS])
def test_margin_invalid_raises_and_changes_nothing(margin, error, message):
    with pytest.raises(error, match=re.escape(message)):
        BatchAllTripletLoss(margin=margin)
    module = BatchAllTripletLoss(margin=TABLE)
    with pytest.raises(error, match=re.escape(message)):
        module.set_margin(margin)
    assert_bitwise_equal(module.margin, TABLE)
    number = BatchAllTripletLoss(margin=0.7)
    with pytest.raises(error, match="margin must be"):
        number.set_margin(margin)
    assert number.margin == 0.7


def test_set_margin_other_shape_raises():
    with pytest.raises(ValueError, match=r"^margin must be \[C, C\] = \[2, 2\], as it was .*, got \[3, 3\]$"):
        BatchAllTripletLoss(margin=TABLE).set_margin(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"^margin must be a number, as it was .*, got a table \[2, 2\]$"):
        BatchAllTripletLoss().set_margin(TABLE)
    with pytest.raises(ValueError, match="margin must be finite, got inf"):
        BatchAllTripletLoss(margin=TABLE.half()).set_margin(TABLE * 1e6)
    with pytest.raises(ValueError, match="margin_labels must be distinct, got 3 twice"):
        BatchAllTripletLoss(margin=TABLE, margin_labels=torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="margin_labels must be None if margin is a number"):
        BatchAllTripletLoss(margin_labels=LABELS)


def test_margin_table_repr_shows_shape():
    module = BatchAllTripletLoss(margin=TABLE, margin_labels=LABELS, squared=False)
    assert repr(module) == "BatchAllTripletLoss(margin=[2, 2], margin_labels=[0, 1], squared=False)"
    assert repr(BatchAllTripletLoss(margin=0.3)) == "BatchAllTripletLoss(margin=0.3)"
    assert repr(BatchAllTripletLoss()) == "BatchAllTripletLoss()"


# The same buffers from construction on


@each_past
def test_state_dict_keys_and_shapes_are_constant(trees):
    module = after(*trees)
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {"margin": [2, 2], "margin_labels": [2]}
    assert [name for name, _ in module.named_buffers()] == ["margin"]
    assert not list(module.parameters())


def test_update_writes_into_same_buffer():
    """DistributedDataParallel keeps a list of the buffers at its construction, and broadcasts those."""
    module = after()
    buffer, address = module.margin, module.margin.data_ptr()
    module.update(SPREAD)
    assert module.margin is buffer
    assert buffer.data_ptr() == address
    assert_bitwise_equal(buffer, SPREAD.margin_table())


@each_past
@pytest.mark.parametrize("present", [[], [COLLAPSED]], ids=["into none", "into one"])
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_state_dict_round_trips_through_file(trees, present, assign):
    """Through a file, as part of a network, into a module before or after its first tree."""
    saved, other = (torch.nn.ModuleDict({"loss": after(*some, margin=0.3)}) for some in (trees, present))
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True, assign=assign)
    assert_bitwise_equal(other["loss"](*NAMED), saved["loss"](*NAMED))
    other["loss"].update(SPREAD)
    assert_bitwise_equal(other["loss"](*NAMED), after(SPREAD)(*NAMED))


def test_load_state_dict_of_network_alone_keeps_table():
    module = torch.nn.ModuleDict({"net": torch.nn.Linear(2, 2), "loss": after(SPREAD)})
    before = module["loss"](*NAMED)
    network = {name: value for name, value in module.state_dict().items() if name.startswith("net.")}
    module.load_state_dict(network, strict=False)
    assert_bitwise_equal(module["loss"](*NAMED), before)


WRONG_STATES = [
    # torch itself reports missing, unexpected and misshapen entries, as for every module
    ({}, RuntimeError, 'Missing key(s) in state_dict: "loss.margin", "loss.margin_labels"'),
    ({"loss.margin": TABLE}, RuntimeError, 'Missing key(s) in state_dict: "loss.margin_labels"'),
    ({"loss.margin": TABLE, "loss.labels": LABELS}, RuntimeError, "Unexpected key(s) in state_dict"),
    ({"loss.margin": torch.zeros(3, 3)}, RuntimeError, "size mismatch for loss.margin"),
    ({"loss.margin": 0.2}, RuntimeError, "loss.margin"),
    ({"loss.margin": TABLE * math.nan}, ValueError, "loss.margin must be finite, got nan at [0, 0]"),
    ({"loss.margin": TABLE / 0}, ValueError, "loss.margin must be finite, got nan at [0, 0]"),
    ({"loss.margin": TABLE.int()}, TypeError, "loss.margin must be float32, float64, float16 or bfloat16, got"),
    ({"loss.margin": TABLE.to_sparse()}, TypeError, "loss.margin must be a dense tensor, got layout torch.sparse_coo"),
    ({"loss.margin": TABLE > 0}, TypeError, "loss.margin must be float32, float64, float16 or bfloat16, got"),
    *(
        ({"loss.margin": TABLE, "loss.margin_labels": labels}, ValueError, f"loss.margin_labels must be {words}")
        for labels, words in (
            (torch.tensor([7, 1003]), "1002 at [1], as when the module was made, got 1003 in state_dict"),
            (torch.tensor([1002, 7]), "7 at [0], as when the module was made, got 1002 in state_dict"),
            (torch.tensor([7]), "integers [C] = [2], got torch.int64 [1] in state_dict"),
            (torch.tensor([7.0, 1002.0]), "integers [C] = [2], got torch.float32 [2] in state_dict"),
        )
    ),
    *(
        ({"loss.margin": TABLE, "loss.margin_labels": labels}, TypeError, f"loss.margin_labels must be a {words}")
        for labels, words in (
            ([7, 1002], "torch.Tensor, got list"),
            (torch.tensor([7, 1002]).to_sparse(), "dense tensor, got layout torch.sparse_coo"),
        )
    ),
]


@pytest.mark.parametrize(("state", "error", "message"), WRONG_STATES, ids=[wrong[2] for wrong in WRONG_STATES])
def test_load_state_dict_invalid_raises_and_changes_nothing(state, error, message):
    module = torch.nn.ModuleDict({"loss": after(SPREAD)})
    with pytest.raises(error, match=re.escape(message)):
        module.load_state_dict(state)
    if error is not RuntimeError or "loss.margin" not in state:  # torch loads the entries that it expects
        assert_bitwise_equal(module["loss"].margin, SPREAD.margin_table())


def made_of(kind: str, labels: list[int]) -> BatchAllTripletLoss:
    """A module of each kind whose table is for ``labels``; ranges of labels are given as None or as their number."""
    count, is_range = len(labels), labels == list(range(len(labels)))
    if kind == "hierarchical":
        return HierarchicalTripletLoss(classes=count if is_range else labels)
    named = None if is_range else torch.tensor(labels, dtype=torch.int32)
    return BatchAllTripletLoss(margin=torch.zeros(count, count), margin_labels=named)


@pytest.mark.parametrize("kind", ["hierarchical", "table"])
@pytest.mark.parametrize(
    ("saved", "own", "place"), [([1, 5, 9], [1, 5, 7], 2), ([0, 1, 3], [0, 1, 2], 2), ([0, 1, 2], [4, 5, 6], 0)]
)
def test_load_state_dict_of_other_classes_raises_with_first(kind, saved, own, place):
    module = made_of(kind, own)
    module.set_margin(0.7)
    words = f"margin_labels must be {own[place]} at [{place}], as when the module was made, got {saved[place]} in state"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        module.load_state_dict(made_of(kind, saved).state_dict())
    assert (module.margin == 0.7).all()
    with pytest.raises(ValueError, match=r"^margin_labels must be integers \[C\] = \[3\], got torch.* \[2\] in "):
        module.load_state_dict(made_of(kind, own[:2]).state_dict())
    module.load_state_dict(made_of(kind, own).state_dict())
    assert (module.margin != 0.7).all()


@pytest.mark.parametrize("kind", ["hierarchical", "table"])
def test_state_dict_labels_are_a_copy(kind):
    """torch.distributed.checkpoint.load writes into the tensors of the state that it is given."""
    module = made_of(kind, [1, 5, 9])
    state = module.state_dict()
    state["margin_labels"].fill_(3)
    with pytest.raises(ValueError, match=r"^margin_labels must be 1 at \[0\]"):
        module.load_state_dict(state)


def test_load_state_dict_not_strict_accepts_missing_labels():
    module = after()
    module.load_state_dict({"margin": TABLE}, strict=False)
    assert_bitwise_equal(module.margin, TABLE)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter in the current model, which is a no-op")
def test_load_state_dict_labels_without_values_are_not_compared():
    """torch.load(map_location="meta") makes such states."""
    state = {name: value.to("meta") for name, value in made_of("table", [1, 5, 9]).state_dict().items()}
    module = made_of("table", [4, 5, 6]).to("meta")
    module.load_state_dict(state)
    assert module.margin_labels.tolist() == [4, 5, 6]


def test_module_meta_tensors_have_repr_or_raise():
    assert repr(BatchAllTripletLoss(margin=TABLE.to("meta"))) == "BatchAllTripletLoss(margin=[2, 2])"
    module = BatchAllTripletLoss(margin=TABLE, margin_labels=LABELS).to("meta")
    assert repr(module) == "BatchAllTripletLoss(margin=[2, 2], margin_labels=[0, 1])"
    assert repr(after().to("meta")) == "HierarchicalTripletLoss(classes=[7, 1002])"
    words = "must be a tensor with values, got a tensor on the meta device"
    with pytest.raises(ValueError, match=f"^margin_labels {words}$"):
        BatchAllTripletLoss(margin=TABLE.to("meta"), margin_labels=LABELS.to("meta"))
    with pytest.raises(ValueError, match=f"^classes {words}$"):
        HierarchicalTripletLoss(classes=LABELS.to("meta"))
    with pytest.raises(TypeError, match=r"^classes must be a dense tensor, got layout torch.sparse_coo$"):
        HierarchicalTripletLoss(classes=LABELS.to_sparse())
    with pytest.raises(ValueError, match=r"^classes must be a tensor with values, got a FakeTensor$"):
        HierarchicalTripletLoss(classes=FakeTensorMode().from_tensor(LABELS))
    with pytest.raises(ValueError, match=f"^margin {words}$"):
        after().set_margin(TABLE.to("meta"))


@each_past
def test_module_copies_are_independent(trees):
    module = after(*trees)
    before = module(*NAMED)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_bitwise_equal(twin(*NAMED), before)
        twin.update(SPREAD)
        twin.set_margin(9.0)
        assert_bitwise_equal(module(*NAMED), before)


AVERAGES = {"swa": {}, "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.75)}}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_model_follows_updates(average, use_buffers):
    """AveragedModel pairs the buffers of its copy with those of the model by position."""
    module = torch.nn.ModuleDict({"norm": torch.nn.BatchNorm1d(2), "loss": after()})
    averaged = AveragedModel(module, use_buffers=use_buffers, **AVERAGES[average])
    tables = []
    for tree in (None, COLLAPSED, SPREAD):
        if tree is not None:
            module["loss"].update(tree)
        averaged.update_parameters(module)
        tables.append(module["loss"].margin.clone())
    first, second, third = tables
    assert not torch.equal(second, third)
    expected = third
    if use_buffers:
        ema = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        expected = (first + second + third) / 3 if average == "swa" else ema
    copied = averaged.module["loss"]
    torch.testing.assert_close(copied.margin, expected)
    assert copied(*NAMED).isfinite()
    copied.update(SPREAD)
    assert_bitwise_equal(copied(*NAMED), module["loss"](*NAMED))


def test_averaged_model_keeps_labels_exact():
    """An average of an int64 buffer is truncated: label 7 could become 6."""
    labels = torch.arange(0, 3000, 3)
    module = HierarchicalTripletLoss(classes=labels)
    averaged = AveragedModel(module, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    for _ in range(3):
        averaged.update_parameters(module)
    assert torch.equal(averaged.module.margin_labels, labels)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter in the current model, which is a no-op")
def test_margin_table_follows_module_dtype_and_device():
    module = after(COLLAPSED).double()
    assert module.margin.dtype == torch.float64
    assert module.margin_labels.dtype == torch.int64
    module.update(SPREAD)
    assert_bitwise_equal(module.margin, SPREAD.margin_table(dtype=torch.float64))
    rows = NAMED[0].double(), NAMED[1]
    assert module(*rows).dtype == torch.float64
    module.to("meta")
    assert module.margin.is_meta
    assert module(*(t.to("meta") for t in NAMED)).is_meta
    module.update(COLLAPSED)
    module.load_state_dict(after(SPREAD).state_dict())
    assert module.margin.is_meta
    module.to_empty(device="cpu")
    module.load_state_dict(after(SPREAD).state_dict())
    assert_bitwise_equal(module(*NAMED), after(SPREAD)(*NAMED))
    assert_bitwise_equal(module.bfloat16().margin, after(SPREAD).margin.bfloat16())
    assert module(*NAMED).isfinite()


def test_margin_table_on_meta_is_filled_later():
    with torch.device("meta"):
        module = HierarchicalTripletLoss(classes=[7, 1002])
        other = BatchAllTripletLoss(margin=0.3)
    assert module.margin.is_meta
    module.to_empty(device="cpu")
    module.update(SPREAD)
    assert_bitwise_equal(module(*NAMED), after(SPREAD)(*NAMED))
    assert_bitwise_equal(other(*BATCH), BatchAllTripletLoss(margin=0.3)(*BATCH))


def test_functional_call_uses_other_table():
    module = after(COLLAPSED)
    loss = torch.func.functional_call(module, {"margin": SPREAD.margin_table()}, NAMED)
    assert_bitwise_equal(loss, after(SPREAD)(*NAMED))


@pytest.mark.slow
def test_compiled_module_sees_every_update():
    """A single graph is enough, since updates change nothing that its guards check."""
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    module = after()
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for tree in (None, COLLAPSED, SPREAD):
        if tree is not None:
            module.update(tree)
        torch.testing.assert_close(compiled(*NAMED), module(*NAMED), rtol=0, atol=0)
    assert counter.frame_count == 1


def test_ddp_broadcasts_current_table():
    """DDP lists the buffers when it is constructed."""
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        module = torch.nn.Sequential(torch.nn.Linear(2, 2), after())
        ddp = torch.nn.parallel.DistributedDataParallel(module)
        module[1].update(SPREAD)
        assert [buffer.data_ptr() for buffer in ddp.modules_buffers] == [module[1].margin.data_ptr()]
        assert_bitwise_equal(ddp.modules_buffers[0], SPREAD.margin_table())
    finally:
        dist.destroy_process_group()
