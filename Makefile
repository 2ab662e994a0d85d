# Two commands matter: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
CHIP ?= sim:
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint docs bench crash fuzz coverage clean setup

setup: $(READY)

$(READY): pyproject.toml .ci/setup
	@.ci/setup $(PYTHON)

demo: setup
	@$(BIN)/vstack demo --chip $(CHIP)

test: setup
	@$(BIN)/pytest --numprocesses auto --dist worksteal

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: setup
	@$(BIN)/python docs/build.py

# Commands of the differential fuzzer, and seconds for each coverage-guided one.
COMMANDS ?= 200000
SECONDS ?= 300
FUZZ := PYTHONPATH=tests:tests/conformance $(BIN)/python tests/fuzz

fuzz: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@$(FUZZ)/fuzz_run.py --commands $(COMMANDS) --all
	@$(FUZZ)/fuzz_atheris.py decode -max_total_time=$(SECONDS)
	@$(FUZZ)/fuzz_atheris.py dispatch -max_total_time=$(SECONDS)

# Statements of the TPM engine that its tests reach, without what they ask libtpms and swtpm.
coverage: setup
	@$(BIN)/coverage run -m pytest -q -k "not [libtpms and not [swtpm" \
	    --ignore=tests/conformance/test_conf_count.py \
	    tests/unit tests/prop tests/conformance tests/interop/test_engine_*.py
	@$(BIN)/coverage report

# kill -9 and failing disks at every write of every command; `make test` takes a sample.
crash: setup
	@CRASH_PLACES=0 CRASH_DEADLINE_S=3600 $(BIN)/pytest tests/crash

# BENCH=--quick is a first look; --help has the rest.
bench: setup
	@$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .fuzz .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
