//! envoy-auth-tokens

pub mod actor;
pub mod app;
pub mod attributes;
pub mod authorizer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credential;
pub mod decision;
pub mod ext_authz;
pub mod health;
pub mod identity;
pub mod listener;
pub mod password;
pub mod policy;
pub mod probes;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod token;
