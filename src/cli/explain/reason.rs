//! `explain --reason`: what a reason means, who has to act, and what to do.
//!
//! docs/troubleshooting.md has the same table; `tests/it/docs.rs` writes it and holds it against this one.

use std::fmt;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};

use crate::deny_reason::DenyReason;

/// Who can fix the cause of a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Actor {
    /// The sender of the request.
    Client,
    /// The operator of this server.
    Operator,
    /// The operator of Envoy.
    EnvoyOperator,
    /// The manager of keys and people.
    Administrator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client",
            Self::Operator => "the operator of this server",
            Self::EnvoyOperator => "the operator of Envoy",
            Self::Administrator => "an administrator of keys and people",
        })
    }
}

struct Advice {
    reason: &'static str,
    meaning: &'static str,
    actor: Actor,
    remedy: &'static str,
}

const fn advice(reason: &'static str, meaning: &'static str, actor: Actor, remedy: &'static str) -> Advice {
    Advice { reason, meaning, actor, remedy }
}

use Actor::{Administrator, Client, EnvoyOperator, Operator};

/// One entry for each reason, in the order of [`DenyReason::ALL`].
const ADVICE: [Advice; DenyReason::ALL.len()] = [
    advice(
        "undecodable_request",
        "The message is not a CheckRequest of Envoy's ext_authz API v3, or has more than 16,384 headers.",
        EnvoyOperator,
        "Set `transport_api_version: V3` and `grpc_service`. If this is one request of many, its client sends too many headers.",
    ),
    advice(
        "no_http",
        "The message describes a connection and not an HTTP request: it comes from Envoy's TCP filter.",
        EnvoyOperator,
        "Use `envoy.filters.http.ext_authz` in the HTTP connection manager, not `envoy.filters.network.ext_authz`.",
    ),
    advice(
        "path_not_absolute",
        "The path does not begin with `/`, and routes compare paths or Envoy named the policy.",
        Client,
        "Send an absolute path. `OPTIONS *` has none.",
    ),
    advice(
        "path_empty_segment",
        "The path has an empty segment, such as `//`, which servers read in different ways.",
        Client,
        "Send one slash. Set `merge_slashes: true` in Envoy, or let it pass with `paths.permit: [empty_segment]`.",
    ),
    advice(
        "path_dot_segment",
        "The path has a segment `.` or `..`, encoded or not.",
        Client,
        "Send the path without it. Set `normalize_path: true` in Envoy.",
    ),
    advice(
        "path_parameters",
        "The path has a `;`: some servers read parameters after it, others a part of the name.",
        Client,
        "Send the path without it, or let it pass with `paths.permit: [parameters]`.",
    ),
    advice(
        "path_encoded_slash",
        "The path has an encoded slash (`%2f`, `%5c`) or a backslash.",
        Client,
        "Send `/`, or let it pass with `paths.permit: [encoded_slash]` if the application reads it as a part of \
         a name.",
    ),
    advice(
        "path_double_encoding",
        "The path has an encoded percent sign before two hexadecimal digits, such as `%252f`: it is encoded twice.",
        Client,
        "Encode the path once.",
    ),
    advice(
        "path_invalid_escape",
        "The path has a `%` that two hexadecimal digits do not follow.",
        Client,
        "Send `%25` for a percent sign.",
    ),
    advice(
        "path_control_character",
        "The path has a control character, encoded or not.",
        Client,
        "Send the path without it.",
    ),
    advice("path_not_utf8", "The decoded path is not UTF-8.", Client, "Encode the path as UTF-8."),
    advice(
        "path_fragment",
        "The path has a `#`: a fragment is only for the browser and is never sent.",
        Client,
        "Send `%23`, which needs `paths.permit: [encoded_delimiter]`, or leave the fragment out.",
    ),
    advice(
        "path_encoded_delimiter",
        "The path has `%3f` or `%23`, which some servers read as the end of the path.",
        Client,
        "Choose another name, or let it pass with `paths.permit: [encoded_delimiter]`.",
    ),
    advice(
        "illegal_host",
        "The host has a character that a host name cannot have, and routes compare hosts.",
        Client,
        "Send a host of letters, digits, `-`, `_` and `.`, or an IPv6 address in brackets.",
    ),
    advice(
        "illegal_method",
        "The method is not a token of RFC 9110.",
        Client,
        "Send a method such as GET. Methods are upper case.",
    ),
    advice(
        "method_override",
        "A header, or `_method` in the query, asks the application for another method than that of the request.",
        Client,
        "Send the method itself. If a proxy before Envoy sets the header, list it in `overrides.permit`.",
    ),
    advice(
        "path_override",
        "A header such as `x-original-url` asks the application for another path than that of the request.",
        Client,
        "Leave the header out. If a proxy before Envoy sets it, list it in `overrides.permit`.",
    ),
    advice(
        "host_override",
        "A header such as `x-forwarded-host` names another host than that of the request.",
        Client,
        "Leave the header out. If a proxy before Envoy sets it, list it in `overrides.permit`.",
    ),
    advice(
        "destination",
        "The `destination` of a COPY or MOVE is missing, relative or ambiguous, or Envoy named the policy.",
        Client,
        "Send the whole URL of the destination. If the application ignores the header, list `destination` in \
         `overrides.permit`.",
    ),
    advice(
        "connection_names_actor_header",
        "The header `connection` names an actor header, which Envoy would remove after the decision.",
        Client,
        "Remove the name from the header: this is an attack, or a proxy with a wrong configuration.",
    ),
    advice(
        "duplicate_credential",
        "One location carries two credentials, such as two `authorization` headers, or one value with a comma (two headers that a proxy joined).",
        Client,
        "Send one, without a comma. A proxy that adds a credential must replace that of the client.",
    ),
    advice(
        "request_too_large",
        "The message is larger than `ext_authz.max_request_bytes`.",
        EnvoyOperator,
        "Do not send bodies to ext_authz (`with_request_body`): this server does not read them. Or raise the \
         limit.",
    ),
    advice(
        "no_credential",
        "The request carries no credential in any of the locations of `credentials`, and the policy needs an actor.",
        Client,
        "Send the token. If it was sent: the line `location` of `explain` says which locations were read.",
    ),
    advice(
        "malformed_token",
        "The value in the location cannot be a token: a token has 1 to 4096 visible ASCII characters without \
         comma and semicolon.",
        Client,
        "Check for a line ending, a blank or quotes around the token.",
    ),
    advice(
        "malformed_basic",
        "The Basic credentials are not the base64 of a name, a colon and a password.",
        Client,
        "Let a library or a program encode them: `curl --user name:password`.",
    ),
    advice(
        "unknown_token",
        "The token is neither in the configuration nor an API key.",
        Client,
        "Check that it is the right token, and of this installation. The operator checks that the configuration \
         reads the same secret; `explain --path / --keys --token-file FILE` shows what the token is, in the line `identity`.",
    ),
    advice(
        "expired_token",
        "The token is correct but has expired (its `expires`, or the life of the key).",
        Administrator,
        "Create a new key: an expired key cannot be rotated or extended. For a token of the configuration change \
         `expires`.",
    ),
    advice(
        "revoked_token",
        "The token belongs to an API key that was revoked, deleted or rotated.",
        Administrator,
        "Create a new key. The audit log shows who revoked this one. After a restore of the store: first revoke \
         again the keys that were revoked since the backup; then run `keys accept-history`.",
    ),
    advice(
        "disabled_token",
        "The API key or its service account is disabled; or its account or its owner no longer exists.",
        Administrator,
        "`keys show NAME` shows which. Enable the key or the account (`keys enable`, `accounts enable`), or \
         create a new key.",
    ),
    advice(
        "wrong_password",
        "The user name is unknown, or the password is wrong. The answer does not show which.",
        Client,
        "Check the name and the password. For people of a directory `explain --user NAME --connect` shows \
         whether they are found.",
    ),
    advice(
        "user_locked",
        "Five wrong passwords within five minutes locked the name for five minutes. A correct password that was \
         used before still works.",
        Administrator,
        "Wait. Find the program that still tries an old password: the log has its requests.",
    ),
    advice(
        "not_admitted",
        "The credential is valid, but the policy's allow block does not admit its actor.",
        Operator,
        "`explain` shows the policy, the actor and the allow block. Change the policy, or give the actor the \
         member that the block requires.",
    ),
    advice(
        "unknown_policy",
        "Envoy's route names a policy that the configuration does not have: in `context_extensions`, or inside Envoy in the route's `filter_config`.",
        Operator,
        "Add the policy, or correct its name in Envoy's route.",
    ),
    advice(
        "context_key",
        "`context_extensions` has a key that is similar to `policy`, such as `Policy` or `polcy`.",
        EnvoyOperator,
        "Rename the key to `policy`.",
    ),
    advice(
        "cross_site",
        "Another site caused a request that changes something, and the credential is one that browsers send by themselves.",
        Client,
        "Send a token in `authorization` instead of a cookie or a Basic password, or set `allow_cross_site: true` at the location.",
    ),
    advice(
        "panicked",
        "An error in this server (a panic).",
        Operator,
        "Report it, with the lines around `panicked` in the log and without secrets.",
    ),
    advice(
        "answer_too_large",
        "The answer for this actor would be larger than Envoy accepts.",
        Operator,
        "Give the actor fewer or shorter members, or send fewer of them with `actor_headers`.",
    ),
    advice(
        "overloaded",
        "There are more incomplete messages or open Checks than the memory limit allows.",
        Operator,
        "See docs/limits.md and `envoy_auth_tokens_memory_limit_bytes`. Add memory or replicas, or limit the \
         client that sends too much.",
    ),
    advice(
        "password_unverified",
        "The password could not be verified within 100 ms: too many passwords wait, or its hash costs too much.",
        Operator,
        "The next try succeeds, because the result is remembered. If it continues, use cheaper hashes, more \
         `--workers`, or tokens instead of passwords.",
    ),
    advice(
        "directory_pending",
        "The directory has not answered yet about this password. The request to it continues.",
        Client,
        "Try again after a moment. The operator checks whether the directory is slow.",
    ),
    advice(
        "directory_unavailable",
        "The directory does not answer, or the limit of requests to it is reached.",
        Operator,
        "`check --connect` tests each server. `envoy_auth_tokens_directory_questions_total` shows which: \
         `unavailable` or `limited`.",
    ),
    advice(
        "keys_unavailable",
        "The token may be an API key, or the cookie a session, and the key store was never read or is older than `keys.max_staleness`.",
        Operator,
        "`check --connect` tests the store; the log has its error. `envoy_auth_tokens_keys_store_lag_seconds` \
         shows since when.",
    ),
];

