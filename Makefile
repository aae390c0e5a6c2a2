# `make setup | demo | test | test-fast | check | clean`: each works on its own in a fresh clone.
# Without PYTHON an environment is made in .venv. With PYTHON=/path/to/python that one is used as it is:
# nothing is installed into it, and what it lacks is named.

.DEFAULT_GOAL := help
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

ifdef PYTHON
PY := $(PYTHON)
READY := environment-check
else
PY := .venv/bin/python
READY := .venv/.ready
BOOTSTRAP ?= python3
endif

.PHONY: help setup demo test test-fast check clean environment-check

help:
	@sed -n 's/^# //p' Makefile | head -3
	@echo "demo: train, evaluate and draw a small Mask R-CNN on generated images (output/demo/report.html)"

setup: $(READY)

.venv/.ready: pyproject.toml runtime/pyproject.toml tools/environment.py
	@echo "Setting up .venv: torch with its libraries is about 5 GB, so this takes some minutes."
	@test -x .venv/bin/python || $(BOOTSTRAP) -m venv .venv
	@$(PY) tools/environment.py install
	@touch $@

environment-check:
	@$(PY) tools/environment.py check

demo: $(READY)
	$(PY) tools/train_net.py --config-file Baselines/mask_rcnn_narrow_fpn_occshapes_quick train.output_dir=output/demo

test: $(READY)
	$(PY) -m pytest -n auto -q

test-fast: $(READY)
	$(PY) -m pytest -n auto -q -m "not slow"

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	$(PY) -m instseg_d2.model_zoo check

clean:
	rm -rf .venv output build dist .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -o -name '*.egg-info' | xargs rm -rf
