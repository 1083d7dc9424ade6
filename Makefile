# `make quickstart` and `make test` are all that a newcomer needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# In the tests' order, whose last files are short ones.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install quickstart test test-slow test-all lint bench clean

# What tests need besides is no concern of a first run.
install: $(VENV)/.installed-test

$(VENV)/.installed $(VENV)/.installed-test: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'fnet_t5x needs Python 3.11 or later: make PYTHON=...'; exit 1; }
	@echo 'installing into $(VENV): 3.4 GB, some minutes ...'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet \
	  --editable '.$(if $(findstring test,$(@F)),[test])'
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/python -m fnet_t5x.quickstart

test: install
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m 'not slow'

test-slow: install
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m slow

test-all: test test-slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	for script in xm_launch/*.sh; do bash -n $$script || exit 1; done

# Up to 90 minutes, then docs/RESULTS.md; continues if interrupted.
# make bench BENCH_ARGS='--text ~/novels' trains on your own texts.
bench: $(VENV)/.installed
	$(BIN)/python -m fnet_t5x.benchmarks.results $(BENCH_ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache runs
