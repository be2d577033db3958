# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Without cgo the program is static and needs no C compiler. All but the race detector is built so, and therefore only once.
GO ?= go
K6_VERSION := v1.8.1
GOVULNCHECK_VERSION := v1.9.0
# The vulnerability database is a module too, so it comes through the module proxy and is pinned; VULNDB_VERSION=latest asks for today's.
VULNDB_VERSION ?= v0.0.0-20261105234957-e22db6528018
FUZZTIME ?= 10s
# Outside the checkout: data sets, checkpoints and pictures of training and evaluation.
WORK_DIR ?= $(HOME)/face-diffuser-work
# Flags for `make run`, for example ARGS="--triton 127.0.0.1:8001".
ARGS ?=

# Tests find the interpreter of the local Triton here, wherever their package lies.
export FACEDIFFUSER_PYTHON := $(CURDIR)/.venv/bin/python

.PHONY: help run build venv toolkit-venv test test-go bench-once test-toolkit test-clients check-sd15 lint vulnerabilities check fuzz bench bench-attack bench-bombs load goldens report report-page data clean need

help: ## list the targets
	@echo "make run    a gateway with its own Triton on http://127.0.0.1:8080"
	@echo "make test   the tests of the Go code and of OpenAI's SDKs; CI also runs lint, vulnerabilities, test-toolkit, test-clients and load"
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build venv ## build, start a gateway with its own Triton and wait for requests (ARGS="--listen 127.0.0.1:8081" adds flags)
	@exec bin/facediffuser serve $(ARGS)

build: need ## build bin/facediffuser
	@CGO_ENABLED=0 $(GO) build -o bin/facediffuser ./gateway

need:
	@MAKE_VERSION=$(MAKE_VERSION) scripts/need.sh go python make

venv: .venv/.ready ## make .venv, the Python environment that holds the local Triton
.venv/.ready: model_repository/requirements.txt scripts/venv.sh
	@scripts/venv.sh .venv $<

toolkit-venv: .venv-toolkit/.ready ## make .venv-toolkit, with PyTorch, for training, export, goldens and the toolkit's tests
.venv-toolkit/.ready: toolkit/requirements.txt scripts/venv.sh
	@MINOR=11 scripts/venv.sh .venv-toolkit $<

test: ## vet, all tests with the race detector on a real Triton, the SDKs, fuzz seeds, benchmarks once
	@MINOR=10 MAKE_VERSION=$(MAKE_VERSION) scripts/need.sh go python make gcc node chromium
	@scripts/phases.sh build venv test-go bench-once

test-go: venv bin/gotestsum
	CGO_ENABLED=0 $(GO) vet ./...
	bin/gotestsum --format pkgname --jsonfile bin/tests.json -- -race -timeout 12m ./...

bench-once: venv
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 5m ./...

test-toolkit: build venv toolkit-venv ## the toolkit's own tests
	.venv-toolkit/bin/python -m pytest -q --junitxml bin/toolkit.xml toolkit

# A module of its own: its dependencies are other people's clients, not the product's.
test-clients: build venv bin/gotestsum ## the programs of docs/clients.md and four generated clients against a real gateway (about 100 MB of downloads)
	@MINOR=11 MAKE_VERSION=$(MAKE_VERSION) scripts/need.sh go python make node
	@cd test/clients && CGO_ENABLED=0 $(GO) vet ./... && \
	  $(FACEDIFFUSER_PYTHON) ../../scripts/with_gateway.py sh -c 'cd test/clients && CGO_ENABLED=0 exec ../../bin/gotestsum --format testname --jsonfile ../../bin/clients.json -- -count 1 -timeout 15m ./...'

check-sd15: build venv toolkit-venv ## from weights to a served picture at Stable Diffusion 1.5's real size: 24 GB of disk, 16 GiB of memory, about an hour (ARGS="--from serve")
	.venv-toolkit/bin/python -m toolkit check-sd15 $(ARGS)

lint: bin/golangci-lint ## golangci-lint and the formatters it holds
	bin/golangci-lint run ./...

vulnerabilities: bin/govulncheck bin/vulndb-$(VULNDB_VERSION)/index ## known vulnerabilities that the code can reach (VULNDB_VERSION=latest)
	@# With the Go that go.mod names, whose standard library has its faults mended, also where this machine's is older.
	GOTOOLCHAIN=auto bin/govulncheck -db file://$(CURDIR)/bin/vulndb-$(VULNDB_VERSION) ./...

