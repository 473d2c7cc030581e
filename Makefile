# Everything runs in .venv, which is made when it is missing and reused when it is there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test test-all chaos lint format ready clean

quickstart: ready  ## install, search twelve small networks through Ray Tune, rank them
	$(BIN)/weft search quickstart

# Plain tests share the cores; those that share a Ray, or start servers and clusters, have the machine to themselves.
test: ready  ## the plain and the shared-Ray tier
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 -m "not slow and not ray"
	$(BIN)/python -m pytest -q -m "ray and not slow"

test-all: test  ## all tiers: also clusters, servers and whole searches
	$(BIN)/python -m pytest -q -m slow

# Two to three minutes a round. Ctrl-C ends it; the next call goes on after the last round of the file.
ROUNDS ?= 10
SEED ?= 0
RESULTS ?= docs/reliability.jsonl

chaos: ready  ## disturb searches at random moments and see that nothing is lost: make chaos ROUNDS=10 SEED=0
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED) --results $(RESULTS)

lint: ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ready: $(READY)

# torch comes first and alone: given a wider range, another package's request would bring a CUDA build.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("weft needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing weft and what it needs into $(VENV): about 2.2 GB, a few minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.11,<2.14"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
