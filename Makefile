# holdfast: `make demo` shows it, `make test` tries it, `make help` lists the rest.

SHELL := /bin/sh
BIN := .venv/bin
HOLDFAST := $(BIN)/holdfast
DEMO_STATE ?= .cache/demo
TINY := .cache/guests/tiny.qcow2
DEBIAN := .cache/guests/debian.qcow2
PYTHON := $(BIN)/python
PYTEST := $(PYTHON) -m pytest
export HOLDFAST_TINY_IMAGE := $(CURDIR)/$(TINY)
export HOLDFAST_DEBIAN_IMAGE := $(CURDIR)/$(DEBIAN)

.PHONY: help setup setup-test guest guest-debian demo down format lint types imports unit e2e test docs test-debian sweep nemesis fuzz reboot-test bench container-test man wheel lock clean

help: ## list what can be made
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: ## system packages (apt, through sudo where not root) and the locked Python packages
	@$(if $(SKIP_PACKAGES),,tools/setup.sh packages tools/packages guests/tiny/packages)
	@tools/setup.sh python requirements/dev.lock

setup-test: setup
	@$(if $(SKIP_PACKAGES),,tools/setup.sh packages tools/packages-test bench/packages)

guest: setup ## the tiny test guest, from Debian packages
	@guests/tiny/build.sh $(TINY)

guest-debian: setup ## a real Debian cloud image with cloud-init, for the tests (root)
	@$(if $(SKIP_PACKAGES),,tools/setup.sh packages guests/debian/packages)
	@guests/debian/build.sh $(DEBIAN)

demo: guest ## converge on examples/desired, show the VMs and the job's log, leave the VMs running
	@$(HOLDFAST) run --once --state $(DEMO_STATE) --desired examples/desired --image-root .cache/guests; \
	code=$$?; $(HOLDFAST) status --state $(DEMO_STATE); \
	$(HOLDFAST) logs hello -n 3 --state $(DEMO_STATE); exit $$code

down: ## remove the demo's VMs
	@$(HOLDFAST) down --yes --state $(DEMO_STATE)

format: setup ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: setup
	@$(BIN)/mypy

imports: setup
	@$(BIN)/lint-imports

unit: setup-test ## the tests that need no QEMU
	@$(PYTEST) -n 2 --dist worksteal -m 'not qemu and not guest and not debian'

e2e: setup-test guest ## the tests on real QEMU with the tiny guest
	@$(PYTEST) -n 2 --dist worksteal -m '(qemu or guest) and not debian and not docs'

test: lint types imports setup-test guest ## everything but the Debian guest and the commands of the pages
	@$(PYTEST) -n 4 --dist worksteal --durations=15 -m 'not debian and not docs'

docs: setup-test guest ## every link, command line and document of the pages; the commands of those that say so are run
	@$(PYTEST) -n 2 --dist worksteal --durations=5 tests/unit/test_docs.py tests/e2e/test_docs.py tests/e2e/test_readme.py

test-debian: setup-test guest-debian ## the end-to-end test on a real cloud image
	@$(PYTEST) -n 2 --dist worksteal --durations=10 -m debian

sweep: setup-test ## kill an agent at every line of its code, on real QEMU (WHAT=operations: fail each write; fetches: kill those)
	@$(PYTHON) -m tests.sweep $(WHAT) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

nemesis: setup-test guest ## everything that can go wrong at once on ten VMs and a stream of jobs, for SECONDS, by SEED
	@$(PYTHON) -m tests.nemesis $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

fuzz: setup-test ## drive the readers of documents, images and QMP with made-up bytes, each for SECONDS (600)
	@for target in documents inspector monitor; do \
	$(PYTHON) -m tests.fuzz $$target --seconds $(or $(SECONDS),600) || exit 1; done

reboot-test: setup-test guest ## an agent in a VM whose power is cut; its own VMs come back (root, minutes; GUEST=tiny: many)
	@$(if $(SKIP_PACKAGES),,tools/setup.sh packages guests/debian/packages)
	@guests/debian/build.sh .cache/guests/host.qcow2 python3 qemu-system-x86 qemu-utils procps
	@$(PYTHON) -m tests.reboot .cache/guests/host.qcow2 $(or $(GUEST),still)

bench: setup-test guest ## what it costs, beside bare QEMU and libvirt: bench/RESULTS.md (17 minutes; PARTS=... for some)
	@$(PYTHON) -m bench $(PARTS)

container-test: setup-test guest ## the image of the Containerfile, built and run, and run again on its volume (root, minutes)
	@$(if $(SKIP_PACKAGES),,tools/setup.sh packages tools/packages-container)
	@$(PYTHON) -m tests.container

man: setup ## the manual, from the program's own help, in build/man
	@rm -rf build/man && $(PYTHON) tools/man.py build/man

wheel: man ## a wheel with the manual in it, in dist
	@$(BIN)/hatchling build -t wheel

lock: ## make the locks anew from pyproject.toml
	@tools/lock.sh

clean: ## everything that was made, images and environments too
	@for state in .cache/*/state.db; do \
		[ ! -e $$state ] || $(HOLDFAST) down --yes --volumes --state $${state%/state.db} || exit 1; done
	rm -rf .cache .venv .tools build dist
