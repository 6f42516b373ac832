"""Helpers that the tests of random positives and negatives share."""

import pytest

from support.inputs import Inputs
from support.ops import SELECTING_OPS, each_of
from support.runs import with_generator

each_op = each_of(SELECTING_OPS)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
BOTH = {"positive": "random", "negative": "random"}


def pick(op, inputs: Inputs, *, seed: int = 0, **options):
    """A selection that draws the same numbers in every call."""
    return op(*inputs, **with_generator(options, inputs.embeddings.device, seed))
