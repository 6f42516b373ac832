"""Wrong arguments: each error says which argument, what it must be, and what came."""

import math
import re

import numpy
import pytest
import torch

from hardmine import ops
from helpers import OPS, SELECTED_LOSSES, SELECTING_OPS, each_of, random_inputs, seeded

each_op = pytest.mark.parametrize("name", SELECTING_OPS)

# The other ops' options, and what only they take, are in their own tests.
OPS_WITH_REF_LABELS = (*SELECTING_OPS, "tuplet_loss")
SOFTPLUS_LOSSES = (*SELECTED_LOSSES, "tuplet_loss")

X, Y = torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
REFS, REF_LABELS = torch.randn(5, 3, generator=seeded(1)), torch.tensor([0, 1, 0, 1, 2])
SPARSE = torch.eye(4, 3).to_sparse()


def tensors(**changes):
    """Good tensors, but for those named."""
    return {"embeddings": X, "labels": Y, "ref_embeddings": REFS, "ref_labels": REF_LABELS, **changes}


WRONG_TENSORS = [
    # what is wrong, the error and all of its message
    ({"embeddings": X.tolist()}, TypeError, "embeddings must be a torch.Tensor, got list"),
    ({"embeddings": X.numpy()}, TypeError, "embeddings must be a torch.Tensor, got ndarray"),
    ({"embeddings": None}, TypeError, "embeddings must be a torch.Tensor, got NoneType"),
    ({"embeddings": SPARSE}, TypeError, "embeddings must be a dense tensor, got layout torch.sparse_coo"),
    ({"embeddings": X.int()}, TypeError, "embeddings must be float32, float64, float16 or bfloat16, got torch.int32"),
    (
        {"embeddings": X.cfloat()},
        TypeError,
        "embeddings must be float32, float64, float16 or bfloat16, got torch.complex64",
    ),
    ({"embeddings": X[0]}, ValueError, "embeddings must be [rows, D], got [3]"),
    ({"embeddings": X[None]}, ValueError, "embeddings must be [rows, D], got [1, 4, 3]"),
    ({"embeddings": X[:, :0]}, ValueError, "embeddings must be [rows, D] with D >= 1, got [4, 0]"),
    ({"labels": Y.tolist()}, TypeError, "labels must be a torch.Tensor, got list"),
    ({"labels": Y.float()}, TypeError, "labels must have an integer dtype, got torch.float32"),
    ({"labels": Y.bool()}, TypeError, "labels must have an integer dtype, got torch.bool"),
    ({"labels": Y[:3]}, ValueError, "labels must be [B] = [4], got [3]"),
    ({"labels": Y[:, None]}, ValueError, "labels must be [B] = [4], got [4, 1]"),
    ({"labels": Y.to("meta")}, ValueError, "labels must be on the device of its embeddings, cpu, got meta"),
    ({"ref_embeddings": None}, ValueError, "ref_embeddings must be given together with ref_labels, got None"),
    ({"ref_labels": None}, ValueError, "ref_labels must be given together with ref_embeddings, got None"),
    ({"ref_embeddings": 3}, TypeError, "ref_embeddings must be a torch.Tensor, got int"),
    ({"ref_embeddings": REFS[:, 0]}, ValueError, "ref_embeddings must be [rows, D], got [5]"),
    (
        {"ref_embeddings": REFS[:, :2]},
        ValueError,
        "ref_embeddings must be [M, D] with the D = 3 of embeddings, got [5, 2]",
    ),
    (
        {"ref_embeddings": REFS.double()},
        TypeError,
        "ref_embeddings must have the dtype of embeddings, torch.float32, got torch.float64",
    ),
    (
        {"ref_embeddings": REFS.to("meta")},
        ValueError,
        "ref_embeddings must be on the device of embeddings, cpu, got meta",
    ),
    ({"ref_labels": REF_LABELS[:4]}, ValueError, "ref_labels must be [M] = [5], got [4]"),
    ({"ref_labels": REF_LABELS.double()}, TypeError, "ref_labels must have an integer dtype, got torch.float64"),
]


