"""The dynamics of a triplet: against gradient steps on vectors, values worked by hand, and the paper's claims."""

import math

import pytest
import torch

from papers.dynamics import similarity_change


def nca(a, p, n, temperature=1.0):
    """Eq. 1 as printed, on vectors [T, D] whose products are the similarities."""
    positive, negative = ((a * p).sum(1) / temperature).exp(), ((a * n).sum(1) / temperature).exp()
    return -(positive / (positive + negative)).log()


def numeric_gradient(loss, vectors, which, step=1e-6):
    """Central differences of ``loss(*vectors)`` [T] with respect to ``vectors[which]`` [T, D]."""
    gradient = torch.zeros_like(vectors[which])
    for column in range(gradient.shape[1]):
        values = []
        for sign in (1, -1):
            moved = [vector.clone() for vector in vectors]
            moved[which][:, column] += sign * step
            values.append(loss(*moved))
        gradient[:, column] = (values[0] - values[1]) / (2 * step)
    return gradient


def cosine(x, y):
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))


def unit_vectors(triplets, depth, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, triplets, depth, generator=generator, dtype=torch.float64)
    return list(vectors / vectors.norm(dim=2, keepdim=True))


@pytest.mark.parametrize("depth", [3, 16])
@pytest.mark.parametrize(("lr", "temperature"), [(0.1, 1.0), (0.7, 1.0), (0.05, 0.1)])
def test_similarity_change_equals_numeric_gradient_step(depth, lr, temperature):
    vectors = unit_vectors(200, depth)
    a, p, n = vectors
    s_ap, s_an, s_pn = cosine(a, p), cosine(a, n), cosine(p, n)
    assert (s_an > s_ap).any()
    assert (s_an < s_ap).any()

    moved = [
        vector - lr * numeric_gradient(lambda *v: nca(*v, temperature), vectors, which)
        for which, vector in enumerate(vectors)
    ]
    expected_ap = cosine(moved[0], moved[1]) - s_ap
    expected_an = cosine(moved[0], moved[2]) - s_an
    delta_s_ap, delta_s_an = similarity_change(s_ap, s_an, s_pn=s_pn, lr=lr, temperature=temperature)
    assert torch.allclose(delta_s_ap, expected_ap, rtol=0, atol=1e-7)
    assert torch.allclose(delta_s_an, expected_an, rtol=0, atol=1e-7)
    assert expected_ap.abs().max() > 0.05


@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.3])
def test_similarity_change_of_hinge_equals_numeric_gradient_step(margin):
    vectors = unit_vectors(200, 8)
    a, p, n = vectors
    s_ap, s_an, s_pn = cosine(a, p), cosine(a, n), cosine(p, n)
    moved = [
        vector
        - 0.1
        * numeric_gradient(lambda a, p, n: ((a * n).sum(1) - (a * p).sum(1) + margin).clamp(min=0), vectors, which)
        for which, vector in enumerate(vectors)
    ]
    expected = cosine(moved[0], moved[1]) - s_ap, cosine(moved[0], moved[2]) - s_an
    found = similarity_change(s_ap, s_an, s_pn=s_pn, term="hinge", margin=margin)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert 0 < (expected[0] == 0).sum() < 200, "some triplets have no loss"


def test_similarity_change_default_margin_is_a_fifth():
    at = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.29, 0.31], dtype=torch.float64)
    moves = [change != 0 for change in similarity_change(*at, term="hinge")]
    assert [move.tolist() for move in moves] == [[False, True]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.2}, "margin must be None with term='nca', which has none, got 0.2"),
        ({"term": "hinge", "temperature": 1.0}, "temperature must be None with term='hinge', which has none, got 1.0"),
        ({"term": "sct"}, "term must be one of 'nca', 'hinge', got 'sct'"),
        ({"term": "hinge", "margin": math.inf}, "margin must be a finite number, got inf"),
    ],
)
def test_similarity_change_other_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        similarity_change(torch.tensor([0.5]), torch.tensor([0.2]), **options)


