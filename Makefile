# The front door: `make help` says what there is.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/backfill-operator/target
CACHE ?= $(HOME)/.cache/backfill-operator
PYTHON ?= python3
STATE ?= target/quickstart
QUICKSTART := deploy/examples/quickstart

# Where the pinned toolchain is installed under the name `stable` only, that one serves: nothing to download.
PINNED := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
ifeq ($(filter $(PINNED)-%,$(shell rustup toolchain list 2> /dev/null)),)
ifeq ($(word 2,$(shell rustc +stable --version 2> /dev/null)),$(PINNED))
export RUSTUP_TOOLCHAIN := stable
endif
endif

# A virtual environment per list of pinned packages; another list is another folder.
venv = $(CACHE)/venv-$(shell cksum < $(1) | cut -d ' ' -f 1)
TEST_REQUIREMENTS := src/worker/tests/python/requirements.txt
BROWSER_REQUIREMENTS := src/cli/tests/dashboard/requirements.txt
DATA_REQUIREMENTS := $(QUICKSTART)/data/requirements.txt
BENCH_REQUIREMENTS := benches/requirements.txt
SPARK_REQUIREMENTS := src/worker/spark/requirements.txt
SPARK_POM := src/worker/spark/pom.xml
ZIG_REQUIREMENTS := deploy/krew/requirements.txt
SBOM_REQUIREMENTS := deploy/images/requirements.txt
TEST_VENV := $(call venv,$(TEST_REQUIREMENTS))
BROWSER_VENV := $(call venv,$(BROWSER_REQUIREMENTS))
DATA_VENV := $(call venv,$(DATA_REQUIREMENTS))
BENCH_VENV := $(call venv,$(BENCH_REQUIREMENTS))
SPARK_VENV := $(call venv,$(SPARK_REQUIREMENTS))
ZIG_VENV := $(call venv,$(ZIG_REQUIREMENTS))
SBOM_VENV := $(call venv,$(SBOM_REQUIREMENTS))
# The jars that Spark does not bring, and a library that its own loader mistakes for another's where musl is installed beside glibc.
SPARK_JARS := $(CACHE)/spark-jars-$(shell cksum < $(SPARK_POM) | cut -d ' ' -f 1)
SPARK_NATIVE := $(SPARK_VENV)/native
SPARK := $(SPARK_VENV)/ready $(SPARK_JARS) $(SPARK_NATIVE)
SPARK_ENV = BACKFILL_SPARK_PYTHON=$(SPARK_VENV)/bin/python BACKFILL_SPARK_JARS=$(SPARK_JARS) \
  JAVA_TOOL_OPTIONS='-XX:TieredStopAtLevel=1 -Dorg.xerial.snappy.lib.path=$(SPARK_NATIVE) -Dorg.xerial.snappy.lib.name=libsnappyjava.so'

BENCH_OFFLINE = $(BENCH_VENV)/bin/python benches/run.py --worker $(CARGO_TARGET_DIR)/release/backfill-worker --data $(CACHE)/bench \
  --spark-python $(SPARK_VENV)/bin/python --spark-jars $(SPARK_JARS)

# Static: runs on every distribution.
CLI_TARGET ?= x86_64-unknown-linux-musl
CLI_TARGETS := x86_64-unknown-linux-musl aarch64-unknown-linux-musl x86_64-apple-darwin aarch64-apple-darwin x86_64-pc-windows-gnu
CLI_PROGRAM = kubectl-features$(if $(findstring windows,$(CLI_TARGET)),.exe)
# Zig links for other platforms than Debian's own compilers do.
CLI_ZIG := $(if $(filter-out x86_64-unknown-linux-musl,$(CLI_TARGET)),$(ZIG_VENV)/ready)

# Static too, but with the C library whose allocator is fast. Paths of this machine stay out, so that another one builds the same.
IMAGE_TARGET ?= x86_64-unknown-linux-gnu
IMAGE_FLAGS := -C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/source --remap-path-prefix=$(HOME)/.cargo=/cargo
SKIPPED := $(CARGO_TARGET_DIR)/skipped
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
NODES ?= 1

# Built apart: what the operator asks of shared crates must not make the data crates compile anew.
DATA_PLANE := --package backfill-core --package backfill-worker
CONTROL_PLANE := --package backfill-operator --package backfill-cli --package backfill-e2e

