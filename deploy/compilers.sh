# Read by dist.sh and module.sh: what both tell the compilers, and how both name what they build.  Run in the project's folder.
#
# Sets `cargo`, `triple` (what is built for: this machine, or what CARGO_BUILD_TARGET names), `target` (where cargo puts what
# it builds) and the array `flags` for rustc; `build CRATE…` passes them on.

fail() {
    echo "error: $1" >&2
    exit 1
}

cargo=${CARGO:-cargo}
command -v "$cargo" >/dev/null || fail 'Rust is missing: install it with rustup (https://rustup.rs).'
host=$(rustc -vV | sed -n 's/^host: //p')
triple=${CARGO_BUILD_TARGET:-$host}

# The folders that the compilers would write down, as they name them: without links in their paths.
home=$(pwd -P)
registry=$(readlink -m "${CARGO_HOME:-$HOME/.cargo}")
target=$(readlink -m "${CARGO_TARGET_DIR:-target}")

# Where it was built is nobody's business, and would make two builds differ.
flags=() c_flags=()
for folder in "$home=/build" "$registry=/cargo" "$target=/build/target"; do
    flags+=("--remap-path-prefix=$folder")
    c_flags+=("-ffile-prefix-map=$folder")
done

# cargo rustc with `flags` and `c_flags`.  With --target they are for what we ship, and not for the macros that run while it
# is built.
build() {
    # The allocator's C writes down when it was compiled; the compiler takes this for now.
    export SOURCE_DATE_EPOCH=0
    export CARGO_ENCODED_RUSTFLAGS CFLAGS="${CFLAGS:+$CFLAGS }${c_flags[*]}" CXXFLAGS="${CXXFLAGS:+$CXXFLAGS }${c_flags[*]}"
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}")
    "$cargo" rustc --locked --release --target "$triple" "$@"
}
