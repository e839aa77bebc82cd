# Short names for what the scripts and CMake do. "make help" lists them.
VENV ?= .venv
JOBS ?= $(shell nproc)
export VENV JOBS

python := $(VENV)/bin/python
# The default interpreter with the package built for it.
with_package = PYTHONPATH=build/default/py/$$($(python) cmake/describe_python.py tag) $(python)

c_files := $(wildcard include/*.h src/*.[ch] src/*/*.[ch] tests/c/*.[ch] tests/c/*/*.[ch] tests/python/native/*.c)

races := $(wildcard tests/python/test_race*.py) tests/storm/test_library.py $(addprefix tests/python/test_,storms.py coexist.py many.py leaks.py)

.PHONY: help setup build demo soak storm leaks check check-all check-cpython bench format lint lock docs clean

help:
	@echo 'make setup    install what is missing'
	@echo 'make demo     build for the default interpreter and run examples/demo.py'
	@echo 'make check    the gate: build, lint, and test on interpreters that cover every mechanism (tests/parts.txt)'
	@echo 'make check-all  everything: on every interpreter in every mode, and what repeats the same for long'
	@echo "make check-cpython  CPython's own tests with the library and without it, on the default interpreter (MODULES)"
	@echo 'make soak     the races for much longer, on the default interpreter (ITR_TEST_COUNT, ITR_TEST_SEED)'
	@echo 'make storm    all kinds of blocking work under random interrupts (ITR_STORM_SECONDS, ITR_TEST_SEED)'
	@echo 'make leaks    a million threads, interrupts and installations leave nothing behind (ITR_TEST_COUNT)'
	@echo 'make bench    measure (bench/bench.py)'
	@echo 'make format   format the C and Python sources'
	@echo 'make lint     formatting, types and static analysis'
	@echo 'make lock     renew the lock files of all that pip installs (requirements/)'
	@echo 'make docs     check the links of the documentation, and that the tests it names exist'
	@echo 'make clean    remove what was built'

setup:
	@scripts/setup.sh

build: setup
	@cmake --preset release -B build/default -DITR_TESTS=OFF -DITR_PYTHONS="$$(realpath -s $(python))" >/dev/null
	@cmake --build build/default --parallel $(JOBS) -- --no-print-directory --quiet

demo: build
	$(with_package) examples/demo.py

bench: build
	$(with_package) bench/bench.py $(BENCH_ARGS)

check-cpython: build
	$(with_package) scripts/check_cpython.py $(MODULES)

soak: build
	ITR_TEST_COUNT=$${ITR_TEST_COUNT:-2000} $(with_package) -m interruptible_threading exec -- \
		$$(realpath -s $(python)) -m pytest $(races) -p no:cacheprovider

storm: build
	ITR_STORM_SECONDS=$${ITR_STORM_SECONDS:-600} $(with_package) -m interruptible_threading exec -- \
		$$(realpath -s $(python)) -m pytest tests/storm -p no:cacheprovider -s

leaks: build
	ITR_TEST_COUNT=$${ITR_TEST_COUNT:-500000} $(with_package) -m interruptible_threading exec -- \
		$$(realpath -s $(python)) -m pytest tests/python/test_leaks.py -p no:cacheprovider

check:
	@started=$$(date +%s); scripts/setup.sh --all && $(python) scripts/check.py --started $$started

check-all:
	@started=$$(date +%s); scripts/setup.sh --all && $(python) scripts/check.py --started $$started --all

format:
	@scripts/setup.sh --all
	clang-format -i $(c_files)
	$(VENV)/bin/ruff check --fix-only --quiet
	$(VENV)/bin/ruff format

lint:
	@scripts/setup.sh --all
	@scripts/lint.sh $(c_files)

lock: setup
	@scripts/lock.sh

docs: setup
	@$(python) scripts/check_links.py

clean:
	rm -rf build dist
