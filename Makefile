# The few commands of Tokenrelay. `make` alone lists them.

PYTHON ?= python3
PORT   ?= $(or $(TOKENRELAY_PORT),8000)
SEED ?= 1
MINUTES ?= 1
CLIENTS ?= 200
# Tests mostly wait: two files of them at once take little more than half the time.
JOBS ?= 2
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run cluster test test-cluster coverage lint pure lower-bounds conformance conformance-clients model bench chaos fuzz rolling screenshots docs clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/.runtime  ## the whole stack on this machine, with a local model; PORT=8000
	@$(BIN)/tokenrelay up --port $(PORT)

cluster: $(VENV)/.dev  ## a cluster of three primaries and three replicas on this machine; SERVER=redis-server NODE_TIMEOUT_MS=2000
	@$(BIN)/python -m tests.cluster $(if $(SERVER),--server $(SERVER)) $(if $(NODE_TIMEOUT_MS),--node-timeout $(NODE_TIMEOUT_MS))

test: $(VENV)/.dev lint conformance-clients  ## lint, types and every test; JOBS=2
	@echo "running the tests (a few minutes)"
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

conformance: $(VENV)/.dev  ## OpenAI's SDKs, LangChain, LiteLLM, the AI SDK against a real fleet; ONLY="openai-node-7 litellm"
	@$(BIN)/python -m tests.conformance $(if $(ONLY),--only $(ONLY))

# Those that `test` runs. Where npm or a registry is missing, their tests say so.
conformance-clients: $(VENV)/.dev
	@$(BIN)/python -m tests.conformance --install --subset

# Not in `test`: on Python 3.11 it nearly doubles what the pure tests take.
coverage: $(VENV)/.dev  ## every test, and which lines none of them runs
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov --cov-report=term

lint: $(VENV)/.dev  ## ruff and mypy
	@$(BIN)/ruff check .
	@echo "checking the types (mypy)"
	@$(BIN)/mypy

pure: $(VENV)/.dev  ## only the protocol's tests: no process, no network, seconds
	@$(BIN)/python -m pytest -q tests/protocol

lower-bounds: | python-is-new-enough  ## tests with the lowest versions that pyproject.toml allows, in an environment of its own
	@$(PYTHON) -m bootstrap.lower_bounds

test-cluster: $(VENV)/.dev  ## the end-to-end tests with a cluster in place of one server
	@TOKENRELAY_TEST_CLUSTER=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests/cluster tests/end_to_end

model: $(VENV)/.dev  ## mistakes planted in the scripts, one after another: does their model find each? Some minutes
	@$(BIN)/python -m tests.model

chaos: $(VENV)/.dev  ## a storm over a real fleet; SEED=1 MINUTES=1 CLIENTS=200
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES) --clients $(CLIENTS)

fuzz: $(VENV)/.dev  ## random bytes for what strangers reach, directly and behind nginx; MINUTES=1
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

rolling: $(VENV)/.dev  ## two edges replaced while clients read, and when those came back; CLIENTS=1000
	@$(BIN)/python -m tests.chaos.rolling --clients $(CLIENTS)

bench: $(VENV)/.runtime  ## the benchmark, every figure beside its target; ARGS="--quick --compare naive"
	@$(BIN)/tokenrelay bench $(ARGS)

screenshots: $(VENV)/.dev  ## the pictures of the chat page in docs/screenshots, taken by a test
	@TOKENRELAY_SCREENSHOTS=1 REQUIRE_ALL=1 $(BIN)/python -m pytest -q tests/browser/test_chat_looks.py -k pictures

docs: $(VENV)/.dev  ## the docs site, into site/; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "open site/index.html"

clean:  ## remove the virtual environment and every cache
	@rm -rf $(VENV) .venv-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* build dist site *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose Python went away (an upgrade of the system) is made anew.
STALE := $(shell test -x $(BIN)/python || echo stale)
.PHONY: stale python-is-new-enough
stale:

python-is-new-enough:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: $(PYTHON) not found. Install Python 3.11 or later, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), 3.11 or later is needed. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: $(PYTHON) lacks the venv module. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }

$(VENV)/.runtime: requirements.txt pyproject.toml clients/python/pyproject.toml bootstrap/install.py $(STALE) | python-is-new-enough
	@$(PYTHON) bootstrap/install.py runtime
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	@$(PYTHON) bootstrap/install.py dev
	@touch $@