# Goes on when the check $(1) passes. Otherwise installs the Debian packages $(2), as root on Debian, or says how and stops.
define require
	@{ $(1); } > /dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
	    echo "installing $(2)"; \
	    apt-get update --quiet --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes $(2); \
	  else \
	    echo "this needs $(2): sudo apt-get install $(2)" >&2; exit 1; \
	  fi; \
	}
endef

.PHONY: help
help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: compiler ## Fills two feature sets from real data, corrects a part of one and takes that back; no cluster, no service.
	@mkdir -p $(STATE)/data && cp $(QUICKSTART)/data/*.parquet $(STATE)/data/
	cargo run --package backfill-worker -- local -f $(QUICKSTART) --state $(STATE)

.PHONY: test
test: compiler redis faketime java chromium nodes-if-possible $(TEST_VENV)/ready $(BROWSER_VENV)/ready $(SBOM_VENV)/ready $(SPARK) ## Runs all tests; as root on Debian it installs what they need. The test cluster needs Go.
	src/e2e/tools/build
	$(SPARK_ENV) BACKFILL_TEST_PYTHON=$(TEST_VENV)/bin/python cargo test $(DATA_PLANE) --features backfill-worker/failpoints
	cargo build $(CONTROL_PLANE)
	@rm -f $(SKIPPED)
	$(SPARK_ENV) BACKFILL_BROWSER_PYTHON=$(BROWSER_VENV)/bin/python BACKFILL_TEST_PYTHON=$(TEST_VENV)/bin/python \
	  BACKFILL_SBOM_PYTHON=$(SBOM_VENV)/bin/python BACKFILL_SKIPPED=$(SKIPPED) cargo test $(CONTROL_PLANE) -- --test-threads=8
	@if [ -s $(SKIPPED) ]; then echo "These tests did not run:"; sort $(SKIPPED); fi

.PHONY: test-long
test-long: export BACKFILL_LONG = 1
test-long: export BACKFILL_TEST_PYTHON = $(TEST_VENV)/bin/python
test-long: compiler redis java nodes $(TEST_VENV)/ready $(SPARK) ## Runs tests that take minutes: all cases with two executors of Spark, Spark in several pods.
	src/e2e/tools/build
	cargo build $(DATA_PLANE)
	cargo build $(CONTROL_PLANE)
	$(SPARK_ENV) cargo test --package backfill-e2e --test real -- --test-threads=1 spark:: volume:: trouble::a_template
	$(SPARK_ENV) cargo test --package backfill-worker --features failpoints --test it -- spark::

.PHONY: lint
lint: compiler ## Checks format, lints, and that the core depends on no client, runtime or data crate.
	cargo fmt --all --check
	cargo check --package backfill-core
	@! cargo tree --package backfill-core --edges normal --prefix none | \
	  grep -E '^(arrow|datafusion|deltalake|hyper|kube-(client|runtime)|object_store|redis|rusqlite|tokio)\b'
	@! cargo tree $(CONTROL_PLANE) --edges normal --prefix none | grep -E '^(arrow|datafusion|deltalake|parquet)\b'
	cargo clippy $(DATA_PLANE) --all-targets --features backfill-worker/failpoints -- --deny warnings
	cargo clippy $(CONTROL_PLANE) --all-targets -- --deny warnings

.PHONY: deny
deny: ## Checks the dependencies' licences and sources; needs cargo-deny (cargo install --locked cargo-deny).
	cargo deny check bans licenses sources

.PHONY: generate
generate: compiler ## Writes the files that are generated: crds/, docs/cli.md, the chart's README and copies, deploy/install.yaml, golden files.
	cargo run --package backfill-core --example crds
	cargo run --package backfill-cli --example generate
	BACKFILL_BLESS=1 cargo test --package backfill-e2e --test chart -- files:: renders::renders_are_as_kept argo::the_golden_folder

.PHONY: cli
ifneq ($(findstring darwin,$(CLI_TARGET)),)
# The first on arm64, as in rustc; zig would ask for one of its own year.
cli: export MACOSX_DEPLOYMENT_TARGET ?= 11.0
# Elsewhere there is no SDK: what the plugin calls of macOS is known by name.
ifneq ($(shell uname -s),Darwin)
cli: export SDKROOT ?= $(CURDIR)/deploy/krew/macos
endif
endif
cli: compiler $(CLI_ZIG) ## Builds the kubectl plugin, its man pages and its archive for krew: dist/. For another platform: CLI_TARGET=…
	$(if $(CLI_ZIG),,$(call require,command -v musl-gcc,musl-tools))
	rustup target add $(CLI_TARGET)
	$(if $(CLI_ZIG),PATH=$(ZIG_VENV)/bin:$$PATH cargo zigbuild,cargo build) --profile dist --package backfill-cli --target $(CLI_TARGET)
	cargo run --package backfill-cli --example generate -- dist/man
	deploy/krew/archive $(CLI_TARGET) $(CARGO_TARGET_DIR)/$(CLI_TARGET)/dist/$(CLI_PROGRAM) dist/man dist

.PHONY: krew
krew: ## Builds the plugin for all platforms, and the manifest by which krew installs it from URL=…: dist/features.yaml.
	@: $(or $(URL),$(error say where the archives will be published: make krew URL=https://…))
	for target in $(CLI_TARGETS); do $(MAKE) cli CLI_TARGET=$$target || exit 1; done
	deploy/krew/manifest $(VERSION) $(URL) dist > dist/features.yaml

.PHONY: images
images: export RUSTFLAGS = $(IMAGE_FLAGS)
images: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
images: export REVISION ?= $(shell git rev-parse HEAD)
images: export VERSION := $(VERSION)
images: compiler java $(SPARK) $(SBOM_VENV)/ready ## Builds release images, static and reproducible, and their bills of materials: dist/images/. Takes forty minutes.
	$(call require,command -v buildah && test -e /etc/ssl/certs/ca-certificates.crt,buildah ca-certificates)
	rustup target add $(IMAGE_TARGET)
	cargo build --release --target $(IMAGE_TARGET) --package backfill-operator --package backfill-cli
	@# Functions that were compiled to the same code are linked once.
	cargo rustc --release --target $(IMAGE_TARGET) --package backfill-worker --bin backfill-worker -- -C link-arg=-Wl,--icf=all
	mkdir -p dist/images && rm -rf dist/images/*
	deploy/images/build deploy/images/operator/Containerfile backfill-operator:$(VERSION) oci-archive:dist/images/backfill-operator.tar \
	  $(addprefix $(CARGO_TARGET_DIR)/$(IMAGE_TARGET)/release/,backfill-operator kubectl-features)
	deploy/images/build deploy/images/worker/Containerfile backfill-worker:$(VERSION) oci-archive:dist/images/backfill-worker.tar \
	  $(CARGO_TARGET_DIR)/$(IMAGE_TARGET)/release/backfill-worker
	ROOT=dist/images/worker-spark $(SPARK_ENV) deploy/images/build deploy/images/worker-spark/Containerfile backfill-worker-spark:$(VERSION) \
	  oci-archive:dist/images/backfill-worker-spark.tar $(CARGO_TARGET_DIR)/$(IMAGE_TARGET)/release/backfill-worker
	deploy/images/sbom backfill-operator $(IMAGE_TARGET) dist/images/backfill-operator.cdx.json backfill-operator backfill-cli
	deploy/images/sbom backfill-worker $(IMAGE_TARGET) dist/images/backfill-worker.cdx.json backfill-worker
	ROOT=dist/images/worker-spark deploy/images/sbom backfill-worker-spark $(IMAGE_TARGET) dist/images/backfill-worker-spark.cdx.json \
	  backfill-worker
	$(SBOM_VENV)/bin/python deploy/images/check dist/images/*.cdx.json
	rm -r dist/images/worker-spark
	@ls -l dist/images

.PHONY: cluster
cluster: compiler redis nodes ## Starts a cluster with a node that runs real pods, in the background; prints how to talk to it. Linux, root.
	@src/e2e/tools/build > /dev/null
	cargo build $(DATA_PLANE)
	cargo build $(CONTROL_PLANE)
	@$(CARGO_TARGET_DIR)/debug/cluster up $(NODES)

.PHONY: demo
demo: cluster $(TEST_VENV)/ready ## On such a cluster: the chart, Redis and S3 as pods, the flights example; a reset and two intervals.
	@KUBECONFIG=$$($(CARGO_TARGET_DIR)/debug/cluster up | sed 's/^export KUBECONFIG=//') TOOLS=$$(src/e2e/tools/build) \
	  PYTHON=$(TEST_VENV)/bin/python deploy/demo/run

.PHONY: cluster-down
cluster-down: ## Ends that cluster without a trace.
	@if [ -x $(CARGO_TARGET_DIR)/debug/cluster ]; then $(CARGO_TARGET_DIR)/debug/cluster down; fi

.PHONY: data
data: $(DATA_VENV)/ready ## Makes the quickstart's Parquet files from the published flights of 2013.
	$(DATA_VENV)/bin/python $(QUICKSTART)/data/make_data.py

.PHONY: bench
bench: compiler java $(BENCH_VENV)/ready $(SPARK) ## Measures replacing 1 to 365 days beside other tools; keeps the result in docs/benchmarks.md.
	cargo build --release --package backfill-worker
	BENCH_TARGET='make bench' BENCH='$(BENCH)' $(BENCH_OFFLINE) $(BENCH)

.PHONY: bench-engines
bench-engines: compiler java $(BENCH_VENV)/ready $(SPARK) ## Measures both engines of the worker beside plain PySpark; keeps the result too.
	cargo build --release --package backfill-worker
	BENCH_TARGET='make bench-engines' BENCH='$(BENCH)' $(BENCH_OFFLINE) --section engines --layouts partitioned \
	  --tools worker engine_spark spark --repeat 3 $(BENCH)

.PHONY: bench-online
bench-online: compiler redis $(BENCH_VENV)/ready $(TEST_VENV)/ready ## Measures writing to Redis beside the server's ceiling and Feast; keeps the result too.
	$(BENCH_VENV)/bin/python benches/online.py --feast-python $(TEST_VENV)/bin/python --bench "$$(cargo bench --package backfill-worker \
	  --bench online --no-run --message-format json | sed -n 's/.*"executable":"\([^"]*\/online-[^"]*\)".*/\1/p')"

