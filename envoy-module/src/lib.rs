//! envoy-auth-tokens inside Envoy's process: an HTTP filter by Envoy's dynamic modules.
//!
//! The engine is that of the server, and so are configuration, reloading, keys, metrics and logs; this crate is what lies
//! between them and Envoy:
//!
//! | module | |
//! | --- | --- |
//! | `abi` | Envoy's C interface: its functions and ours, each behind one safe function.  The only place with `unsafe` |
//! | `filter` | one request, like the server's Check service: headers → attributes → authorize → answer → headers |
//! | `changes` | what an answer changes, copied out of Envoy's memory |
//! | `query` | the path without a credential, written as ext_authz writes it |
//! | `metadata` | dynamic metadata, as protobuf or as flat members |
//! | `settings` | what Envoy's configuration says of the filter |
//! | `instance` | rules, keys, follower, logs and probes of one configuration, on threads of our own |
//! | `log` | our log lines in Envoy's log |
//!
//! ## What must stay true
//!
//! - Envoy goes on with a request by `filter::let_pass` alone, which takes a [`Permit`](envoy_auth_tokens::policy::Permit).
//!   Every other way out of the headers' hook, a caught panic included, has denied or waits, and returns
//!   `StopAllIterationAndWatermark`.  `StopIteration` would let the first frame of a body through (measured).
//! - Nothing of Envoy's memory is kept after a hook.  A request that waits (for a password) is copied before.
//! - No panic reaches Envoy: every export catches it.
//! - A filter is reached by shared references alone: Envoy may call one hook within another.

#[allow(unsafe_code)]
mod abi;
mod changes;
mod filter;
mod instance;
mod log;
mod metadata;
mod query;
mod settings;
