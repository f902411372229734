# make run     from a fresh machine to the simulated ward, until Ctrl-C
# make test    everything that CI runs
# make bench   the benchmark tables
# make soak    power cuts, failing disks and kills, all of them: about ten minutes
# make clean   remove what was built (not the data)
#
# PYTHON=python3.13 make run   uses another interpreter for the virtual environment
# DEMO="--seconds 60 --headless" make run   passes options to `iomt demo`

SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NATIVE := $(wildcard native/*.c native/*.h native/*.py) setup.py

.PHONY: run test lint c-test py-test bench soak clean system test-system

run: $(VENV)/installed
	$(BIN)/iomt demo $(DEMO)

# What the machine itself must have; installed where that is allowed, named where not.
system:
	@tools/system-packages $(PYTHON) build

test-system: system
	@tools/system-packages $(PYTHON) test

# The C core is built again when one of its sources changes; a new dependency installs.
$(VENV)/installed: pyproject.toml $(NATIVE) | system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,dev,bench]'
	touch $@

test: test-system lint c-test py-test

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

c-test:
	$(MAKE) --no-print-directory -C native test

py-test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

bench: $(VENV)/installed-dev
	mkdir -p build
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,ops \
		--benchmark-json=build/native.json
	$(BIN)/python benchmarks/native_report.py build/native.json --plot build/native.png
	$(BIN)/python benchmarks/gateway.py

# Everything that the tests take samples of: hours of a clinic's bad luck in minutes.
soak: test-system $(VENV)/installed-dev
	$(BIN)/python tests/crash/soak.py
	IOMT_KILLS=50 $(BIN)/python -m pytest --timeout 900 \
		tests/scenario/test_gateway_process.py -k killed_again_and_again
	IOMT_SPOILT=5000 $(BIN)/python -m pytest --timeout 900 \
		tests/unit/test_js_verifier.py -k chance

clean:
	rm -rf $(VENV) build *.egg-info edge/ledger/_core.* .mypy_cache .ruff_cache \
		.pytest_cache .hypothesis
	$(MAKE) -C native clean
