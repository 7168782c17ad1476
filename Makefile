# The two commands of the README are `make demo` and `make test`; both do all their set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find kifa bench -name '*.pyx' -o -name '*.pxd' -o -name '*.h') setup.py pyproject.toml

.PHONY: build bench check crash-test demo test lint clean

build: $(VENV)/.built

$(VENV)/.built: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: build
	ci/demo $(BIN)

test: build
	ci/install-system-packages
	$(BIN)/python -m pytest

# Power cuts in both modes, on lazyfs where there is /dev/fuse; CYCLES=100 for more.
CYCLES ?= 10

crash-test: build
	ci/install-system-packages
	$(BIN)/kifa-crash-test --cycles $(CYCLES) --flush-mode normal
	$(BIN)/kifa-crash-test --cycles $(CYCLES) --flush-mode cautious

# BENCH=--quick shows that it works.
BENCH ?= --long

bench: build
	ci/install-system-packages
	$(BIN)/kifa-bench all $(BENCH) --json build/bench.json --html build/bench.html
	$(BIN)/kifa-bench report build/bench.json --markdown docs/PERFORMANCE.md

# Whether the code needs more instructions than it did; the same on a busy machine.
check: build
	ci/install-system-packages
	$(BIN)/kifa-bench check --against bench/instructions.json

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find kifa bench -name '*.so' -delete
