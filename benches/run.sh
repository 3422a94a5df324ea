#!/usr/bin/env bash
# Measures what a Check costs, beside a server that does nothing; writes benches/RESULTS.md.
# With `keys` as its first argument: what a million stored keys cost.  With `store`: what a key store that fails costs.
# With `accounts`: what keys of service accounts cost beside others.
# With `directory`: what guesses at a directory's passwords cost.
# Options go to measure.py, keys.py, accounts.py, store.py or directory.py (--help lists them).  Everything stays on loopback and ends by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 1
}

script=measure.py with_baseline=yes
case ${1-} in
keys | accounts | store | directory)
    script=$1.py with_baseline=
    shift
    ;;
esac
cargo=${CARGO:-cargo}
python=${PYTHON:-python3}
command -v "$cargo" >/dev/null || fail 'Rust is missing: install it with rustup (https://rustup.rs).'
command -v "$python" >/dev/null || fail 'Python 3.10 or newer is missing: install python3.'
command -v taskset >/dev/null || fail 'taskset is missing: install it (Debian and Ubuntu: apt install util-linux).'
command -v setpriv >/dev/null || fail 'setpriv is missing: install it (Debian and Ubuntu: apt install util-linux).'
if [ "$script" != store.py ] && [ "$script" != directory.py ]; then
    command -v valgrind >/dev/null || fail 'valgrind is missing: install it (Debian and Ubuntu: apt install valgrind).'
    command -v callgrind_control >/dev/null || fail 'callgrind_control is missing: it belongs to valgrind.'
fi
[ -r /proc/self/stat ] || fail 'there is no /proc to read CPU times from: the comparison needs Linux.'
taskset -c 0,1 true 2>/dev/null || fail 'cores 0 and 1 are not both ours: the comparison needs one for the server and one for the client.'

# The path of a bench target's executable, out of what cargo tells in JSON.
executable() {
    "$python" -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin if line.startswith("{")]
paths = [row["executable"] for row in rows if row.get("executable") and row["target"]["name"] == sys.argv[1]]
print(paths[-1])' "$1"
}

# Each is built by itself: cargo gives what is built together the features of all.
json=(--message-format=json-render-diagnostics)
built=$("$cargo" bench --locked --package envoy-auth-tokens --no-run --bench=load "${json[@]}")
options=(--load "$(executable load <<<"$built")")
if [ "$with_baseline" ]; then
    built=$("$cargo" build --locked --release --manifest-path benches/allow-all/Cargo.toml \
        --target-dir "${CARGO_TARGET_DIR:-target}/allow-all" "${json[@]}")
    options+=(--allow-all "$(executable allow-all <<<"$built")")
fi
built=$("$cargo" build --locked --release --package envoy-auth-tokens --bin envoy-auth-tokens "${json[@]}")
ours=$(executable envoy-auth-tokens <<<"$built")

# -B: no compiled files among the sources.
exec "$python" -B "benches/$script" --ours "$ours" "${options[@]}" "$@"
