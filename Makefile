# Two commands do all the set-up: `make demo` samples videos with the built-in model, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
PROMPTS := "a red circle moves left" "a blue square rises" "a green triangle grows" \
	"a yellow star falls on a black background" "a purple square slides to the right" "an orange star stays still"
# Modules are compiled once, on their first import, also where the environment forbids it: imports are most of a short run.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint

demo: .venv/installed
	$(BIN)/dit sample $(PROMPTS) --out demo

test: .venv/installed-test
	$(BIN)/pytest -q

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	@echo "installing the pinned versions into .venv (a few minutes)"
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable '.[test]'
	@touch $@
