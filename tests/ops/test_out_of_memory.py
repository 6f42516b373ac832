"""Errors of ops that run out of memory: they name the op, the bytes and their purpose."""

import re

import pytest

from support.processes import output_of, run_python

SCRIPT = """
import resource
import torch
from hardmine import ops

x = torch.randn(100_000, 64)
half = x.half()
labels = torch.arange(20_000) // 19_990
ops.knn(x[:300], k=3)  # threads have their stacks

def without_memory(work, allowed):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + allowed, -1))
    try:
        work()
    except RuntimeError as error:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        print(error)

without_memory(lambda: ops.knn(x, k=1024), 100 << 20)
without_memory(lambda: ops.knn(half, k=1), 10 << 20)
without_memory(lambda: ops.knn(x, k=2), 10 << 20)
without_memory(lambda: ops.batch_all_triplet_loss(x[:20_000], labels), 40 << 20)
print(tuple(ops.knn(x[:3], k=2).index.shape))
"""


@pytest.mark.subprocess
def test_op_out_of_memory_names_allocation_and_bytes():
    output = output_of(run_python("-c", SCRIPT)).splitlines()
    assert len(output) == 5, output
    results, cast, rows, lists, after = output
    assert results.startswith("hardmine::knn: cannot allocate 409600000 bytes for a tensor [100000, 1024] of float32")
    assert cast.startswith("hardmine::knn: cannot allocate 25600000 bytes ")
    assert re.fullmatch(r"hardmine::knn: cannot allocate \d{7,} bytes of workspace", rows)
    assert re.fullmatch(r"hardmine::batch_all_triplet_loss: cannot allocate \d{7,} bytes of workspace", lists)
    assert after == "(3, 2)", "and all goes on"