.PHONY: bench-operator
bench-operator: compiler ## Measures thousands of backfills on a real control plane with played pods; keeps the result too.
	src/e2e/tools/build
	cargo build --release --package backfill-operator --package backfill-e2e
	$(PYTHON) benches/control_plane.py $(BENCH) --bench "$$(cargo bench --package backfill-operator --package backfill-e2e \
	  --bench operator --no-run --message-format json | sed -n 's/.*"executable":"\([^"]*\/operator-[^"]*\)".*/\1/p')"

.PHONY: clean
clean: ## Removes the state that the quickstart left.
	rm -rf $(STATE)

.PHONY: compiler
compiler:
	$(call require,command -v cc,build-essential)

.PHONY: redis
redis:
	$(call require,command -v redis-server,redis-server)

.PHONY: chromium
chromium:
	$(call require,command -v chromium,chromium)

.PHONY: nodes
nodes:
	$(call require,command -v buildah && command -v containerd && command -v ip && command -v iptables && command -v runc && \
	  test -e /usr/lib/cni/bridge,buildah ca-certificates containerd containernetworking-plugins iproute2 iptables runc)

# Tests that need nodes are skipped where these cannot run, and say so.
.PHONY: nodes-if-possible
nodes-if-possible:
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then $(MAKE) --no-print-directory nodes; fi

