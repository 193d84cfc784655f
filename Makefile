# `make` alone lists the targets: each is documented by the "##" behind it.

PREFIX   ?= /usr/local
FUZZTIME ?= 60s

# The version is the nearest tag and the distance from it; a tree without git
# is "unknown". -buildvcs=false: git's refusal to read somebody else's tree
# must not fail the build, and what it would add is in the version already.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD   := -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"

# The linters are a module of their own, see internal/tools/go.mod.
TOOL := go tool -modfile=internal/tools/go.mod

# The tests of the built binary run after the others and not beside them: they
# hold programs to deadlines, on a machine of two cores.
UNIT = $(shell go list ./... | grep -v '^wstun/integration')

# gofmt takes the tree's own Go files; a dot-folder or node_modules has none of ours.
GOFILES = $(shell find . -name '*.go' -not -path '*/node_modules/*' -not -path './.*')

# The targets that `test` needs are in its order, also with make -j.
.NOTPARALLEL:

.PHONY: help demo build install test setup lint unit integration soak bench fuzz mutants clean

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## show both paths work: a small service, a server and a client, until Ctrl-C
	bin/wstun demo

build: ## build bin/wstun, one static binary
	CGO_ENABLED=0 go build $(BUILD) -o bin/ ./cmd/wstun

install: build ## copy it to $(PREFIX)/bin (PREFIX=/usr/local; DESTDIR for packagers)
	install -d "$(DESTDIR)$(PREFIX)/bin"
	install -m 755 bin/wstun "$(DESTDIR)$(PREFIX)/bin/wstun"

test: setup lint unit integration ## everything CI runs; as root it first installs what is missing

setup: ## install the programs that the tests use (Debian packages, two from npm)
	@integration/setup.sh

lint: ## gofmt, go vet, staticcheck, and the project's own rules
	@unformatted=$$(gofmt -l $(GOFILES)); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w: $$unformatted"; exit 1; fi
	go vet ./...
	$(TOOL) staticcheck ./...
	go test -count=1 ./integration/rules

unit: ## the tests of the packages, with the race detector; the line's model, which that slows, also without
	go test -race $(UNIT)
	go test -run 'Model|CutAtEveryByte' ./internal/line

integration: build ## the tests of bin/wstun among real programs (RUN=NAME for some)
	WSTUN_BINARY=$(CURDIR)/bin/wstun go test -count=1 -timeout 10m -v -run '$(RUN)' ./integration

soak: build ## the faults, as many and as long as promised (a quarter of an hour)
	WSTUN_SOAK=1 WSTUN_BINARY=$(CURDIR)/bin/wstun go test -count=1 -v -run 'Fault' -timeout 2h ./integration

bench: ## all benchmarks
	go test -run '^$$' -bench . -benchmem $(UNIT)

fuzz: ## every fuzz target for FUZZTIME (60s)
	@integration/fuzz.sh $(FUZZTIME)

mutants: ## break internal/line in one place after another: its tests must see each
	@integration/mutants.sh

clean: ## remove what was built
	rm -rf bin integration/node_modules
