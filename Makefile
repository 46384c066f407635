# Baize. 'make' alone lists the targets.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# sudo's PATH leaves out where Go's own installer puts it.
export PATH := $(PATH):/usr/local/go/bin

BIN        := bin/baize
CNI        := bin/baize-cni
VERSION    ?= $(shell scripts/version.sh)
COMMIT     ?= $(shell scripts/version.sh commit)
PREFIX     ?= /usr/local
HOSTS      ?= 3
TRANSPORT  ?= vxlan
FUZZTIME   ?= 20s
MINUTES    ?= 5
STAMP      := github.com/baize-net/baize/cmd/internal/command
# -buildvcs=false: the version is stamped here, and Go's own stamp fails where
# git distrusts the directory's owner (sudo, containers).
GOBUILD    := CGO_ENABLED=0 go build -trimpath -buildvcs=false \
              -ldflags '-s -w -X $(STAMP).Version=$(VERSION) -X $(STAMP).Commit=$(COMMIT)'

.PHONY: help
help: ## list the targets
	@printf 'Baize: one large L2 domain over many Docker hosts\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables: HOSTS=%s TRANSPORT=%s (lab), TESTFLAGS= (tests), FUZZTIME=%s, PREFIX=%s (install)\n' \
		'$(HOSTS)' '$(TRANSPORT)' '$(FUZZTIME)' '$(PREFIX)'

.PHONY: check-go
check-go:
	@scripts/check-go.sh

.PHONY: deps
deps: ## install the tools the lab needs, where they are missing (apt, root)
	@scripts/install-deps.sh lab

.PHONY: deps-docker
deps-docker:
	@scripts/install-deps.sh docker

.PHONY: deps-test
deps-test:
	@scripts/install-deps.sh test

.PHONY: build
build: check-go ## build bin/baize and bin/baize-cni
	$(GOBUILD) -o $(BIN) ./cmd/baize
	$(GOBUILD) -ldflags '-s -w -X main.version=$(VERSION)' -o $(CNI) ./cmd/baize-cni

.PHONY: install
install: build ## install bin/baize and its plugins under PREFIX (DESTDIR is honoured); SYSTEMD=1: and the agent's unit
	install -D -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/baize
	install -D -m 0755 $(CNI) $(DESTDIR)/opt/cni/bin/baize-cni
	install -D -m 0755 $(CNI) $(DESTDIR)$(PREFIX)/lib/netavark/baize
	@if [ -n '$(SYSTEMD)' ]; then set -ex; \
		mkdir -p '$(DESTDIR)/etc/systemd/system'; \
		sed 's,/usr/bin/baize,$(PREFIX)/bin/baize,' scripts/systemd/baize.service >'$(DESTDIR)/etc/systemd/system/baize.service'; \
		install -D -m 0755 scripts/mk-docker-opts.sh '$(DESTDIR)/usr/lib/baize/mk-docker-opts.sh'; \
	fi

.PHONY: packages
packages: check-go ## .deb and .rpm for amd64 and arm64, SBOM and checksums, into dist/
	@scripts/packages.sh dist

.PHONY: release
release: check-go ## packages, image, notes, checksums, all of it signed (SIGN_KEY=FILE), into dist/
	@scripts/release.sh dist

.PHONY: apt-repo
apt-repo: ## an apt repository of the packages in dist/, into dist/apt (SIGN_KEY=FILE APT_URL=https://…)
	@scripts/apt-repo.sh dist

.PHONY: image
image: check-go ## a container image of the agent, into dist/: needs no engine, no registry
	@scripts/image.sh dist

.PHONY: lab
lab: check-go need-root deps build ## three hosts on this machine, joined and proven; they stay up
	$(BIN) lab up --hosts $(HOSTS) --transport $(TRANSPORT)

.PHONY: lab-docker
lab-docker: check-go need-root deps deps-docker build ## the same with a Docker engine on every host
	$(BIN) lab up --hosts $(HOSTS) --transport $(TRANSPORT) --docker

.PHONY: lab-flannel
lab-flannel: check-go need-root deps build ## a cluster of Baize and of flannel, whose own packages are built for it
	cd cmd/internal/flannel/peer && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o $(CURDIR)/bin/flanneld .
	$(BIN) lab up --hosts $(HOSTS) --transport $(TRANSPORT) --flannel

.PHONY: lab-kubernetes
lab-kubernetes: check-go need-root build ## a Kubernetes cluster whose network is Baize (builds Kubernetes, once: 10 minutes)
	@scripts/install-deps.sh kubernetes
	@scripts/test-kubernetes.sh --lab
	$(BIN) lab up --hosts $(HOSTS) --kubernetes

.PHONY: lab-down
lab-down: need-root ## remove the lab without a trace
	@if [ -x $(BIN) ]; then $(BIN) lab down; else echo '$(BIN) is not built: run make build, then make lab-down'; exit 1; fi

