# stockledger: `make` lists what there is.

SHELL       := /bin/bash
BIN         := bin/stockledger
TOOLS       := bin/tools
GO_FILES     = $(shell find . -path './.*' -prune -o -path ./proto/gen -prune -o -name '*.go' -print)
# A number of inputs, not of seconds: the fuzzer takes its own deadline for a
# failure now and then (golang/go#75804).
FUZZ_INPUTS  ?= 40000
JOURNAL_ENTRIES ?= 1000000
OPERATIONS      ?= 100000
LOW_OPERATIONS  ?= 50000

.DEFAULT_GOAL := help
.PHONY: help run cluster build test bench bench-journal bench-operations lint generate fmt fuzz clean-data tools check-generated check-format race-ready
# Steps of a target read what the ones before them wrote.
.NOTPARALLEL:

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

run: build ## Start a database, load demo clinics and serve: everything on this machine
	@$(BIN) dev

cluster: build ## Start a database and three nodes, each with an etcd member: a cluster on this machine
	@$(BIN) dev --nodes 3

build: ## Build bin/stockledger
	@go build -o $(BIN) ./cmd/stockledger

test: tools check-generated check-format lint race-ready ## Run everything that CI runs
	@race=; if $(CAN_RACE); then race=-race; fi; \
	export PATH="$(CURDIR)/$(TOOLS):$$PATH"; set -x; \
	go test $$race -timeout 30m ./...
	@$(MAKE) --no-print-directory fuzz
	@$(CAN_RACE) || echo "$(NO_RACE)"

fuzz: ## Fuzz the stored formats, scans, journal files and FHIR orders with FUZZ_INPUTS each
	go test -run '^$$' -fuzz FuzzDecodeEvent -fuzztime $(FUZZ_INPUTS)x ./ledger
	go test -run '^$$' -fuzz FuzzDecodeDocument -fuzztime $(FUZZ_INPUTS)x ./ledger
	go test -run '^$$' -fuzz FuzzDecodeCommand -fuzztime $(FUZZ_INPUTS)x ./ledger
	go test -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZ_INPUTS)x ./ledger/gs1
	go test -run '^$$' -fuzz FuzzJournalFile -fuzztime $(FUZZ_INPUTS)x -fuzzminimizetime 20x ./txn
	go test -run '^$$' -fuzz FuzzReadOrder -fuzztime $(FUZZ_INPUTS)x -fuzzminimizetime 20x ./rpc/fhir

bench: build ## Measure against hand-written SQL (BENCH_SECONDS, BENCH_ROUNDS, BENCH_JSON=FILE)
	@go run ./loadtest/bench

bench-journal: ## Make, verify, import and export a journal of JOURNAL_ENTRIES, with the memory that each takes
	go test -run '^$$' -bench '^BenchmarkJournal$$' -benchtime 1x -timeout 1h ./txn -journal.entries $(JOURNAL_ENTRIES)

bench-operations: ## Carry out OPERATIONS submitted commands while nodes are killed at random, and high ones while LOW_OPERATIONS wait
	OPERATIONS=$(OPERATIONS) LOW_OPERATIONS=$(LOW_OPERATIONS) go test -run '^(TestOperationsSurvive|TestUrgentOperationsPass)$$' -count=1 -v -timeout 2h ./loadtest

lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## Vet and lint code and API
	go vet ./...
	$(TOOLS)/golangci-lint run
	$(TOOLS)/buf lint
	@./proto/breaking.sh $(TOOLS)/buf

generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-connect-go ## Generate code from proto/, docs/errors.md and docs/events.md
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(TOOLS)/buf generate
	go run ./rpc/gendocs

fmt: ## Format all code
	gofmt -w $(GO_FILES)

clean-data: build ## Delete what make run and make cluster keep, to start over
	@$(BIN) dev --clean-data
	@$(BIN) dev --nodes 3 --clean-data

# Generated files are committed; this fails where they are not what generating
# them now gives.
check-generated: generate
	@changed="$$(git status --porcelain -- proto/gen docs/errors.md docs/events.md)" || exit 1; \
	if [ -n "$$changed" ]; then echo "not what 'make generate' gives; run it and commit:"; echo "$$changed"; git --no-pager diff -- proto/gen docs/errors.md docs/events.md | head -50; exit 1; fi

check-format:
	@unformatted="$$(gofmt -l $(GO_FILES))" || exit 1; \
	if [ -n "$$unformatted" ]; then echo "run 'make fmt':"; echo "$$unformatted"; exit 1; fi

# The race detector needs cgo and a C compiler. Where there is none, root on
# Debian gets one; anybody else is told that races go undetected.
CAN_RACE = [ "$$(go env CGO_ENABLED)" = 1 ] && command -v $$(go env CC) >/dev/null
NO_RACE  = WARNING: there is no C compiler (or CGO_ENABLED=0), so the tests run WITHOUT the race detector; install gcc to have it

race-ready:
	@$(CAN_RACE) || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ -z "$$CGO_ENABLED" ] && \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev; \
	} || echo "$(NO_RACE)"

tools: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-connect-go $(TOOLS)/golangci-lint $(TOOLS)/grpcurl ## Build the tools that tools.mod pins into bin/tools

# Each is built once, and again when tools.mod changes.
$(TOOLS)/buf: tools.mod
	go build -modfile=tools.mod -o $@ github.com/bufbuild/buf/cmd/buf
$(TOOLS)/protoc-gen-go: tools.mod
	go build -modfile=tools.mod -o $@ google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-connect-go: tools.mod
	go build -modfile=tools.mod -o $@ connectrpc.com/connect/v2/cmd/protoc-gen-connect-go
$(TOOLS)/golangci-lint: tools.mod
	go build -modfile=tools.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/grpcurl: tools.mod
	go build -modfile=tools.mod -o $@ github.com/fullstorydev/grpcurl/cmd/grpcurl
