"""Every op's promises about how it runs: the same bits on any number of threads, O(N D) memory, torch's own checks."""

import sys

import pytest
import torch

from hardmine import ops
from helpers import (
    LOSSES,
    OPS,
    SIMILARITIES,
    Inputs,
    assert_bitwise_equal,
    assert_results_bitwise_equal,
    exact_inputs,
    leaves_of,
    output_of,
    random_inputs,
    run,
    run_python,
    threads,
)

each_op = pytest.mark.parametrize("name", OPS)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
ignore_warnings_of_torch = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@each_op
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 2600], ids=["self", "refs"])
def test_any_number_of_threads_gives_the_same_bits(name, similarity, refs):
    """Large enough for every loop to be shared by 5 threads, and with ties."""
    inputs = exact_inputs(similarity, 3000, 64, 40, refs)
    options = {"similarity": similarity, "negative": "semihard", "semihard_fallback": "hardest"}
    if name in LOSSES:
        options["temperature"] = 0.7
    with threads(1):
        expected = run(getattr(ops, name), inputs, **options)
    assert expected.grad.any(1).all()
    for count in (1, 2, 3, 5, 5):
        with threads(count):
            assert_results_bitwise_equal(run(getattr(ops, name), inputs, **options), expected)


MEMORY_SCRIPT = """
import re, sys, torch
from hardmine import ops

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def step(rows):
    x = torch.randn(rows, 8, requires_grad=True)
    result = getattr(ops, sys.argv[1])(x, torch.arange(rows) % 100, similarity=sys.argv[2])
    (result[2] - result[3] if isinstance(result, tuple) else result).sum().backward()
    assert x.grad.any(1).all()

step(500)
before = peak_mib()
step(20_000)
print(peak_mib() - before)
"""


@each_op
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_is_linear_in_the_batch(name):
    """The matrix of 20,000 rows alone would take 1.5 GiB."""
    peak_mib = float(output_of(run_python("-c", MEMORY_SCRIPT, name, "cosine")))
    assert peak_mib < 32


def recorded_calls(monkeypatch, name: str, inputs: Inputs, **options) -> list[tuple]:
    """The calls of torch.ops.hardmine that forward and backward of an op make: (compiled op, arguments)."""
    calls = []
    for compiled in ("select_triplets", "triplet_loss", "select_triplets_backward", "triplet_loss_backward"):
        packet = getattr(torch.ops.hardmine, compiled)

        def record(*arguments, packet=packet):
            calls.append((packet.default, arguments))
            return packet(*arguments)

        monkeypatch.setattr(torch.ops.hardmine, compiled, record)
    run(getattr(ops, name), inputs, **options)
    monkeypatch.undo()
    return calls


@ignore_warnings_of_torch
@each_op
@with_and_without_refs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"positive": "random"}, {"positive": "random", "negative": "random"}], ids=str)
def test_opcheck(name, refs, dtype, options, monkeypatch):
    calls = recorded_calls(monkeypatch, name, random_inputs(refs=refs, dtype=dtype), **options)
    assert len(calls) == 2, "forward and backward"
    for compiled, arguments in calls:
        backward = compiled.name().endswith("_backward")
        tensors = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        if not backward:
            tensors = [
                a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.dtype == dtype else a for a in tensors
            ]
            assert not any(t.isnan().any() for t in compiled(*tensors)), "opcheck cannot compare NaN"
        torch.library.opcheck(compiled, tuple(tensors))


@each_op
@with_and_without_refs
def test_meta_tensors_give_shapes_and_dtypes(name, refs):
    inputs = random_inputs(refs=refs, dtype=torch.float16)
    on_cpu, on_meta = (run(getattr(ops, name), i) for i in (inputs, inputs.to("meta")))
    for a, b in zip(on_meta.tensors(), on_cpu.tensors(), strict=True):
        assert (a.device.type, a.shape, a.dtype) == ("meta", b.shape, b.dtype)


@ignore_warnings_of_torch
@each_op
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_by_torch_without_a_graph_break(name, backend):
    """Forward and backward, compiled for any batch size at the second one, equal eager mode bit for bit."""

    def outputs(x, labels, refs, ref_labels):
        result = getattr(ops, name)(x, labels, refs, ref_labels)
        return result[2:] if name == "select_triplets" else (result,)

    torch.compiler.reset()
    compiled = torch.compile(outputs, fullgraph=True, backend=backend)
    for rows in (48, 37, 21):
        inputs = random_inputs(rows, refs=30, seed=rows)
        leaves = leaves_of(inputs)
        results = []
        for function in (compiled, outputs):
            values = function(*inputs)
            upstream = [torch.linspace(1, 2, v.numel()).reshape(v.shape) for v in values]
            results.append([*values, *torch.autograd.grad(values, leaves, upstream)])
        assert all(t.any() for t in results[1])
        for actual, expected in zip(*results, strict=True):
            assert_bitwise_equal(actual, expected)
