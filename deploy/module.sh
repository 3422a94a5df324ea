#!/usr/bin/env bash
# Builds the module that Envoy loads into target/dist/libenvoy_auth_tokens.so: optimised, and in need of nothing but libc.
# The oldest glibc that it runs on is about that of the machine that builds it: build it on the oldest one that you run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/compilers.sh
. deploy/compilers.sh

case $triple in
    *-linux-gnu) ;;
    *) fail "Envoy is a program of glibc on Linux, and this Rust builds for $triple." ;;
esac

# Envoy's image may lack libgcc_s.so.1.
flags+=("-Clinker=$home/deploy/cc-static-libgcc.sh")

# Without the rlib, which only tests need.
build -p envoy-auth-tokens-module --crate-type cdylib
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
