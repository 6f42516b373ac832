"""What an installed hardmine must do, in a process that knows nothing of its source."""

import sys
import tempfile
from pathlib import Path

import torch

import hardmine
from hardmine import fanng, losses, mining, ops

torch.manual_seed(0)
embeddings, labels = torch.randn(64, 16, requires_grad=True), torch.arange(64) // 4
with hardmine.verify() as report:
    for loss_of in (losses.SCTLoss(), losses.SupConLoss(), losses.TripletLoss()):
        loss_of(embeddings, labels).backward()
    neighbors = ops.knn(embeddings.detach(), k=5)
assert report.checks >= 4, report
assert torch.isfinite(embeddings.grad).all()

index = fanng.Index.build(embeddings.detach(), metric="cosine")
found = index.search(embeddings.detach()[:8], k=1)
assert found.index.squeeze(1).tolist() == list(range(8))
with tempfile.TemporaryDirectory() as folder:
    index.save(Path(folder) / "index")
    assert len(fanng.Index.load(Path(folder) / "index")) == 64
assert mining.ClassTree is not None
compiler = [module for module in sys.modules if module.startswith(("nanobind.", "pybind11", "setuptools"))]
assert not compiler, compiler
print(
    "Python", sys.version.split()[0], "torch", torch.__version__, hardmine.simd_level(), Path(hardmine.__file__).parent
)
