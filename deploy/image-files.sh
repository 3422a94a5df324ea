#!/bin/sh
# Lays out what the image holds: image-files.sh BINARY CAS FOLDER.  Both ways to build it (deploy/Dockerfile) use this.
set -eu
binary=$1 cas=$2 folder=$3

rm -rf "$folder"
# root is the image's root; run and lib hold folders of the process's own.
install -d -m 0755 "$folder/root/run" "$folder/root/var/lib" "$folder/run/envoy-auth-tokens"
install -d -m 0700 "$folder/lib/envoy-auth-tokens"
install -D -m 0755 "$binary" "$folder/root/usr/bin/envoy-auth-tokens"
# For OTLP over TLS and `keys --url https://…`; PostgreSQL's client has these CAs inside.  Mount your own over it.
install -D -m 0644 "$cas" "$folder/root/etc/ssl/certs/ca-certificates.crt"
