# Roost. The targets that a newcomer needs are run and test; help lists all.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X github.com/roost-server/roost/cmd/roost/internal/cli.Version=$(VERSION)
KAFKA   ?= .kafka

.PHONY: help build run test chaos cluster-test lint bench benchmarks million bench-allocs peers kafka kafka-stop test-kafka fuzz dist operations clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## bin/roost, bin/loadtest, bin/chaos and bin/clustertest
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/roost ./cmd/roost
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/loadtest ./loadtest
	$(GO) build -o bin/chaos ./loadtest/chaos
	$(GO) build -o bin/clustertest ./loadtest/clustertest

run: build ## a whole Roost with 25 nodes on an embedded broker; Ctrl-C ends it
	./bin/roost dev

test: build ## all tests; with ROOST_TEST_KAFKA=HOST:PORT also those on that broker
	$(GO) test -race -shuffle=on -parallel 4 -timeout 15m ./transport/kafka ./cmd/roost/e2e ./loadtest/chaos ./... # the longest first

chaos: build ## CHAOS_FAULTS faults at random, and a checker; CHAOS_KAFKA=apache for Apache Kafka
	./bin/chaos run --kafka $${CHAOS_KAFKA:-embedded} --faults $${CHAOS_FAULTS:-16} $${CHAOS_SEED:+--seed $$CHAOS_SEED}

cluster-test: build ## members on hosts of their own, broken one by one; CLUSTER_ONLY=NAME,... for some; needs root
	./bin/clustertest run --kafka $${CLUSTER_KAFKA:-embedded} $${CLUSTER_ONLY:+--only $$CLUSTER_ONLY} $${CLUSTER_FLAGS:-}

lint: ## formatting, vet and the linters of .golangci.yml
	./.ci/lint

bench: ## benchmarks of BENCH_BASE (the commit before) and of the tree in turns, compared by benchstat
	./.ci/bench

bench-allocs: ## the hot path's allocations, held against docs/benchmarks/allocs.txt
	./.ci/bench-allocs

peers: build ## Roost beside mosquitto, NATS and others, one run; PEERS="...", NODES, WINDOW, ROUNDS, PEERS_FLAGS
	$(GO) build -C loadtest/peers -o ../../bin/peers/ ./...
	$(GO) build -o bin/peers/hop ./loadtest/hop
	./bin/peers/peers $(if $(PEERS),-peers "$(PEERS)") -rounds $${ROUNDS:-2} \
		$(if $(NODES)$(WINDOW),-shapes $(or $(NODES),15000):$(or $(WINDOW),1000)) $(PEERS_FLAGS)

benchmarks: build ## every scenario on this machine, into docs/benchmarks; SOAK=2m; BENCHMARKS=NAME,... for some
	$(GO) run ./loadtest/benchmarks $${BENCHMARKS:+--only $$BENCHMARKS} $${SOAK:+--soak $$SOAK} $${BENCHMARKS_FLAGS:-}

million: build ## 1,000,000 nodes in a guest of its own, an hour or more; NODES=N; SPREAD=N members without a guest; MILLION_FLAGS
	$(GO) build -o bin/million ./loadtest/million
	./bin/million $${NODES:+--nodes $$NODES} $${SPREAD:+--spread $$SPREAD} $${MILLION_FLAGS:-}

kafka: ## start Apache Kafka 4 on loopback, data in .kafka; prints its address
	./deploy/kafka/kafka.sh start $(KAFKA)

kafka-stop: ## stop it
	./deploy/kafka/kafka.sh stop $(KAFKA)

test-kafka: build ## the suites that run on a real broker, on Apache Kafka; starts and stops it
	./.ci/test-kafka

fuzz: ## each fuzz target for FUZZTIME: a time such as 10s, or inputs such as 5000x
	./.ci/fuzz $${FUZZTIME:-10s}

dist: ## dist/roost_VERSION_linux_ARCH.tar.gz and a .deb, checked
	rm -rf dist && mkdir -p dist
	$(GO) build -trimpath -ldflags "-s -w $(LDFLAGS)" -o dist/roost ./cmd/roost
	./deploy/package/package.sh $(VERSION) dist/roost dist
	./deploy/package/check.sh $(VERSION) dist/*.tar.gz $$(ls dist/*.deb 2>/dev/null)

operations: build ## the commands of docs/OPERATIONS.md, on hosts of their own; needs root, haproxy and dpkg
	$(GO) run ./deploy/operations

clean: ## remove what was built
	rm -rf bin dist
