#!/usr/bin/env bash
# One part of a release: release.sh PART, as `make PART`.
#
#   archive         target/dist/envoy-auth-tokens-VERSION-linux-ARCH.tar.gz of what `make release-check` built, and the
#                   bill of materials under a name with the architecture
#   module-archive  target/dist/envoy-auth-tokens-module-VERSION-linux-ARCH.tar.gz of what `make module` built
#   chart-package   target/dist/envoy-auth-tokens-VERSION.tgz, the Helm chart
#   push-image      this machine's image of `make image`, to $REGISTRY/envoy-auth-tokens:VERSION-ARCH
#   join-images     both architectures under $REGISTRY/envoy-auth-tokens:VERSION
#   push-chart      the chart to oci://$REGISTRY/charts
#   sign            image and chart, without a key of ours: cosign asks the identity that the environment gives it
#   github-release  a release of $TAG with every file of target/dist
#
# Images go by docker, podman or buildah, whichever BUILDER names or is there first.  PLAIN_HTTP=yes is for a registry on
# loopback, without TLS.
#
# Our tests run all of it but `sign` and `github-release`, with a registry on loopback and by buildah.  These two need
# Sigstore's and GitHub's services: they were never run.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 1
}

needs() {
    command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

registry() {
    [ -n "${REGISTRY:-}" ] || fail 'REGISTRY is empty: name one, such as REGISTRY=ghcr.io/you.'
    # A registry's names are in lower case, an owner's at GitHub may not be.
    printf %s "$REGISTRY" | tr '[:upper:]' '[:lower:]'
}

helm() {
    local fetched
    fetched=$("${PYTHON:-python3}" tests/tools/fetch.py kubectl | sed -n 's/^helm=//p')
    "$fetched" "$@"
}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$(uname -m) ;;
esac
dist=${OUTPUT:-target/dist}
# The commit's time, so that the same files make the same archive.
time=$(git log -1 --format=%ct 2>/dev/null || echo 0)

# pack NAME FILE MODE: an archive of a built file, with what has to go with it, and its digest.
pack() {
    local name=$1 built=$2 mode=$3 folder file
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # The folder of now.
    trap "rm -rf '$folder'" EXIT
    install -D -m "$mode" "$built" "$folder/$name/${built##*/}"
    for file in LICENSE README.md CHANGELOG.md target/dist/THIRD-PARTY-NOTICES; do
        [ ! -e "$file" ] || install -m 0644 "$file" "$folder/$name/"
    done
    mkdir -p "$dist"
    tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$time" --directory "$folder" "$name" |
        gzip --no-name --best >"$dist/$name.tar.gz"
    (cd "$dist" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
    echo "$dist/$name.tar.gz"
}

archive() {
    [ -x target/dist/envoy-auth-tokens ] || fail 'target/dist/envoy-auth-tokens is missing: run make dist.'
    pack "envoy-auth-tokens-$version-linux-$architecture" target/dist/envoy-auth-tokens 0755
    [ ! -e target/dist/envoy-auth-tokens.cdx.json ] ||
        cp target/dist/envoy-auth-tokens.cdx.json "$dist/envoy-auth-tokens-linux-$architecture.cdx.json"
}

module_archive() {
    local module=target/dist/libenvoy_auth_tokens.so
    [ -e "$module" ] || fail "$module is missing: run make module."
    # `make release-check` writes the licences of what is inside; the module holds a part of that.
    [ -e target/dist/THIRD-PARTY-NOTICES ] ||
        "${PYTHON:-python3}" deploy/notices.py --output target/dist/THIRD-PARTY-NOTICES
    pack "envoy-auth-tokens-module-$version-linux-$architecture" "$module" 0644
}

chart_package() {
    "${PYTHON:-python3}" deploy/helm/readme.py --check || fail 'the chart is not what `make chart` makes.'
    mkdir -p "$dist"
    helm lint --strict deploy/helm/envoy-auth-tokens >/dev/null
    helm package deploy/helm/envoy-auth-tokens --destination "$dist" >/dev/null
    echo "$dist/envoy-auth-tokens-$version.tgz"
}

push_image() {
    local to builder
    to=$(registry)/envoy-auth-tokens:$version-$architecture
    builder=$(deploy/builder.sh)
    "$builder" tag "${IMAGE:-envoy-auth-tokens:$version}" "$to"
    case $builder in
        docker) docker push "$to" ;;
        *) "$builder" push ${PLAIN_HTTP:+--tls-verify=false} "$to" ;;
    esac
}

join_images() {
    local to builder architecture
    to=$(registry)/envoy-auth-tokens:$version
    builder=$(deploy/builder.sh)
    case $builder in
        docker) docker buildx imagetools create --tag "$to" "$to-amd64" "$to-arm64" ;;
        *)
            # It stays on this machine from an earlier try.
            "$builder" manifest rm "$to" >/dev/null 2>&1 || true
            "$builder" manifest create "$to"
            for architecture in amd64 arm64; do
                "$builder" manifest add ${PLAIN_HTTP:+--tls-verify=false} --arch "$architecture" "$to" "docker://$to-$architecture"
            done
            "$builder" manifest push ${PLAIN_HTTP:+--tls-verify=false} --all "$to" "docker://$to"
            ;;
    esac
}

push_chart() {
    local to
    to=oci://$(registry)/charts
    [ -e "$dist/envoy-auth-tokens-$version.tgz" ] || fail 'the chart is missing: run make chart-package.'
    helm push ${PLAIN_HTTP:+--plain-http} "$dist/envoy-auth-tokens-$version.tgz" "$to"
}

sign() {
    local registry
    registry=$(registry)
    needs cosign 'install it (https://docs.sigstore.dev).'
    needs docker 'install it, with buildx, and log in to the registry.'
    local reference digest
    for reference in "$registry/envoy-auth-tokens:$version" "$registry/charts/envoy-auth-tokens:$version"; do
        # What is signed is the digest: a tag can be moved.
        digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$reference")
        cosign sign --yes "${reference%:*}@$digest"
    done
}

github_release() {
    [ -n "${TAG:-}" ] || fail 'TAG is empty: name the tag of the release, such as TAG=v0.1.0.'
    [ "${TAG#v}" = "$version" ] || fail "the tag $TAG is not of version $version."
    needs gh 'install it (https://cli.github.com).'
    # Its notes are what the changelog says of this version.
    local notes
    notes=$(mktemp)
    # shellcheck disable=SC2064 # The file of now.
    trap "rm -f '$notes'" EXIT
    sed -n "/^## \[$version\]/,/^## \[/p" CHANGELOG.md | sed '1d;/^## \[/d' >"$notes"
    gh release create "$TAG" --verify-tag --title "$TAG" --notes-file "$notes" "$dist"/*
}

case ${1:-} in
    archive) archive ;;
    module-archive) module_archive ;;
    chart-package) chart_package ;;
    push-image) push_image ;;
    join-images) join_images ;;
    push-chart) push_chart ;;
    sign) sign ;;
    github-release) github_release ;;
    *) fail 'name one part: archive, module-archive, chart-package, push-image, join-images, push-chart, sign, github-release.' ;;
esac
