#!/usr/bin/env bash
# Makes the Debian package of what `make dist` has built, and compiles nothing of it:
# target/dist/envoy-auth-tokens_<version>_<architecture>.deb.  With the argument `module` that of what `make module` has built:
# target/dist/envoy-auth-tokens-module_<version>_<architecture>.deb.
#
#   MODULE=file                         with `module`: another file than target/dist/libenvoy_auth_tokens.so
#   MAINTAINER='You <you@your.domain>'  whoever publishes it; without it an address that nobody reads
#   DEB_VERSION=0.1.0-2                 another version than the crate's with revision 1
#   OUTPUT=folder                       another folder than target/dist
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "error: $1" >&2
    exit 1
}

what=${1:-server}
case $what in
    server)
        binary=target/dist/envoy-auth-tokens
        [ -x "$binary" ] || fail "$binary is missing: run make dist."
        ;;
    module)
        module=${MODULE:-target/dist/libenvoy_auth_tokens.so}
        [ -f "$module" ] || fail "$module is missing: run make module."
        # It finds out which glibc the package depends on.
        command -v dpkg-shlibdeps >/dev/null || fail 'dpkg-shlibdeps is missing: install it (Debian and Ubuntu: apt install dpkg-dev).'
        ;;
    *) fail "there is no package of '$what': the packages are server and module." ;;
esac
if [ -n "${MAINTAINER:-}" ] && [[ ! $MAINTAINER =~ ^[^\<\>]+\ \<[^\<\>@[:space:]]+@[^\<\>@[:space:]]+\>$ ]]; then
    fail "MAINTAINER is '$MAINTAINER', not a name and an address such as 'You <you@your.domain>'."
fi
command -v xz >/dev/null || fail 'xz is missing: install it (Debian and Ubuntu: apt install xz-utils).'
cargo_deb=$("${PYTHON:-python3}" tests/tools/fetch.py cargo-deb)

# One at a time: what is packed stands in one place.
exec 9>target/dist/.deb.lock
flock 9

changelog=deploy/debian/changelog
case $what in
    server)
        package=envoy-auth-tokens
        # What the program tells of itself.
        told=target/dist/deb
        rm -rf "$told"
        mkdir -p "$told"
        "$binary" man --out-dir "$told/man"
        "$binary" completions bash >"$told/bash"
        "$binary" completions zsh >"$told/zsh"
        "$binary" completions fish >"$told/fish"
        ;;
    module)
        package=envoy-auth-tokens-module
        staged=target/dist/module-deb
        rm -rf "$staged"
        install -D -m 0644 "$module" "$staged/libenvoy_auth_tokens.so"
        sed "s/^envoy-auth-tokens (/$package (/" "$changelog" >"$staged/changelog"
        ;;
esac

# The same binary makes the same package, whenever that is.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(date --date "$(sed -n 's/^ -- .*>  //p' "$changelog" | head -n 1)" +%s)}
export SOURCE_DATE_EPOCH
umask 022
"${cargo_deb#cargo-deb=}" --no-build --no-strip --locked --compress-system --quiet \
    --package "$package" --output "${OUTPUT:-target/dist}/" \
    ${MAINTAINER:+--maintainer "$MAINTAINER"} ${DEB_VERSION:+--deb-version "$DEB_VERSION"}
