# Everything here works as root on Debian 12 with Rust, make and gcc; each target does the set-up that it needs.
#
#   make demo      build rbuild, a base image and the examples; run one and show its answer
#   make test      every test
#   make test-vm   the sandbox's tests on Debian's own kernel, in a virtual machine
#   make lint      formatting, clippy, licences and sources of the dependencies
#   make bench     speed and memory, printed
#   make compare   rbuild beside Docker, buildah and podman from Debian sid; COMPARE=--quick for small sizes
#   make growth    how the cost of a build grows with steps, files and bytes; GROWTH=--full for the largest
#   make instructions  instructions of the hot paths, compared with benches/instructions.txt;
#                  make instructions-update writes that file
#   make soak      the fuzz targets, builds that are killed, crowds of builds and a changing
#                  context for SOAK_SECONDS each, SOAK_CASES random builds, what has limits, with them,
#                  caches in a bucket of garage, if that is installed (GARAGE=PATH), and images into
#                  real docker, podman and containerd, whose packages it unpacks
#   make install   the binary into $(DESTDIR)$(PREFIX)/bin
#   make clean     what the above made
PREFIX ?= /usr/local
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
RBUILD := $(TARGET)/release/rbuild

.PHONY: all demo test test-vm lint bench growth compare instructions instructions-update soak install clean setup release

all: release

release:
	$(CARGO) build --release --locked --package rbuild

setup:
	tests/setup.sh

demo: setup release
	examples/demo.sh $(RBUILD) $(TARGET)/demo

# The unit and end-to-end tests end with one line that counts them; tests in documentation come first.
test: setup
	tests/run.sh

# VM_TESTS=--short runs one or two of each kind; VM_TESTS=limits:: those whose names match.
test-vm:
	tests/vm/run.sh $(VM_TESTS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	tests/deny.sh

bench: setup release
	benches/run.sh $(RBUILD)
	benches/transfer.sh $(RBUILD)
	benches/export.sh $(RBUILD)
	$(CARGO) bench --locked --package rbuild-micro --bench micro
	$(CARGO) bench --locked --package rbuild-executor --bench step
	$(CARGO) bench --locked --package rbuild-executor --bench context -- --rbuild $(abspath $(RBUILD))
	$(CARGO) bench --locked --package rbuild-frontend --bench large
	$(CARGO) bench --locked --package rbuild-solver --bench schedule
	$(CARGO) bench --locked --package rbuild-store --bench cached_rebuild

growth: release
	benches/growth.sh $(RBUILD) $(GROWTH)

# Flags for compilers from outside, and other compilers, would change what is counted. COUNTS chooses cases by parts of their names.
COUNT := env --unset=RUSTFLAGS --unset=CARGO_ENCODED_RUSTFLAGS --unset=CFLAGS --unset=RUSTC_WORKSPACE_WRAPPER \
	$(CARGO) bench --locked --profile counted --package rbuild-micro --bench micro -- --instructions
instructions: setup
	$(COUNT) $(COUNTS)

instructions-update: setup
	$(COUNT) --update $(COUNTS)

# Options of benches/compare/run.sh.
compare: setup release
	benches/compare/run.sh $(RBUILD) $(COMPARE)

SOAK_SECONDS ?= 240
SOAK_CASES ?= 20000
soak: setup release
	fuzz/run.sh $(SOAK_SECONDS)
	RBUILD_SOAK_SECONDS=60 $(CARGO) test --locked --package rbuild-store --test store gc_processes::
	RBUILD_SOAK_SECONDS=60 $(CARGO) test --locked --package rbuild --test e2e space::
	RBUILD_SOAK_SECONDS=60 $(CARGO) test --locked --package rbuild --test e2e limits::output
	RBUILD_SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --package rbuild --test e2e -- --test-threads=1 kill:: crowd::
	$(CARGO) bench --locked --package rbuild-frontend --bench large -- --enforce
	$(CARGO) bench --locked --package rbuild-executor --bench context -- --rbuild $(abspath $(RBUILD)) --enforce
	$(CARGO) bench --locked --package rbuild-executor --bench step -- --enforce
	$(CARGO) bench --locked --package rbuild-solver --bench schedule -- --enforce
	CARGO=$(CARGO) tests/garage.sh
	CARGO=$(CARGO) tests/engines.sh
	RBUILD=$(abspath $(RBUILD)) tests/buildx.sh
	RBUILD_SOAK_CASES=$(SOAK_CASES) $(CARGO) test --locked --package rbuild-solver --test solve random
	RBUILD_SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --package rbuild-executor --lib source::tests::hostile
	RBUILD_SOAK_SECONDS=60 $(CARGO) test --locked --package rbuild-executor --test sandbox race::

install: release
	install -D --mode=755 $(RBUILD) $(DESTDIR)$(PREFIX)/bin/rbuild

clean:
	$(CARGO) clean
	rm -rf examples/*/host
