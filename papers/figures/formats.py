"""The data files that figures are drawn from. A training writes them into the folder of its run.

The tables are CSV in UTF-8: a header line with the column names, in any order, then one row per line. An unmeasured
number is an empty cell, where the table allows it. :class:`papers.figures.Records` writes the tables so that every line
but the last is complete, even after a kill. A last line without a line end is truncated, and is left out with a
warning.

``diagrams.csv``: positions of triplets in the triplet diagram.

========== ==============================================================================================
iteration  number of the gradient step, from 0
split      ``train`` or ``test``
moment     ``before`` that step, or ``after`` it
anchor     index of the anchor, the same before and after: its row in the data set, or in the batch
s_ap       the anchor's similarity to its positive, in [-1, 1]; empty without a positive
s_an       the anchor's similarity to its negative, in [-1, 1]; empty without a negative
========== ==============================================================================================

If both moments of an iteration are present, they have the same anchors with the same positives and negatives: triplets
are selected before the step and tracked. A complete data set is shown by one moment alone, for example ``after`` the
iteration whose number is the total number of steps. No step has that number. Per split and moment of an iteration, an
anchor occurs once.

``epochs.csv``: the history of a training, one row per measurement.

=========== =============================================================================================
epoch       number of the epoch, from 0; a row before training may have 0
step        number of gradient steps so far, from 0; it grows from row to row of a run
recall_at_1 of the classes that are only retrieved, in [0, 1]; or empty
hard_share  of the triplets in the batches since the previous row, in [0, 1]; or empty
loss        mean loss of those batches; or empty
run         name in the legend; runs with other seeds have the same name, in separate files
=========== =============================================================================================

``groups.csv``: Recall@1 against the number of images per class in a batch, one row per training.

================ ========================================================================================
method           name in the legend
images_per_class 2 or more
seed             an integer from 0
recall_at_1      of the classes that are only retrieved, at the end, in [0, 1]
================ ========================================================================================

``embeddings.safetensors``: tensors ``train_embeddings`` [N, D] and ``train_labels`` [N], ``test_embeddings`` [M, D] and
``test_labels`` [M], or only one of the two pairs. Embeddings are floating, labels integers. Embeddings need not be
normalized. :func:`papers.figures.save_embeddings` writes the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

EMBEDDINGS_FILE = "embeddings.safetensors"
SPLITS = ("train", "test")
MOMENTS = ("before", "after")
_ROUNDING = 1e-3  # tolerance for similarities computed in half precision


class Column(NamedTuple):
    """The valid cells of a column."""

    must_be: str
    convert: Callable[[str], Any]  # raises ValueError for anything else


class Table(NamedTuple):
    """A table's usual file name and its columns."""

    file: str
    columns: Mapping[str, Column]

    @property
    def header(self) -> str:
        """The first line, without the line end."""
        return ",".join(self.columns)


def _integer(minimum: int) -> Column:
    def convert(text: str) -> int:
        # Any 18 digits fit into an int64.
        if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) >= minimum):
            raise ValueError
        return int(text)

    return Column(f"an integer from {minimum}", convert)


def _number(minimum: float = -math.inf, maximum: float = math.inf, *, or_empty: bool, rounding: float = 0.0) -> Column:
    def convert(text: str) -> float:
        if or_empty and text in ("", "nan"):
            return math.nan
        value = float(text)
        if "_" in text or not math.isfinite(value) or not minimum - rounding <= value <= maximum + rounding:
            raise ValueError
        return value

    kind = "a number" if minimum == -math.inf else f"a number from {minimum:g} to {maximum:g}"
    return Column(f"{kind} or empty" if or_empty else kind, convert)


def _one_of(choices: tuple[str, ...]) -> Column:
    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return Column(" or ".join(choices), convert)


def _name(text: str) -> str:
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError
    return text


NAME = Column("a name", _name)
_SIMILARITY = _number(-1, 1, or_empty=True, rounding=_ROUNDING)

DIAGRAMS = Table(
    "diagrams.csv",
    {
        "iteration": _integer(0),
        "split": _one_of(SPLITS),
        "moment": _one_of(MOMENTS),
        "anchor": _integer(0),
        "s_ap": _SIMILARITY,
        "s_an": _SIMILARITY,
    },
)
EPOCHS = Table(
    "epochs.csv",
    {
        "epoch": _integer(0),
        "step": _integer(0),
        "recall_at_1": _number(0, 1, or_empty=True),
        "hard_share": _number(0, 1, or_empty=True),
        "loss": _number(or_empty=True),
        "run": NAME,
    },
)
GROUPS = Table(
    "groups.csv",
    {
        "method": NAME,
        "images_per_class": _integer(2),
        "seed": _integer(0),
        "recall_at_1": _number(0, 1, or_empty=False),
    },
)
