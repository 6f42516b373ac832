"""Signals that arrive while an op runs: Ctrl-C ends it, forward and backward, and the next call is right."""

import pytest

from support.processes import output_of, run_python

pytestmark = pytest.mark.subprocess

PREAMBLE = """
import contextlib, os, signal, sys, threading, time
import torch
from hardmine import ops
from hardmine.mining import class_distances

BEFORE_SIGNAL = 0.4

@contextlib.contextmanager
def send_signal_later(number=signal.SIGINT):
    timer = threading.Timer(BEFORE_SIGNAL, os.kill, (os.getpid(), number))
    timer.start()
    yield
    timer.join()

def repeat(work):
    # The work of a fast machine may end before the signal comes.
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        work()

# A job that a script started in the background is born with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.manual_seed(0)
"""

INTERRUPTED = """
x = torch.randn(60_000, 256)
labels = torch.arange(len(x)) // 10
rows = x.clone().requires_grad_()
wide = torch.randn(8000, 4000)
triplets = (torch.arange(6_000_000)[:, None] * 7919 + torch.tensor([0, 1, 30_001])) % len(x)
neighbors = torch.randint(len(x), (len(x), 200))
few, few_labels, few_triplets = x[:30], labels[:30], torch.tensor([[0, 1, 29], [3, 2, 15]])

def tuplet_backward(size, depth):
    y = torch.arange(size) // 10
    saved = [torch.ones(size) for _ in range(3)] + [torch.arange(size), torch.ones(size, dtype=torch.int64)]
    options = (0, 0, 0.1, float("inf"), 0, False)
    return lambda: torch.ops.hardmine.tuplet_loss_backward(
        torch.tensor(1.0), x[:size, :depth], y, None, None, None, None, *saved, *options, True, False)

def indexed_backward(size):
    zeros = torch.zeros(size)
    return lambda: torch.ops.hardmine.indexed_triplet_loss_backward(
        torch.tensor(1.0), None, None, x, triplets[:size], zeros, zeros, 0, 0, 0.1, 0.2, 1.0, 0)

# name: what runs for a second or so, and the same op on a little
works = {
    "knn": (lambda: ops.knn(x, k=10), lambda: ops.knn(few, k=3)),
    "knn of refs": (lambda: ops.knn(x, x + 1, k=10), lambda: ops.knn(few, few + 1, k=3)),
    "knn backward": (
        lambda: torch.ops.hardmine.knn_backward(torch.ones(len(x), 200), neighbors, x, None, 0, True, False),
        lambda: torch.ops.hardmine.knn_backward(torch.ones(30, 2), neighbors[:30, :2] % 30, few, None, 0, True, False)),
    "select_triplets": (
        lambda: ops.select_triplets(x, labels, negative="semihard"),
        lambda: ops.select_triplets(few, few_labels, negative="semihard")),
    "random selection": (
        lambda: ops.select_triplets(x, labels, negative="random", positive="random", duplicate_threshold=0.9),
        lambda: ops.select_triplets(few, few_labels)),
    "sct_loss": (lambda: (ops.sct_loss(rows, labels),), lambda: (ops.sct_loss(few, few_labels),)),
    "tuplet_loss": (
        lambda: (ops.tuplet_loss(rows, labels, positive="all"),), lambda: (ops.tuplet_loss(few, few_labels),)),
    "tuplet_loss backward": (tuplet_backward(60_000, 256), tuplet_backward(30, 256)),
    "batch_all_triplet_loss": (
        lambda: (ops.batch_all_triplet_loss(rows, labels),), lambda: (ops.batch_all_triplet_loss(few, few_labels),)),
    "batch_all_triplet_loss of a large class": (
        lambda: (ops.batch_all_triplet_loss(rows, labels // 5990),),
        lambda: (ops.batch_all_triplet_loss(few, few_labels),)),
    "indexed_triplet_loss": (
        lambda: (ops.indexed_triplet_loss(rows, triplets),), lambda: (ops.indexed_triplet_loss(few, few_triplets),)),
    "indexed_triplet_loss backward": (indexed_backward(len(triplets)), indexed_backward(5)),
    "global_loss": (lambda: (ops.global_loss(rows, triplets),), lambda: (ops.global_loss(few, few_triplets),)),
    "class_distances": (
        lambda: class_distances(wide, torch.arange(8000)), lambda: class_distances(few, few_labels)[1:]),
}

def same(a, b):
    a, b = (r if isinstance(r, tuple) else (r,) for r in (a, b))
    return all(torch.equal(p.nan_to_num(7), q.nan_to_num(7)) for p, q in zip(a, b, strict=True))

late = 0
for name, (work, on_a_little) in works.items():
    expected = on_a_little()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with send_signal_later():
            sent = time.monotonic() + BEFORE_SIGNAL
            try:
                repeat(work)
                print(name, "was not interrupted", time.monotonic() - sent)
            except KeyboardInterrupt as error:
                waited = time.monotonic() - sent
                print(name, threads, "ended", round(waited, 2), file=sys.stderr)
                if waited > 30 or error.args:
                    print(name, "ended late, after", waited)
        if not same(on_a_little(), expected):
            print(name, "is wrong afterwards")
"""


