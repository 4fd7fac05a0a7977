# Everything runs in .venv, which each target builds as far as it needs it.
#   make demo    five peers and two real SIP clients call each other on this machine
#   make test    all tests that can run here; says what it skipped and what would help
#   make check   format, lint, types, tests      make fix    repair format and lint
#   make bench   one JSON line a figure          make fuzz   each parser for FUZZ_SECONDS
#   make lab     an Internet with NATs in namespaces, by hand: make lab LAB=--help; needs root

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
FUZZ_SECONDS ?= 60
DEMO ?=
TEST ?=
LAB ?=

.PHONY: demo test check lint types fix bench fuzz lab clean

demo: $(VENV)/.demo $(VENV)/.client
	@$(BIN)/p2psip demo $(DEMO)

test: $(VENV)/.test
	@$(BIN)/python -m pytest -q $(TEST)

check: lint types test

lint: $(VENV)/.test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.test
	@$(BIN)/mypy

fix: $(VENV)/.test
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.bench
	@$(BIN)/python -m benchmarks

fuzz: $(VENV)/.test $(VENV)/.fuzz
	@$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

lab: $(VENV)/.test
	@PYTHONPATH=.:tests $(BIN)/python -m net.lab_console $(LAB)

clean:
	rm -rf $(VENV)

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "There is no $(PYTHON) here. Try: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or later is needed, and $(PYTHON) is older." >&2; \
	    echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "Python's venv module is missing. Try: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.bench $(VENV)/.fuzz: $(VENV)/.%: $(VENV)/.python pyproject.toml
	@echo "installing into $(VENV): $*" >&2
	@$(PIP) install -e '.[$*]'
	@touch $@

# baresip where it is installed; else a real client from PyPI (which has no wheel everywhere)
$(VENV)/.client: $(VENV)/.demo
	@command -v baresip >/dev/null || { echo "baresip is not installed: taking a client from PyPI" >&2; \
	    $(PIP) install --only-binary :all: pjsua2-python 2>/dev/null \
	    || $(PIP) install --pre --only-binary :all: baresip-python \
	    || { echo "No SIP client for this machine on PyPI. Try: apt-get install baresip" >&2; exit 1; }; }
	@command -v baresip >/dev/null || touch $@
