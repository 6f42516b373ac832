"""`mining.all_knn` of image patches, killed by SIGKILL and resumed, then checked against all rows.

    python bench/whole_sets_killed.py [--rows 1000000] [--kill-after 300 600] [--threads 1]

Rows are the 8 x 16 pixels of patches of Stanford Cars photographs, in gray, from HARDMINE_DATA. Each call runs in a
process of its own. All but the last are killed. The lists of some random rows must then have the bits of one `ops.knn`
against all rows. For some of these, all similarities are sorted in float64, and no neighbor may be less similar than
the k-th by more than float32 rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hardmine import ops
from hardmine.mining import NeighborShards, all_knn, plan_all_knn

PATCH = (8, 16)
BY_OP, BY_SORT = 300, 40  # rows that are checked, and how
ROUNDING = 4e-6  # of float32 similarities of 128 numbers


def write_patches(path: Path, count: int) -> None:
    """Writes [count, 128] float32 rows, the patches of one image after those of another."""
    from PIL import Image

    height, width = PATCH
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, height * width))
    filled = 0
    with tarfile.open(Path(os.environ["HARDMINE_DATA"]) / "stanford_cars_train_128.tar") as archive:
        for member in archive:
            if filled == count:
                break
            file = archive.extractfile(member) if member.name.endswith(".jpg") else None
            if file is None:
                continue
            image = np.asarray(Image.open(io.BytesIO(file.read())).convert("L"), dtype=np.float32) / 255
            down, across = image.shape[0] // height, image.shape[1] // width
            patches = image[: down * height, : across * width].reshape(down, height, across, width)
            patches = patches.transpose(0, 2, 1, 3).reshape(-1, height * width)[: count - filled]
            rows[filled : filled + len(patches)] = patches
            filled += len(patches)
    if filled < count:
        raise SystemExit(f"the images have {filled} patches, fewer than {count}")
    rows.flush()


def list_rows(rows: Path, folder: Path, k: int, threads: int) -> None:
    """One call of ``all_knn``, in a process of its own."""
    torch.set_num_threads(threads)
    start = time.process_time()
    all_knn(rows, folder, k, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"finished: {time.process_time() - start:.0f} s on the CPU, peak memory {peak:.0f} MiB", flush=True)


def check(rows: Path, folder: Path, k: int) -> None:
    """Compares lists with one call of the op against all rows, and some of these with a sort in float64."""
    everything = torch.from_numpy(np.load(rows))
    lists = NeighborShards(folder)
    chosen = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:BY_OP]
    found = [lists[row : row + 1] for row in chosen.tolist()]
    index, similarity = torch.cat([f.index for f in found]), torch.cat([f.similarity for f in found])
    ids = torch.arange(len(everything))
    expected = ops.knn(everything[chosen], everything, k, ids=ids[chosen], ref_ids=ids)
    assert torch.equal(index, expected.index)
    assert torch.equal(similarity, expected.similarity)
    unit = torch.nn.functional.normalize(everything.double(), dim=1)
    same = 0
    for row, neighbors in zip(chosen[:BY_SORT].tolist(), index[:BY_SORT], strict=True):
        exact = unit @ unit[row]
        exact[row] = -2
        largest = exact.topk(k)
        assert exact[neighbors].min() >= largest.values[-1] - ROUNDING
        same += int(torch.isin(neighbors, largest.indices).sum())
    print(
        f"{BY_OP} lists have the bits of ops.knn against all rows; of the neighbors of {BY_SORT} rows, a sort in "
        f"float64 finds {same} of {BY_SORT * k}"
    )


def main() -> None:
    """Lists, kills, resumes and checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--kill-after", type=float, nargs="*", default=[300, 600], help="seconds of each killed call")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where files are written; by default a temporary folder")
    parser.add_argument("--list", type=Path, nargs=2, help=argparse.SUPPRESS)  # rows and lists of one call
    arguments = parser.parse_args()
    if arguments.list:
        list_rows(*arguments.list, arguments.k, arguments.threads)
        return
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        rows, lists = Path(name) / "rows.npy", Path(name) / "lists"
        write_patches(rows, arguments.rows)
        print(plan_all_knn(rows, arguments.k), flush=True)
        call = [sys.executable, __file__, "-k", str(arguments.k), "--threads", str(arguments.threads), "--list"]
        for seconds in [*arguments.kill_after, None]:
            start = time.perf_counter()
            process = subprocess.Popen([*call, rows, lists])
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                code = process.wait()
            done = sorted(path.name for path in lists.glob("index-*.npy"))
            print(f"call ended with {code} after {time.perf_counter() - start:.0f} s, {len(done)} shards", flush=True)
            if seconds is not None and code != -signal.SIGKILL:
                raise SystemExit("the call ended before it was killed")
        if code != 0:
            raise SystemExit("the last call failed")
        check(rows, lists, arguments.k)


if __name__ == "__main__":
    main()
