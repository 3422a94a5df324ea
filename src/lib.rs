//! # envoy-auth-tokens
//!
//! An ext_authz gRPC authorization server: Envoy asks it about every request, it finds the API token in the
//! request, the **actor** behind the token, and whether a policy's **allow** block admits that actor; it
//! answers with actor headers for the upstream, or with a correct denial.
//!
//! This page is the map of the source, and [`walkthroughs`] are four ways through it, file by file.  `README.md`
//! and `docs/` say how to run the program, `CONTRIBUTING.md` how to change it.
//!
//! ## The path of a Check
//!
//! ```text
//! socket ── server (connections) ── ext_authz (the gRPC service)
//!   CheckRequest bytes ──▶ ext_authz::codec::request ──▶ Attributes
//!                                                            │
//!                            Authorizer::authorize(&Attributes) ──▶ Decision
//!                              Policies::select      ──▶ Selected: one policy, or several that must all admit
//!                              credential::extract   ──▶ Option<PresentedCredential>
//!                              Sources::identify     ──▶ Identity, with a Principal
//!                              Policy::admit         ──▶ Permit        (each step may deny instead)
//!                                                            │
//!                            Answer::new(&Decision, …) ──▶ Answer
//!                                                            │
//!   CheckResponse bytes ◀── ext_authz::codec::response ◀─────┘     telemetry.record(&CheckRecord)
//! ```
//!
//! [`authorizer`] is the file to read first: it is that picture as code.
//!
//! ## Glossary
//!
//! | word | meaning |
//! | --- | --- |
//! | token | the secret string that a client presents; we keep its digest ([`token`]) |
//! | API key | a stored record whose secret is a token that we issued ([`keys`]) |
//! | credential | what a request carries: a token, a user name with a password, a session cookie ([`credential`]) |
//! | location | where a request carries it: `bearer`, `basic`, a header, a query parameter, a cookie ([`credential::CredentialLocation`]) |
//! | principal | a credential that was authenticated, with the actor behind it ([`credential::Principal`]) |
//! | actor | the JSON object that says who it is ([`actor`]) |
//! | attributes | what Envoy sends about the request ([`attributes`]) |
//! | policy | holds an allow block; routes or `context_extensions` choose one ([`policy`]) |
//! | permit | proof that a policy lets the request pass ([`policy::Permit`]) |
//! | denial | the decision not to let the request pass, with its reason ([`deny_reason::DenyReason`]) |
//! | decision | a permit or a denial, with its context ([`decision::Decision`]) |
//! | outcome | the result of a decision: allowed, denied, or shadowed ([`decision::Outcome`]) |
//! | answer | what Envoy does with the request: set and remove headers, or send a status and a body ([`answer::Answer`]) |
//! | snapshot | the current configuration, in the form that requests use ([`snapshot::Snapshot`]) |
//! | user | a person with a name and a password in the configuration ([`snapshot::User`]) |
//! | person | a user of the configuration, a person of a directory, or a person of a provider ([`person`]) |
//! | subject | the id of a person within a source: the name of a user, or the id in a directory or at a provider ([`person::PersonId`]) |
//! | session | a log-in of a person, carried by a cookie ([`keys::sessions`]) |
//! | claims | the last values that a directory or a provider gave about a person ([`person::Claims`]) |
//! | binding | the digest of what must stay the same for a session to live ([`keys::scoped_binding`]) |
//! | record | the row about a person in the store, for servers without `admin` ([`keys::people`]) |
//! | finding | the answer of a directory about a person who has a session ([`identity::people::sessions`]) |
//! | return address | the URL to which a browser goes after log-in ([`return_to`]) |
//! | store, revision | the database of keys and sessions, and the number of its newest change ([`keys::store`]) |
//! | index | every key and session in memory, for Checks ([`keys::index`]) |
//! | shadowed | denied by a policy that is not enforced: the request passes, without an actor ([`policy::Policy::shadow_permit`]) |
//!
//! ## Layers, top to bottom
//!
//! A module imports only from its own layer and the layers below.  Imports between the modules of one layer, and
//! between those within a module's folder, have no cycles.  `tests/it/layers.rs` checks the source against this table.
//!
//! | layer | modules | |
//! | --- | --- | --- |
//! | process | [`app`] [`cli`] [`reload`] `main` | wiring, commands, reloading, the exit code |
//! | servers | [`ext_authz`] [`probes`] [`admin`] | gRPC and HTTP; wire types, tonic and axum are used only here (except for the client of `cli health`) |
//! | transport | [`server`] [`readiness`] [`service_manager`] [`shutdown`] [`watch`] | connections, TLS, limits, signals, files |
//! | telemetry | [`telemetry`] | metrics, decision log, audit log, traces |
//! | engine | [`authorizer`] [`answer`] [`decision`] [`identity`] | no I/O except for people: passwords are verified, a directory is asked, and its answers are written into the store |
//! | state | [`snapshot`] [`return_to`] [`config`] [`clock`] [`keys`] [`directory`] [`provider`] [`priority`] [`memory`] | the configuration as a file and at run time; the issued keys; the clients of a directory and of providers |
//! | rules | [`credential`] [`deny_reason`] [`policy`] | pure functions, each with its own small error |
//! | model | [`attributes`] [`actor`] [`secret`] [`token`] [`password`] [`person`] [`distinguished_name`] [`folder`] [`file_problem`] | no async, no clock, no environment |
//!
//! The crate `envoy-module/` runs the same engine inside Envoy's own process: it is another server, built on the feature
//! `runtime`, and the only place with `unsafe`.
//!
//! ## What must stay true
//!
//! - A [`Permit`](policy::Permit) is made in [`policy`] alone (by admission, for an allowed preflight, for a
//!   policy that is not enforced): its fields are private there.  Neither it nor
//!   a [`Decision`](decision::Decision) has a `Default`, and no `bool` means "allowed".
//! - Status, code, texts and kind of challenge of each denial are in one table ([`deny_reason`]);
//!   [`answer::Denial`] makes headers and a body of them.
//! - A client that does not speak gRPC never gets status 200, which Envoy's `http_service` would take for a permission
//!   ([`ext_authz::wiring`]).
//! - Every CheckRequest that arrives whole and in time gets an answer with gRPC status OK; a denial is a
//!   `denied_response` (an `error_response` with `keys.unavailable: error`).  To Envoy a gRPC error is an outage,
//!   which it may be configured to let pass.  A panic is caught and denies.
//! - A token's plain text stays in the location that carried it: [`credential::extract`] passes a digest on.  Plain
//!   text and digest are different types, and the `Debug` of secrets shows nothing.
//! - One [`snapshot::Snapshot`] serves one request from start to end.
//! - Settings that cannot change while the process runs ([`config::Startup`]) and settings that can
//!   ([`snapshot::Snapshot`], [`config::Tls`]) are different types.  A reload applies all of the latter, or none
//!   ([`reload`]).
//! - The engine does not call telemetry; the server does, with the finished decision.
//! - Client text is bytes until a rule reads it: bytes that are not UTF-8 lead to a denial where they matter,
//!   and never to a decoding error.
//!
//! ## What is bounded, and by what
//!
//! No client can make anything grow without a limit.  `docs/limits.md` has the limits;
//! `tests/it/limits.rs` tries to break them.
//!
//! | what may grow | bounded by |
//! | --- | --- |
//! | connections, a task each | a limit ([`server::connection_limit`]): for one more, the one that waited longest without a request is closed, or the new one when all are in use |
//! | streams, a task each | a share of [`memory::limit`] ([`ext_authz::limits`]); a Check lives 30 s, another call 31 minutes ([`ext_authz::listener`]) |
//! | metadata of a call | `MAX_HEADER_LIST`, 1 MiB ([`server::http2`]) |
//! | streams that are reset, or break the rules | `MAX_PENDING_RESETS`, `MAX_BROKEN_STREAMS`: then the connection ends ([`server::http2`]) |
//! | messages that arrive in pieces | their size and [`ext_authz::codec::frame::Budget`], a share of [`memory::limit`] |
//! | Checks that are open, or lack their message | shares of the same: [`server::activity`], [`ext_authz::incomplete`] |
//! | header blocks that are incomplete | a share of the same: [`server::header_block_limit`] |
//! | headers of a request | `MAX_HEADERS` ([`ext_authz::codec::request`]) |
//! | bytes that one side sends and the other does not read | HTTP/2's windows; [`server::write_timeout`] |
//! | heads and bodies of admin and probes | [`server::http1`], `MAX_BODY_BYTES` ([`admin`]) |
//! | lists of all keys that are being written | `MAX_LISTS` ([`admin`]), a page of each in memory |
//! | changes by the admin API whose client may have gone | `MAX_CHANGES` ([`admin`]), `MAX_PROVIDER_LOG_INS` of which are log-ins at providers |
//! | log-ins at providers that begin | ten a second; nothing of them is kept but their used states, for 20 minutes ([`keys::attempts`]) |
//! | callers whose unknown tokens are counted | `MAX_CALLERS`, each for a second ([`admin`]) |
//! | passwords that run or wait, their threads, their memory | semaphores: two for each of Checks and admin, one for both ([`identity::passwords`]) |
//! | passwords remembered; failures | a count, the oldest goes first; five of each configured user |
//! | questions to a directory; connections to it | `MAX_QUESTIONS`, each with an end in time ([`directory`]); `MAX_CONNECTIONS` of each kind for each server |
//! | questions about passwords and about people with sessions | `MAX_PENDING` and, from Checks, `MAX_QUESTIONS_PER_SECOND`; `MAX_RECHECKS` ([`identity::people`]) |
//! | questions about the people who own keys | one at a time, once an hour each ([`identity::people`]) |
//! | what is remembered of a directory's people | `MAX_PAIRS`, `MAX_COUNTED_ENTRIES`, `MAX_REMEMBERED` ([`identity::people`]): the oldest goes first, but no count of wrong passwords |
//! | what a directory answers | `MAX_ANSWER_BYTES`, `MAX_GROUPS` ([`directory`]) |
//! | requests to a provider | `MAX_REQUESTS` to each at a time, each with an end in time ([`provider`]) |
//! | what a provider answers; its keys | `MAX_ANSWER_BYTES`, `MAX_KEYS` ([`provider`]) |
//! | uses of keys and sessions to be written down | a flag at each: one message is on its way to the follower ([`keys::usage`]) |
//! | keys, sessions | `keys.max`; [`MAX_SESSIONS_PER_PERSON`](keys::sessions::MAX_SESSIONS_PER_PERSON) of each scope, and dead ones for an hour |
//! | rows of the audit in the store | 400 days and [`MAX_ROWS`](keys::audit::MAX_ROWS), deleted once an hour |
//! | records of people | [`MAX_PEOPLE`](keys::people::MAX_PEOPLE): the one that ended, or was seen, longest ago is evicted; ended ones are deleted after 400 days |
//! | log lines | a bounded channel that drops and counts ([`telemetry::logging`]) |
//! | spans | a bounded queue that drops and counts ([`telemetry::traces`]) |
//! | label values of metrics | names of our own and of policies, never a client's text ([`telemetry::metrics`]) |
//! | answers encoded ahead | one for each principal ([`credential::CachedActorAnswer`]), three for each deny reason |
//! | addresses that browsers are sent back to | [`MAX_RETURN_TO`](return_to::MAX_RETURN_TO) |
//! | TLS sessions | none is stored: every handshake is whole ([`server::tls`]) |
//! | events of files, calls to reload | a set of three flags ([`watch`]) |
//! | lines about clients that misbehave | one in five seconds of each kind |
//!
//! ## Why it is fast
//!
//! The Check service is a tonic service without tonic's codec ([`ext_authz::service`]); our listener calls it on
//! hyper's HTTP/2 ([`server::http2`]), next to tonic's health and reflection services.  Requests are read by a part of
//! the protocol (`proto/ext_authz.proto`) that skips the fields that no decision reads and borrows the others from the
//! message.  A token is hashed once and looked up by digest.  The part of an answer that depends only on the actor is
//! encoded at the first request that needs it under the current snapshot, and copied from then on.  `benches/` measures
//! it.

