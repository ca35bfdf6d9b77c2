# All tasks of developers and of CI. `make` lists them.

# What building and testing need on Debian 12, apart from a Rust toolchain (rustup.rs).
PACKAGES := gcc libc6-dev make protobuf-compiler libprotobuf-dev iproute2 iptables nftables \
            etcd-server etcd-client iperf3 ethtool iputils-ping openssl procps util-linux \
            systemd bubblewrap busybox-static libdevmapper1.02.1 python3-venv curl

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help setup build bpf bpf-check bpf-kernel lab benchmark interop fuzz check test netns bench install \
        uninstall deb rpm tarball static image arm64 docker-test tutorials

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install packages that building and testing need and that are missing
	@missing=; \
	if command -v dpkg-query >/dev/null; then \
	    for package in $(PACKAGES); do \
	        dpkg-query -W -f '$${Status}' $$package 2>/dev/null \
	            | grep -q '^install ok installed' || missing="$$missing $$package"; \
	    done; \
	elif ! { command -v etcd && command -v iperf3 && command -v protoc; } >/dev/null; then \
	    echo "make setup: this is no Debian; install the equivalents of: $(PACKAGES)" >&2; exit 1; \
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

build: setup ## build every program for release
	$(CARGO) build --release

# The object is in the repository, so that `cargo build` needs no clang.
BPF = src/dataplane/fast_path/bpf/fast_path.bpf
SETUP_BPF = @$(MAKE) -s setup PACKAGES="$(PACKAGES) clang llvm libbpf-dev linux-libc-dev"

# The same bytes in every directory: without debug information, and without the directory's path,
# which BTF would hold.
define compile_bpf
	clang -O2 -g -Wall -Werror -target bpf -mcpu=v3 -ffile-prefix-map=$(CURDIR)=. \
	    -I/usr/include/$$(uname -m)-linux-gnu -c $(BPF).c -o $(1)
	llvm-strip -g $(1)
	llvm-objcopy --remove-section .BTF.ext $(1)
endef

bpf: ## compile the programs of the fast path
	$(SETUP_BPF)
	$(call compile_bpf,$(BPF).o)

bpf-check: ## whether the compiled programs are those of the source
	$(SETUP_BPF)
	@mkdir -p target
	$(call compile_bpf,target/fast_path.bpf.o)
	@cmp target/fast_path.bpf.o $(BPF).o || { \
	    echo "$(BPF).o is not what Debian 12's clang makes of it: run 'make bpf'" >&2; exit 1; \
	}

# Left out: links of tc came with Linux 6.6, and emulated processors are too slow for a burst.
bpf-kernel: target/kernel ## the programs of the fast path on Debian 12's Linux, in a virtual machine; needs root
	@$(MAKE) -s setup PACKAGES="$(PACKAGES) qemu-system-x86 kmod"
	KERNEL=target/kernel CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=tests/vm/run \
	    $(CARGO) test --test netns -- --test-threads=1 fast_path::programs \
	    --skip program_that_somebody_took_away --skip flow_of_which_there_is_much

lab: build ## three nodes, a real etcd, pods that ping across, and a table of throughput
	target/release/flannel-lab demo

benchmark: build ## compare overlays in a quarter of an hour: target/bench.html and .json
	target/release/flannel-lab bench --html target/bench.html --json target/bench.json

interop: build ## twill together with a stock flanneld: make interop STOCK=/path/to/flanneld
	@[ -n "$(STOCK)" ] || { echo "make interop: say which: STOCK=/path/to/flanneld" >&2; exit 1; }
	target/release/flannel-lab interop --flanneld $(STOCK)

# Seconds per target in fuzz/. New inputs go to target/corpus, crashes to fuzz/artifacts.
FUZZ_SECONDS ?= 60

