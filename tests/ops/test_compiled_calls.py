"""Direct calls of the compiled ops: they skip Python's checks and must not read out of bounds.

Users may make such calls. The ops that select are tested in test_arguments.py.
"""

import pytest
import torch

from hardmine import ops
from support.inputs import seeded

X, Y = torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
REFS, REF_LABELS = torch.randn(5, 3, generator=seeded(1)), torch.tensor([0, 1, 0, 1, 2])
TABLE, REF_ROWS = torch.zeros(2, 2), REF_LABELS % 2

GOOD = {
    # similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32
    "tuplet_loss": [X, Y, REFS, REF_LABELS, None, None, 0, 0, 0.1, 0.9, 0, False],
    # similarity, squared, margin, reduction, allow_tf32, need_embeddings, need_ref_embeddings
    "batch_all_triplet_loss": [X, Y, REFS, REF_LABELS, *5 * [None], 0, True, 0.2, 0, False, True, True],
    # similarity, alpha, beta, base, is_mean, need_embeddings, need_ref_embeddings
    "multi_similarity_loss": [X, Y, REFS, REF_LABELS, None, None, 0, 2.0, 50.0, 0.5, True, True, True],
    # m, gamma, is_mean, need_embeddings, need_ref_embeddings
    "circle_loss": [X, Y, REFS, REF_LABELS, None, None, 0.4, 80.0, True, True, True],
    # k, exclude_self, similarity, allow_tf32
    "knn": [X, REFS, None, None, 3, False, 0, False],
}
CODES = "must be a code from 0 to 2, got"
WRONG = [
    ("tuplet_loss", {0: X[0]}, "embeddings must be"),
    ("tuplet_loss", {0: X.int()}, "embeddings must be float32"),
    ("tuplet_loss", {1: Y[:3]}, "labels must be"),
    ("tuplet_loss", {1: Y.int()}, "labels must be"),
    ("tuplet_loss", {2: None}, "given together"),
    ("tuplet_loss", {2: REFS[:, :2]}, "ref_embeddings must be"),
    ("tuplet_loss", {2: REFS.double()}, "ref_embeddings must have the dtype"),
    ("tuplet_loss", {3: REF_LABELS[:4]}, "ref_labels must be"),
    *(("tuplet_loss", {i: code}, f"{CODES} {code}") for i in (6, 7, 10) for code in (-1, 3)),
    ("tuplet_loss", {8: 1e-31}, "temperature must be at least 1e-30"),
    *(
        (name, changes, message)
        for name in ("multi_similarity_loss", "circle_loss")
        for changes, message in [
            ({0: X[0]}, "embeddings must be"),
            ({0: X.int()}, "embeddings must be float32"),
            ({1: Y[:3]}, "labels must be"),
            ({2: None}, "given together"),
            ({2: REFS[:, :2]}, "ref_embeddings must be"),
            ({4: Y}, "ids and ref_ids must be given together"),
        ]
    ),
    *(("multi_similarity_loss", {6: code}, f"a code from 0 to 1, got {code}") for code in (-1, 2)),
    *(
        ("multi_similarity_loss", {place: value}, f"{name} must be a number from 1e-30 to 1e\\+30, got")
        for place, name in ((7, "alpha"), (8, "beta"))
        for value in (0.0, -1.0, float("nan"), 1e31)
    ),
    ("multi_similarity_loss", {9: float("inf")}, "base must be finite, got inf"),
    *(("circle_loss", {6: value}, "m must be a number from -1 to 1, got") for value in (-1.1, 1.1, float("nan"))),
    ("circle_loss", {7: 0.0}, r"gamma must be a number from 1e-30 to 1e\+30, got"),
    ("batch_all_triplet_loss", {0: X[0]}, "embeddings must be"),
    ("batch_all_triplet_loss", {0: X.int()}, "embeddings must be float32"),
    ("batch_all_triplet_loss", {1: Y[:3]}, "labels must be"),
    ("batch_all_triplet_loss", {1: Y.int()}, "labels must be"),
    ("batch_all_triplet_loss", {2: None}, "given together"),
    ("batch_all_triplet_loss", {2: REFS[:, :2]}, "ref_embeddings must be"),
    ("batch_all_triplet_loss", {3: REF_LABELS[:4]}, "ref_labels must be"),
    ("batch_all_triplet_loss", {6: TABLE}, "given together"),
    ("batch_all_triplet_loss", {7: Y}, "given together"),
    ("batch_all_triplet_loss", {6: TABLE, 7: Y}, "ref_table_row must be given with margin_table and refs only"),
    ("batch_all_triplet_loss", {8: REF_LABELS}, "ref_table_row must be given with margin_table and refs only"),
    *(
        ("batch_all_triplet_loss", {6: TABLE, 7: Y, 8: REF_ROWS, **changes}, message)
        for changes, message in [
            ({2: None, 3: None}, "ref_table_row must be given with margin_table and refs only"),
            ({6: torch.zeros(2, 3)}, "margin_table must be"),
            ({6: torch.zeros(3, 2)}, "margin_table must be"),
            ({6: TABLE[0]}, "margin_table must be"),
            ({7: Y[:3]}, "table_row must be"),
            ({7: Y.int()}, "table_row must be"),
            ({7: Y - 1}, "labels must have a row"),
            ({7: Y + 1}, "labels must have a row"),
            ({7: Y + 2**40}, "labels must have a row"),
            ({8: REF_ROWS[:4]}, "ref_table_row must be"),
            ({8: REF_ROWS.int()}, "ref_table_row must be"),
            ({8: REF_ROWS - 1}, "ref_labels must have a row"),
            ({8: REF_ROWS + 1}, "ref_labels must have a row"),
        ]
    ),
    *(("batch_all_triplet_loss", {i: code}, f"{CODES} {code}") for i in (9, 12) for code in (-1, 3)),
    ("batch_all_triplet_loss", {9: 1}, "dot"),
    ("knn", {0: X[0]}, "queries must be"),
    ("knn", {0: X.int()}, "queries must be float32|must be float32"),
    ("knn", {1: REFS[:, :2]}, "refs must be"),
    ("knn", {1: REFS.double()}, "refs must have the dtype"),
    *(
        (name, changes, message)
        for name in ("tuplet_loss", "batch_all_triplet_loss")
        for changes, message in [
            *(({4: ids, 5: REF_LABELS}, "ids must be a CPU tensor") for ids in (Y[:3], Y.int(), Y[None])),
            *(({4: Y, 5: ids}, "ref_ids must be a CPU tensor") for ids in (Y, REF_LABELS.int())),
            ({4: Y}, "ids and ref_ids must be given together"),
        ]
    ),
    *(("knn", {2: ids, 3: REF_LABELS}, "ids must be a CPU tensor") for ids in (Y[:3], Y.int(), Y[None])),
    *(("knn", {2: Y, 3: ids}, "ref_ids must be a CPU tensor") for ids in (Y, REF_LABELS.int())),
    ("knn", {1: None, 2: Y, 3: Y}, "ref_ids must be None without refs"),
    ("knn", {4: 0}, "k must be from 1 to 1024, got 0"),
    ("knn", {4: -1}, "k must be from 1 to 1024, got -1"),
    ("knn", {4: 2**40}, "k must be from 1 to 1024, got"),
    ("knn", {5: True}, "exclude_self must be false with refs"),
    *(("knn", {6: code}, f"must be a code from 0 to 3, got {code}") for code in (-1, 4)),
]


