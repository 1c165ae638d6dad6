# make demo | test | check | fmt. Each does its own set-up in .venv; PYTHON picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export MLFLOW_DISABLE_TELEMETRY := true
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check fmt clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,gguf]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/sweeper launch study=demo
	@echo
	@echo "Now: source $(BIN)/activate; sweeper ui   (it prints the address to open)"

test: $(VENV)/installed
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff format --check sweeper tests
	$(BIN)/ruff check sweeper tests
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/installed
	$(BIN)/ruff format sweeper tests
	$(BIN)/ruff check --fix sweeper tests

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
