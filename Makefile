# Two commands matter: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
CHIP ?= sim:
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint docs bench clean setup

setup: $(READY)

$(READY): pyproject.toml .ci/setup
	@.ci/setup $(PYTHON)

demo: setup
	@$(BIN)/vstack demo --chip $(CHIP)

test: setup
	@$(BIN)/pytest

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: setup
	@$(BIN)/python docs/build.py

bench: setup
	@$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