def test_similarity_change_default_s_pn_is_s_ap_times_s_an():
    s_ap, s_an, lr = 0.6, 0.8, 0.3
    a = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    p = torch.tensor([[s_ap, math.sqrt(1 - s_ap**2), 0]], dtype=torch.float64)
    # The plane of a and n is at a right angle to that of a and p.
    n = torch.tensor([[s_an, 0, math.sqrt(1 - s_an**2)]], dtype=torch.float64)
    vectors = [a, p, n]
    moved = [vector - lr * numeric_gradient(nca, vectors, which) for which, vector in enumerate(vectors)]
    delta_s_ap, delta_s_an = similarity_change(torch.tensor([s_ap]), torch.tensor([s_an]), lr=lr)
    assert delta_s_ap.item() == pytest.approx(cosine(moved[0], moved[1]).item() - s_ap, abs=1e-7)
    assert delta_s_an.item() == pytest.approx(cosine(moved[0], moved[2]).item() - s_an, abs=1e-7)


@pytest.mark.parametrize(
    ("s_ap", "s_an", "lr", "entanglement", "expected"),
    [
        # beta = 1/2: products 2 beta and -2 beta, norms sqrt(1 + 2 / 4) and sqrt(1 + 1 / 4)
        (0.0, 0.0, 1.0, 0.0, (1 / math.sqrt(1.875), -1 / math.sqrt(1.875))),
        # q = 0: entanglement has no effect
        (0.0, 0.0, 1.0, 1.0, (1 / math.sqrt(1.875), -1 / math.sqrt(1.875))),
        # collapsed: all vectors at one point, where every push is radial and normalization removes it
        (1.0, 1.0, 0.2, 1.0, (0.0, 0.0)),
        # the opposite corner: the triplet is already right, and nothing moves either
        (1.0, -1.0, 0.2, 0.5, (0.0, 0.0)),
        # beta = 1/10, s_pn = 1/4: products 0.68 - 0.005 + 0.02 ... by hand below
        (0.5, 0.5, 0.2, 0.0, None),
    ],
)
def test_similarity_change_matches_hand_computation(s_ap, s_an, lr, entanglement, expected):
    if expected is None:
        product_ap = 1.01 * 0.5 + 0.2 - 0.1 * 0.25 - 0.01 * 0.5  # 0.675
        product_an = 1.01 * 0.5 - 0.2 + 0.1 * 0.25 - 0.01 * 0.5  # 0.325
        norm_a, norm_p, norm_n = math.sqrt(1.015), math.sqrt(1.11), math.sqrt(0.91)
        expected = (product_ap / (norm_a * norm_p) - 0.5, product_an / (norm_a * norm_n) - 0.5)
    found = similarity_change(torch.tensor([s_ap]), torch.tensor([s_an]), lr=lr, entanglement=entanglement)
    assert [change.item() for change in found] == pytest.approx(list(expected), abs=1e-12)


def test_similarity_change_entanglement_adds_other_change():
    s_ap, s_an = torch.tensor([0.5, -0.3]), torch.tensor([0.9, 0.4])
    free_ap, free_an = similarity_change(s_ap, s_an, lr=0.1)
    entangled_ap, entangled_an = similarity_change(s_ap, s_an, lr=0.1, entanglement=0.5)
    for i, pq in enumerate([0.5 * 0.45, 0.5 * -0.12]):
        assert entangled_ap[i].item() == pytest.approx((free_ap[i] + pq * free_an[i]).item(), abs=1e-7)
        assert entangled_an[i].item() == pytest.approx((free_an[i] + pq * free_ap[i]).item(), abs=1e-7)


