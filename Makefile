# Everything a person or a machine does with this checkout. `make demo` and `make test` need nothing but make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

# One target folder outside the checkout: RocksDB, librdkafka and DataFusion are built once, a new clone builds warm.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/pulso/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Every call names the same crates, targets and profile, so that none builds a dependency anew.
EVERYTHING := --workspace --all-targets --locked
BINARIES := jobmanager taskmanager healthctl pulso-servers

.PHONY: setup build demo test test-all sim bench lint fmt

setup:
	@scripts/setup

# Leaves bin/jobmanager, bin/taskmanager, bin/healthctl, and bin/pulso-servers for the benchmarks.
build: setup
	@cargo build $(EVERYTHING)
	@scripts/link-binaries $(BINARIES)

# Kafka, PostgreSQL, a cluster and a job with generated data. make demo ARGS="--for 60s -o json"
demo: build
	@bin/healthctl demo $(ARGS)

test:
	@scripts/test

# Everything that does not fit into `make test` too: ignored tests, and more seeds.
test-all:
	@PULSO_TEST_ALL=1 SEEDS=$(or $(SEEDS),3000) scripts/test

# make sim SEEDS=10000, make sim SEED=17 (one seed with its trace), make sim MISTAKES=1000 (which mistakes are noticed)
sim: build
	@$(CARGO_TARGET_DIR)/debug/sim $(if $(SEED),--seed $(SEED) --trace,$(if $(MISTAKES),--mistakes --seeds $(MISTAKES),--seeds $(or $(SEEDS),1000))) $(if $(MISTAKE),--mistake $(MISTAKE))

# Figures of this machine. make bench ARGS="catchup --rounds 1"
bench: build
	@scripts/bench $(ARGS)

lint: setup
	@cargo fmt --all --check
	@cargo clippy $(EVERYTHING) -- -D warnings

fmt: setup
	@cargo fmt --all
