# `make` lists the commands. Each first makes sure of .venv; a second call reuses what stands.
#
# .venv holds the pins of requirements.txt and a Detectron2: one that is there already is used as it
# is, otherwise tools/install_detectron2.py puts a pure-Python one there. To bring your own:
#   make test VENV_FLAGS=--system-site-packages
#       builds .venv on top of $(PYTHON) and what is installed for it
#   make test PYTHON_ENV=/path/to/environment
#       uses that environment as it stands and installs nothing into it

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV_FLAGS ?=
PYTEST_FLAGS ?=
DEMO_FLAGS ?=

ifdef PYTHON_ENV
VENV := $(PYTHON_ENV)
INSTALLED :=
export PYTHONPATH := $(CURDIR)
else
VENV := .venv
INSTALLED := $(VENV)/.installed
endif
RUN := $(VENV)/bin/python

CHECKED := $(wildcard fam_det classification tools)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two test processes of one thread each: half the time of one with two threads on two cores.
test: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help install demo demo-classification test test-slow lint format clean distclean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 22

install: $(INSTALLED) ## create .venv with everything the other commands need (a few minutes, 6 GB)

$(VENV)/.installed: requirements.txt setup.py tools/install_detectron2.py
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(RUN) -m pip install --requirement requirements.txt
	$(RUN) tools/install_detectron2.py
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(INSTALLED) ## distil a small detector on two CPU cores and compare it with the same one trained alone
	$(RUN) -m tools.demo $(DEMO_FLAGS)

demo-classification: $(INSTALLED) ## the same for a classifier, in less than five minutes
	$(RUN) -m tools.demo.classification $(DEMO_FLAGS)

test: $(INSTALLED) ## run the tests
	$(RUN) -m pytest -q -n 2 -m "not slow" $(PYTEST_FLAGS)

test-slow: $(INSTALLED) ## run the tests that take minutes each
	$(RUN) -m pytest -q -m slow $(PYTEST_FLAGS)

lint: $(INSTALLED) ## check style, formatting, types and the direction of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy $(CHECKED)
	$(VENV)/bin/lint-imports --no-logo

format: $(INSTALLED) ## fix what ruff can fix, and format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove caches and build products
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf .venv
