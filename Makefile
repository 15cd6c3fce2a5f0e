# One file of habits: `make help` lists them.
# Everything runs from .venv, which scripts/setup.sh makes from uv.lock.

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test storm lint types contracts check wheel clean

help: ## List these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' Makefile | awk -F@ '{ printf "%-18s %s\n", $$1, $$2 }'

setup: $(READY) ## Make .venv with all that uv.lock names (PYTHON=python3.12 picks the interpreter)
	@:

$(READY): uv.lock pyproject.toml scripts/setup.sh
	@PYTHON='$(PYTHON)' sh scripts/setup.sh && touch $@

# exec: the server takes the place of the shell, so signals reach it and its exit code comes back.
# Ctrl-C reaches make and server together. SIGTERM to make alone is handed on: make waits for the
# drain and then dies of the signal itself (143). SIGINT to make alone is not handed on.
demo: $(READY) ## Serve the reference service until Ctrl-C or SIGTERM (ARGS="--port 9000")
	@exec $(BIN)/python -m stormproof demo $(ARGS)

# Half of a test is waiting for processes: two at a time take half the time, on two cores as well.
# WORKERS=0 runs them in the process that you see, for a debugger.
test: $(READY) ## Run the suite without the storms (ARGS="tests/limit -k queue" runs a part)
	@sh scripts/browser.sh
	@$(BIN)/python -m pytest -m "not storm" -n $(WORKERS) --dist worksteal $(ARGS)

# pytest ends with 5 when it collected nothing: no storm is written yet, which is not a failure.
storm: $(READY) ## Run the storms: slow, loud, real processes
	@$(BIN)/python -m pytest -m storm $(ARGS) || [ $$? -eq 5 ]

lint: $(READY) ## Check style and layout of the code
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(READY) ## Check the types, strictly
	@$(BIN)/mypy

contracts: $(READY) ## Check who imports whom
	@$(BIN)/lint-imports --no-logo

check: lint types contracts ## Check lint, types and contracts

wheel: $(READY) ## Build wheel and sdist into dist/ and try the wheel in a clean environment
	@bash scripts/check_wheel.sh

clean: ## Remove .venv, caches and builds
	@rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
