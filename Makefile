# Two commands from a bare clone: `make demo` (a first run) and `make test` (what CI runs).
# A machine needs Python >= 3.11 and make, nothing else: all that is installed goes to .venv/.

PYTHON ?= python3
# Which build of PyTorch, as pip spells it: make install TORCH='torch==2.13.0'
TORCH  ?= torch
# Which tests: make test PYTEST='-k losses'
PYTEST ?= -n 2

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP   := $(BIN)/python -m pip install --disable-pip-version-check

# Another build asked for by name replaces the one that is there; asked for nothing, what is there is fine.
ifneq ($(origin TORCH),file)
ifneq ($(TORCH),$(shell cat $(STAMP) 2>/dev/null))
.PHONY: $(STAMP)
endif
endif

.PHONY: help install demo test check lint types tests slow clean

help:
	@echo "make install   create $(VENV)/ with superrl in it (TORCH='torch==2.13.0' chooses the build of PyTorch)"
	@echo "make demo      train the shipped tiny model on the default recipe"
	@echo "make test      lint, types and tests, exactly as CI"
	@echo "make slow      the tests that take minutes"
	@echo "make clean     remove $(VENV)/ and the caches (runs/ stays)"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "superrl needs Python 3.11 or newer; name one with PYTHON=python3.x"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH) into $(VENV)/ (a few minutes the first time)"
	@$(PIP) '$(TORCH)'
	@echo "installing superrl and its tools"
	@$(PIP) --quiet --editable '.[dev]'
	@echo '$(TORCH)' > $@

demo: $(STAMP)
	$(BIN)/superrl train

check: test

test: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check src tests

types: $(STAMP)
	$(BIN)/mypy

tests: $(STAMP)
	$(BIN)/pytest $(PYTEST)

slow: $(STAMP)
	$(BIN)/pytest $(PYTEST) -m slow

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
