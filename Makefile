# Everything that is built, tested and measured here. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build ledger test check fmt chaos fuzz interop perf pictures docker release clean tools

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# The release build: static, with no paths of the machine that made it, the same bytes each time.
# Go's own stamp of the commit is left out: a clone has it and a worktree or an image's build has not.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags='-s -w -buildid= -X main.version=$(VERSION)'

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

OUT ?= bin/kapsel

build: ## build bin/kapsel
	$(BUILD) -o $(OUT) ./cmd/kapsel

ledger: ## build bin/kapsel-ledger, which books deliveries in TigerBeetle
	$(BUILD) -o $(or $(LEDGER_OUT),bin/kapsel-ledger) ./cmd/kapsel-ledger

# The race detector makes a test four times as slow. Here it watches the packages of RACED, the whole path of
# an event in a simulated world (internal/sim) among them; the engine's tests of MEET; and some of the stores'
# promises. Chaos has it watch all tests of the engine and the stores. SQLite's own code, which is translated from C
# and single-threaded to us, is always compiled without it. No other package is: each brings copies of generic code, that
# of sync.Map for one. The linker may take such a copy for the whole program, and the detector then sees races that are none.
RACED  := client internal/budget internal/clock internal/cluster internal/delivery/gate internal/egress internal/feed internal/ingest internal/ratelimit internal/secret internal/settings internal/sim internal/store/batch internal/telemetry internal/upkeep
RACE   := -race -gcflags=modernc.org/libc=-race=false -gcflags=modernc.org/sqlite/lib=-race=false
MEET   := ^Test(Turns|Patch|Pause|Circuit|Shortage|ManyEndpoints|Overloaded|TakeOver|Stop)
STORES := ./internal/store/sqlite ./internal/store/postgres
space := $(subst ,, )

test: tools check ## everything that must hold before a change is merged (about 8 minutes of CPU)
	$(GO) test $(RACE) -vet=off -timeout 60m $(RACED:%=./%/...)
	$(GO) test $(RACE) -vet=off -timeout 60m -run '$(MEET)' ./internal/delivery
	$(GO) test $(RACE) -vet=off -timeout 60m -run '^TestStore/^(Claim|Complete|Queue|Nodes)$$' -skip '/Queue/whatever' $(STORES)
	$(GO) test -vet=off -timeout 60m $$($(GO) list ./... | grep -vE '/kapsel/($(subst $(space),|,$(RACED)))(/|$$)')
	cd receipt/independent && $(GO) test -vet=off -timeout 60m ./...

tools:
	@scripts/tools

check: ## the parts of test that need no database: format, vet, staticcheck, go.mod, generated files
	scripts/check

fmt: ## format all Go files
	gofmt -w $$(git ls-files '*.go')

chaos: tools ## kill, freeze and starve the real binary and PostgreSQL, full counts, and beside the program of an older release (about two hours; needs the git history)
	KAPSEL_CHAOS=full $(GO) test -tags history -timeout 180m -count=1 -v ./internal/delivery ./internal/e2e/...
	KAPSEL_CHAOS=full $(GO) test -timeout 30m -count=1 ./internal/egress ./internal/audit ./internal/dashboard
	KAPSEL_CHAOS=full $(GO) test $(RACE) -timeout 30m -count=1 -run TestStore $(STORES)
	$(GO) test $(RACE) -timeout 30m -count=1 -skip '^TestStore$$' ./internal/delivery ./internal/store/...
	$(MAKE) fuzz

fuzz: ## run each fuzz target of what comes from outside for FUZZTIME (5m)
	scripts/fuzz $(or $(FUZZTIME),5m) ./internal/signature ./internal/egress ./receipt

interop: ## verify and sign with the providers' libraries (needs Node, npm and Python), and try the API with requests made from its document
	@command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' || { echo 'make interop needs Python 3.10 or newer with venv (apt-get install python3-venv)' >&2; exit 1; }
	cd interop && npm ci --ignore-scripts --no-audit --no-fund
	cd interop && python3 -m venv --clear .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r providers.txt
	$(GO) test -tags interop -run Interop -count=1 -v ./internal/e2e
	$(MAKE) build
	python3 interop/openapi.py bin/kapsel

perf: tools ## measure every promise that has a number, beside its limit (a quiet machine, please)
	$(GO) test -tags perf -run Perf -timeout 60m -count=1 -v ./internal/e2e

pictures: ## draw the pictures of docs/images from what the program prints
	scripts/pictures

docker: ## build the container image kapsel:VERSION
	docker build --build-arg VERSION=$(VERSION) -t kapsel:$(VERSION) .

release: ## build dist/VERSION: binaries for all systems, SBOMs, checksums; and the image
	scripts/release

clean: ## remove what was built here
	rm -rf bin dist
