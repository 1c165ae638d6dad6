# make demo | test | test-all | test-lowest | coverage | mutants | bench | browser | check | fmt | gpu-check | gpu-bundle. Each does its own set-up in .venv; PYTHON picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export MLFLOW_DISABLE_TELEMETRY := true
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-all test-lowest coverage mutants bench browser check fmt gpu-check gpu-bundle clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,gguf]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/sweeper launch study=demo
	@echo
	@echo "Now: source $(BIN)/activate; sweeper ui   (it prints the address to open)"

# A file at a time on each core.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

test: $(VENV)/installed
	$(PYTEST)

# The same tests, with the drills in full.
test-all: $(VENV)/installed
	SWEEPER_TESTS=all $(PYTEST)

# Which lines the tests run, in every process that they start; fails below what pyproject.toml asks for.
coverage: $(VENV)/installed
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n logical --maxprocesses 8 --dist loadfile --timeout 900
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Does a test fail where a line of memory safety, of money or of the search is changed? All of it takes a day; MUTANTS="sweeper.money.*" does some of it.
MUTANTS ?=
mutants: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

# The lowest versions that pyproject.toml allows, in an environment of their own.
LOWEST := .venv-lowest
LOWEST_TESTS ?= tests/config tests/engine tests/export/test_export.py tests/launch/test_launch.py tests/search tests/tracking tests/worker/test_session.py
$(LOWEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip packaging
	$(LOWEST)/bin/python tests/lowest.py --to $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet -c $(LOWEST)/constraints.txt -e . hypothesis pytest pytest-timeout pytest-xdist
	touch $@

# Without warnings as errors: older libraries have others.
test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m pytest -n logical --dist loadfile -o filterwarnings= $(LOWEST_TESTS)

# Hours, on a machine that has nothing else to do: studies/benchmarks/README.md. BENCH="--quick --to FILE" and the like are its options.
BENCH ?=
bench: $(VENV)/installed
	$(BIN)/python -m tests.benchmarks.trials_per_hour $(BENCH)

# On a CUDA machine. Where gpu-bundle/ is, with that and the Python that has torch; else in .venv.
# GPU_CHECK="--parts packs --shapes 8b" does some of it.
ifneq ($(wildcard gpu-bundle),)
gpu-check:
	$(PYTHON) tests/gpu/check.py --bundle gpu-bundle $(GPU_CHECK)
else
gpu-check: $(VENV)/installed
	$(BIN)/python tests/gpu/check.py $(GPU_CHECK)
endif

# For a CUDA machine that reaches no network: run this where there is one, and take the folder along.
GPU_PYTHON ?= 3.12
GPU_CUDA ?= 130
gpu-bundle: $(VENV)/installed
	$(BIN)/python tests/gpu/bundle.py --python $(GPU_PYTHON) --cuda $(GPU_CUDA)

# The browser that tests/browser/ drives, from the system's packages; without one those tests skip, and say so.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit 0; done; \
	if [ -n "$$SWEEPER_CHROMIUM" ]; then echo "$$SWEEPER_CHROMIUM"; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		{ apt-get -q update && apt-get -q install -y --no-install-recommends chromium; } || echo "no Chromium: apt-get failed"; \
	else echo "no Chromium here: install one (Debian: sudo apt-get install chromium), or set SWEEPER_CHROMIUM=FILE"; fi

check: $(VENV)/installed
	$(BIN)/ruff format --check sweeper tests
	$(BIN)/ruff check sweeper tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

fmt: $(VENV)/installed
	$(BIN)/ruff format sweeper tests
	$(BIN)/ruff check --fix sweeper tests

clean:
	rm -rf $(VENV) $(LOWEST) mutants .coverage .coverage.* .gpu-site gpu-bundle build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