# cargo-fuzz passes unstable flags, which a stable compiler takes only with RUSTC_BOOTSTRAP.
fuzz: ## every fuzz target for a minute each, or FUZZ_SECONDS
	@$(MAKE) -s setup PACKAGES="$(PACKAGES) g++"
	@command -v cargo-fuzz >/dev/null || \
	    { echo "make fuzz: cargo-fuzz is missing; run 'cargo install cargo-fuzz'" >&2; exit 1; }
	@for target in $$(ls fuzz/corpus); do \
	    mkdir -p target/corpus/$$target && \
	    RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --target-dir target/fuzz $$target \
	        target/corpus/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=4096 || exit 1; \
	done

check: setup bpf-check ## format, lints and documentation, warnings denied; compiled BPF programs
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --test netns --test docker -- -D warnings # not among --all-targets
	$(CARGO) clippy --no-default-features --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

test: setup target/prometheus target/docker target/moto ## every test: units and integration, then real namespaces
	$(CARGO) test
	$(CARGO) test --test docker --test netns -- --test-threads=1
	$(MAKE) tutorials

# What only tests need, unpacked from Debian's packages: installing them would start servers.
# $(1) are the packages, $(2) the files to take, $(3) the program that must be installed on other
# distributions.
define unpack
	@if command -v apt-get >/dev/null; then \
	    echo "make: fetching $(1)"; \
	    rm -rf $@ $@.part && mkdir -p $@.part && \
	    directory=$$(mktemp -d) && chmod 755 $$directory && cd $$directory && \
	    { apt-get -qq download $(1) 2>/dev/null || \
	      { apt-get -qq update && apt-get -qq download $(1); }; } && \
	    for package in *.deb; do \
	        dpkg-deb --fsys-tarfile $$package | \
	            tar -x -C $(CURDIR)/$@.part --wildcards $(2) || exit 1; \
	    done && \
	    rm -r $$directory && mv $(CURDIR)/$@.part $(CURDIR)/$@; \
	elif command -v $(3) >/dev/null; then \
	    mkdir -p $@; \
	else \
	    echo "make: $(3) is missing; install the equivalents of: $(1)" >&2; exit 1; \
	fi
endef

target/prometheus: # promtool checks our metrics
	$(call unpack,prometheus,./usr/bin/promtool,promtool)

# The package is called after the version.
KERNEL_PACKAGE = $(or $(shell apt-cache depends linux-image-amd64 2>/dev/null | \
    awk '/Depends: linux-image/ { print $$2 }'),linux-image-amd64)

target/kernel: # for a virtual machine
	$(call unpack,$(KERNEL_PACKAGE),./boot ./lib,linux-6.1)

target/moto: # EC2 and STS for tests
	@echo "make: fetching moto"; rm -rf $@ $@.part; \
	python3 -m venv $@.part && $@.part/bin/pip --quiet install 'moto[ec2]==5.2.1' flask flask-cors && \
	    mv $@.part $@

target/docker: # for flannel's tutorials
	$(call unpack,docker.io containerd runc containernetworking-plugins,./usr,dockerd)

netns: setup ## the namespace tests alone; needs root
	$(CARGO) test --test netns -- --test-threads=1

bench: setup ## the data plane's stages in memory: time, bytes, packets, allocations
	$(CARGO) bench

# Where `make install` puts things; packagers set DESTDIR.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
# Debian's zsh looks in vendor-completions.
ZSHDIR ?= site-functions
DESTDIR ?=
# Where the built programs are.
BINARIES ?= target/release

BINDIR = $(DESTDIR)$(PREFIX)/bin
LIBEXECDIR = $(DESTDIR)$(PREFIX)/libexec/flannel
UNITDIR = $(DESTDIR)$(PREFIX)/lib/systemd/system
DATADIR = $(DESTDIR)$(PREFIX)/share
BASHDIR = $(DATADIR)/bash-completion/completions
FISHDIR = $(DATADIR)/fish/vendor_completions.d
DOCDIR = $(DATADIR)/doc/flanneld
# The dashboard and the alert rules.
OBSERVEDIR = $(DATADIR)/flanneld
PROGRAMS := flanneld flannel-lab