.PHONY: need-root
need-root:
	@[ "$$(id -u)" -eq 0 ] || { echo "make: the lab makes network namespaces, which needs root: run 'sudo make $(firstword $(MAKECMDGOALS))'" >&2; exit 1; }

.PHONY: test
test: check-go deps-test ## every test there is: lint, unit, race, system, kernel (root)
	@scripts/test.sh lint unit kernel+race system

.PHONY: test-unit
test-unit: check-go ## pure and in-process tests
	@scripts/test.sh unit

.PHONY: test-system
test-system: check-go deps-test ## tests on a real Open vSwitch in namespaces (root)
	@scripts/test.sh system

.PHONY: test-race
test-race: check-go deps-test ## all with the race detector: in-process tests, and every agent of every lab (45 minutes)
	@BAIZE_TEST_RACE=1 scripts/test.sh race system

.PHONY: test-faults
test-faults: check-go need-root deps-test ## every fault of the catalogue: injected into a lab, named by 'baize doctor', mended by its remedy
	BAIZE_TEST_FAULTS=all CGO_ENABLED=0 go test -trimpath -tags system -vet=off -count=1 -timeout 30m -v \
		-run TestCatalogue ./cmd/internal/doctortest

.PHONY: chaos
chaos: check-go need-root deps-test ## random faults under traffic in a lab, and a checker of its own (MINUTES=5 SEED=… DOCKER=1)
	CGO_ENABLED=0 go test -trimpath -tags system -vet=off -count=1 -timeout 0 -v -run 'TestChaos$$' ./cmd/internal/chaos \
		-chaos-minutes $(MINUTES) $(if $(SEED),-chaos-seed $(SEED)) $(if $(DOCKER),-chaos-docker)

.PHONY: test-kernel
test-kernel: check-go deps-test ## tests on the kernel's datapath, in a virtual machine with Debian's kernel
	@scripts/test.sh kernel

.PHONY: test-console
test-console: check-go ## the console in a headless Chromium, which is installed (apt, 90 MB): clicks, keys, a phone
	@scripts/install-deps.sh console
	CGO_ENABLED=0 go test -trimpath -tags browser -vet=off -count=1 -timeout 15m $(TESTFLAGS) ./cmd/internal/console

.PHONY: test-kubernetes
test-kubernetes: check-go need-root ## a real Kubernetes whose network is Baize (builds it, once: 15 minutes)
	@scripts/install-deps.sh kubernetes
	@scripts/test-kubernetes.sh

.PHONY: never-again
never-again: check-go need-root deps-test ## the failures that users of overlays know, each with the test that shows what becomes of it
	@scripts/never-again.sh

.PHONY: vagrant-test
vagrant-test: check-go need-root ## the lab of machines: up, checked from inside, one rebooted, destroyed (libvirt; 40 minutes without KVM)
	@scripts/install-deps.sh vagrant
	@scripts/vagrant-test.sh

.PHONY: test-docker-mixed
test-docker-mixed: check-go need-root deps-test ## the Docker tests with engines of three releases in one lab (downloads them)
	@scripts/test-docker-mixed.sh

.PHONY: test-engines
test-engines: check-go need-root deps-test ## Docker 20.10, 26, 28 and 29 while their agents are killed every second (half an hour)
	@scripts/test-docker-mixed.sh '^TestEngines$$'

.PHONY: test-upgrade
test-upgrade: check-go need-root deps-test ## two versions side by side in one cluster, upgraded node by node; the package, while Docker starts containers
	@scripts/test-upgrade.sh

.PHONY: test-trace
test-trace: check-go need-root deps-test ## verdicts of 'baize trace' against real packets: 500 pairs, random topologies and faults (30 minutes)
	CGO_ENABLED=0 go test -trimpath -tags system -vet=off -count=1 -timeout 60m -run 'TestTrace$$' -v \
		./cmd/internal/domaintest -trace-topologies 5 -trace-rounds 25 -trace-seed 0

.PHONY: lint
lint: check-go ## shell scripts and Go sources, import directions included
	@scripts/lint.sh

.PHONY: fuzz
fuzz: check-go ## each fuzz target for FUZZTIME: records, flannel, what OVS prints and sends, engines, CNI, DNS (minutes)
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: vuln
vuln: check-go ## known vulnerabilities that the programs can reach (govulncheck; fails where its database cannot be reached)
	@scripts/vuln.sh

.PHONY: bench
bench: check-go deps deps-docker ## cost at 10 to 10 000 nodes; with a real switch where run as root
	go test -run '^$$' -bench . -benchmem -p 1 -timeout 60m \
		$$([ "$$(id -u)" -ne 0 ] || echo -tags system) ./...
	@for s in scripts/bench-*.sh; do [ ! -e "$$s" ] || "$$s" || exit 1; done

.PHONY: docs
docs: check-go ## write docs/cli.md, docs/topology.svg and the golden files anew
	@scripts/docs.sh

.PHONY: generate
generate: check-go ## run go generate
	go generate ./...

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
