#!/usr/bin/env bash
# Prints the toolchain of rustup that builds this: nothing where the one of rust-toolchain.toml is there or can be
# fetched, else the machine's own when that is the same version under another name.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustc --version >/dev/null 2>&1; then
    wanted=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
    cd /
    own=$(rustc --version 2>/dev/null | cut -d' ' -f2) || own=
    [ "$own" != "$wanted" ] || rustup show active-toolchain | cut -d' ' -f1
fi
