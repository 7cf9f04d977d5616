# What to do with this repository. `make run` and `make test` do all the set-up themselves.
SHELL := /bin/bash
CARGO := scripts/cargo
CHAOS_SECONDS ?= 1800
CHAOS_REPORT ?= docs/chaos.md
SIMULATED_SEEDS ?= 10080
FUZZ_SECONDS ?= 600
.DEFAULT_GOAL := help
.PHONY: help run test chaos simulate fuzz build demo-kafka bench audit format clean

help:
	@echo 'make run         start two clusters on this machine and watch them replicate (stop with Ctrl-C)'
	@echo 'make test        format, lints, all tests, requests that the API describes; a real Kafka is found or started'
	@echo 'make chaos       half an hour in which something fails every few seconds; writes $(CHAOS_REPORT)'
	@echo 'make simulate    $(SIMULATED_SEEDS) simulated clusters for each of ten mixes of faults'
	@echo 'make fuzz        texts of the query language, each target for $(FUZZ_SECONDS) s'
	@echo 'make demo-kafka  the same two clusters as separate processes on a real Kafka'
	@echo 'make build       an optimised binary: target/release/anabranch'
	@echo 'make bench       measurements on a real Kafka'
	@echo 'make audit       licences, sources and advisories of the dependencies'
	@echo 'make format      format the code'
	@echo 'make clean       remove what was built, and the data of the demo'

# The profile of the tests, so that both share one compilation of the dependencies, which are optimised in it.
run:
	@scripts/dependencies build
	@$(CARGO) build --bin anabranch
	@exec $(CARGO) run --quiet --bin anabranch -- dev --demo

test:
	@scripts/dependencies test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace --no-fail-fast
	@scripts/schemathesis

# ANABRANCH_TEST_SEED repeats a run; CHAOS_SECONDS and CHAOS_REPORT say how long and where.
chaos:
	@scripts/dependencies test
	@mkdir -p $(dir $(CHAOS_REPORT))
	ANABRANCH_TEST_CHAOS_SECONDS=$(CHAOS_SECONDS) ANABRANCH_TEST_CHAOS_BOUND_MS=2000 \
	  ANABRANCH_TEST_CHAOS_REPORT=$(abspath $(CHAOS_REPORT)) \
	  $(CARGO) test --workspace --test chaos -- --nocapture

# ANABRANCH_TEST_SEED repeats a run; what a failure prints says how.
simulate:
	@scripts/dependencies build
	ANABRANCH_TEST_SEEDS=$(SIMULATED_SEEDS) $(CARGO) test --workspace --test simulation -- --nocapture

fuzz:
	@scripts/dependencies build
	@scripts/fuzz $(FUZZ_SECONDS)

build:
	@scripts/dependencies build
	$(CARGO) build --release --bin anabranch

demo-kafka:
	@scripts/dependencies test
	@$(CARGO) build --bin anabranch
	@scripts/demo-kafka

bench:
	@scripts/dependencies test
	@$(CARGO) build --release --bin anabranch --features sqlite
	@scripts/bench

audit:
	@scripts/audit

format:
	$(CARGO) fmt --all

clean:
	$(CARGO) clean
	rm -rf anabranch-demo