@pytest.mark.parametrize("name", GOOD)
def test_compiled_forward_valid_arguments_pass(name):
    getattr(torch.ops.hardmine, name)(*GOOD[name])


@pytest.mark.parametrize(("name", "changes", "message"), WRONG, ids=[f"{name}, {list(c)}: {m}" for name, c, m in WRONG])
def test_compiled_forward_invalid_argument_raises(name, changes, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        getattr(torch.ops.hardmine, name)(*(changes.get(i, a) for i, a in enumerate(GOOD[name])))


# The ops whose backward pass computes more than multiples of given gradients come with it here.


@pytest.mark.parametrize("name", ["multi_similarity_loss", "circle_loss", "supcon_loss", "batch_all_triplet_loss"])
def test_compiled_backward_of_given_gradients_wrong_dtype_raises(name):
    packet = getattr(torch.ops.hardmine, f"{name}_backward")
    grad_loss = torch.ones(())
    packet(grad_loss, X, REFS, X, REFS, True, True)
    for place in (0, 1, 2):
        given = [grad_loss, X, REFS, X, REFS, True, True]
        given[place] = given[place].short()
        with pytest.raises((ValueError, RuntimeError), match=r"must be|must have|dtype"):
            packet(*given)


def backward_call(name, monkeypatch):
    """The compiled backward op of ``name``, and the arguments that autograd passes to it."""
    calls = []
    packet = getattr(torch.ops.hardmine, f"{name}_backward")
    monkeypatch.setattr(torch.ops.hardmine, f"{name}_backward", lambda *given: calls.append(given) or packet(*given))
    x, refs = (rows.clone().requires_grad_() for rows in (X, REFS))
    if name == "knn":
        ops.knn(x, refs, k=3).similarity.sum().backward()
    else:  # on a CPU, reduced losses call an op that computes their gradients as well
        ops.tuplet_loss(x, Y, refs, REF_LABELS, reduction="none").sum().backward()
    monkeypatch.undo()
    return packet, list(calls[0])


@pytest.mark.parametrize("name", ["knn", "tuplet_loss"])
def test_compiled_backward_wrong_shape_raises(name, monkeypatch):
    """A tensor without its last row, or with another dtype, is an error, not an out-of-bounds read."""
    packet, arguments = backward_call(name, monkeypatch)
    tensors = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor) and a.dim()]
    assert len(tensors) >= 3
    for position in tensors:
        given = [a[:-1] if i == position else a for i, a in enumerate(arguments)]
        if name == "knn" and arguments[position].shape == REFS.shape:
            given = [a[:, :2] if i == position else a for i, a in enumerate(arguments)]
        with pytest.raises((ValueError, RuntimeError), match=r"must be|must have|must lie"):
            packet(*given)
    for position in tensors:
        if name == "knn" and arguments[position].shape == REFS.shape:
            continue  # refs of any dtype are converted
        with pytest.raises((ValueError, RuntimeError), match=r"must be|must have"):
            packet(*(a.short() if i == position else a for i, a in enumerate(arguments)))


@pytest.mark.parametrize("name", ["knn", "tuplet_loss"])
@pytest.mark.parametrize("bad_index", [-2, 5, 2**40])
def test_compiled_backward_index_out_of_range_raises(name, bad_index, monkeypatch):
    packet, arguments = backward_call(name, monkeypatch)
    indices = [
        i
        for i, a in enumerate(arguments)
        if isinstance(a, torch.Tensor) and a.dtype == torch.int64 and (name == "knn" or i > 6)
    ]
    wrong = arguments[indices[0]].clone()
    wrong.view(-1)[2] = bad_index
    given = [wrong if i == indices[0] else a for i, a in enumerate(arguments)]
    if name == "knn":
        with pytest.raises((ValueError, RuntimeError), match=rf"must lie in \[-1, 5\), got {bad_index}"):
            packet(*given)
    else:  # the op compares these indices with those of the pairs it visits, and never uses them to read
        assert all(gradient.isfinite().all() for gradient in packet(*given))
