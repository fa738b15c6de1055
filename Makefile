# make demo: a whole study on planted data.  make test: every check.  Everything lives in .venv; PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,dashboard]'
	touch $@

demo: install
	$(BIN)/mmsa-search data plant runs/planted.npz
	$(BIN)/mmsa-search run spaces/studies/demo.yaml --deterministic

test: lint
	$(BIN)/pytest --numprocesses=3 --dist=loadfile --cov --cov-report=term:skip-covered

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