def test_similarity_change_hard_triplets_move_to_1_1_if_entangled():
    """SCT section 4: without entanglement, s_ap never falls and s_an never rises.

    With entanglement, the top region moves to (1, 1).
    """
    grid = torch.linspace(0.02, 0.98, 49)
    s_ap, s_an = (axis.flatten() for axis in torch.meshgrid(grid, grid, indexing="xy"))
    growing = []
    for entanglement in (0.0, 0.5, 1.0):
        delta_s_ap, delta_s_an = similarity_change(s_ap, s_an, lr=0.02, entanglement=entanglement)
        growing.append((delta_s_an > 0).double().mean().item())
        if entanglement == 0:
            assert (delta_s_ap > 0).all()
        wrong = delta_s_an > 0
        assert (s_an[wrong] > s_ap[wrong]).all(), "only hard triplets"
        assert (delta_s_ap[wrong] > 0).all(), "towards (1, 1)"
    assert growing[0] == 0 < growing[1] < growing[2]


def test_similarity_change_shapes_dtypes_and_determinism():
    s_ap, s_an = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 5)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        changes = similarity_change(s_ap.to(dtype), s_an.to(dtype))
        assert all(change.shape == (4, 5) and change.dtype == torch.float64 for change in changes)
    first, again = similarity_change(s_ap, s_an), similarity_change(s_ap, s_an)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert [change.shape for change in similarity_change(torch.zeros(0), torch.zeros(0))] == [(0,), (0,)]


def test_similarity_change_clamps_rounding_above_1():
    over = torch.tensor([1 + 2**-23])
    assert similarity_change(over, over, s_pn=over)[0].item() == pytest.approx(0, abs=1e-12)


def test_similarity_change_step_into_origin_is_nan():
    # f_a = f_n = -f_p: f_a + beta (f_p - f_n) is 0 at beta = 1/2
    one = torch.ones(1, dtype=torch.float64)
    beta_of_lr_1 = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64)).item()
    lr = 0.5 / beta_of_lr_1
    assert lr * beta_of_lr_1 == 0.5
    assert all(change.isnan().all() for change in similarity_change(-one, one, lr=lr))


ZERO = torch.zeros(2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0.5, ZERO), {}, TypeError, "s_ap must be a floating-point tensor, got float"),
        ((ZERO, ZERO.long()), {}, TypeError, "s_an must be a floating-point tensor, got torch.int64"),
        ((ZERO, ZERO), {"s_pn": 0.5}, TypeError, "s_pn must be a floating-point tensor, got float"),
        ((ZERO, ZERO[:1]), {}, ValueError, r"s_an must have the shape of s_ap, \[2\], got \[1\]"),
        ((ZERO, ZERO), {"s_pn": ZERO[:1]}, ValueError, r"s_pn must have the shape of s_ap, \[2\], got \[1\]"),
        ((ZERO + 1.5, ZERO), {}, ValueError, r"s_ap must be in \[-1, 1\], got 1.5"),
        ((ZERO, ZERO - 2), {}, ValueError, r"s_an must be in \[-1, 1\], got -2"),
        ((ZERO, torch.tensor([0.0, math.nan])), {}, ValueError, r"s_an must be in \[-1, 1\], got nan"),
        ((ZERO, ZERO), {"s_pn": ZERO + 3}, ValueError, r"s_pn must be in \[-1, 1\], got 3"),
        (
            (ZERO + 1, ZERO),
            {"s_pn": ZERO + 0.5},
            ValueError,
            "s_pn must be possible with s_ap and s_an, got 0.5 with 1 and 0",
        ),
        ((ZERO, ZERO), {"lr": 0}, ValueError, "lr must be a number > 0, got 0"),
        ((ZERO, ZERO), {"lr": "1"}, TypeError, "lr must be a number, got str"),
        ((ZERO, ZERO), {"temperature": -1.0}, ValueError, "temperature must be a number > 0, got -1.0"),
        ((ZERO, ZERO), {"entanglement": -0.5}, ValueError, "entanglement must be a number >= 0, got -0.5"),
        ((ZERO, ZERO), {"entanglement": 1.5}, ValueError, "entanglement must be from 0 to 1, got 1.5"),
    ],
)
def test_similarity_change_invalid_input_raises(arguments, options, error, message):
    with pytest.raises(error, match=message):
        similarity_change(*arguments, **options)
