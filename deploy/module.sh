#!/usr/bin/env bash
# Builds the module that Envoy loads into target/dist/libenvoy_auth_tokens.so: optimised, and in need of nothing but libc.
# The oldest glibc that it runs on is about that of the machine that builds it: build it on the oldest one that you run.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 1
}

cargo=${CARGO:-cargo}
command -v "$cargo" >/dev/null || fail 'Rust is missing: install it with rustup (https://rustup.rs).'
triple=$(rustc -vV | sed -n 's/^host: //p')
case $triple in
    *-linux-gnu) ;;
    *) fail "Envoy is a program of glibc on Linux, and this Rust builds for $triple." ;;
esac

# The folders that the compilers would write down, as they name them: without links in their paths.
home=$(pwd -P)
registry=$(readlink -m "${CARGO_HOME:-$HOME/.cargo}")
target=$(readlink -m "${CARGO_TARGET_DIR:-target}")
flags=(
    # Envoy's image may lack libgcc_s.so.1.
    "-Clinker=$home/deploy/cc-static-libgcc.sh"
    "--remap-path-prefix=$home=/build"
    "--remap-path-prefix=$registry=/cargo"
    "--remap-path-prefix=$target=/build/target"
)
maps="-ffile-prefix-map=$home=/build -ffile-prefix-map=$registry=/cargo"
export SOURCE_DATE_EPOCH=0
export CARGO_ENCODED_RUSTFLAGS CFLAGS="${CFLAGS:+$CFLAGS }$maps" CXXFLAGS="${CXXFLAGS:+$CXXFLAGS }$maps"
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}")

# Without the rlib, which only tests need.
"$cargo" rustc --locked --release --target "$triple" -p envoy-auth-tokens-module --crate-type cdylib
mkdir -p target/dist
built=target/dist/libenvoy_auth_tokens.so
install -m 0644 "$target/$triple/release/libenvoy_auth_tokens_module.so" "$built"

needed=$(readelf -d "$built" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for library in $needed; do
    case $library in
        libc.so.* | libm.so.* | ld-linux*) ;;
        *) fail "$built needs $library, which Envoy's image may lack." ;;
    esac
done
glibc=$(readelf -V "$built" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
echo "$built: $(stat -c %s "$built") bytes, needs ${glibc/GLIBC_/glibc }"
