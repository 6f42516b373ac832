# make demo: set up, build, train on real images and show the result.
# make test: set up, build, run the fast tests.
# make test-all: every test of the Python package (test, then test-slow).
# make test-cpp: the C++ tests.
# make wheel: a wheel for every Python >= 3.10 and every torch >= 2.11, in dist/.
# make test-wheel: checks this wheel, and installs it in a new environment.
# make test-emulated: the op tests on emulated CUDA kernels.
# tests/README.md describes the test folders.
# The first run installs pinned packages into .venv; later runs need no network. PYTHON=python3.12 picks another Python.

PYTHON ?= python3
PY := .venv/bin/python
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml hardmine/_version.py
CPP_FILES := $(shell find csrc tests/cpp tests/cuda -name '*.h' -o -name '*.cpp' -o -name '*.cu')

TORCH = $(abspath $(shell $(PY) -c 'import torch; print(torch.__path__[0])'))
# worksteal gives each worker a run of consecutive tests, which share module fixtures. Idle workers steal from others.
# tests/conftest.py gives each worker one thread. PYTHONDONTWRITEBYTECODE is cleared because cached bytecode halves the
# collection time.
PYTEST := PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

EXAMPLES := digits training_loop memory_bank smart_mining hierarchical ddp from_pml from_sentence_transformers lightning_training accelerate_training
TORCHRUN = $(PY) -m torch.distributed.run --standalone --nproc-per-node 2

.PHONY: demo examples test test-slow test-all lint typecheck docs format bench bench-graph test-cpp build-cuda test-emulated wheel test-wheel build clean

demo: build
	$(PY) examples/digits.py

examples: build
	set -e; for example in $(filter-out ddp,$(EXAMPLES)); do echo "== $$example"; PYTHONPATH=tests/environment $(PY) examples/$$example.py; done
	echo "== ddp"; $(TORCHRUN) examples/ddp.py

test: build
	$(PYTEST) tests -m 'not slow'

test-slow: build
	$(PYTEST) tests -m slow

test-all: test test-slow

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run --Werror $(CPP_FILES)

# Checks the library's types, and user code that must or must not type-check.
typecheck: build
	$(PY) -m pytest tests/typing -q

format: .venv/dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(CPP_FILES)

# The C++ tests need no torch. They run under AddressSanitizer and UBSan.
test-cpp: .venv/dev
	.venv/bin/cmake -S . -B build/sanitized -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath .venv/bin/ninja) -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS='-O1 -fno-var-tracking' \
	  -DHARDMINE_TORCH=OFF -DHARDMINE_PYTHON=OFF -DHARDMINE_TESTS=ON -DHARDMINE_WERROR=ON -DHARDMINE_SANITIZE=address,undefined
	.venv/bin/cmake --build build/sanitized
	.venv/bin/ctest --test-dir build/sanitized -j2 --output-on-failure

# Compiles the CUDA ops for every architecture, or for those in CUDA_ARCHITECTURES. Needs neither a GPU nor a torch with
# CUDA. Prints which kernels spill registers to memory.
build-cuda: .venv/dev
	.venv/bin/cmake -S . -B build/cuda -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath .venv/bin/ninja) -DHARDMINE_CUDA=ON -DHARDMINE_PYTHON=OFF \
	  $(if $(CUDA_ARCHITECTURES),'-DHARDMINE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)') -DHARDMINE_WERROR=ON -DHARDMINE_TORCH_DIR=$(TORCH)
	.venv/bin/cmake --build build/cuda --target _C_cuda > build/cuda/kernels.log 2>&1 || (cat build/cuda/kernels.log; exit 1)
	$(PY) bench/gpu/spills.py build/cuda/kernels.log

# The op tests marked `emulated`, on the CUDA kernels, which an emulated GPU runs on the CPU.
test-emulated: build
	.venv/bin/cmake -S . -B build/emulated -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath .venv/bin/ninja) -DHARDMINE_CUDA=OFF -DHARDMINE_EMULATION=ON -DHARDMINE_PYTHON=OFF \
	  -DHARDMINE_WERROR=ON -DHARDMINE_TORCH_DIR=$(TORCH)
	.venv/bin/cmake --build build/emulated --target _C_emulated
	HARDMINE_EMULATED_CUDA=$(abspath build/emulated/_C_emulated.so) $(PYTEST) tests/ops -m 'emulated and not cpu'

# auditwheel names the oldest Linux that the wheel runs on. Torch's libraries stay out: the user's torch is loaded first.
wheel: build .venv/wheel
	rm -rf build/wheel dist
	$(PY) -m pip wheel --disable-pip-version-check -q --no-build-isolation --no-deps -w build/wheel .
	PATH=$(abspath .venv/bin):$$PATH $(PY) -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' -w dist build/wheel/*.whl

test-wheel: wheel
	HARDMINE_WHEEL=$(abspath dist) $(PY) -m pytest -q tests/wheel

# Measures every loss against its rivals, and writes docs/benchmarks.md, the rows of README.md, the chart and bench/results.
# Takes about a quarter of an hour on a quiet machine. `make bench BENCH=quick` has small sizes and writes below build/.
bench: build .venv/bench
	BENCH=$(BENCH) $(PY) bench/report.py

# Benchmarks the graph index. HARDMINE_DATA=FOLDER selects real data.
bench-graph: build .venv/bench
	$(PY) bench/graph_report.py

# Builds the documentation site into build/site. Needs no compiled library: the API reference is read from the source.

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

build: hardmine/_C.so

.venv/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "hardmine needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/dev: requirements/dev.txt .venv/created
	$(PY) -m pip install --disable-pip-version-check -q -r requirements/dev.txt
	touch $@

.venv/bench: requirements/bench.txt .venv/dev
	$(PY) -m pip install --disable-pip-version-check -q -r requirements/dev.txt -r requirements/bench.txt
	touch $@

.venv/wheel: requirements/wheel.txt .venv/dev
	$(PY) -m pip install --disable-pip-version-check -q -r requirements/dev.txt -r requirements/wheel.txt
	touch $@

.venv/docs: requirements/docs.txt .venv/created
	$(PY) -m pip install --disable-pip-version-check -q -r requirements/docs.txt
	touch $@

hardmine/_C.so: $(SOURCES) .venv/dev
	$(PY) -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf .venv build *.egg-info hardmine/*.so
