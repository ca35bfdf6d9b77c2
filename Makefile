# Every task of a developer and of CI. `make` lists them.

# What building and testing need on Debian 12, apart from a Rust toolchain (rustup.rs).
PACKAGES := gcc libc6-dev make protobuf-compiler libprotobuf-dev iproute2 iptables nftables \
            etcd-server etcd-client iperf3 ethtool iputils-ping openssl procps util-linux \
            systemd bubblewrap busybox-static

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help setup build lab benchmark check test netns bench install uninstall deb docker-test

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

build: setup ## build every program for release
	$(CARGO) build --release

lab: build ## three nodes, a real etcd, pods that ping across, and throughput side by side
	target/release/flannel-lab demo

benchmark: build ## overlays side by side in ten minutes: target/bench.html and target/bench.json
	target/release/flannel-lab bench --html target/bench.html --json target/bench.json

check: setup ## format, lints and documentation, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

test: setup target/promtool ## every test: units and integration, then real namespaces
	$(CARGO) test
	$(CARGO) test --release --test netns -- --test-threads=1

# Judges our metrics. Of its Debian package, prometheus, this one program is enough; installed, it
# would bring a server that runs.
target/promtool:
	@mkdir -p $(@D); \
	if command -v promtool >/dev/null; then \
	    ln -sf "$$(command -v promtool)" $@; \
	elif command -v apt-get >/dev/null; then \
	    echo "make: fetching promtool from Debian's prometheus"; \
	    directory=$$(mktemp -d) && chmod 755 $$directory && cd $$directory && \
	    { apt-get -qq download prometheus 2>/dev/null || \
	      { apt-get -qq update && apt-get -qq download prometheus; }; } && \
	    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool && \
	    chmod +x promtool && mv promtool $(CURDIR)/$@ && rm -r $$directory; \
	else \
	    echo "make: promtool is missing; install Prometheus" >&2; exit 1; \
	fi

netns: setup ## the namespace tests alone; needs root
	$(CARGO) test --release --test netns -- --test-threads=1

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
COMPLETIONS = $(DATADIR)/bash-completion/completions/flanneld \
              $(DATADIR)/zsh/$(ZSHDIR)/_flanneld \
              $(DATADIR)/fish/vendor_completions.d/flanneld.fish

# Without `build`, so that root need not run cargo: `make build && sudo make install`.
install: ## install what is built: programs, systemd unit, manual page, completions
	install -d $(BINDIR) $(LIBEXECDIR) $(UNITDIR) $(DATADIR)/man/man8 $(dir $(COMPLETIONS))
	install $(BINARIES)/flanneld $(BINARIES)/flannel-lab $(BINDIR)
	install dist/mk-docker-opts.sh $(LIBEXECDIR)
	sed '/^Exec/s|/usr/|$(PREFIX)/|; s|/etc/default|$(SYSCONFDIR)/default|' dist/flanneld.service | \
	    install -m 644 /dev/stdin $(UNITDIR)/flanneld.service
	install -d $(DESTDIR)$(SYSCONFDIR)/default
	[ -e $(DESTDIR)$(SYSCONFDIR)/default/flanneld ] || \
	    install -m 644 dist/flanneld.default $(DESTDIR)$(SYSCONFDIR)/default/flanneld
	pages=$$(mktemp -d) && $(BINARIES)/flanneld-manual $$pages && \
	    install -m 644 $$pages/flanneld.8 $(DATADIR)/man/man8 && \
	    install -m 644 $$pages/flanneld.bash $(word 1,$(COMPLETIONS)) && \
	    install -m 644 $$pages/_flanneld $(word 2,$(COMPLETIONS)) && \
	    install -m 644 $$pages/flanneld.fish $(word 3,$(COMPLETIONS)) && \
	    rm -r $$pages

uninstall: ## remove what `install` installed, but for /etc/default/flanneld
	rm -f $(BINDIR)/flanneld $(BINDIR)/flannel-lab $(LIBEXECDIR)/mk-docker-opts.sh \
	    $(UNITDIR)/flanneld.service $(DATADIR)/man/man8/flanneld.8 $(COMPLETIONS)
	rmdir --ignore-fail-on-non-empty $(LIBEXECDIR)

deb: build ## a Debian package: target/flanneld_VERSION_ARCH.deb
	BINARIES=$(BINARIES) dist/debian/build target

# Debian's Docker, and what the containers of the test are made of.
DOCKER_PACKAGES := docker.io busybox-static containernetworking-plugins

docker-test: build ## flannel's tutorials with real Docker daemons and CNI plugins; needs root
	$(MAKE) setup PACKAGES="$(PACKAGES) $(DOCKER_PACKAGES)"
	timeout 900 $(CARGO) test --release --test docker -- --test-threads=1
