#!/usr/bin/env bash
# What has to hold before a release goes out, and takes too long for every change: the binary is built twice.
# Leaves in target/dist the binary, its bill of materials, the licences of what is inside, and SHA256SUMS.
# Exit code 0 only if every line at the end says ok.
set -uo pipefail
cd "$(dirname "$0")/.."

binary=target/dist/envoy-auth-tokens
bill=target/dist/envoy-auth-tokens.cdx.json
python=${PYTHON:-python3}
triple=$(rustc -vV | sed -n 's/^host: //p')
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
verdicts=()
failures=0

# check WHAT COMMAND…: runs it, and remembers how it ended.
check() {
    local what=$1 verdict=ok started=$SECONDS
    shift
    printf '\n== %s\n' "$what"
    "$@" || {
        [ $? = 3 ] && verdict='NOT CHECKED' || verdict=FAILED
        failures=$((failures + 1))
    }
    verdicts+=("$(printf '%-12s %s (%s s)' "$verdict" "$what" $((SECONDS - started)))")
}

dependencies() {
    local fetched
    fetched=$("$python" tests/tools/fetch.py cargo-deny) &&
        "${fetched#cargo-deny=}" --locked check -D warnings bans licenses sources
}

# Nothing that an earlier run left may pass for what this one made.
build() { rm -f "$binary" "$bill" && deploy/dist.sh; }

# The sources as git lists them, in another folder, with another home of cargo, time zone and language.
build_elsewhere() {
    local home=${CARGO_HOME:-$HOME/.cargo} cargo=$elsewhere/cargo sources=$elsewhere/another/folder
    mkdir -p "$sources" "$cargo/registry" &&
        git ls-files -z | xargs -0 cp --parents -t "$sources" &&
        cp -a "$home/registry/index" "$home/registry/cache" "$cargo/registry/" || return 1
    # Where cargo is told to find the registry, should it need it.
    for settings in "$home"/config "$home"/config.toml; do
        [ ! -e "$settings" ] || cp "$settings" "$cargo/"
    done
    env -u CARGO_TARGET_DIR CARGO_HOME="$cargo" TZ=Pacific/Kiritimati LC_ALL=C \
        "$sources/deploy/dist.sh" || return 1
    sha256sum "$binary" "$sources/$binary"
    cmp "$binary" "$sources/$binary"
}

# The library that validates it is fetched; the second bill must be the first, byte for byte.
bill_of_materials() {
    local built=$elsewhere/another/folder/target/$triple/release/deps
    "$python" tests/tools/fetch.py cyclonedx >/dev/null &&
        "$python" deploy/sbom.py --binary "$binary" --output "$bill" &&
        "$python" deploy/sbom.py --binary "$binary" --output "$elsewhere/bill" --built "$built" &&
        cmp "$bill" "$elsewhere/bill"
}

no_path_of_this_machine() {
    local path paths
    [ -s "$binary" ] || return 1
    paths=("$PWD" "${CARGO_HOME:-$HOME/.cargo}" "${CARGO_TARGET_DIR:-target}")
    for path in "${paths[@]}" "$(dirname "$(rustc --print sysroot)")"; do
        path=$(readlink -m "$path")
        ! grep -qF -- "$path" "$binary" || {
            echo "$binary holds the path $path" >&2
            return 1
        }
    done
}

notices() { "$python" deploy/notices.py --output target/dist/THIRD-PARTY-NOTICES; }

# Of every file that lies there: a package that was built from the binary is a part of the release.  Folders are what
# such a package was made of.
digests() {
    (cd target/dist && find . -maxdepth 1 -type f ! -name '.*' ! -name SHA256SUMS -printf '%f\0' |
        sort -z | xargs -0 sha256sum -- >"$elsewhere/sums" && mv "$elsewhere/sums" SHA256SUMS) &&
        cat target/dist/SHA256SUMS
}

check 'licences, bans and sources of every dependency (cargo-deny)' dependencies
check 'no advisory against any dependency (cargo-deny)' deploy/advisories.sh
check 'a static release build' build
check 'no path of this machine in it' no_path_of_this_machine
check 'a second build elsewhere has the same bytes' build_elsewhere
check 'a bill of materials (CycloneDX 1.6): valid, reproducible, and what was built' bill_of_materials
check 'the licences of all that is inside, to go with it' notices
check 'the digests of what is in target/dist' digests

printf '\n'
printf '%s\n' "${verdicts[@]}"
[ "$failures" = 0 ]
