# The programs are in local/, tests/ and the package; this file only calls them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
SERVERS ?= trixie
PYTHON := .venv/bin/python
PYTEST := .venv/bin/pytest
# Tests on servers spend most of their time waiting. Each worker has its own servers.
SIDE_BY_SIDE := -n $(or $(WORKERS),4) --dist worksteal
export SERVERS
export PYTHONPATH := app:.

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: ## Install what the other targets need (cached outside the checkout)
	@local/setup.sh dev >/dev/null

demo: setup ## Run a 60 s sale on real servers and check that nothing was lost (KEEP=1 leaves it running)
	@$(PYTHON) -m local.demo $(if $(filter-out 0,$(KEEP)),--keep) $(DEMO_FLAGS)

test: unit contract integration faults ## Every test but the nightly ones, on real servers

unit: setup ## The fast tests, without servers
	@$(PYTEST) tests/unit tests/catalogue -q -m "not integration" -n 2 --dist worksteal

contract: setup ## One suite on both brokers: memory and RabbitMQ
	@$(PYTEST) tests/contract -q $(SIDE_BY_SIDE)

integration: setup ## The services and the core on RabbitMQ and PostgreSQL
	@$(PYTEST) tests/integration -q -m "not faults and not nightly" $(SIDE_BY_SIDE)

faults: setup ## Kill processes, broker and database under load, and check the promises
	@$(PYTEST) tests/integration -q -m "faults and not nightly" $(SIDE_BY_SIDE)

nightly: setup ## The long tests, the fault tests on the newest servers, and resilience
	@$(PYTEST) tests -q -m nightly $(SIDE_BY_SIDE)
	@SERVERS=forky $(PYTEST) tests/integration -q -m faults $(SIDE_BY_SIDE)
	@$(PYTHON) -m tests.resilience

resilience: setup ## What is sold under overload and failures (BASE=commit compares; RESILIENCE_FLAGS=--help)
	@$(PYTHON) -m tests.resilience $(if $(BASE),--base $(BASE)) $(RESILIENCE_FLAGS)

bench: ## CPU per order, and the core beside FastStream and Go (BASE=commit compares; BENCH_FLAGS=--help)
	@local/setup.sh bench >/dev/null
	@$(PYTHON) -m tests.bench $(if $(BASE),--base $(BASE)) $(BENCH_FLAGS)

lint: setup ## Style and common mistakes
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

types: setup ## Types, strict, tests included
	@$(PYTHON) -m mypy

generate: setup ## Write the generated reference
	@$(PYTHON) -m orderflow reference --write docs/reference

check-generated: setup ## Fail when the generated reference is not current
	@$(PYTHON) -m orderflow reference --check docs/reference

requirements: setup ## Resolve requirements/*.in to the newest versions, with hashes
	@local/requirements.sh

servers: setup ## Run RabbitMQ and PostgreSQL in the foreground for development
	@$(PYTHON) -m local.servers --suite $(SERVERS)

.PHONY: help setup demo test unit contract integration faults nightly resilience bench lint types generate check-generated requirements servers
