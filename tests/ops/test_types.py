"""The names of options and their codes, the schemas, and the examples in docstrings."""

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

import hardmine
from hardmine import ops, reference, types
from hardmine.ops import _arguments
from support.ops import SOFT_OPS

ROOT = Path(__file__).parents[2]
CORE = "".join(path.read_text() for path in sorted((ROOT / "csrc" / "core").rglob("*.h")))

# The names in Python, and the enumeration in csrc/core that has the same order
ENUMERATIONS = {
    "Similarity": get_args(types.AnySimilarity),
    "Positive": _arguments.POSITIVES,
    "Negative": _arguments.NEGATIVES,
    "Fallback": _arguments.FALLBACKS,
    "Tie": _arguments.TIES,
    "Term": _arguments.INDEXED_TERMS,
    "HardRule": _arguments.HARD_RULES,
    "Reduction": _arguments.TERM_REDUCTIONS,
    "TupletPositive": get_args(types.TupletPositiveRule),
    "BatchAllReduction": get_args(types.BatchAllReduction),
}


OF_RANKS = {"group", "gradient_reduction"}
"""Options that say how processes share the work, which neither compiled ops nor references do."""


@pytest.mark.parametrize("enumeration", ENUMERATIONS)
def test_option_name_position_equals_enum_code(enumeration):
    body = re.search(rf"enum class {enumeration} \{{(.*?)\}};", CORE, re.DOTALL)[1]
    enumerators = re.findall(r"\bk(\w+)", re.sub(r"//.*", "", body))
    names = ["none" if name is None else name for name in ENUMERATIONS[enumeration]]
    assert [re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in enumerators] == names


def test_terms_are_prefix_of_indexed_terms():
    assert _arguments.INDEXED_TERMS[: len(_arguments.TERMS)] == _arguments.TERMS


def test_reductions_are_prefix_of_term_reductions():
    assert _arguments.TERM_REDUCTIONS[: len(_arguments.REDUCTIONS)] == _arguments.REDUCTIONS


@pytest.mark.parametrize("name", [n for n in ops.__all__ if inspect.isfunction(getattr(ops, n))])
def test_schemas_name_every_option(name):
    compiled = {"sct_loss": "triplet_loss", **dict.fromkeys(set(SOFT_OPS) - {"sigmoid_loss"}, "logsumexp")}
    packet = getattr(torch.ops.hardmine, compiled.get(name, name))
    options = {argument.name for argument in packet.default._schema.arguments}
    assert not any("[]" in str(argument.type) for argument in packet.default._schema.arguments)
    python_only = {"preset", "generator", "return_selection", "return_count", "return_terms", "return_counts"}
    if name in SOFT_OPS:
        python_only |= {"reduction", "query", "positive_key", "negative_keys", "symmetric", "in_batch"}
        python_only |= {"alpha", "beta", "base", "epsilon", "m", "gamma", "logit_scale", "logit_bias"}
    python_only |= {"labels", "margin_labels", "random", "negative_ranks", "ignore_index", "weights", *OF_RANKS}
    assert set(inspect.signature(getattr(ops, name)).parameters) - python_only <= options


@pytest.mark.parametrize("name", [n for n in ops.__all__ if inspect.isfunction(getattr(ops, n))])
def test_reference_signatures_match_ops(name):
    op, other = (
        [p for p in inspect.signature(getattr(library, name)).parameters.values() if p.name not in OF_RANKS]
        for library in (ops, reference)
    )
    assert [(p.name, p.kind, p.default) for p in op] == [(p.name, p.kind, p.default) for p in other]


@pytest.mark.subprocess
def test_types_and_references_need_no_compiled_library():
    script = (
        "import sys; from hardmine import types, reference; "
        "assert not [m for m in sys.modules if m.startswith('hardmine.ops')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_named_tuples_are_defined_once():
    assert ops.Selection is types.Selection
    assert type(reference.knn(torch.eye(3), k=1)) is types.Neighbors
    defined = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "hardmine").rglob("*.py")
        for name in re.findall(r"^class ([A-Z]\w+)\(NamedTuple\)", path.read_text(), re.MULTILINE)
        if hasattr(types, name)
    ]
    assert set(defined) == {"hardmine/types.py"}


EXAMPLES = {
    **{name: getattr(ops, name) for name in ops.__all__ if inspect.isfunction(getattr(ops, name))},
    "Selection.triplets": types.Selection.triplets,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples_give_shown_output(name):
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name].__doc__, {"hardmine": hardmine}, name, None, None)
    assert example.examples, "a docstring without an example"
    output = []
    results = doctest.DocTestRunner().run(example, out=output.append)
    assert results.failed == 0, "".join(output)