pub mod actor;
#[cfg(feature = "server")]
pub mod admin;
pub mod answer;
#[cfg(feature = "server")]
pub mod app;
pub mod attributes;
pub mod authorizer;
#[cfg(feature = "server")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod credential;
pub mod decision;
pub mod deny_reason;
pub mod directory;
pub mod distinguished_name;
#[cfg(feature = "server")]
pub mod ext_authz;
pub mod file_problem;
pub mod folder;
#[cfg(all(feature = "server", any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod keys;
pub mod memory;
pub mod password;
pub mod person;
pub mod policy;
pub mod priority;
#[cfg(feature = "runtime")]
pub mod probes;
#[cfg(feature = "server")]
pub mod provider;
#[cfg(feature = "runtime")]
pub mod readiness;
#[cfg(feature = "runtime")]
pub mod reload;
pub mod return_to;
pub mod secret;
#[cfg(feature = "runtime")]
pub mod server;
#[cfg(feature = "server")]
pub mod service_manager;
#[cfg(feature = "server")]
pub mod shutdown;
pub mod snapshot;
#[cfg(feature = "runtime")]
pub mod telemetry;
pub mod token;
#[cfg(feature = "runtime")]
pub mod watch;

#[cfg(doc)]
#[doc = include_str!("walkthroughs.md")]
pub mod walkthroughs {}
