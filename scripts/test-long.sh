#!/usr/bin/env bash
# What takes too long for every change: models of the lock-free parts, fuzzing with AddressSanitizer, many simulator seeds, and front ends
# that come, go and repeat themselves. Writes what ran and what came of it to docs/test-long.md.
#
#   LENGTH=100 scripts/test-long.sh    per cent of the whole, 1 to 100 and more (default 100: some six hours on two cores)
#   PARTS="loom fuzz-rings" ...        only these parts; the result says what was not run
#   PROFILE=dev ...                    the simulator's build (default release)
#
# The whole: 10 minutes of each fuzz target, 20 rounds of property tests, 2000 seeds, 10^5 front ends, 10^6 repetitions of refused messages. The fuzz
# targets and the models are built for release, the daemon and its tests for development.
set -euo pipefail
cd "$(dirname "$0")/.."

length=${LENGTH:-100}
fuzz_seconds=$((600 * length / 100))
seeds=$((2000 * length / 100))
longer=$((500 * length / 100))
[ "$fuzz_seconds" -ge 1 ] && [ "$seeds" -ge 1 ] && [ "$longer" -ge 1 ] || { echo "LENGTH=$length is too short" >&2; exit 1; }
targets=(parse offload session rings manifests services config)
logs=target/test-long
mkdir -p "$logs"
rows=()
failed=0

# part NAME WHAT COUNT-COMMAND COMMAND...: runs COMMAND with its output in a log; COUNT-COMMAND reads the log and says how much was done.
part() {
    local name=$1 what=$2 count=$3 begin result=passed
    shift 3
    if [ -n "${PARTS:-}" ] && [[ " $PARTS " != *" $name "* ]]; then
        rows+=("| $name | $what | nothing | not run | |")
        return
    fi
    begin=$(date +%s)
    echo "$(date -u +%H:%M:%S) $name: $what (log: $logs/$name.log)"
    "$@" >"$logs/$name.log" 2>&1 || result=FAILED
    [ $result = passed ] || { failed=1; tail -n 20 "$logs/$name.log" >&2; }
    done=$($count <"$logs/$name.log" || true)
    rows+=("| $name | $what | ${done:-nothing} | $result | $(($(date +%s) - begin)) s |")
    echo "$(date -u +%H:%M:%S) $name: $result, ${done:-nothing}"
}

tests_passed() { awk '/^test result:/ { n += $4 } END { print n + 0, "models explored" }'; }
inputs() { awk '/stat::number_of_executed_units/ { print $2, "inputs" }'; }
seeds_run() { tr '\r' '\n' | grep -oE "^[0-9]+ of [0-9]+ seeds, [0-9]+ failed" | tail -n 1; }
front_ends() { grep -oE "[0-9]+ front ends in all.*|[0-9]+ cases; .*" | paste -sd';'; }

loom() { RUSTFLAGS="--cfg loom" cargo test --locked --release --target-dir target/loom -p towpath-tables --lib; }
packets_judged() { grep -oE "^[0-9]+ packets, [0-9]+ decided.*"; }

rules() { TOWPATH_LONG=$longer cargo test --locked --release -p towpath-tables --test rules -- --nocapture two_million; }
simulator() { cargo run --locked --profile "${PROFILE:-release}" -p towpath-sim -- run --seeds "1..$((seeds + 1))"; }
# Each round takes seeds that nobody has seen; `make test` gives all property tests one.
properties() {
    local round
    for round in $(seq $(((length + 4) / 5))); do
        echo "round $round"
        env -u PROPTEST_RNG_SEED cargo nextest run --locked --workspace --exclude towpath-tests || return 1
    done
}
rounds() { echo "$(grep -c "^round ") rounds"; }
lifecycle() {
    cargo build --locked -p towpathd -p towpath-cli --bins
    TOWPATH_LONG=$longer cargo test --locked -p towpath-tests --test hostile -- --ignored --nocapture --test-threads 1 \
        l_01_v_30 l_03 v_05 v_25
}

part loom "tables: every interleaving that the memory model allows" tests_passed loom
for target in "${targets[@]}"; do
    part "fuzz-$target" "$fuzz_seconds s with AddressSanitizer" inputs tests/fuzz/run "$target" "$fuzz_seconds"
done
part rules "compiled rules beside a walk through their list" packets_judged rules
part properties "unit and property tests, new seeds each round" rounds properties
part simulator "$seeds seeds, ${PROFILE:-release} build" seeds_run simulator
part lifecycle "repetitions, $longer times as many as in make test" front_ends lifecycle

{
    echo "# The last long test"
    echo
    echo "Written by \`make test-long\`. LENGTH=$length: $length % of the whole, which is 10 minutes of each fuzz target, 20 rounds of property tests, 2000 seeds, 10^5 front ends and 10^6"
    echo "repetitions of refused messages."
    echo
    echo "* commit: $(git rev-parse HEAD)$(git diff --quiet HEAD || echo ", and changes that were not committed")"
    echo "* date: $(date -u +'%Y-%m-%d %H:%M') UTC, on $(nproc) cores"
    echo
    echo "| part | what | how much | result | time |"
    echo "|---|---|---|---|---|"
    printf '%s\n' "${rows[@]}"
} >docs/test-long.md
cat docs/test-long.md
exit $failed