/// A reason and all that is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExplainedReason {
    /// Its place in [`DenyReason::ALL`] and in [`ADVICE`].
    index: usize,
}

impl ExplainedReason {
    /// Takes the word of a reason.
    pub(super) fn parser() -> impl TypedValueParser<Value = Self> {
        let words = DenyReason::ALL.map(DenyReason::as_str);
        PossibleValuesParser::new(words).map(move |word| {
            let index = words.iter().position(|known| *known == word);
            Self { index: index.expect("the parser takes these words alone") }
        })
    }

    pub(super) fn to_json(self) -> Value {
        let details = DenyReason::ALL[self.index].details();
        let advice = &ADVICE[self.index];
        json!({
            "reason": advice.reason,
            "status": details.status,
            "error": details.error,
            "message": details.message,
            "meaning": advice.meaning,
            "actor": advice.actor.to_string(),
            "remedy": advice.remedy,
        })
    }
}

impl fmt::Display for ExplainedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = DenyReason::ALL[self.index].details();
        let advice = &ADVICE[self.index];
        writeln!(f, "reason       {}", advice.reason)?;
        writeln!(f, "status       {}", details.status)?;
        writeln!(f, "error        {}", details.error)?;
        writeln!(f, "message      {}", details.message)?;
        writeln!(f, "meaning      {}", advice.meaning)?;
        writeln!(f, "who acts     {}", advice.actor)?;
        writeln!(f, "what to do   {}", advice.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_advice() {
        let reasons: Vec<_> = DenyReason::ALL.iter().map(|reason| reason.as_str()).collect();
        let advised: Vec<_> = ADVICE.iter().map(|advice| advice.reason).collect();
        assert_eq!(advised, reasons);
    }
}