def test_op_ctrl_c_stops_every_op_and_next_call_is_equal():
    process = run_python("-c", PREAMBLE + INTERRUPTED)
    assert output_of(process) == "", process.stderr
    assert process.stderr.count("ended") == 28


HANDLED = """
x = torch.randn(60_000, 256)

class Enough(Exception):
    pass

enough = Enough("of this")

def handle(number, frame):
    raise enough

signal.signal(signal.SIGTERM, handle)
for mode in (torch.enable_grad, torch.inference_mode):
    with send_signal_later(signal.SIGTERM), mode():
        try:
            repeat(lambda: ops.knn(x, k=10))
            print("was not interrupted")
        except Enough as error:
            print(error is enough)
"""


def test_op_signal_handler_error_is_raised():
    assert output_of(run_python("-c", PREAMBLE + HANDLED)).split() == ["True", "True"]


QUEUE_IS_FULL = """
import ctypes
x = torch.randn(60_000, 256)
ops.knn(x[:9], k=1)
add_pending_call = ctypes.pythonapi.Py_AddPendingCall
enough = KeyboardInterrupt("of this")
filling = True

# The handler of a signal runs pending calls, so each puts itself in the queue again.
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
def stay(_):
    if filling:
        add_pending_call(stay, None)
    return 0

def handle(number, frame):
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise enough

signal.signal(signal.SIGTERM, handle)
signal.signal(signal.SIGINT, handle)

def fill_queue_and_signal():
    time.sleep(BEFORE_SIGNAL)  # the op must be running; no event says that it is
    while add_pending_call(stay, None) == 0:
        pass
    os.kill(os.getpid(), signal.SIGTERM)

before = sys.getrefcount(enough)
filler = threading.Thread(target=fill_queue_and_signal)
filler.start()
try:
    repeat(lambda: ops.knn(x, k=10))
    print("was not interrupted")
except KeyboardInterrupt as error:
    filling = False
    print(error is not enough)
filler.join()
enough.__traceback__ = None
print(sys.getrefcount(enough) == before)
"""


def test_op_signal_handler_error_with_full_queue_is_released():
    assert output_of(run_python("-c", PREAMBLE + QUEUE_IS_FULL)).split() == ["True", "True"]


NOT_ENDED = """
x = torch.randn(20_000, 256)
y = torch.arange(len(x)) // 10
expected = ops.select_triplets(x, y)
handled = []
signal.signal(signal.SIGTERM, lambda number, frame: handled.append(ops.knn(x[:9], k=1).index.tolist()))
BEFORE_SIGNAL = 0.05
with send_signal_later(signal.SIGTERM):
    for _ in range(3):
        found = ops.select_triplets(x, y)
        print(all(map(torch.equal, found, expected)))
print(handled == [ops.knn(x[:9], k=1).index.tolist()])

# Handlers run on Python's main thread alone: an op of another thread goes on.
def select():
    global found
    found = ops.select_triplets(x, y)

found, worker = None, threading.Thread(target=select)
with send_signal_later():
    worker.start()
    try:
        time.sleep(60)  # the signal ends it long before; the assertion is on the result of the worker
    except KeyboardInterrupt:
        worker.join()
        print(all(map(torch.equal, found, expected)))
"""


def test_op_signal_handler_without_error_leaves_result_equal():
    assert output_of(run_python("-c", PREAMBLE + NOT_ENDED)).split() == ["True"] * 5


COMPILED = """
x = torch.randn(60_000, 256)
compiled = torch.compile(lambda rows: ops.knn(rows * 2, k=10).index, backend="aot_eager", fullgraph=True)
expected = compiled(x[:300])
with send_signal_later():
    try:
        repeat(lambda: compiled(x))
        print("was not interrupted")
    except KeyboardInterrupt:
        print("ended")
print(torch.equal(compiled(x[:300]), expected))
"""


def test_op_ctrl_c_stops_compiled_call():
    assert output_of(run_python("-c", PREAMBLE + COMPILED)).split() == ["ended", "True"]
