# "make demo" shows what rivulet does; "make test" tests it. Both need Go and
# make, nothing else, and no root.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help build containerd image deb demo test race lint cross check check-all check-containerd check-kernelnbd bench fuzz man clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## build bin/rivulet, and rivulet-init for guests
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/rivulet ./cmd/rivulet
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '-s -w' -o bin/rivulet-init ./cmd/rivulet-init

containerd: ## build bin/containerd-rivulet
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/containerd-rivulet ./cmd/containerd-rivulet

image: ## make a container image of rivulet, an OCI layout in bin/image
	CGO_ENABLED=0 GOOS=linux $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/static/ ./cmd/rivulet ./cmd/containerd-rivulet
	rm -rf bin/image
	$(GO) run ./deploy/image bin/static bin/image

deb: build containerd ## make a Debian package of both, with units, manual pages and completions, in bin/ (nfpm)
	deploy/debian/build.sh '$(VERSION)'

demo: build ## publish the Go installation, serve it over NBD, read files back
	$(GO) run ./internal/demo -rivulet bin/rivulet

test: ## run the tests; those that need root or tools say why they are skipped
	$(GO) vet ./...
	$(GO) test -json ./... | $(GO) run ./internal/testreport

# Not the second that a program waits before it ends: tests start very many.
race: ## run the tests under the race detector, the longest of them less long
	GORACE=atexit_sleep_ms=10 $(GO) test -race -short ./...

lint: ## run the linters
	golangci-lint run ./...

cross: ## build for every platform that is supported
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/rivulet
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/containerd-rivulet
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/rivulet
	GOOS=darwin GOARCH=arm64 $(GO) vet $$(GOOS=darwin GOARCH=arm64 $(GO) list ./... | grep -v -e /snapshotter -e /containerd-rivulet) # containerd's host is Linux

check: ## run what CI runs (root; RIVULET_E2E_IMAGES names an OCI layout of test images)
	.ci/run

check-all: build containerd ## the end-to-end checks with every image of RIVULET_E2E_IMAGES
	internal/e2e/all.sh

check-containerd: build containerd ## containers by the containerd of CONTAINERD=DIR, also by the kubelet of KUBELET=DIR, nerdctl of NERDCTL=DIR and BuildKit of BUILDKIT=DIR (doc/containers.md)
	RIVULET=bin/rivulet CONTAINERD_RIVULET=bin/containerd-rivulet internal/e2e/containerd.sh

check-kernelnbd: ## mounts by the kernel's NBD client, in an emulated guest
	internal/e2e/kernelnbd.sh

bench: build ## measure, beside other programs that do the same
	bench/run.sh all

FUZZTIME ?= 30s
fuzz: ## run every fuzz target for FUZZTIME
	internal/fuzzall.sh $(FUZZTIME)

man: build containerd ## generate the manual pages in doc/man
	bin/rivulet man doc/man
	bin/containerd-rivulet man doc/man

clean:
	rm -rf bin
