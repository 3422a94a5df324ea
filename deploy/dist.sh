#!/usr/bin/env bash
# Builds the binary that we ship into target/dist/: optimised, static, and the same bytes wherever it is built.
# What it needs is what cargo build needs: Rust and a C compiler, on Linux.
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
    *-linux-gnu | *-linux-musl) ;;
    *) fail "the binary that we ship is for Linux, and this Rust builds for $triple." ;;
esac

# The folders that the compilers would write down, as they name them: without links in their paths.
home=$(pwd -P)
registry=$(readlink -m "${CARGO_HOME:-$HOME/.cargo}")
target=$(readlink -m "${CARGO_TARGET_DIR:-target}")
flags=(
    # Everything inside, so that it runs where there is nothing else.
    -Ctarget-feature=+crt-static
    # A static glibc hides getrandom from who looks for its symbol; asked by its number it needs no /dev.
    --cfg 'getrandom_backend="linux_getrandom"'
    # Where it was built is nobody's business, and would make two builds differ.
    "--remap-path-prefix=$home=/build"
    "--remap-path-prefix=$registry=/cargo"
    "--remap-path-prefix=$target=/build/target"
)
c_flags="-ffile-prefix-map=$home=/build -ffile-prefix-map=$registry=/cargo"
c_flags+=" -ffile-prefix-map=$target=/build/target"
# AES-GCM for AVX-512 alone is 0.7 MB of machine code, which helps large transfers; a Check is small, and AES-NI does it.
case $triple in
    x86_64-*) c_flags+=" -DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX" ;;
esac
# The allocator's C writes down when it was compiled; the compiler takes this for now.
export SOURCE_DATE_EPOCH=0
export CARGO_ENCODED_RUSTFLAGS CFLAGS="${CFLAGS:+$CFLAGS }$c_flags" CXXFLAGS="${CXXFLAGS:+$CXXFLAGS }$c_flags"
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}")

# Addresses that are put right when it starts take a tenth of the room in this form.  It is read by a C library that can:
# glibc from 2.36 on, and the musl that comes with Rust.
link=()
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')
case $triple in
    *-linux-musl) link=(-Clink-arg=-Wl,-z,pack-relative-relocs) ;;
    *)
        if [ "$(printf '%s\n' 2.36 "${glibc:-0}" | sort -V | head -n 1)" = 2.36 ]; then
            link=(-Clink-arg=-Wl,-z,pack-relative-relocs)
        fi
        ;;
esac

# With --target the flags are for what we ship, and not for the macros that run while it is built.
"$cargo" rustc --locked --release --target "$triple" \
    --package envoy-auth-tokens --bin envoy-auth-tokens -- ${link[@]+"${link[@]}"}
mkdir -p target/dist
install -m 0755 "$target/$triple/release/envoy-auth-tokens" target/dist/envoy-auth-tokens
(cd target/dist && sha256sum envoy-auth-tokens >SHA256SUMS)
echo "target/dist/envoy-auth-tokens: $(stat -c %s target/dist/envoy-auth-tokens) bytes"
