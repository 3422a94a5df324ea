//! envoy-auth-tokens inside Envoy's process: an HTTP filter as a dynamic module of Envoy.
//!
//! Engine, configuration, reloading, keys, metrics and logs are those of the server.  This crate connects them to
//! Envoy:
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
//! - Envoy continues a request only through `filter::let_pass`, which takes a
//!   [`Permit`](envoy_auth_tokens::policy::Permit).  Every other exit of the headers' hook, including a caught panic,
//!   denies or waits, and returns `StopAllIterationAndWatermark`.  `StopIteration` would let the first frame of a body
//!   through (measured).
//! - No reference to Envoy's memory is kept after a hook.  A request that waits (for a password) is copied first.
//! - No panic reaches Envoy: every export catches it.
//! - A filter is only accessed through shared references: Envoy may call one hook within another.

#[allow(unsafe_code)]
mod abi;
mod changes;
mod filter;
mod instance;
mod log;
mod metadata;
mod query;
mod settings;