.PHONY: faketime
faketime:
	$(call require,command -v faketime,faketime)

.PHONY: java
java:
	$(call require,command -v java && command -v mvn,default-jre-headless maven)

.PHONY: python
python:
	$(call require,$(PYTHON) -c 'import ensurepip',python3-venv)

$(TEST_VENV)/ready: packages = --requirement $(TEST_REQUIREMENTS)
$(BROWSER_VENV)/ready: packages = --requirement $(BROWSER_REQUIREMENTS)
$(DATA_VENV)/ready: packages = --no-deps --requirement $(DATA_REQUIREMENTS)
$(BENCH_VENV)/ready: packages = --requirement $(BENCH_REQUIREMENTS)
$(SPARK_VENV)/ready: packages = --requirement $(SPARK_REQUIREMENTS)
$(ZIG_VENV)/ready: packages = --no-deps --requirement $(ZIG_REQUIREMENTS)
$(SBOM_VENV)/ready: packages = --no-deps --requirement $(SBOM_REQUIREMENTS)
$(CACHE)/venv-%/ready: | python
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check $(packages)
	@touch $@

$(SPARK_JARS): | java
	mvn --quiet --batch-mode --file $(SPARK_POM) org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
	  -DincludeScope=runtime -DoutputDirectory=$@.part
	mv $@.part $@

$(SPARK_NATIVE): | $(SPARK_VENV)/ready
	$(SPARK_VENV)/bin/python -m zipfile --extract $(SPARK_VENV)/lib/python*/site-packages/pyspark/jars/snappy-java-*.jar $@.part
	mv $@.part/org/xerial/snappy/native/Linux/$(shell uname -m) $@ && rm -r $@.part
