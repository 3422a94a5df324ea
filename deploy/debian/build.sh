#!/usr/bin/env bash
# Makes the Debian package of what `make dist` has built, and compiles nothing of it:
# target/dist/envoy-auth-tokens_<version>_<architecture>.deb.
#
#   MAINTAINER='You <you@your.domain>'  whoever publishes it; without it an address that nobody reads
#   DEB_VERSION=0.1.0-2                 another version than the crate's with revision 1
#   OUTPUT=folder                       another folder than target/dist
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "error: $1" >&2
    exit 1
}

binary=target/dist/envoy-auth-tokens
[ -x "$binary" ] || fail "$binary is missing: run make dist."
if [ -n "${MAINTAINER:-}" ] && [[ ! $MAINTAINER =~ ^[^\<\>]+\ \<[^\<\>@[:space:]]+@[^\<\>@[:space:]]+\>$ ]]; then
    fail "MAINTAINER is '$MAINTAINER', not a name and an address such as 'You <you@your.domain>'."
fi
command -v xz >/dev/null || fail 'xz is missing: install it (Debian and Ubuntu: apt install xz-utils).'
cargo_deb=$("${PYTHON:-python3}" tests/tools/fetch.py cargo-deb)

# One at a time: what is packed stands in one place.
exec 9>target/dist/.deb.lock
flock 9

# What the program tells of itself.
told=target/dist/deb
rm -rf "$told"
mkdir -p "$told"
"$binary" man --out-dir "$told/man"
"$binary" completions bash >"$told/bash"
"$binary" completions zsh >"$told/zsh"
"$binary" completions fish >"$told/fish"

# The same binary makes the same package, whenever that is.
changelog=deploy/debian/changelog
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(date --date "$(sed -n 's/^ -- .*>  //p' "$changelog" | head -n 1)" +%s)}
export SOURCE_DATE_EPOCH
umask 022
"${cargo_deb#cargo-deb=}" --no-build --no-strip --locked --compress-system --quiet \
    --output "${OUTPUT:-target/dist}/" \
    ${MAINTAINER:+--maintainer "$MAINTAINER"} ${DEB_VERSION:+--deb-version "$DEB_VERSION"}
