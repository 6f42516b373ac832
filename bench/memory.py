"""Peak memory that one forward + backward needs beyond its inputs, measured in a process of its own.

`python bench/memory.py --case sct_loss --rival hardmine -n 16384 -d 128` prints the peak as JSON. Each measurement
needs a new process: a peak is a high-water mark, and an allocator keeps the memory of earlier measurements. The
returned gradient counts, the inputs do not.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

MIB = 2**20


def status_bytes(name: str) -> int:
    """A field of /proc/self/status, such as VmRSS or VmHWM (its high-water mark)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def reset_high_water_mark() -> bool:
    """Resets VmHWM to the current resident size; False if the kernel does not support the reset."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def return_free_memory() -> None:
    """Returns the allocator's free memory to the system; the step would reuse it and its peak would look smaller."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def peak_of_step(case: str, rival_name: str, n: int, d: int, images_per_class: int) -> dict:
    """Runs one step in this process and returns its peak memory. Call it once per process."""
    import rivals

    def step(rival: rivals.Rival) -> None:
        output = rival.forward()
        if rival.backward is not None:
            rival.backward(output)

    # A warm-up step loads libraries, starts threads and allocates BLAS's scratch memory: no cost of the measured step.
    step(rivals.build(case, rival_name, rivals.make_inputs(case, 256, d, images_per_class)))
    rival = rivals.build(case, rival_name, rivals.make_inputs(case, n, d, images_per_class))
    return_free_memory()
    if reset_high_water_mark():
        source = "VmHWM"
        before = status_bytes("VmRSS")
        start = time.perf_counter()
        step(rival)
        peak = status_bytes("VmHWM")
    else:
        # ru_maxrss cannot be reset. An earlier, higher peak hides part of this one, so the result is a lower bound.
        source = "ru_maxrss, a lower bound"
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        start = time.perf_counter()
        step(rival)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    seconds = time.perf_counter() - start
    return {
        "case": case,
        "rival": rival_name,
        "n": n,
        "d": d,
        "peak_extra_mib": (peak - before) / MIB,
        "matrix_mib": 4 * n**2 / MIB,
        "seconds": seconds,
        "source": source,
    }


def measure_peak(case: str, rival: str, n: int, d: int, images_per_class: int = 4) -> dict:
    """Runs `peak_of_step` in a new process. If the process fails or is killed, the result has "skipped": reason."""
    arguments = [
        "--case",
        case,
        "--rival",
        rival,
        "-n",
        str(n),
        "-d",
        str(d),
        "--images-per-class",
        str(images_per_class),
    ]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with status {done.returncode}"
    # The last line of a traceback is the error's qualified name and message.
    return {"case": case, "rival": rival, "n": n, "d": d, "skipped": reason.rpartition("SkippedRivalError: ")[2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="sct_loss", help="default: sct_loss")
    parser.add_argument("--rival", default="hardmine", help="default: hardmine")
    parser.add_argument("-n", type=int, default=16384, help="batch size")
    parser.add_argument("-d", type=int, default=128, help="embedding size")
    parser.add_argument("--images-per-class", type=int, default=4, help="default: 4")
    args = parser.parse_args()
    print(json.dumps(peak_of_step(args.case, args.rival, args.n, args.d, args.images_per_class)))


if __name__ == "__main__":
    main()
