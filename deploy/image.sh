#!/usr/bin/env bash
# Builds deploy/Dockerfile's image from the binary of `make dist`, with docker, podman or buildah.
#   BUILDER=podman  one of the three; else the first that is there
#   IMAGE=…         its name, by default envoy-auth-tokens and the version
#   CAS=…           the file of CAs in the image, in PEM; by default Mozilla's, from the Python package certifi:
#                   what this machine trusts is nobody else's business
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 1
}

binary=target/dist/envoy-auth-tokens
[ -x "$binary" ] || fail "$binary is missing: run \`make dist\`."
builder=$(deploy/builder.sh)
cas=${CAS:-}
if [ -z "$cas" ]; then
    certifi=$("${PYTHON:-python3}" tests/tools/fetch.py certifi)
    cas=${certifi#certifi=}/certifi/cacert.pem
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's time, so that the same files make the same layer.
time=$(git log -1 --format=%ct 2>/dev/null || date +%s)
image=${IMAGE:-envoy-auth-tokens:$version}

umask 022
deploy/image-files.sh "$binary" "$cas" target/image/files
arguments=(--file deploy/Dockerfile --tag "$image" --build-arg FILES=made)
arguments+=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
case $builder in
    # HEALTHCHECK is Docker's; OCI's format has no place for it.
    podman | buildah) "$builder" build --format docker --timestamp "$time" "${arguments[@]}" . ;;
    docker) DOCKER_BUILDKIT=1 docker build "${arguments[@]}" . ;;
esac
echo "$image, by $builder"
