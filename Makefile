# Both commands make .venv and install into it when requirements.lock or pyproject.toml changed.
# README.md has the same commands for machines without make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PATH := $(CURDIR)/$(BIN):$(PATH)
export PATH

# No tool that is used here reports to anyone.
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true

.PHONY: run sweep test mlflow viz clean help

run: $(STAMP)  ## train all variants, compare them, say where to look
	@BLOCKWISE_LORA_INVOCATION="make run $$(date '+%Y-%m-%d %H:%M:%S')" dvc repro evaluate
	@blockwise-lora results

sweep: $(STAMP)  ## which blocks? train, score and compare many masks
	@BLOCKWISE_LORA_INVOCATION="make sweep $$(date '+%Y-%m-%d %H:%M:%S')" dvc repro sweep
	@echo "data/08_reporting/sweep/report.html"

test: $(STAMP)  ## lint and test
	ruff check .
	ruff format --check .
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

mlflow: $(STAMP)  ## every run, on http://127.0.0.1:5000
	@blockwise-lora mlflow

viz: $(STAMP)  ## the pipelines and their results, on http://127.0.0.1:4141
	kedro viz run --host 127.0.0.1 --no-browser

clean:  ## remove caches; data, records and .venv stay
	rm -rf .pytest_cache .ruff_cache build .viz
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@
