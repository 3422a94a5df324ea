# What a machine needs: Rust, Python 3.10 or newer with pip, npm, make, and curl.
# Everything else is fetched into target/tools, without root.

CARGO ?= cargo
PYTHON ?= python3

# Set only where the Rust of rust-toolchain.toml has another name on this machine.
MACHINE_TOOLCHAIN := $(shell deploy/toolchain.sh)
ifneq ($(MACHINE_TOOLCHAIN),)
export RUSTUP_TOOLCHAIN := $(MACHINE_TOOLCHAIN)
endif

# make demo: Envoy's port (0 for a free one), and ONCE=1 to end after the last answer.
PORT ?= 10000
ONCE ?=
# A binary that is built already; without one, `make demo` builds it.
BINARY ?=

.PHONY: help demo docs test soak test-connections kill-store test-bodies fuzz dist deb module-deb image chart archive module-archive chart-package push-image join-images push-chart sign github-release test-shipped module differential asan bench-envoy release-check bench bench-keys bench-accounts bench-store bench-directory fmt lint tools need-rust need-lints need-python need-curl

help:
	@echo 'make demo    a real Envoy, this server and an application; sends its requests with curl,'
	@echo '             then runs until Ctrl-C (ONCE=1: ends; PORT=10100: another port)'
	@echo 'make test    all tests, with a real Envoy and a real Datasette'
	@echo 'make docs    builds docs/ as a book with search in target/book, and checks its links'
	@echo 'make soak    a busy life of MINUTES=2: nothing may go wrong; FORM=module: the module inside Envoy'
	@echo 'make test-connections  10,000 open connections to one Envoy with the module'
	@echo 'make kill-store  KILLS=1000 of the server and of PostgreSQL in the middle of writes'
	@echo 'make fuzz    looks for inputs that break what INPUTS=check_request goes through, for SECONDS=600'
	@echo 'make dist    the static release binary that we ship, in target/dist'
	@echo 'make module  the module that Envoy loads into its own process, in target/dist'
	@echo 'make asan    the module under AddressSanitizer, with a fake Envoy'
	@echo 'make differential  REQUESTS=100000 through server and module, compared'
	@echo 'make image   the container image of that binary, by docker, podman or buildah'
	@echo 'make chart   the files of the Helm chart that are made: its README, the rules, the dashboard'
	@echo 'make archive  the binary with its licences as a .tar.gz, in target/dist'
	@echo 'make chart-package  the Helm chart as a .tgz, in target/dist'
	@echo 'make deb     the Debian package of it (MAINTAINER="You <you@…>"), compiling nothing of ours'
	@echo 'make test-shipped  what we ship with that binary: the image, the package'
	@echo 'make release-check  what must hold before a release: advisories, two equal builds, SBOM'
	@echo 'make bench   this server beside an allow-all one'
	@echo 'make bench-keys  a million stored keys: loading, memory, Checks'
	@echo 'make bench-accounts  100,000 keys of 1,000 service accounts: memory, Checks'
	@echo 'make bench-store  Checks while a store of KEYS=1000000 fails or says much; REPLICAS=10 at once'
	@echo 'make bench-directory  Checks and log-ins beside GUESSES=5000 passwords a second at a directory'
	@echo 'make lint    formatting, clippy and rustdoc, warnings are errors'
	@echo 'make fmt     formats the sources'

demo: need-python need-curl $(if $(BINARY),,build)
	@$(PYTHON) deploy/demo/demo.py --binary '$(or $(BINARY),$(TARGET)/debug/envoy-auth-tokens)' \
		--port $(PORT) $(if $(filter-out 0,$(ONCE)),--once)

# Where cargo puts what it builds.
TARGET = $(or $(CARGO_TARGET_DIR),target)

.PHONY: build
build: need-rust
	@$(CARGO) build --locked --bin envoy-auth-tokens

# A test waits more than it computes: there may be two for each core.
export RUST_TEST_THREADS ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))' 2>/dev/null)

test: need-rust need-curl tools
	$(CARGO) test --locked

# The programs that the tests need but that are not ours: Envoy, Datasette, Chromium,
# PostgreSQL, PgBouncer, OpenLDAP, promtool, kubectl, Helm and others; fetch.py lists them.
tools: need-python
	@$(PYTHON) tests/tools/fetch.py >/dev/null

# The documents as a book.
docs: need-python
	@$(PYTHON) docs/build.py --mdbook "$$($(PYTHON) tests/tools/fetch.py mdbook | sed -n 's/^mdbook=//p')"

# A busy life: reloads, revocations and new Envoys under a steady load, for so many minutes.  FORM=module: the module
# inside one Envoy that lives through all of it.
MINUTES ?= 2
FORM ?= server
SOAK_OF_server = soak::nothing_goes_wrong_however_long_it_lasts
SOAK_OF_module = soak::inside::nothing_goes_wrong_inside_envoy_however_long_it_lasts
soak: need-rust tools
	$(if $(SOAK_OF_$(FORM)),,$(error FORM=$(FORM) is not known: say FORM=server or FORM=module))
	SOAK_MINUTES=$(MINUTES) $(CARGO) test --locked --test it -- --ignored --nocapture --exact $(SOAK_OF_$(FORM))

