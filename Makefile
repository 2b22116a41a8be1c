# The commands of this repository. `make` lists them. Each installs what it needs (as root) and says what it does.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help build demo test test-long lint deny image clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

build: ## build towpathd, towpath and the tools for release
	scripts/setup.sh build
	$(CARGO) build --locked --release

demo: ## two hosts in network namespaces, QEMU guests on each: a table of PASS and FAIL (root)
	scripts/setup.sh demo
	$(CARGO) build --locked --release -p towpathd -p towpath-cli -p towpath-tests
	target/release/towpath-demo

test: ## everything: format, lints, unit tests, simulator, real peers, QEMU guests (root)
	@[ "$$(id -u)" -eq 0 ] || { echo "make test needs root: DPDK, QEMU's guests and the daemon run for real" >&2; exit 1; }
	scripts/setup.sh test
	$(MAKE) --no-print-directory lint
	$(CARGO) build --locked --workspace --bins
	target/debug/towpath-guest-image
	$(CARGO) test --locked --workspace --doc --quiet
	PROPTEST_RNG_SEED=$${PROPTEST_RNG_SEED:-1} $(CARGO) nextest run --locked --workspace --run-ignored all

test-long: ## models, fuzzing, many seeds, 10^5 front ends: hours (LENGTH=1 for one per cent); the result goes to docs/test-long.md (root)
	@[ "$$(id -u)" -eq 0 ] || { echo "make test-long needs root: the daemon runs for real" >&2; exit 1; }
	scripts/setup.sh test
	scripts/test-long.sh

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny: ## licences, bans, sources and advisories of all dependencies (installs cargo-deny; advisories come from GitHub)
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked --quiet cargo-deny
	$(CARGO) deny check

image: ## the kernel and initramfs of the QEMU guests, in target/guest
	scripts/setup.sh demo
	$(CARGO) run --locked -p towpath-tests --bin towpath-guest-image

clean: ## remove what was built
	$(CARGO) clean

-include benches/bench.mk
