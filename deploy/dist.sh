#!/usr/bin/env bash
# Builds the binary that we ship into target/dist/: optimised, static, and the same bytes wherever it is built.
# What it needs is what cargo build needs: Rust and a C compiler, on Linux.
#   CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu  for another architecture: with that target of Rust, a C compiler for it,
#                                                 and CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/compilers.sh
. deploy/compilers.sh

case $triple in
    *-linux-gnu | *-linux-musl) ;;
    *) fail "the binary that we ship is for Linux, and this Rust builds for $triple." ;;
esac

flags+=(
    # Everything inside, so that it runs where there is nothing else.
    -Ctarget-feature=+crt-static
    # A static glibc hides getrandom from who looks for its symbol; asked by its number it needs no /dev.
    --cfg 'getrandom_backend="linux_getrandom"'
)
# AES-GCM for AVX-512 alone is 0.7 MB of machine code, which helps large transfers; a Check is small, and AES-NI does it.
case $triple in
    x86_64-*) c_flags+=(-DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX) ;;
esac

# Addresses that are put right when it starts take a tenth of the room in this form.  It is read by a C library that can:
# glibc from 2.36 on, and the musl that comes with Rust.  A linker that cannot do it for arm64 (binutils 2.40) warns and goes on.
link=()
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')
case $triple in
    *-linux-musl) link=(-Clink-arg=-Wl,-z,pack-relative-relocs) ;;
    "$host")
        if [ "$(printf '%s\n' 2.36 "${glibc:-0}" | sort -V | head -n 1)" = 2.36 ]; then
            link=(-Clink-arg=-Wl,-z,pack-relative-relocs)
        fi
        ;;
esac

build --package envoy-auth-tokens --bin envoy-auth-tokens -- ${link[@]+"${link[@]}"}
mkdir -p target/dist
install -m 0755 "$target/$triple/release/envoy-auth-tokens" target/dist/envoy-auth-tokens
(cd target/dist && sha256sum envoy-auth-tokens >SHA256SUMS)
echo "target/dist/envoy-auth-tokens: $(stat -c %s target/dist/envoy-auth-tokens) bytes"