# 10,000 connections to one Envoy with the module, all open at once.
test-connections: need-rust tools
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact \
		inside_envoy::many_connections::ten_thousand_open_connections_are_decided_right

# Kills of the server and of PostgreSQL in the middle of writes: nothing that was acknowledged may be lost.
KILLS ?= 1000
kill-store: need-rust tools
	KILLS=$(KILLS) $(CARGO) test --locked --test it -- --ignored --nocapture --exact \
		keys_survival::what_was_acknowledged_survives_a_thousand_kills

# Inputs that break something; fuzz/README.md tells more.
INPUTS ?= check_request
SECONDS ?= 600
fuzz: need-rust
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo 'error: cargo-fuzz is missing: cargo install cargo-fuzz --locked.' >&2; exit 1; }
	mkdir -p fuzz/found/$(INPUTS)
	$(CARGO) +nightly fuzz run -s none $(INPUTS) fuzz/found/$(INPUTS) tests/corpus/$(INPUTS) -- \
		-max_total_time=$(SECONDS) -max_len=16384 -dict=fuzz/$(INPUTS).dict

# 2,000 bodies of 20 MB through one worker of Envoy, and every other Check answered meanwhile.
test-bodies: need-rust tools
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact \
		transports::two_thousand_messages_over_the_limit_cost_no_other_check_and_no_connection

# The static release binary, which the image and the package hold.
dist:
	deploy/dist.sh

# The module inside Envoy: target/dist/libenvoy_auth_tokens.so.
module: need-rust
	deploy/module.sh

# So many random requests through ext_authz and through the module: nobody may see a difference.
REQUESTS ?= 100000
differential: need-rust tools
	REQUESTS=$(REQUESTS) $(CARGO) test --locked --test it -- --nocapture --exact \
		inside_envoy::random_requests_are_answered_as_by_the_server

# The module's `unsafe` against a fake Envoy, under AddressSanitizer.
asan: need-rust
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/envoy-module/asan-rustc.sh $(CARGO) test --locked -p envoy-auth-tokens-module --lib

# The Debian package of the binary that `make dist` built.
deb: need-rust need-python
	@deploy/debian/build.sh

# The Debian package of the module that `make module` built.
module-deb: need-rust need-python
	@deploy/debian/build.sh module

# The image of it; deploy/image.sh says what can be chosen.
image: dist need-python
	PYTHON=$(PYTHON) deploy/image.sh

# What the Helm chart has of other files.
chart: need-python
	@$(PYTHON) deploy/helm/readme.py

# What a release is made of: .github/workflows/release.yaml calls these.  deploy/release.sh says what each needs.
archive module-archive chart-package push-image join-images push-chart sign github-release: need-python
	@PYTHON=$(PYTHON) deploy/release.sh $@

# The tests that need it.  They want root, on Debian or Ubuntu, and cgroup2.
test-shipped: dist need-curl tools
	$(CARGO) test --locked --test it -- --ignored shipped::

# Advisories, two builds compared, the bill of materials: see docs/releases.md.
release-check: need-rust need-python
	deploy/release-check.sh

bench: need-rust need-python
	benches/run.sh

# Through a real Envoy: no filter, api_key_auth, ext_authz to us, and the module inside.
bench-envoy: need-rust need-python tools module
	$(CARGO) build --locked --release --package envoy-auth-tokens --bin envoy-auth-tokens
	$(CARGO) build --locked --release --manifest-path benches/allow-all/Cargo.toml --target-dir target/allow-all
	$(PYTHON) -B benches/envoy.py --write

bench-keys: need-rust need-python
	benches/run.sh keys

bench-accounts: need-rust need-python
	benches/run.sh accounts

KEYS ?= 1000000
REPLICAS ?= 10
bench-store: need-rust need-python
	benches/run.sh store --keys $(KEYS) --replicas $(REPLICAS)

GUESSES ?= 5000
bench-directory: need-rust need-python
	benches/run.sh directory --guesses $(GUESSES)

fmt: need-rust
	$(CARGO) fmt --all

lint: need-rust need-lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --package envoy-auth-tokens --no-default-features --lib -- -D warnings
	$(CARGO) clippy --locked --package envoy-auth-tokens --no-default-features --features runtime,postgres,ldap --lib -- -D warnings
	$(CARGO) clippy --locked --package envoy-auth-tokens --no-default-features --features server --lib --bins -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' \
		$(CARGO) doc --locked --no-deps --document-private-items

need-rust:
	@command -v $(CARGO) >/dev/null || { echo 'error: Rust is missing: install it with rustup (https://rustup.rs).' >&2; exit 1; }

need-lints:
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || { echo 'error: rustfmt or clippy is missing: rustup component add rustfmt clippy.' >&2; exit 1; }

need-python:
	@command -v $(PYTHON) >/dev/null || { echo 'error: Python 3.10 or newer is missing: install python3 and python3-pip.' >&2; exit 1; }

need-curl:
	@command -v curl >/dev/null || { echo 'error: curl is missing: install it (Debian and Ubuntu: apt install curl).' >&2; exit 1; }
