#!/usr/bin/env bash
# Prints which of docker, podman and buildah makes and pushes images here: the one that BUILDER names, else the first that
# works.
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit 1
}

# docker is also there where nothing but its client is.
works() {
    command -v "$1" >/dev/null && { [ "$1" != docker ] || docker info >/dev/null 2>&1; }
}

builder=${BUILDER:-}
if [ -z "$builder" ]; then
    for builder in docker podman buildah ''; do
        [ -z "$builder" ] || ! works "$builder" || break
    done
fi
[ -n "$builder" ] || fail 'none of docker (with its daemon), podman and buildah is here: install one (Debian: apt install buildah).'
case $builder in
    docker | podman | buildah) ;;
    *) fail "BUILDER is $builder, not docker, podman or buildah." ;;
esac
works "$builder" || fail "$builder is not installed here, or its daemon does not run."
echo "$builder"
