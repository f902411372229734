# make run     from a fresh machine to the simulated ward, until Ctrl-C
# make test    everything that CI runs
# make test-bluez  the Bluetooth source on BlueZ and a Linux kernel, in QEMU: 3 to 6 min
# make test-paho-interop  the suite of eclipse/paho.mqtt.testing, if ../ has a checkout
# make bench   the benchmark tables
# make soak    power cuts, failing disks and kills, all of them: about ten minutes; and
#              10,000,000 signatures against OpenSSL's answer, and as many damaged MQTT
#              streams and envelopes: about an hour
# make clean   remove what was built (not the data)
#
# PYTHON=python3.13 make run   uses another interpreter for the virtual environment
# DEMO="--seconds 60 --headless" make run   passes options to `iomt demo`

SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NATIVE := $(wildcard native/*.c native/*.h native/*.py) setup.py

.PHONY: run test test-bluez test-bluez-if-possible test-paho-interop lint c-test py-test bench soak clean system test-system

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

test: test-system lint c-test py-test test-bluez-if-possible

# Exit status 77 is "this machine cannot"; it says so, and counts as neither.
test-bluez: $(VENV)/installed-dev
	@tools/system-packages $(PYTHON) bluez
	$(BIN)/python tests/bluez/machine.py

test-bluez-if-possible: $(VENV)/installed-dev
	@tools/system-packages $(PYTHON) bluez || true
	@$(BIN)/python tests/bluez/machine.py || [ $$? = 77 ]

# The interoperability suite of Eclipse paho, where a checkout lies beside the project.
test-paho-interop: $(VENV)/installed-dev
	@$(BIN)/python tests/interop/paho.py || [ $$? = 77 ]

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
	for part in rate ledger receipts; do $(BIN)/python benchmarks/front_door.py $$part; done
	$(BIN)/python benchmarks/hostile.py
	$(BIN)/python benchmarks/bluetooth.py

# Everything that the tests take samples of: hours of a clinic's bad luck in minutes.
soak: test-system $(VENV)/installed-dev
	$(BIN)/python tests/crash/soak.py
	IOMT_ECG_MINUTES=60 $(BIN)/python -m pytest --timeout 900 \
		tests/scenario/test_ble_ecg.py -k drops
	IOMT_KILLS=50 $(BIN)/python -m pytest --timeout 900 \
		tests/scenario/test_gateway_process.py -k killed_again_and_again
	IOMT_SPOILT=5000 $(BIN)/python -m pytest --timeout 900 \
		tests/unit/test_js_verifier.py -k chance
	$(MAKE) --no-print-directory -C firmware_sim/client test SOAK=50
	IOMT_KILLS=50 $(BIN)/python -m pytest --timeout 900 \
		tests/scenario/test_reference_device.py
	IOMT_DIFFERENTIAL=2000 $(BIN)/python -m pytest --timeout 900 \
		tests/unit/test_contract_random.py
	IOMT_FUZZ=10000000 $(BIN)/python -m pytest --timeout 7200 tests/unit/test_fuzz.py
	$(BIN)/python tests/native/test_ed25519_fuzz.py 10000000

clean:
	rm -rf $(VENV) build *.egg-info edge/ledger/_core.* .mypy_cache .ruff_cache \
		.pytest_cache .hypothesis
	$(MAKE) -C native clean
	$(MAKE) -C firmware_sim/client clean
