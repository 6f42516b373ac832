"""Which options take effect beside which others, for the ops and their references.

An option that would do nothing is an error. The message names the rules or terms that use the option. None, the
default of such an option, resolves to the default of the rule or term that uses it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

from hardmine import types


class Dependence(NamedTuple):
    """An option that takes effect only beside certain values of other options."""

    option: str
    deciders: dict[str, tuple[str, ...]]  # the other options, and all values of each
    values: tuple[str, ...]  # the values with which the option takes effect
    default: Any = None


_TERM = {"term": get_args(types.Term)}
_INDEXED_TERM = {"term": get_args(types.IndexedTerm)}
_POSITIVE = {"positive": (*get_args(types.PositiveRule), *get_args(types.AllPositives))}
_NEGATIVE = {"negative": get_args(types.NegativeRule)}
_SELECTION = (
    Dependence("semihard_fallback", _NEGATIVE, ("semihard",)),
    Dependence("semihard_margin", _NEGATIVE, ("semihard",)),
    Dependence("negative_ranks", _NEGATIVE, ("hardest", "random")),
    Dependence("generator", {**_POSITIVE, **_NEGATIVE}, ("random",)),
)
_TIE = Dependence("tie", _NEGATIVE, ("semihard",), "exclude")

DEPENDENCES: dict[str, tuple[Dependence, ...]] = {
    "select_triplets": (*_SELECTION, _TIE),
    "triplet_loss": (
        *_SELECTION,
        _TIE,
        Dependence("temperature", _TERM, ("nca", "sct"), 0.1),
        Dependence("margin", _TERM, ("hinge",), 0.2),
        Dependence("lam", _TERM, ("sct",), 1.0),
    ),
    "sct_loss": (
        *_SELECTION,
        _TIE._replace(default=None),  # the preset's
        Dependence("hard_cutoff", {"preset": get_args(types.Preset)}, ("code2020", "code2021")),
    ),
    "indexed_triplet_loss": (
        Dependence("temperature", _INDEXED_TERM, ("nca", "sct"), 0.1),
        Dependence("margin", _INDEXED_TERM, ("hinge", "ratio"), 0.2),
        Dependence("lam", _INDEXED_TERM, ("sct",), 1.0),
    ),
}


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> int:
    """``value`` is one of ``choices``; its position is returned."""
    # The type first: `in` would compare an array by element.
    if not (value is None or isinstance(value, type(choices[-1]))) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return choices.index(value)


def check_distance_similarity(similarity: str, loss: str) -> None:
    """The similarity is not ``"dot"``: the loss needs a distance."""
    if similarity == "dot":
        raise ValueError(f"similarity must be 'cosine' or 'euclidean' with {loss}, got 'dot'")


def resolve_options(op: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a call of ``op``; None becomes the default if the option takes effect.

    Raises:
        ValueError: A given option does nothing beside the others.
    """
    resolved = dict(options)
    for dependence in DEPENDENCES.get(op, ()):
        option, deciders, values, default = dependence
        for decider in deciders:
            if isinstance(options[decider], str) and options[decider] in values:  # `in` compares arrays by element
                if options.get(option) is None:
                    resolved[option] = default
                break
        else:
            if options.get(option) is not None:
                raise ValueError(_does_nothing(dependence, options))
    return resolved


def _does_nothing(dependence: Dependence, options: dict[str, Any]) -> str:
    for decider, names in dependence.deciders.items():
        check_choice(decider, options[decider], names)
    beside = " and ".join(f"{decider}={options[decider]!r}" for decider in dependence.deciders)
    *others, last = map(repr, dependence.values)
    users = f"{', '.join(others)} and {last} use" if others else f"{last} uses"
    given = options[dependence.option]
    shown = repr(given) if isinstance(given, str | int | float | tuple | list) else type(given).__name__
    return f"{dependence.option} must be None with {beside}: only {users} it, got {shown}"
