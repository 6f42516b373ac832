"""What only a GPU shows: CUDA graphs, streams, no waiting for the GPU, several GPUs, TF32."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hardmine import ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import Inputs, random_inputs
from support.ops import OPS, has_cuda_kernel
from support.runs import arguments_of
from triplets import GIVEN, Batch, random_triplets

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

OPTIONS = {
    "select_triplets": [{"negative": "semihard", "semihard_fallback": "hardest"}],
    "triplet_loss": [{"negative": "semihard", "semihard_fallback": "hardest"}, {"positive": "hardest"}],
    "tuplet_loss": [{"positive": "easiest"}, {"positive": "all"}],
    "batch_all_triplet_loss": [{"squared": True}, {"squared": False}],
    "knn": [{"k": 7}],
}
CASES = [
    (name, refs, {"similarity": similarity, **options})
    for name in (*OPS, *GIVEN)
    for refs in (None, 150)
    if not refs or name not in GIVEN
    for similarity in ("cosine", "euclidean")
    for options in OPTIONS.get(name, [{}])
]
WAITING_CALLS = {
    *("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMalloc", "cudaFree"),
    *("cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize"),
}
LONG = 100_000_000  # clock cycles: a twentieth of a second

each_case = pytest.mark.parametrize(("name", "refs", "options"), CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def make_inputs(name: str, refs: int | None, dtype: torch.dtype, seed: int) -> Inputs | Batch:
    inputs = random_inputs(200, 24, 13, refs=refs, dtype=dtype, seed=seed)
    return Batch(inputs.embeddings, random_triplets(200, 300, seed)) if name in GIVEN else inputs


def copy_into(old: Inputs | Batch, new: Inputs | Batch) -> None:
    with torch.no_grad():
        for a, b in zip(old, new, strict=True):
            if a is not None:
                a.copy_(b)


def step(name: str, inputs: Inputs | Batch, options: dict) -> list[Tensor]:
    """An op's results, and the gradients of the inputs that require one, all on the device and without waiting."""
    arguments = inputs if name in GIVEN else arguments_of(name, inputs)
    returned = getattr(ops, name)(*arguments, **options)
    outputs = [returned] if isinstance(returned, Tensor) else list(returned)
    values = [t for t in outputs if t.requires_grad]
    upstream = [torch.linspace(1, 2, v.numel(), dtype=v.dtype, device=v.device).reshape(v.shape) for v in values]
    leaves = [t for t in arguments if t is not None and t.is_floating_point()]
    return [t.detach() for t in (*outputs, *torch.autograd.grad(values, leaves, upstream))]


def on(device: str, inputs: Inputs | Batch) -> Inputs | Batch:
    """A copy whose embeddings require gradients."""
    copied = type(inputs)(*(None if t is None else t.detach().to(device, copy=True) for t in inputs))
    for t in copied:
        if t is not None and t.is_floating_point():
            t.requires_grad_()
    return copied


def assert_all_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert expected[-1].any(), "a gradient of zeros shows nothing"
    for a, b in zip(actual, expected, strict=True):
        assert_bitwise_equal(a, b)


@pytest.fixture(autouse=True)
def _kernels(request):
    name = request.node.callspec.params.get("name", "knn") if hasattr(request.node, "callspec") else "knn"
    if not has_cuda_kernel(name):
        pytest.skip(f"{name} has no CUDA kernels in this build")


@each_dtype
@each_case
def test_cuda_graph_replays_on_other_inputs(name, refs, options, dtype):
    inputs = on("cuda", make_inputs(name, refs, dtype, seed=1))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch's documentation has it: the warm-up must not run on the default stream
        for _ in range(3):
            step(name, inputs, options)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(name, inputs, options)
    for seed in (1, 2, 3):
        others = on("cuda", make_inputs(name, refs, dtype, seed))
        copy_into(inputs, others)
        graph.replay()
        assert_all_equal(captured, step(name, others, options))


@each_case
def test_cuda_stream_orders_op_after_earlier_work(name, refs, options):
    """The inputs arrive late and are overwritten at once. An op that ran on another stream would miss them."""
    late, before = (make_inputs(name, refs, torch.float32, seed) for seed in (1, 2))
    expected = step(name, on("cuda", late), options)
    late, inputs = on("cuda", late), on("cuda", before)
    step(name, inputs, options)  # loads the kernels
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        copy_into(inputs, late)
        actual = step(name, inputs, options)
        copy_into(inputs, on("cuda", before))
    stream.synchronize()
    assert_all_equal(actual, expected)


@each_case
def test_cuda_op_has_no_torch_call_that_waits(name, refs, options):
    inputs = on("cuda", make_inputs(name, refs, torch.float32, seed=1))
    step(name, inputs, options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(name, inputs, options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waiting_calls(work: Callable[[], object]) -> list[str]:
    """The CUDA runtime calls during `work` that wait, or may wait, for the GPU, regardless of the caller."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    work()  # loads kernels and fills the allocator's pools
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=kinds) as profile:
        with torch.profiler.record_function("the work"):
            work()
        torch.cuda.synchronize()
    events = profile.events()
    whole = next(e for e in events if e.name == "the work" and e.device_type == torch.autograd.DeviceType.CPU)
    during = [e.name for e in events if whole.time_range.start <= e.time_range.start <= whole.time_range.end]
    assert any(call.startswith("cudaLaunchKernel") for call in during), "the profiler saw no launch"
    return [call for call in during if call in WAITING_CALLS]


def test_cuda_profiler_sees_call_that_waits():
    x = torch.ones(100, device="cuda")
    assert waiting_calls(lambda: x.sum().item())
    assert not waiting_calls(lambda: x.sum())


@each_case
def test_cuda_op_has_no_runtime_call_that_waits(name, refs, options):
    inputs = on("cuda", make_inputs(name, refs, torch.float32, seed=1))
    assert waiting_calls(lambda: step(name, inputs, options)) == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
@each_case
def test_cuda_op_runs_on_device_of_inputs(name, refs, options):
    inputs = make_inputs(name, refs, torch.float32, seed=1)
    with torch.cuda.device(0):
        actual = step(name, on("cuda:1", inputs), options)
        assert torch.cuda.current_device() == 0
    assert {t.device for t in actual} == {torch.device("cuda:1")}
    if torch.cuda.get_device_capability(0) == torch.cuda.get_device_capability(1):
        assert_all_equal(actual, step(name, on("cuda:0", inputs), options))


@pytest.fixture
def precision() -> Iterator[Callable[[str], None]]:
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_cuda_products_are_exact_unless_tf32_is_allowed(similarity, precision):
    """TF32 keeps 10 bits of a factor; squared differences never use it."""
    queries = random_inputs(300, 256, refs=None).embeddings
    exact = reference.knn(queries.double(), k=1, similarity=similarity).similarity
    errors = {}
    for name in ("highest", "high"):
        precision(name)
        found = ops.knn(queries.cuda(), k=1, similarity=similarity).similarity.cpu()
        errors[name] = ((found - exact).abs() / exact.abs()).max().item()
    assert errors["highest"] < 1e-5
    if similarity == "euclidean":
        assert errors["high"] == errors["highest"]
    else:
        assert 1e-5 < errors["high"] < 1e-2
