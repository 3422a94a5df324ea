//! Envoy's external authorization by gRPC: `envoy.service.auth.v3.Authorization/Check`.
//!
//! The modules are in the order in which a Check runs through them:
//!
//! 1. [`listener`]: an HTTP/2 request goes to the Check service, to a service of tonic, or gets a 404
//! 2. `metadata`: the gRPC metadata in the head of the request
//! 3. [`service`]: the tonic service; receives the message within limits and answers
//! 4. [`handler`]: decodes the message, calls the engine, encodes the answer
//! 5. [`codec`]: bytes to attributes, and decisions to bytes
//! 6. [`body`]: the answer as the body of an HTTP response
//!
//! Every CheckRequest that arrives whole and in time gets an answer with gRPC status OK, denials included: to Envoy a
//! gRPC error is an outage, which it may be configured to let pass (`failure_mode_allow`).  A body that is not a gRPC
//! message, or that does not arrive in time, is a gRPC error.  A stream beyond the limits is denied or reset.
//!
//! Health and reflection are tonic's ([`health`], [`reflection`]).  Connections are served by [`crate::server`].

pub mod body;
pub mod codec;
pub mod handler;
pub mod health;
pub mod incomplete;
pub mod limits;
pub mod listener;
mod metadata;
pub mod reflection;
pub mod service;
pub mod tonic_services;
pub mod wiring;

/// The slice of the protocol, generated from `proto/ext_authz.proto`.
pub mod wire {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/ext_authz.rs"));
}

pub use listener::serve;
pub use service::{CHECK_PATH, CheckService, SERVICE_NAME};
