#!/usr/bin/env bash
# Runs every check that needs a GPU, in under 8 minutes: builds hardmine with its CUDA ops, runs their tests on the GPU,
# runs small shapes under compute-sanitizer, and measures.
#
#   bench/gpu/run.sh [FOLDER]    writes FOLDER, or $OUT, or build/gpu-results: about.txt, summary.txt, logs.txt,
#                                report.md and report.json
#
# Needs python3 (or PYTHON) with torch >= 2.11 with CUDA, nvcc >= 12.0, a C++20 compiler, cmake >= 3.26 and ninja. The
# tests need pytest, hypothesis and numpy; pytest-xdist makes them faster. memcheck and racecheck need
# compute-sanitizer. Needs no network. Builds into this clone; without a .git folder, HARDMINE_COMMIT names the commit.
# A stage that fails, runs out of time or lacks a requirement is reported, and the other stages still run. The exit
# status is 1 if any stage was reported, else 0.
set -uo pipefail
absolute() { [[ $1 == /* ]] && echo "$1" || echo "$PWD/$1"; }
python=${PYTHON:-python3}
if ! python=$(command -v "$python"); then
  echo "${PYTHON:-python3} was not found" >&2
  exit 1
fi
python=$(absolute "$python") # may be relative to the caller's folder
results=${1:-${OUT:-}}
[[ -z $results ]] || results=$(absolute "$results")
cd "$(dirname "$0")/../.." || exit 1
results=${results:-$PWD/build/gpu-results}
mkdir -p "$results" || exit 1
: >"$results/summary.txt"
failed=0
export PYTHONPATH=$PWD:$PWD/bench${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive

say() { echo "$*" | tee -a "$results/summary.txt"; }

# stage NAME SECONDS COMMAND...: writes the command's output to NAME.log and its outcome to summary.txt. At the time
# limit the command gets SIGINT, as from Ctrl-C, so that pytest prints its results so far.
stage() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  stages+=("$name")
  timeout --signal=INT --kill-after=10 "$limit" "$@" >"$results/$name.log" 2>&1
  status=$?
  if ((status == 0)); then
    say "passed: $name, $((SECONDS - start)) s"
  else
    failed=1
    if ((status == 124 || status == 137)); then
      say "FAILED: $name, reached its time limit of $limit s; the last lines of its log:"
    else
      say "FAILED: $name, status $status after $((SECONDS - start)) s; the last lines of its log:"
    fi
    tail -n 15 "$results/$name.log" | tee -a "$results/summary.txt"
  fi
  return "$status"
}

skip() { say "not run: $*"; }
fail() {
  failed=1
  say "FAILED: $*"
}

# Puts the logs of all stages into one file: some machines return only a few files.
gather_logs() {
  local name
  for name in "${stages[@]}"; do
    echo "==== $name"
    cat "$results/$name.log"
  done >"$results/logs.txt"
  for name in "${stages[@]}"; do rm -f "$results/$name.log"; done
}
stages=()
trap gather_logs EXIT

about() {
  echo "date: $(date -u '+%Y-%m-%d %H:%M UTC')"
  echo "commit: $(git describe --always --abbrev=12 --dirty=' + changes' 2>/dev/null || echo "${HARDMINE_COMMIT:-unknown}")"
  echo "GPU, driver: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo unknown)"
  echo "nvcc: $(nvcc --version 2>/dev/null | sed -n 's/.*release/release/p' || echo none)"
  "$python" -c 'import torch, sys
print("torch:", torch.__version__, "CUDA", torch.version.cuda, "Python", sys.version.split()[0])'
}

# Fails if the installed torch or this machine has no GPU: the later stages could not run.
check_gpu() {
  "$python" -c 'import torch
assert torch.version.cuda, f"torch {torch.__version__} was built without CUDA"
assert torch.cuda.is_available(), "torch finds no GPU"
major, minor = torch.cuda.get_device_capability()
print(torch.cuda.get_device_name(), major, minor)
assert major >= 8, f"the compute capability must be at least 8.0, got {major}.{minor}"'
}

has_module() { "$python" -c "import $1" 2>/dev/null; }

# tool NAME ATTRIBUTE: the path of a build tool, from its Python package if installed, else from PATH, as in setup.py.
tool() {
  "$python" -c "import $1; print($1.$2 + '/$1')" 2>/dev/null || command -v "$1" || {
    echo "$1 was not found" >&2
    return 1
  }
}

# Builds only for this GPU, which halves the time; the packages hold the same code for it. Copies the libraries to
# hardmine/, as `pip install -e .` does. Without nanobind the graph index is not built.
build() {
  local folder=build/gpu cmake ninja torch nanobind architecture library python_module=OFF targets=(_C _C_cuda)
  cmake=$(tool cmake CMAKE_BIN_DIR) && ninja=$(tool ninja BIN_DIR) || return 1
  torch=$("$python" -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("torch").origin).parent)') ||
    return 1
  architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || return 1
  if nanobind=$("$python" -m nanobind --cmake_dir); then
    python_module=ON
    targets+=(_fanng)
  fi
  # The cache may name tools of an earlier environment. Up-to-date objects are kept.
  rm -rf "$folder/CMakeCache.txt" "$folder"/CMakeFiles/[0-9]*
  "$cmake" -S . -B "$folder" -G Ninja -DCMAKE_MAKE_PROGRAM="$ninja" -DCMAKE_BUILD_TYPE=Release -DHARDMINE_CUDA=ON \
    -DHARDMINE_CUDA_ARCHITECTURES="$architecture-real" -DHARDMINE_TORCH_DIR="$torch" \
    -DHARDMINE_PYTHON=$python_module -DPython_EXECUTABLE="$python" -Dnanobind_DIR="$nanobind" || return 1
  "$cmake" --build "$folder" --target "${targets[@]}" || return 1
  for library in "${targets[@]}"; do
    cp --remove-destination "$folder/$library".*so hardmine/ || return 1
  done
  "$python" -c 'from hardmine import _library
_library.load()
problem = _library.cuda_problem(0)
assert problem is None, problem'
}

# Runs the tests on CUDA devices, whose names all contain "cuda". Folders whose tests need no GPU are left out.
run_tests() {
  local files module without parallel=()
  if ! has_module pytest; then
    fail "tests, not run: pytest is not installed"
    return
  fi
  files=$(grep -rlE '^def test_.*(\bdevice\b|cuda)' tests --include='test_*.py' |
    grep -vE '^tests/(bench|build)/' | sort)
  if [[ -z $files ]]; then
    fail "tests, not run: no test file uses a GPU"
    return
  fi
  for module in hypothesis numpy; do
    has_module $module && continue
    without=$(grep -lE "^(import|from) $module\b" $files | tr '\n' ' ')
    [[ -z $without ]] && continue
    files=$(grep -LE "^(import|from) $module\b" $files)
    fail "tests, not run because $module is not installed: $without"
  done
  # Tests run in parallel because most of their time goes to Python and the reference, not to the GPU.
  has_module xdist && parallel=(-n 8)
  if stage tests 120 env OMP_NUM_THREADS=2 "$python" -m pytest $files -k cuda "${parallel[@]}" -q -rfE \
    -p no:cacheprovider --durations=10 --continue-on-collection-errors; then
    say "  $(tail -n 1 "$results/tests.log")"
    grep -Eq '[1-9][0-9]* passed' "$results/tests.log" || fail "tests, all were skipped"
  fi
}

# The path of compute-sanitizer: from PATH, else from the folder of nvcc.
sanitizer() {
  command -v compute-sanitizer && return
  local nvcc
  nvcc=$(command -v nvcc) || return 1
  nvcc=$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer
  [[ -x $nvcc ]] && echo "$nvcc"
}

run_sanitizers() {
  local tool name options only_ours=()
  if ! tool=$(sanitizer); then
    fail "memcheck, racecheck, not run: compute-sanitizer was not found"
    return
  fi
  # Watch only hardmine's kernels, found by the namespace in their mangled names: torch's kernels would take too long.
  "$tool" --help 2>&1 | grep -q -e --kernel-regex && only_ours=(--kernel-regex kns=hardmine)
  for name in memcheck racecheck; do
    options=("${only_ours[@]}")
    # torch makes API calls that it expects to fail: do not report them.
    [[ $name == memcheck ]] && options+=(--report-api-errors no)
    # PyTorch's caching allocator would hide out-of-bounds accesses. Without it, each array is a separate allocation.
    stage "$name" 30 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$tool" --tool "$name" --error-exitcode 9 "${options[@]}" \
      "$python" -m gpu.small_shapes
  done
}

# Takes what the other stages left of 470 s. Their limits sum to 330 s, but they need only part of that.
run_report() {
  local left=$((470 - SECONDS))
  stage report "$left" "$python" -m gpu.report --seconds $((left - 20)) --output "$results/report"
}

export python
export -f check_gpu build tool
about >"$results/about.txt" 2>&1
cat "$results/about.txt"

if ! stage gpu 20 bash -c check_gpu; then
  skip "build, tests, memcheck, racecheck, report: no usable GPU was found"
elif ! stage build 130 bash -c build; then
  skip "tests, memcheck, racecheck, report: the build failed"
else
  run_tests
  run_sanitizers
  run_report
fi
say "total: $SECONDS s, results in $results"
exit "$failed"