@each_of(OPS_WITH_REF_LABELS)
@pytest.mark.parametrize(("changes", "error", "message"), WRONG_TENSORS, ids=[wrong[2] for wrong in WRONG_TENSORS])
def test_wrong_tensors(name, changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(ops, name)(**tensors(**changes))


WRONG_WITHOUT_REFS = [wrong for wrong in WRONG_TENSORS if not wrong[2].startswith("ref_")]


@pytest.mark.parametrize(
    ("changes", "error", "message"), WRONG_WITHOUT_REFS, ids=[wrong[2] for wrong in WRONG_WITHOUT_REFS]
)
def test_wrong_tensors_of_an_op_without_refs(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        ops.batch_all_triplet_loss(**{"embeddings": X, "labels": Y, **changes})


WRONG_OPTIONS = [
    # of which ops, what is wrong, the error and all of its message
    (
        SELECTING_OPS,
        {"positive": "semihard"},
        ValueError,
        "positive must be one of 'easiest', 'hardest', 'random', got 'semihard'",
    ),
    (
        SELECTING_OPS,
        {"negative": "hard"},
        ValueError,
        "negative must be one of 'hardest', 'easiest', 'semihard', 'random', got 'hard'",
    ),
    (
        SELECTING_OPS,
        {"negative": None},
        ValueError,
        "negative must be one of 'hardest', 'easiest', 'semihard', 'random', got None",
    ),
    (SELECTING_OPS, {"generator": 3}, TypeError, "generator must be a torch.Generator or None, got int"),
    (
        SELECTING_OPS,
        {"positive": "random", "generator": torch},
        TypeError,
        "generator must be a torch.Generator or None, got module",
    ),
    (
        OPS,
        {"similarity": "cos"},
        ValueError,
        "similarity must be one of 'cosine', 'dot', 'euclidean', got 'cos'",
    ),
    (
        SELECTING_OPS,
        {"semihard_fallback": "none"},
        ValueError,
        "semihard_fallback must be one of None, 'hardest', 'easiest', got 'none'",
    ),
    (SELECTING_OPS, {"tie": True}, ValueError, "tie must be one of 'exclude', 'include', got True"),
    (OPS_WITH_REF_LABELS, {"duplicate_threshold": "1"}, TypeError, "duplicate_threshold must be a number, got str"),
    (
        OPS_WITH_REF_LABELS,
        {"duplicate_threshold": math.nan},
        ValueError,
        "duplicate_threshold must be a number, got nan",
    ),
    (SELECTING_OPS, {"semihard_margin": 0}, ValueError, "semihard_margin must be a number > 0, got 0"),
    (SELECTING_OPS, {"semihard_margin": -0.1}, ValueError, "semihard_margin must be a number > 0, got -0.1"),
    (SELECTING_OPS, {"semihard_margin": math.nan}, ValueError, "semihard_margin must be a number > 0, got nan"),
    (SOFTPLUS_LOSSES, {"reduction": "avg"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'avg'"),
    (SOFTPLUS_LOSSES, {"reduction": None}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got None"),
    (SOFTPLUS_LOSSES, {"temperature": 0.0}, ValueError, "temperature must be a number > 0, got 0.0"),
    (SOFTPLUS_LOSSES, {"temperature": -1}, ValueError, "temperature must be a number > 0, got -1"),
    (SOFTPLUS_LOSSES, {"temperature": math.nan}, ValueError, "temperature must be a number > 0, got nan"),
    (SOFTPLUS_LOSSES, {"temperature": None}, TypeError, "temperature must be a number, got NoneType"),
    (SOFTPLUS_LOSSES, {"temperature": torch.tensor(0.1)}, TypeError, "temperature must be a number, got Tensor"),
    (SOFTPLUS_LOSSES, {"temperature": True}, TypeError, "temperature must be a number, got bool"),
    (SELECTED_LOSSES, {"lam": math.nan}, ValueError, "lam must be a number, got nan"),
    (SELECTED_LOSSES, {"lam": "1"}, TypeError, "lam must be a number, got str"),
    (SELECTED_LOSSES, {"min_similarity": math.nan}, ValueError, "min_similarity must be a number, got nan"),
    (
        ["tuplet_loss"],
        {"positive": "random"},
        ValueError,
        "positive must be one of 'easiest', 'hardest', 'all', got 'random'",
    ),
    (["triplet_loss"], {"margin": math.nan}, ValueError, "margin must be a number, got nan"),
    (["triplet_loss"], {"margin": None}, TypeError, "margin must be a number, got NoneType"),
    (
        ["triplet_loss"],
        {"term": "triplet"},
        ValueError,
        "term must be one of 'nca', 'hinge', 'soft_margin', 'sct', got 'triplet'",
    ),
    (
        ["sct_loss"],
        {"preset": "code"},
        ValueError,
        "preset must be one of 'paper', 'code2020', 'code2021', got 'code'",
    ),
    (
        ["sct_loss"],
        {"hard_cutoff": 0.5},
        ValueError,
        "hard_cutoff must be None with preset 'paper', which has no cutoff, got 0.5",
    ),
    (
        ["sct_loss"],
        {"preset": "code2020", "hard_cutoff": math.nan},
        ValueError,
        "hard_cutoff must be a number, got nan",
    ),
    (["sct_loss"], {"preset": "code2021", "hard_cutoff": "0.5"}, TypeError, "hard_cutoff must be a number, got str"),
]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [pytest.param(name, *wrong, id=f"{name}: {wrong[2]}") for names, *wrong in WRONG_OPTIONS for name in names],
)
def test_wrong_options(name, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(ops, name)(*((X,) if name == "knn" else (X, Y)), **options)


@each_op
def test_a_generator_of_another_device(name):
    inputs = random_inputs(refs=5).to("meta")
    with pytest.raises(ValueError, match=r"^generator must be on the device of embeddings, meta, got one on cpu$"):
        getattr(ops, name)(*inputs, positive="random", generator=seeded(0))


@each_of(OPS)
def test_unknown_options_are_named(name):
    with pytest.raises(TypeError, match="'marginn'"):
        getattr(ops, name)(*((X,) if name == "knn" else (X, Y)), marginn=0.1)
    with pytest.raises(TypeError, match="positional"):
        getattr(ops, name)(X, Y, None, None, "hardest")


@each_op
def test_integers_infinities_and_numpy_s_numbers_are_numbers(name):
    options = {"duplicate_threshold": math.inf, "semihard_margin": numpy.float32(0.5)}
    if name in SELECTED_LOSSES:
        options |= {"temperature": 1, "lam": numpy.int64(2), "min_similarity": -math.inf}
    getattr(ops, name)(*random_inputs(), negative="semihard", **options)


def test_infinities_and_numpy_s_numbers_are_numbers_to_tuplet_loss():
    numbers = {"temperature": numpy.float32(0.5), "duplicate_threshold": math.inf}
    assert torch.equal(ops.tuplet_loss(*random_inputs(), **numbers), ops.tuplet_loss(*random_inputs(), temperature=0.5))


@each_of(OPS_WITH_REF_LABELS)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_beside_those_on_the_cpu(name):
    with pytest.raises((ValueError, NotImplementedError), match="must be on the"):
        getattr(ops, name)(X, Y.cuda())
    with pytest.raises((ValueError, NotImplementedError), match="must be on the"):
        getattr(ops, name)(X, Y, REFS.cuda(), REF_LABELS.cuda())


# Direct calls of the compiled ops, which users may make, skip the checks above. They must not read out of bounds.


def compiled_arguments(monkeypatch, name, *, backward=False, **options):
    """A compiled op and the arguments with which the Python face calls it."""
    compiled = {"select_triplets": "select_triplets"}.get(name, "triplet_loss") + "_backward" * backward
    calls = []
    packet = getattr(torch.ops.hardmine, compiled)
    monkeypatch.setattr(torch.ops.hardmine, compiled, lambda *arguments: calls.append(arguments) or packet(*arguments))
    x = X.clone().requires_grad_()
    result = getattr(ops, name)(x, Y, REFS, REF_LABELS, **options)
    (result[2] if name == "select_triplets" else result).sum().backward()
    monkeypatch.undo()
    return packet, list(calls[0])


@each_op
@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, X[0], "embeddings must be"),
        (0, X.int(), "embeddings must be float32"),
        (1, Y[:3], "labels must be"),
        (1, Y.int(), "labels must be"),
        (2, None, "given together"),
        (2, REFS[:, :2], "ref_embeddings must be"),
        (2, REFS.double(), "ref_embeddings must have the dtype"),
        (3, REF_LABELS[:4], "ref_labels must be"),
        (4, X[:1].double(), "random must be None where no selection is random"),
    ],
)
def test_direct_calls_of_the_compiled_forward(name, position, wrong, message, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name)
    arguments[position] = wrong
    with pytest.raises((ValueError, RuntimeError), match=message):
        packet(*arguments)


@each_op
@pytest.mark.parametrize(
    ("options", "rows"),
    [({"positive": "random"}, 1), ({"negative": "random"}, 1), ({"positive": "random", "negative": "random"}, 2)],
    ids=str,
)
def test_direct_calls_with_wrong_numbers_of_a_random_selection(name, options, rows, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name, **options)
    assert arguments[4].shape == (rows, 4)
    right = torch.zeros(rows, 4, dtype=torch.float64)
    for wrong in (None, right.float(), right.long(), right[:, :3], right[0], right[:, :, None]):
        with pytest.raises((ValueError, RuntimeError), match=rf"random must be a CPU tensor \[{rows}, 4\] of float64"):
            packet(*(wrong if i == 4 else a for i, a in enumerate(arguments)))
    # Numbers beyond [0, 1) pick some candidate all the same.
    for number in (1.0, -1.0, 1e300, math.inf, -math.inf, math.nan):
        *_, positive, negative = packet(*(right + number if i == 4 else a for i, a in enumerate(arguments)))
        assert (REF_LABELS[positive] == Y).all()
        assert (REF_LABELS[negative] != Y).all()


@each_op
@pytest.mark.parametrize("bad_index", [-2, 5, 2**40])
def test_direct_calls_of_the_compiled_backward(name, bad_index, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name, backward=True)
    indices = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor) and a.dtype == torch.int64]
    assert len(indices) == 2
    for position in indices:
        wrong = arguments[position].clone()
        wrong[2] = bad_index
        with pytest.raises((ValueError, RuntimeError), match=rf"must lie in \[-1, 5\), got {bad_index}"):
            packet(*(wrong if i == position else a for i, a in enumerate(arguments)))
    for position in indices:
        with pytest.raises((ValueError, RuntimeError), match="_index must be"):
            packet(*(arguments[position][:3] if i == position else a for i, a in enumerate(arguments)))


@each_op
def test_direct_calls_with_wrong_lists_of_options(name, monkeypatch):
    """Every list of modes and numbers must have its length, and every mode a code that stands for something."""
    packet, arguments = compiled_arguments(monkeypatch, name)
    lists = [position for position, argument in enumerate(arguments) if isinstance(argument, list)]
    assert len(lists) == 2

    def call(position, options):
        return packet(*arguments[:position], options, *arguments[position + 1 :])

    for position in lists:
        for options in (arguments[position][:-1], [*arguments[position], 0]):
            with pytest.raises((ValueError, RuntimeError), match=r"must hold \d+ numbers, got"):
                call(position, options)
    modes = arguments[lists[0]]
    for mode in range(len(modes)):
        if mode in (5, 8):
            continue  # allow_tf32 and separate_means: not codes
        for code in (-1, 7):
            options = [code if i == mode else c for i, c in enumerate(modes)]
            with pytest.raises((ValueError, RuntimeError), match=rf"must be a code from 0 to \d, got {code}"):
                call(lists[0], options)
