# Nightshift's build. `make help` lists what can be made; every target works from a clean clone.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -X main.version=$(VERSION)

# The programs that users get. The Terraform provider is built where it is released.
PROGRAMS = $(filter-out terraform-provider-nightshift,$(notdir $(patsubst %/main.go,%,$(wildcard cmd/*/main.go))))

.DEFAULT_GOAL := build
.PHONY: help build test lint bench soak gen gen-check clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

build: ## build the programs and the examples' executable into bin/
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))
	$(GO) build -trimpath -o bin/data-processor ./examples/data-processing/processor

test: ## run every test with the race detector; installs what the tests need; ends with the counts
	@.ci/test

lint: ## gofmt, go vet, staticcheck, and the rules of the design
	@.ci/lint

bench: ## run the benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

soak: ## run the tests with their long counts (hours)
	@.ci/test --soak

gen: ## regenerate what is generated
	.ci/gen

gen-check: gen ## fail if what is generated was stale
	git diff --exit-code -- '*.pb.go' '*zz_generated*'

clean: ## remove what was built and what the tests installed
	rm -rf bin .cache
