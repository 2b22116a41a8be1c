# Benchmarks. The Makefile includes this file.

.PHONY: bench bench-compare bench-vxlan bench-scale bench-policy bench-cross-check bench-ceiling

BENCH_ARGS ?=

bench: ## criterion benches of tables, rings, packets, stages and the whole worker
	$(CARGO) bench --locked --workspace --exclude towpath-dpdk --exclude towpath-dpdk-sys --bench '*' -- --noplot

bench-compare: ## towpathd against testpmd and Open vSwitch: table, SVG, target/bench/compare.json (BENCH_ARGS=--quick: 2 minutes)
	scripts/setup.sh bench
	$(CARGO) build --locked --release -p towpathd -p towpath-cli -p towpath-bench
	target/release/towpath-bench compare $(BENCH_ARGS)

bench-vxlan: ## a tunnel's cost each way (cycles, instructions), then towpathd against Open vSwitch with VXLAN: target/bench/vxlan.json
	scripts/setup.sh bench
	$(CARGO) build --locked --release -p towpathd -p towpath-cli -p towpath-bench
	target/release/towpath-bench vxlan --instructions
	target/release/towpath-bench compare --tunnel --budget 4m $(BENCH_ARGS)

bench-scale: ## a million endpoints: time until a worker sees them, memory, and packets lost while 1,000 change per second
	$(CARGO) build --locked --release -p towpath-bench
	target/release/towpath-bench scale $(BENCH_ARGS)

bench-policy: ## what rules and sessions cost (cycles, instructions), new sessions, changes, floods, then towpathd against Open vSwitch's conntrack: target/bench/policy*.json
	scripts/setup.sh bench
	$(CARGO) build --locked --release -p towpathd -p towpath-cli -p towpath-bench
	target/release/towpath-bench policy --instructions $(BENCH_ARGS)
	target/release/towpath-bench compare --policy --budget 4m

bench-cross-check: ## the generator of bench-compare against testpmd's
	scripts/setup.sh bench
	$(CARGO) build --locked --release -p towpath-bench
	target/release/towpath-bench compare --cross-check $(BENCH_ARGS)

bench-ceiling: ## what the generator itself can do, against a back end that copies nothing
	$(CARGO) build --locked --release -p towpath-bench
	for ring in split packed; do for size in 64 1518; do \
	    echo "$$ring $$size"; target/release/towpath-bench run --null-ceiling --ring $$ring --size $$size --probe 0,1 || exit 1; \
	done; done
