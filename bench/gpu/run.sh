#!/usr/bin/env bash
# Everything that only a GPU can show, in under 8 minutes: builds hardmine with its CUDA ops, runs their tests on the
# GPU, runs small shapes under compute-sanitizer, and measures.
#
#   bench/gpu/run.sh [FOLDER]    writes FOLDER, or $OUT, or build/gpu-results: about.txt, summary.txt, a log a stage,
#                                report.md and report.json
#
# Needs python3 (or PYTHON) with torch >= 2.11 with CUDA, pybind11, pytest, hypothesis and numpy; nvcc, a C++20 compiler,
# cmake and ninja; compute-sanitizer where there is one. Needs no network. Builds into this clone. A stage that fails or
# runs out of time is named, the others run all the same; the exit status is 1 if any did, 0 if none.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3}
results=${1:-${OUT:-build/gpu-results}}
mkdir -p "$results" || exit 1
results=$(cd "$results" && pwd) || exit 1
: >"$results/summary.txt"
failed=0
export PYTHONPATH=$PWD:$PWD/bench PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive

say() { echo "$*" | tee -a "$results/summary.txt"; }

# stage NAME SECONDS COMMAND...: its output goes to NAME.log, what became of it to summary.txt.
stage() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  timeout --kill-after=5 "$limit" "$@" >"$results/$name.log" 2>&1
  status=$?
  if ((status == 0)); then
    say "passed: $name, $((SECONDS - start)) s"
  else
    failed=1
    if ((status == 124 || status == 137)); then
      say "FAILED: $name, stopped after its $limit s"
    else
      say "FAILED: $name, status $status after $((SECONDS - start)) s; the end of its log:"
    fi
    tail -n 15 "$results/$name.log" | tee -a "$results/summary.txt"
  fi
  return "$status"
}

skip() { say "not run: $*"; }

about() {
  echo "date: $(date -u '+%Y-%m-%d %H:%M UTC')"
  echo "commit: $(git describe --always --abbrev=12 --dirty=' + changes' 2>/dev/null || echo unknown)"
  echo "GPU, driver: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo unknown)"
  echo "nvcc: $(nvcc --version 2>/dev/null | sed -n 's/.*release/release/p' || echo none)"
  "$python" -c 'import torch, sys
print("torch:", torch.__version__, "CUDA", torch.version.cuda, "Python", sys.version.split()[0])'
}

# Fails where the installed torch or this machine has no GPU: nothing further down could say more.
check_gpu() {
  "$python" -c 'import torch
assert torch.version.cuda, f"torch {torch.__version__} is one without CUDA"
assert torch.cuda.is_available(), "torch finds no GPU"
major, minor = torch.cuda.get_device_capability()
print(torch.cuda.get_device_name(), major, minor)
assert major >= 8, f"compute capability {major}.{minor}, 8.0 or later is needed"'
}

# Only for this GPU: half the time, and the code is the same that the packages hold for it. Ends with the libraries in
# hardmine/, as `pip install -e .` would leave them.
build() {
  local folder=build/gpu torch pybind architecture library
  torch=$("$python" -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("torch").origin).parent)') ||
    return 1
  pybind=$("$python" -m pybind11 --cmakedir) || return 1
  architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || return 1
  cmake -S . -B "$folder" -G Ninja --fresh -DCMAKE_BUILD_TYPE=Release -DHARDMINE_CUDA=ON \
    -DHARDMINE_CUDA_ARCHITECTURES="$architecture-real" -DHARDMINE_TORCH_DIR="$torch" \
    -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$pybind" || return 1
  cmake --build "$folder" --target _C _C_cuda _fanng || return 1
  for library in "$folder"/_C.so "$folder"/_C_cuda.so "$folder"/_fanng*.so; do
    cp --remove-destination "$library" hardmine/ || return 1
  done
  "$python" -c 'from hardmine import _library
_library.load()
problem = _library.cuda_problem(0)
assert problem is None, problem'
}

# compute-sanitizer beside nvcc where PATH lacks it.
sanitizer() {
  command -v compute-sanitizer && return
  local nvcc
  nvcc=$(command -v nvcc) || return 1
  nvcc=$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer
  [[ -x $nvcc ]] && echo "$nvcc"
}

export python
export -f check_gpu build
about >"$results/about.txt" 2>&1
cat "$results/about.txt"

# Seconds of each stage: 470 in all.
if ! stage gpu 20 bash -c check_gpu; then
  skip "build, tests, memcheck, racecheck, report: there is no GPU that they could run on"
elif ! stage build 130 bash -c build; then
  skip "tests, memcheck, racecheck, report: the build failed"
else
  if stage tests 90 "$python" -m pytest tests -k "cuda and not test_cuda_library and not test_build" -q -rf \
    -p no:cacheprovider --durations=10; then
    say "  $(tail -n 1 "$results/tests.log")"
    if ! grep -Eq '[1-9][0-9]* passed' "$results/tests.log"; then
      failed=1
      say "FAILED: tests, all of which skipped themselves"
    fi
  fi
  if tool=$(sanitizer); then
    # PyTorch's caching allocator would hide an access beyond an array: each array gets memory of its own.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage memcheck 35 "$tool" --tool memcheck --error-exitcode 9 \
      "$python" -m gpu.small_shapes || true
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage racecheck 35 "$tool" --tool racecheck --error-exitcode 9 \
      "$python" -m gpu.small_shapes --few || true
  else
    failed=1
    skip "memcheck, racecheck: compute-sanitizer was not found"
  fi
  stage report 160 "$python" -m gpu.report --seconds 140 --output "$results/report" || true
fi
say "in all $SECONDS s, results in $results"
exit "$failed"