check: ## lint, and fail when formatting or generating changes a committed file
	$(GO) mod verify
	@$(MAKE) --no-print-directory lint
	bin/golangci-lint fmt --diff
	$(GO) mod tidy -diff
	@git diff --exit-code --stat && test -z "$$(git status --porcelain)" || { git status --short; echo "the tree is not clean" >&2; exit 1; }

fuzz: ## run every fuzz test for FUZZTIME (10s)
	@for target in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n 1 dirname | sort -u); do \
	  for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$target/*_test.go); do \
	    echo "== $$target $$name"; $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$target; done; done

bench: build venv ## Go benchmarks, then the gateway's own share of time and its memory, as ratios of one run
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -benchmem ./sampler ./fusion ./tritonclient ./gateway/internal/picture
	@$(FACEDIFFUSER_PYTHON) scripts/bench.py

bench-attack: build venv ## what an ordinary edit feels of an attack on the gateway, as ratios of one run, and the gateway's memory (ARGS="--only ...")
	@$(FACEDIFFUSER_PYTHON) scripts/attack.py $(ARGS)

bench-bombs: ## decode the bombs of docs/images.md, each in a process of its own, and write that table anew
	CGO_ENABLED=0 $(GO) test -count 1 -run '^TestBombs$$' -v ./gateway/internal/picture -update-bombs

load: build venv bin/k6 ## k6 against the gateway at FACEDIFFUSER_URL, or one started for it (DURATION=30s)
	@$(FACEDIFFUSER_PYTHON) scripts/with_gateway.py bin/k6 run --quiet --no-usage-report deploy/k6/smoke.js

data: toolkit-venv ## draw the training sets into WORK_DIR (~/face-diffuser-work), the same bytes each time
	.venv-toolkit/bin/python -m toolkit dataset --work-dir $(WORK_DIR)

goldens: build venv toolkit-venv ## rewrite everything that depends on weights: golden files, picture sheet, the README's picture
	.venv-toolkit/bin/python -m toolkit goldens
	@$(FACEDIFFUSER_PYTHON) scripts/with_gateway.py sh -c '.venv-toolkit/bin/python -m toolkit sheet --url "$$FACEDIFFUSER_URL" --hero docs/pictures/hero.png'

report: build venv toolkit-venv ## measure the paper's tables anew where they are stale and write docs/report (hours; ARGS="--rows full" for a part)
	@$(FACEDIFFUSER_PYTHON) scripts/with_gateway.py .venv-toolkit/bin/python -m toolkit report $(ARGS)

report-page: toolkit-venv ## rebuild docs/report/index.html from the committed CSVs
	.venv-toolkit/bin/python -m toolkit report --page-only

clean: ## remove what was built (.venv, .venv-toolkit and .run too)
	rm -rf bin .venv .venv-toolkit .run

# Tools, each pinned. golangci-lint and gotestsum by tools/go.mod, which does not raise the product's versions; k6 by its own.
bin/gotestsum: tools/go.mod
	@cd tools && CGO_ENABLED=0 $(GO) build -o ../$@ gotest.tools/gotestsum
bin/golangci-lint: tools/go.mod
	@cd tools && CGO_ENABLED=0 $(GO) build -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/govulncheck: Makefile
	@GOBIN=$(CURDIR)/bin CGO_ENABLED=0 $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION) && touch $@
# The database's own program makes the form that govulncheck reads of the module's files.
bin/vulndb-%/index: Makefile
	@rm -rf bin/vulndb-* && GOBIN=$(CURDIR)/bin CGO_ENABLED=0 $(GO) install golang.org/x/vulndb/cmd/indexdb@$*
	@cd / && files=$$($(GO) mod download -json golang.org/x/vulndb@$* | sed -n 's/^\s*"Dir": "\(.*\)",*$$/\1/p') && \
	  $(CURDIR)/bin/indexdb -vulns "$$files/data/osv" -out $(CURDIR)/bin/vulndb-$*
bin/k6: Makefile
	@GOBIN=$(CURDIR)/bin CGO_ENABLED=0 $(GO) install go.k6.io/k6@$(K6_VERSION) && touch $@
