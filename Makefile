# Everything runs on a plain Debian 12 with Go, as root; targets install what
# they miss (tests/scripts/need). Start with `make test` and `make demo`.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# golangci-lint comes from the Go module proxy, so that checksums guard it.
LINT_VERSION := v2.15.0
LINT := .cache/bin/golangci-lint-$(LINT_VERSION)

NEED := tests/scripts/need
NIX := nix-bin:nix-store busybox-static

.DELETE_ON_ERROR:
.PHONY: build test test-newer-nix lint verify bench demo tools clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/closured ./cmd/closured

# gcc is for the race detector.
test:
	@$(NEED) git gcc libc6-dev e2fsprogs:mkfs.ext4 util-linux:unshare xz-utils:xz strace iproute2:ip skopeo $(NIX)
	@tests/scripts/check

# The tests that use Nix, under the Nix of a newer Debian. Part of test.
test-newer-nix:
	@$(NEED) util-linux:unshare $(NIX)
	@mkdir -p .cache/test && rm -f .cache/test/newer-nix.json && go build -o .cache/test/report ./tests/report
	@tests/scripts/newer-nix .cache/test/report .cache/test/newer-nix.json
	@.cache/test/report summary .cache/test/newer-nix.json

lint: $(LINT)
	$(LINT) run ./...

tools: $(LINT)

# Building it takes minutes, once.
$(LINT):
	GOBIN=$(CURDIR)/.cache/bin CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv .cache/bin/golangci-lint $@

# What needs neither root nor Nix, for a quick look; fails on a dirty tree.
verify:
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet -tags privileged ./...
	go mod verify
	go test ./tests/layout ./tests/report
	git diff --exit-code HEAD

# What is in deploy, without a cluster; needs neither root nor Nix. Its libraries
# take minutes to compile, once, and are in a module of their own.
.PHONY: deploy-test
deploy-test:
	cd tests/deploy && go vet ./... && go test -count=1 ./... # the cache does not see the folder deploy
	cd api/gen && go test -count=1 ./... # the generated files

bench:
	@$(NEED) $(NIX)
	@mkdir -p .cache/bin && go build -o .cache/bin/bench ./tests/bench
	@.cache/bin/bench

demo:
	@$(NEED) ca-certificates $(NIX)
	@tests/scripts/demo

clean:
	rm -rf bin .cache

# Real pods on a Kubernetes that is built from its Go modules and lives in
# namespaces of this machine: see tests/e2e. Half an hour the first time.
.PHONY: e2e e2e-up e2e-down
e2e:
	@tests/e2e/run

# For one test after another: cd tests/e2e, and as its doc.go says.
e2e-up:
	@tests/e2e/up

e2e-down:
	@tests/e2e/cluster/down
