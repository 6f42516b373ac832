"""The dynamics of one triplet: the effect of a gradient step on its two similarities, in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import check_choice, shape_of
from hardmine.ops._numbers import check_finite, check_number

TERMS = ("nca", "hinge")
_ROUNDING = 1e-6  # tolerance for similarities that float32 rounding moved out of the range of unit vectors


def similarity_change(
    s_ap: Tensor,
    s_an: Tensor,
    *,
    term: str = "nca",
    lr: float = 0.1,
    temperature: float | None = None,
    margin: float | None = None,
    s_pn: Tensor | None = None,
    entanglement: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """How much one step down the gradient of a loss changes a triplet's similarities.

    The step moves the three unit vectors themselves, as free parameters, and then normalizes them again. Replaces, for
    unit vectors f_a, f_p, f_n with those similarities and ``beta = lr / temperature * sigmoid((s_an - s_ap) /
    temperature)``, or with the hinge ``beta = lr if s_an - s_ap + margin > 0 else 0``::

        a, p, n = f_a + beta * (f_p - f_n), f_p + beta * f_a, f_n - beta * f_a
        cosine_similarity(a, p) - f_a @ f_p, cosine_similarity(a, n) - f_a @ f_n

    A network's step moves nearby points in similar ways. The entanglement p models this: each similarity's change also
    adds to the other, times ``p * s_ap * s_an``.

    Args:
        s_ap: Anchor-positive similarities in [-1, 1], floating, any shape.
        s_an: Anchor-negative similarities, of the same shape.
        term: `"nca"`, the loss ``softplus((s_an - s_ap) / temperature)``; or `"hinge"`, the margin-based loss
            ``max(0, s_an - s_ap + margin)``.
        lr: Learning rate alpha, above 0.
        temperature: Temperature of the NCA loss, above 0; by default 1, as in SCT.
        margin: Margin of the hinge; by default 0.2.
        s_pn: Positive-negative similarities, of the same shape. By default ``s_ap * s_an``, the middle of the range
            that three unit vectors allow, so such a triplet always exists.
        entanglement: p, 0 for none to 1 for complete.

    Returns:
        ``(delta_s_ap, delta_s_an)``, float64, of the shape of ``s_ap``. NaN if the step moves a vector exactly to the
        origin, which needs ``beta >= 1/2``.

    Raises:
        TypeError: A similarity is not a floating-point tensor, or a scalar argument is not a number.
        ValueError: Shapes differ, a similarity is outside [-1, 1] or NaN, no three unit vectors have these
            similarities, a number is out of range, or the other term's option is given.

    Note:
        Deterministic and elementwise. The hinge moves every triplet with a loss equally far, and the others not at all;
        the NCA loss moves a triplet the farther, the harder it is. Above ``beta = 1/2`` a step can move a vector past
        the origin, and this picture no longer applies.

    Reference:
        SCT section 4: eq. 4 to 6 (the step), 7 and 8 (the new products), 9 and 10 (normalized), 11 and 12
        (entanglement). Eq. 10 is printed with the norm of f_n alone, but both norms are meant, as in eq. 9. SCT does
        not give s_pn for its figure 2, so the default is ours. Section 4 leaves the margin-based loss to an appendix;
        its steps here follow from its gradient in the same way.
    """
    s_ap, s_an, s_pn = _checked(s_ap, s_an, s_pn)
    lr = check_number("lr", lr, above=0.0)
    entanglement = check_number("entanglement", entanglement, at_least=0.0)
    if entanglement > 1:
        raise ValueError(f"entanglement must be from 0 to 1, got {entanglement}")

    beta = lr * _slope(check_choice("term", term, TERMS), s_an - s_ap, temperature, margin)
    # (f_a + beta f_p - beta f_n) . (f_p + beta f_a) and (f_a + beta f_p - beta f_n) . (f_n - beta f_a), multiplied out
    product_ap = (1 + beta**2) * s_ap + 2 * beta - beta * s_pn - beta**2 * s_an
    product_an = (1 + beta**2) * s_an - 2 * beta + beta * s_pn - beta**2 * s_ap
    sq_norm_a = 1 + 2 * beta * (s_ap - s_an) + 2 * beta**2 * (1 - s_pn)
    sq_norm_p = 1 + 2 * beta * s_ap + beta**2
    sq_norm_n = 1 - 2 * beta * s_an + beta**2
    delta_s_ap = product_ap / (sq_norm_a * sq_norm_p).sqrt() - s_ap
    delta_s_an = product_an / (sq_norm_a * sq_norm_n).sqrt() - s_an
    pq = entanglement * s_ap * s_an
    return delta_s_ap + pq * delta_s_an, delta_s_an + pq * delta_s_ap


def _slope(term: int, difference: Tensor, temperature: Any, margin: Any) -> Tensor:
    """The derivative of the loss by s_an - s_ap."""
    for name, value, owner in (("temperature", temperature, "nca"), ("margin", margin, "hinge")):
        if value is not None and TERMS[term] != owner:
            raise ValueError(f"{name} must be None with term={TERMS[term]!r}, which has none, got {value}")
    if TERMS[term] == "hinge":
        margin = 0.2 if margin is None else check_finite("margin", margin)
        return (difference + margin > 0).double()
    temperature = 1.0 if temperature is None else check_number("temperature", temperature, above=0.0)
    return torch.sigmoid(difference / temperature) / temperature


def _checked(s_ap: Any, s_an: Any, s_pn: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The three similarities as float64, checked to be possible for unit vectors."""
    for name, similarity in {"s_ap": s_ap, "s_an": s_an, "s_pn": s_pn}.items():
        if name == "s_pn" and similarity is None:
            continue
        if not isinstance(similarity, Tensor) or not similarity.is_floating_point():
            kind = str(similarity.dtype) if isinstance(similarity, Tensor) else type(similarity).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
        if similarity.shape != s_ap.shape:
            raise ValueError(f"{name} must have the shape of s_ap, {shape_of(s_ap)}, got {shape_of(similarity)}")
        outside = ~(similarity.abs() <= 1 + _ROUNDING)
        if outside.any():
            raise ValueError(f"{name} must be in [-1, 1], got {similarity[outside][0].item():g}")
    s_ap, s_an = s_ap.double().clamp(-1, 1), s_an.double().clamp(-1, 1)
    if s_pn is None:
        return s_ap, s_an, s_ap * s_an
    s_pn = s_pn.double().clamp(-1, 1)
    # Three unit vectors with these products exist if and only if their Gram matrix has no negative determinant.
    impossible = 1 + 2 * s_ap * s_an * s_pn - s_ap**2 - s_an**2 - s_pn**2 < -_ROUNDING
    if impossible.any():
        values = tuple(similarity[impossible][0].item() for similarity in (s_pn, s_ap, s_an))
        raise ValueError("s_pn must be possible with s_ap and s_an, got {:g} with {:g} and {:g}".format(*values))
    return s_ap, s_an, s_pn
