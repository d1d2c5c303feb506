# What a newcomer needs is `make demo` and `make test`; each does its own
# set-up. `make` alone lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

GO       ?= go
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null)
PAYLOAD  := cmd/muster/payload
SRC      := $(shell find api builder cmd headnode images initramfs internal nodeagent pxe console -name '*.go' -not -path '*/testdata/*' 2>/dev/null) go.mod go.sum
IMAGES   := $(patsubst %,build/%/manifest.json,compute compute-vm mini)
VM_IMAGE := build/compute-vm/manifest.json
BENCH     = MUSTER_BIN=$(CURDIR)/bin/muster MUSTER_IMAGE=$(CURDIR)/build/compute-vm
CHECKED  := ./...
DRIVERS  := ^TestVMShare(Head|Kernel|Ganesha)$$

# Debian packages: of the demo, and what the tests use beside them.
DEMO_DEBS := qemu-system-x86 ovmf ipxe-qemu seabios
TEST_DEBS := $(DEMO_DEBS) dnsmasq-base atftp busybox-static curl iproute2 squashfs-tools kmod cpio zstd xz-utils e2fsprogs xorriso gdisk dosfstools sbsigntool

.PHONY: help deps test-deps go-version build images demo check test test-vm test-net race fuzz bench bench-long fmt lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

go-version:
	@command -v $(GO) >/dev/null || { echo "muster: error: no Go found; install Go 1.21 or newer from https://go.dev/dl, or on Debian 13 and Ubuntu 24.04 with: apt install golang; then run make again" >&2; exit 1; }
	@v=$$(GOTOOLCHAIN=local $(GO) env GOVERSION); m=$${v#go1.}; m=$${m%%[.a-z-]*}; \
	 [ "$${v#go1.}" = "$$v" ] || [ "$$m" -ge 21 ] || { echo "muster: error: $$v is too old: Go 1.21 or newer fetches the right toolchain by itself; see https://go.dev/dl" >&2; exit 1; }

deps: ## install the Debian packages that the demo needs
	@.ci/deps $(DEMO_DEBS)

test-deps:
	@.ci/deps $(TEST_DEBS)

build: go-version bin/muster ## build bin/muster with everything an image needs inside

bin/muster: $(SRC) $(PAYLOAD)/bb.zst $(PAYLOAD)/muster-agent.zst $(wildcard images/*.yaml images/keys/*)
	@echo "building bin/muster"
	@$(GO) run ./internal/mkmuster -version "$(VERSION)" -o $@

$(PAYLOAD)/muster-agent.zst: $(SRC)
	@echo "building the node's programs"
	@$(GO) run ./internal/mkpayload -o $(PAYLOAD)
	@touch $@

$(PAYLOAD)/bb.zst: go.mod go.sum $(wildcard initramfs/*.go initramfs/mkbb/*.go initramfs/bb/*.go initramfs/commands/*.go initramfs/cmds/*/*.go)
	@echo "building the u-root tools (a minute or two the first time)"
	@$(GO) run ./initramfs/mkbb -out $(PAYLOAD)
	@touch $@

images: build $(IMAGES) ## build every image that is shipped and check it
	@for i in $(IMAGES); do bin/muster verify $$(dirname $$i) >/dev/null || exit 1; done

build/%/manifest.json: bin/muster
	@bin/muster build $* --output build/$*
	@touch $@

build/software/manifest.json build/head/manifest.json: build/%/manifest.json: bin/muster cmd/muster/testdata/%.yaml
	@bin/muster build ./cmd/muster/testdata/$*.yaml --output build/$*
	@touch $@

build/nfs-ganesha: | bin/muster
	@bin/muster demo-engine $@

demo: go-version deps build ## build an image, boot two diskless virtual machines from it, run jobs
	@bin/muster demo

check: go-version ## vet, lint, format and quick tests: what a change passes
	@$(GO) vet $(CHECKED)
	@$(GO) tool -modfile=internal/tools/go.mod gofumpt -l $(filter %.go,$(SRC)) | tee /dev/stderr | test -z "$$(cat)"
	@$(GO) tool -modfile=internal/tools/go.mod staticcheck $(CHECKED)
	@$(GO) test -short $(CHECKED)

lint: go-version ## the slower linters: deadcode, govulncheck
	@$(GO) tool -modfile=internal/tools/go.mod deadcode -test ./... ./headnode/store/testdata/powercut ./cmd/muster/testdata/powercut ./cmd/muster/testdata/headvm | tee /dev/stderr | test -z "$$(cat)"

test: go-version test-deps build $(VM_IMAGE) build/nfs-ganesha ## install what is needed and run all tests, also those in virtual machines
	@set -o pipefail; export MUSTER_NEED=all MUSTER_BIN=$(CURDIR)/bin/muster MUSTER_IMAGE=$(CURDIR)/build/compute-vm MUSTER_GANESHA=$(CURDIR)/build/nfs-ganesha; \
	 $(GO) test -json -p 2 -timeout 25m $(CHECKED) | $(GO) run ./internal/testtable

test-vm: go-version test-deps build $(VM_IMAGE) build/mini/manifest.json build/software/manifest.json build/head/manifest.json build/nfs-ganesha ## only the tests that boot virtual machines
	@export MUSTER_LONG=1 MUSTER_NEED=all MUSTER_BIN=$(CURDIR)/bin/muster MUSTER_IMAGE=$(CURDIR)/build/compute-vm MUSTER_GANESHA=$(CURDIR)/build/nfs-ganesha; \
	 $(GO) test -v -count=1 -timeout 60m -run 'VM|Ganesha|Userlands|OnAServer|Veritysetup' -skip '$(DRIVERS)' ./cmd/muster ./nodeagent/boot ./internal/vm ./headnode/store ./headnode/shares ./builder/verity && \
	 $(GO) test -v -count=1 -timeout 60m -run '$(DRIVERS)' ./cmd/muster

test-net: go-version test-deps build ## tests against the real package archives
	@set -o pipefail; export MUSTER_NEED=all MUSTER_NET=1 MUSTER_LONG=1; \
	 $(GO) test -json -count=1 -timeout 30m ./builder/... ./initramfs/bb ./internal/kmod/... | $(GO) run ./internal/testtable

race: go-version ## unit tests under the race detector
	@$(GO) test -race -short ./api/... ./headnode/... ./nodeagent/... ./pxe/... ./builder/...

FUZZTIME ?= 20s
fuzz: go-version ## every fuzz target for FUZZTIME (20s)
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz); do \
	  echo "fuzz $$p $$f"; $(GO) test -run xxx -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

bench: build $(VM_IMAGE) ## benchmarks that end within minutes
	@$(BENCH) $(GO) test -run xxx -bench . -benchtime 1s -short $(CHECKED)
	@$(BENCH) $(GO) test -run xxx -bench 'RunAndSSH|RunStages|RunOutput|RunInput|Idle' -benchtime 5s ./cmd/muster

bench-long: build $(VM_IMAGE) build/compute/manifest.json ## benchmarks with virtual machines, peers and the package archives
	@$(BENCH) MUSTER_NET=1 MUSTER_IMAGES=$(CURDIR)/build/compute-vm:$(CURDIR)/build/compute \
	 $(GO) test -run xxx -bench . -timeout 60m $(CHECKED)

fmt: go-version ## format the code
	@$(GO) tool -modfile=internal/tools/go.mod gofumpt -w $(filter %.go,$(SRC))

clean: ## remove what was built here; the download cache stays
	@rm -rf bin build $(PAYLOAD)/*.zst $(PAYLOAD)/*.json