# Does not depend on `build`, so that root need not run cargo: `make build && sudo make install`.
install: ## install what is built: programs, systemd unit, manual page, completions, docs
	@for program in $(PROGRAMS) flanneld-manual; do \
	    [ -x $(BINARIES)/$$program ] || { \
	        echo "make install: $(BINARIES)/$$program is missing; run 'make build' first" >&2; \
	        exit 1; }; \
	done
	install -d $(BINDIR) $(LIBEXECDIR) $(UNITDIR) $(DATADIR)/man/man8 \
	    $(BASHDIR) $(DATADIR)/zsh/$(ZSHDIR) $(FISHDIR)
	install $(addprefix $(BINARIES)/,$(PROGRAMS)) $(BINDIR)
	install dist/mk-docker-opts.sh $(LIBEXECDIR)
	sed '/^Exec/s|/usr/|$(PREFIX)/|; s|/etc/default|$(SYSCONFDIR)/default|' dist/flanneld.service | \
	    install -m 644 /dev/stdin $(UNITDIR)/flanneld.service
	install -d $(DOCDIR)/docs $(OBSERVEDIR)/grafana $(OBSERVEDIR)/prometheus
	install -m 644 README.md CHANGELOG.md SECURITY.md LICENSE $(DOCDIR)
	install -m 644 docs/*.md docs/*.svg $(DOCDIR)/docs
	install -m 644 dist/grafana/flannel.json $(OBSERVEDIR)/grafana
	install -m 644 dist/prometheus/flannel.rules.yml $(OBSERVEDIR)/prometheus
	install -d $(DESTDIR)$(SYSCONFDIR)/default
	[ -e $(DESTDIR)$(SYSCONFDIR)/default/flanneld ] || \
	    install -m 644 dist/flanneld.default $(DESTDIR)$(SYSCONFDIR)/default/flanneld
	pages=$$(mktemp -d) && $(BINARIES)/flanneld-manual $$pages && \
	    install -m 644 $$pages/*.8 $(DATADIR)/man/man8 && \
	    for program in $(PROGRAMS); do \
	        install -m 644 $$pages/$$program.bash $(BASHDIR)/$$program && \
	        install -m 644 $$pages/_$$program $(DATADIR)/zsh/$(ZSHDIR) && \
	        install -m 644 $$pages/$$program.fish $(FISHDIR) || exit 1; \
	    done && \
	    rm -r $$pages

uninstall: ## remove what `install` installed, except /etc/default/flanneld
	rm -f $(addprefix $(BINDIR)/,$(PROGRAMS)) $(LIBEXECDIR)/mk-docker-opts.sh \
	    $(UNITDIR)/flanneld.service \
	    $(DATADIR)/man/man8/flanneld.8 $(DATADIR)/man/man8/flanneld-*.8 \
	    $(DATADIR)/man/man8/flannel-lab*.8 \
	    $(addprefix $(BASHDIR)/,$(PROGRAMS)) \
	    $(addprefix $(DATADIR)/zsh/$(ZSHDIR)/_,$(PROGRAMS)) \
	    $(PROGRAMS:%=$(FISHDIR)/%.fish)
	rm -rf $(DOCDIR) $(OBSERVEDIR)
	rmdir --ignore-fail-on-non-empty $(LIBEXECDIR)

deb: build ## Debian packages: target/flanneld_VERSION_ARCH.deb, and one with debug symbols
	BINARIES=$(BINARIES) dist/debian/build target

rpm: build ## RPM packages: target/flanneld-VERSION-1.ARCH.rpm, and one with debug symbols; needs rpmbuild
	@command -v rpmbuild >/dev/null || { echo "make rpm: install rpmbuild (Debian: rpm)" >&2; exit 1; }
	BINARIES=$(BINARIES) dist/rpm/build target

# x86_64-unknown-linux-musl, where rustup has installed that target.
STATIC_TARGET ?= $(shell uname -m)-unknown-linux-gnu
BUILD_STATIC = RUSTFLAGS="-C target-feature=+crt-static" \
    $(CARGO) build --release --bins --target $(STATIC_TARGET)

tarball: setup ## programs that need no library: target/flanneld-VERSION-ARCH.tar.gz, to be unpacked at /
	$(BUILD_STATIC)
	BINARIES=target/$(STATIC_TARGET)/release dist/tarball/build target

static: setup ## stripped programs that start in an empty root directory: target/static
	$(BUILD_STATIC)
	install -d target/static
	for program in $(PROGRAMS); do \
	    strip -o target/static/$$program target/$(STATIC_TARGET)/release/$$program || exit 1; \
	done
	dist/static/check $(PROGRAMS:%=target/static/%)

IMAGE ?= twill:0.1.0

image: static ## a container image of the static program on BASE, which has iptables or nft; needs a Docker daemon
	@[ -n "$(BASE)" ] || { echo "make image: say on which image with iptables or nft: BASE=…" >&2; exit 1; }
	rm -rf target/image && install -D target/static/flanneld target/image/opt/bin/flanneld
	ln -s flanneld target/image/opt/bin/install-conf
	docker build -f dist/kubernetes/Dockerfile.prebuilt --build-arg BASE=$(BASE) -t $(IMAGE) target/image

# Debian 12's compiler for other machines, and a processor of theirs in software.
ARM64_PACKAGES := rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
                  qemu-user-static
ARM64_TARGET := aarch64-unknown-linux-gnu
# cargo's variables for that target, and rustc where the standard library for it is. Static: threads of
# programs with arm64's shared glibc hang in qemu 7.2.
ARM64_ENV = RUSTC=/usr/bin/rustc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
ARM64_DIR := target/arm64
# What qemu cannot run:
# - it makes fork(2) of vfork(2), so nobody learns that a program cannot be started;
# - it has no RTM_GETNSID, no SIOCETHTOOL, no SO_ATTACH_REUSEPORT_CBPF and no SO_RXQ_OVFL.
ARM64_SKIP := \
    control::host::firewall::command::tests::program_that_cannot_start_is_one_line \
    control::subnet::kube::api::tests::program_that_is_missing_is_named_with_its_hint \
    lab::host::command::tests::missing_tool_is_named \
    control::host::net::container_routes::tests::own_namespace_is_left_out \
    dataplane::io::sys::ethtool::tests::loopback_segments_by_itself_and_has_no_driver \
    dataplane::io::udp::tests::source_port_decides_which_half_of_the_sockets_receives \
    dataplane::io::udp::tests::datagrams_that_found_no_room_are_counted

arm64: target/moto ## flanneld for arm64 in target/arm64, and its unit tests on an emulated processor
	@[ "$$(id -u)" = 0 ] && dpkg --add-architecture arm64 || \
	    dpkg --print-foreign-architectures | grep -qx arm64 || \
	    { echo "make arm64: run 'sudo dpkg --add-architecture arm64 && sudo apt-get update' first" >&2; exit 1; }
	@$(MAKE) -s setup PACKAGES="$(PACKAGES) $(ARM64_PACKAGES)"
	$(ARM64_ENV) $(CARGO) test --lib --target $(ARM64_TARGET) --target-dir $(ARM64_DIR) -- \
	    --exact $(addprefix --skip ,$(ARM64_SKIP))
	$(ARM64_ENV) $(CARGO) build --release --bin flanneld --target $(ARM64_TARGET) --target-dir $(ARM64_DIR)

docker-test: setup target/docker ## flannel's tutorials, with real Docker daemons and CNI plugins; needs root
	$(CARGO) test --test docker -- --test-threads=1

# Each takes some five to ten seconds. VERBOSE=1 prints every command. The programs are those that
# `make test` has built, so that nothing is compiled once more; BUILT names another directory.
BUILT ?= $(CURDIR)/target/debug

tutorials: setup target/docker target/moto ## five tutorials of flannel, command by command: docs/tutorials.md; needs root
	$(CARGO) test --no-run --test cli
	@for tutorial in $(filter-out %/lib.sh,$(wildcard tests/tutorials/*.sh)); do \
	    PROGRAMS=$(BUILT) $$tutorial || exit 1; \
	done
