# Every task of a developer and of CI. `make` lists them.

# What building and testing need on Debian 12, apart from a Rust toolchain (rustup.rs).
PACKAGES := gcc libc6-dev make protobuf-compiler libprotobuf-dev iproute2 iptables nftables \
            etcd-server etcd-client iperf3 ethtool iputils-ping procps util-linux

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help setup build lab benchmark check test netns bench

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need, as far as it is missing
	@missing=; \
	if command -v dpkg-query >/dev/null; then \
	    for package in $(PACKAGES); do \
	        dpkg-query -W -f '$${Status}' $$package 2>/dev/null \
	            | grep -q '^install ok installed' || missing="$$missing $$package"; \
	    done; \
	elif ! { command -v etcd && command -v iperf3 && command -v protoc; } >/dev/null; then \
	    echo "make setup: this is no Debian; install the like of: $(PACKAGES)" >&2; exit 1; \
	fi; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" != 0 ]; then \
	        echo "make setup: run 'sudo make setup', or 'apt-get install$$missing' as root" >&2; \
	        exit 1; \
	    fi; \
	    echo "make setup: installing$$missing"; \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	        apt-get -qq -y --no-install-recommends install $$missing >/dev/null || exit 1; \
	fi; \
	command -v $(CARGO) >/dev/null || { \
	    echo "make setup: cargo is missing; get a Rust toolchain from https://rustup.rs" >&2; \
	    exit 1; \
	}

build: setup ## build both binaries for release
	$(CARGO) build --release

lab: build ## three nodes, a real etcd, pods that ping across, and throughput side by side
	target/release/flannel-lab demo

benchmark: build ## overlays side by side in ten minutes: target/bench.html and target/bench.json
	target/release/flannel-lab bench --html target/bench.html --json target/bench.json

check: setup ## format, lints and documentation, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

test: setup ## every test: units and integration, then real namespaces
	$(CARGO) test
	$(CARGO) test --release --test netns -- --test-threads=1

netns: setup ## the namespace tests alone; needs root
	$(CARGO) test --release --test netns -- --test-threads=1

bench: setup ## the data plane's stages in memory: time, bytes, packets, allocations
	$(CARGO) bench
