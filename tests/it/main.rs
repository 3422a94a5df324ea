//! The whole product from outside: the real binary, a real Envoy, real sockets.
//!
//! The name of each test is a sentence that says what holds.  What a test needs is started by
//! [`harness`]: our server on ports of its own, an upstream that shows what reached it, and
//! the Envoy that `tests/tools/fetch.py` fetched.  A piece that is missing is a failure.

#![cfg(all(feature = "server", feature = "postgres", feature = "ldap", feature = "otel"))]
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    reason = "a test that meets the unexpected has failed, and reads best with little ceremony"
)]

mod harness;

mod accounts_commands;
mod actor_headers;
mod admin_page;
mod advisories;
mod applications;
mod audit_log;
mod book;
mod check;
mod check_command;
mod commands;
mod compose;
mod credentials;
mod dashboards;
mod datasette_plugin;
mod decision_log;
mod demo;
mod denials;
mod directory;
mod dockerfile;
mod docs;
mod envoy_command;
mod envoy_config;
mod envoy_gateway;
mod escalation;
mod explain;
mod gateway_api;
mod grafana_clients;
mod helm;
mod import_datasette;
mod import_grafana;
mod import_grafana_keys;
mod init_command;
mod inside_envoy;
mod introspection;
mod istio;
mod keys_api;
mod keys_at_rest;
mod keys_attempts;
mod keys_changes;
mod keys_commands;
mod keys_edits;
mod keys_expiry;
mod keys_history;
mod keys_lists;
mod keys_lost_changes;
mod keys_owners;
mod keys_people;
mod keys_postgres;
mod keys_replicas;
mod keys_retention;
mod keys_sqlite;
mod keys_store;
mod keys_survival;
mod keys_tls;
mod kubernetes;
mod layers;
mod lifecycle;
mod limits;
mod links;
mod log_in;
mod log_in_redirect;
mod metrics;
mod people;
mod people_log_in;
mod people_of_providers;
mod people_sessions;
mod policies;
mod proto;
mod provider;
mod readme;
mod recipes;
mod reference;
mod reload;
mod robustness;
mod schema;
mod secret_scanning;
mod secrets_stay_secret;
mod service_accounts;
mod shadow;
mod shells;
mod shipped;
mod soak;
mod store_faults;
mod supply_chain;
mod systemd;
mod tls;
mod tonic_server;
mod traces;
mod transports;
mod users;
mod wiring;
