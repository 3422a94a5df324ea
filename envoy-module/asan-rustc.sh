#!/bin/sh
# rustc, with AddressSanitizer for this crate alone (`make asan`).  The compiler of releases has it, and asks to be told that
# its command line may change.
case " $* " in
*" --crate-name envoy_auth_tokens_module "*)
    export RUSTC_BOOTSTRAP=1
    exec "$@" -Zsanitizer=address
    ;;
esac
exec "$@"
