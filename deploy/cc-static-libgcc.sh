#!/bin/sh
# The C compiler as a linker that puts libgcc inside: Rust asks for the shared one.
set -eu
for argument; do
    shift
    [ "$argument" != -lgcc_s ] || argument=-lgcc_eh
    set -- "$@" "$argument"
done
exec "${CC:-cc}" "$@"
