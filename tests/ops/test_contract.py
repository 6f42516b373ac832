"""What every op promises: the same bits for any number of threads, O(N D) memory, torch's own checks."""

import sys

import pytest
import torch
import torch.utils.checkpoint

from hardmine import ops
from support.comparisons import assert_bitwise_equal, assert_results_bitwise_equal
from support.inputs import Inputs, exact_inputs, random_ids, random_inputs
from support.ops import OPS, SELECTED_LOSSES, each_of, each_with_refs, similarities_of_op
from support.processes import output_of, run_python, threads
from support.runs import differentiable_outputs, evaluate, leaves_of, run, with_generator

ignore_warnings_of_torch = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


THREADED_OPTIONS = {
    "select_triplets": [{"negative": "semihard", "semihard_fallback": "hardest"}],
    **{name: [{"negative": "semihard", "semihard_fallback": "hardest"}] for name in SELECTED_LOSSES},
    # One exponent shift for all anchors, and one shift per anchor
    "tuplet_loss": [{"positive": p, "temperature": t} for p, t in (("easiest", 0.02), ("all", 0.1), ("all", 0.02))],
    "batch_all_triplet_loss": [{"squared": squared, "margin": 0.3} for squared in (True, False)],
    "knn": [{"k": 50}],
}
THREADED_CASES = [
    (name, similarity, refs, options)
    for name in OPS
    for similarity in similarities_of_op(name)
    for refs in (None, 2600)
    for options in THREADED_OPTIONS[name]
]


@pytest.mark.thinned(17)
@pytest.mark.parametrize(("name", "similarity", "refs", "options"), THREADED_CASES, ids=str)
def test_op_any_thread_count_is_bitwise_equal(name, similarity, refs, options):
    """The inputs have ties, and are large enough for every loop to be split among 5 threads."""
    inputs = exact_inputs(similarity, 3000, 64, 40, refs)
    options = {"similarity": similarity, **options}
    if name == "tuplet_loss" and similarity != "cosine":
        options["temperature"] *= 50  # otherwise one negative has all the weight, and most have no gradient
    if name in SELECTED_LOSSES:
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
from support.inputs import Inputs
from support.runs import differentiable_outputs

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def step(rows):
    x = torch.randn(rows, 8, requires_grad=True)
    labels = torch.arange(rows) // int(sys.argv[2])
    outputs = differentiable_outputs(sys.argv[1], Inputs(x, labels), similarity="cosine")
    (outputs[0] - 2 * outputs[-1]).sum().backward()
    assert x.grad.any(1).all()

step(500)
before = peak_mib()
step(20_000)
print(peak_mib() - before)
"""


@pytest.mark.slow
@pytest.mark.subprocess
@each_of(OPS)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_op_peak_memory_is_linear_in_batch(name):
    """The matrix of 20,000 rows alone would take 1.5 GiB, and the triplets of classes of 4 would take 12 times that."""
    images_per_class = 4 if name == "batch_all_triplet_loss" else 100
    peak_mib = float(output_of(run_python("-c", MEMORY_SCRIPT, name, str(images_per_class))))
    assert peak_mib < 32


# The compiled ops beneath the functional ones: sct_loss calls that of triplet_loss.
COMPILED_OPS = tuple(name for name in OPS if name != "sct_loss")


def recorded_calls(monkeypatch, name: str, inputs: Inputs, **options) -> list[tuple]:
    """The torch.ops.hardmine calls of an op's forward and backward: (compiled op, arguments)."""
    calls = []
    names = [n for op in COMPILED_OPS for n in (op, f"{op}_backward") if hasattr(torch.ops.hardmine, n)]
    for compiled in names:
        packet = getattr(torch.ops.hardmine, compiled)

        def record(*arguments, packet=packet):
            calls.append((packet.default, arguments))
            return packet(*arguments)

        monkeypatch.setattr(torch.ops.hardmine, compiled, record)
    leaves = leaves_of(inputs)
    loss, _ = evaluate(getattr(ops, name), inputs, **with_generator(options, inputs.embeddings.device))
    # Without create_graph, ops that compute gradients in the forward pass need no op in the backward pass.
    torch.autograd.grad(
        (loss * torch.linspace(1, 2, loss.numel(), device=loss.device)).sum(), leaves, create_graph=True
    )
    monkeypatch.undo()
    return calls


@pytest.mark.thinned(11)
@ignore_warnings_of_torch
@each_with_refs(OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("with_ids", [False, True])
def test_op_opcheck_passes(name, refs, dtype, with_ids, device, monkeypatch):
    inputs = random_inputs(refs=refs, dtype=dtype).to(device)
    options = random_ids(inputs, "few") if with_ids else {}
    check_compiled_ops(recorded_calls(monkeypatch, name, inputs, **options), dtype)


@pytest.mark.slow
@ignore_warnings_of_torch
@each_with_refs(("select_triplets", "triplet_loss"))
@pytest.mark.parametrize("options", [{"positive": "random"}, {"positive": "random", "negative": "random"}], ids=str)
def test_op_random_selection_opcheck_passes(name, refs, options, device, monkeypatch):
    inputs = random_inputs(refs=refs).to(device)
    check_compiled_ops(recorded_calls(monkeypatch, name, inputs, **options), torch.float32)


def check_compiled_ops(calls: list[tuple], dtype: torch.dtype) -> None:
    """Run opcheck on the compiled ops, with the recorded arguments and embeddings of ``dtype``."""
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


@each_with_refs(OPS)
def test_op_meta_tensors_match_shapes_and_dtypes(name, refs):
    inputs = random_inputs(refs=refs, dtype=torch.float16)
    on_cpu, on_meta = (run(getattr(ops, name), i) for i in (inputs, inputs.to("meta")))
    for a, b in zip(on_meta.tensors(), on_cpu.tensors(), strict=True):
        assert (a.device.type, a.shape, a.dtype) == ("meta", b.shape, b.dtype)


@pytest.mark.thinned(5)
@ignore_warnings_of_torch
@each_of(OPS)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_op_torch_compile_has_no_graph_break_and_is_equal(name, backend, device):
    """Forward and backward equal eager mode bit for bit. The second batch size compiles them for any size."""

    def outputs(*inputs):
        return differentiable_outputs(name, Inputs(*inputs))

    torch.compiler.reset()
    compiled = torch.compile(outputs, fullgraph=True, backend=backend)
    for rows in (48, 37, 21):
        inputs = random_inputs(rows, refs=30, seed=rows).to(device)
        leaves = leaves_of(inputs)
        results = []
        for function in (compiled, outputs):
            values = function(*inputs)
            upstream = [torch.linspace(1, 2, v.numel(), device=device).reshape(v.shape) for v in values]
            results.append([*values, *torch.autograd.grad(values, leaves, upstream)])
        assert all(t.any() for t in results[1])
        for actual, expected in zip(*results, strict=True):
            assert_bitwise_equal(actual, expected)


@each_of(OPS)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_op_under_checkpoint_is_equal(name, use_reentrant):
    inputs = random_inputs(20, refs=30)
    leaves = leaves_of(inputs)
    expected = torch.autograd.grad(sum(o.nansum() for o in differentiable_outputs(name, inputs)), leaves)

    def outputs(*given):
        return tuple(differentiable_outputs(name, Inputs(*given)))

    results = torch.utils.checkpoint.checkpoint(outputs, *inputs, use_reentrant=use_reentrant)
    sum(o.nansum() for o in results).backward()
    assert all(gradient.any() for gradient in expected)
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert_bitwise_equal(leaf.grad, gradient)
