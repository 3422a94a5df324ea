//! `explain --reason`: what a reason means, who has to act, and what to do.
//!
//! docs/troubleshooting.md has the same table; `tests/it/docs.rs` writes it and holds it against this one.

use std::fmt;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Value, json};

use crate::deny_reason::DenyReason;

/// Who can mend what led to a denial.
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
        "The path does not begin with `/`, and routes look at paths or Envoy named the policy.",
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
        "The path has a segment `.` or `..`, also if it is encoded.",
        Client,
        "Send the path without it. Set `normalize_path: true` in Envoy.",
    ),
    advice(
        "path_parameters",
        "The path has a `;`, behind which some servers see parameters and others a part of the name.",
        Client,
        "Send the path without it, or let it pass with `paths.permit: [parameters]`.",
    ),
    advice(
        "path_encoded_slash",
        "The path has an encoded slash (`%2f`, `%5c`) or a backslash.",
        Client,
        "Send `/`, or let it pass with `paths.permit: [encoded_slash]` if the application takes it for a part of a name.",
    ),
    advice(
        "path_double_encoding",
        "The path has an encoded percent sign before two hexadecimal digits, such as `%252f`: it is encoded twice.",
        Client,
        "Encode the path once.",
    ),
    advice(
        "path_invalid_escape",
        "The path has a `%` without two hexadecimal digits behind it.",
        Client,
        "Send `%25` for a percent sign.",
    ),
    advice(
        "path_control_character",
        "The path has a control character, also if it is encoded.",
        Client,
        "Send the path without it.",
    ),
    advice("path_not_utf8", "The decoded path is not UTF-8.", Client, "Encode the path as UTF-8."),
    advice(
        "path_fragment",
        "The path has a `#`: a fragment is for the browser and never part of a request.",
        Client,
        "Send `%23`, which needs `paths.permit: [encoded_delimiter]`, or leave the fragment out.",
    ),
    advice(
        "path_encoded_delimiter",
        "The path has `%3f` or `%23`, which some servers take for the end of the path.",
        Client,
        "Choose another name, or let it pass with `paths.permit: [encoded_delimiter]`.",
    ),
    advice(
        "illegal_host",
        "The host has a character that no host name has, and routes look at hosts.",
        Client,
        "Send a host of letters, digits, `-`, `_` and `.`, or an IPv6 address in brackets.",
    ),
    advice(
        "illegal_method",
        "The method is not a token as RFC 9110 has it.",
        Client,
        "Send a method such as GET. Methods are upper case.",
    ),
    advice(
        "method_override",
        "A header or `_method` asks the application for another method than the one that is decided.",
        Client,
        "Send the method itself. If a proxy before Envoy sets the header, list it in `overrides.permit`.",
    ),
    advice(
        "path_override",
        "A header such as `x-original-url` asks the application for another path than the one that is decided.",
        Client,
        "Leave the header out. If a proxy before Envoy sets it, list it in `overrides.permit`.",
    ),
    advice(
        "host_override",
        "A header such as `x-forwarded-host` names another host than the request's.",
        Client,
        "Leave the header out. If a proxy before Envoy sets it, list it in `overrides.permit`.",
    ),
    advice(
        "destination",
        "The `destination` of a COPY or MOVE is missing, relative or ambiguous, or Envoy named the policy.",
        Client,
        "Send the whole URL of the destination. Where no such method is meant, list `destination` in `overrides.permit`.",
    ),
    advice(
        "connection_names_actor_header",
        "The header `connection` names an actor header, which Envoy would remove behind the decision.",
        Client,
        "Leave it out: this is an attack, or a very odd proxy.",
    ),
    advice(
        "duplicate_credential",
        "One location carries two credentials, such as two `authorization` headers.",
        Client,
        "Send one. A proxy that adds its own has to replace the client's.",
    ),
    advice(
        "request_too_large",
        "The message is larger than `ext_authz.max_request_bytes`.",
        EnvoyOperator,
        "Do not send bodies to ext_authz (`with_request_body`): nothing here reads them. Or raise the limit.",
    ),
    advice(
        "no_credential",
        "The request carries no credential in any of the locations of `credentials`, and the policy needs an actor.",
        Client,
        "Send the token. If it was sent: the line `location` of `explain` says which locations were read.",
    ),
    advice(
        "malformed_token",
        "What the location carries cannot be a token: 1 to 4096 visible ASCII characters without comma and semicolon.",
        Client,
        "Look for a line ending, a blank or quotes around the token.",
    ),
    advice(
        "malformed_basic",
        "The Basic credentials are not the base64 of a name, a colon and a password.",
        Client,
        "Let the client's library encode them: `curl --user name:password`.",
    ),
    advice(
        "unknown_token",
        "The token is neither in the configuration nor an API key.",
        Client,
        "Check that it is the right token, of this installation. The operator: is the secret that the configuration reads the one that the client has? `explain --keys --token-file FILE` says what the token is.",
    ),
    advice(
        "expired_token",
        "The token was right, and its `expires` or its lifetime is over.",
        Administrator,
        "Make a new key: one that has expired can be neither rotated nor prolonged. For a token of the configuration change `expires`.",
    ),
    advice(
        "revoked_token",
        "The token was that of an API key which was revoked, deleted or replaced.",
        Administrator,
        "Make a new key. The audit log says who ended this one. After a restore of the store: first revoke again what was revoked since the backup; then `keys accept-history`.",
    ),
    advice(
        "disabled_token",
        "The API key, or the service account whose it is, is disabled; or the account or the person whose it is is gone.",
        Administrator,
        "`keys show NAME` says which. Enable the key or the account (`keys enable`), or make a new key.",
    ),
    advice(
        "wrong_password",
        "No user has this name, or the password is wrong. The answer does not say which.",
        Client,
        "Check name and password. For people of a directory `explain --user NAME --connect` says whether they are found.",
    ),
    advice(
        "user_locked",
        "Five wrong passwords within five minutes locked the name for five minutes. A password that was right before still works.",
        Administrator,
        "Wait. Find the program that goes on trying an old password: the log has its requests.",
    ),
    advice(
        "not_admitted",
        "The credential is good, and the policy's allow block does not admit its actor.",
        Operator,
        "`explain` shows the policy, the actor and the allow block. Change the policy, or give the actor what it asks for.",
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
        "Call the key `policy`.",
    ),
    advice(
        "cross_site",
        "Another site caused a request that changes something, and the credential is one that browsers send by themselves.",
        Client,
        "Send a token in `authorization` instead of a cookie or a Basic password, or set `allow_cross_site: true` at the location.",
    ),
    advice(
        "panicked",
        "A fault of this server.",
        Operator,
        "Report it with the lines around `panicked` in the log, without secrets.",
    ),
    advice(
        "answer_too_large",
        "The answer for this actor would be larger than Envoy takes.",
        Operator,
        "Give the actor fewer or shorter members, or send fewer of them with `actor_headers`.",
    ),
    advice(
        "overloaded",
        "More incomplete messages or open Checks are held than the memory limit allows.",
        Operator,
        "Look at docs/limits.md and `envoy_auth_tokens_memory_limit_bytes`. Add memory or replicas, or stop the client that floods.",
    ),
    advice(
        "password_unverified",
        "The password could not be verified within 100 ms: too many wait, or its hash is too dear.",
        Operator,
        "The next try succeeds, since the outcome is remembered. If it lasts: cheaper hashes, more `--workers`, or tokens instead of passwords.",
    ),
    advice(
        "directory_pending",
        "The directory has not answered yet about this password. The question goes on.",
        Client,
        "Try again after a moment. The operator: is the directory slow?",
    ),
    advice(
        "directory_unavailable",
        "The directory does not answer, or has been asked as often as it may be.",
        Operator,
        "`check --connect` tries each server. `envoy_auth_tokens_directory_questions_total` tells `unavailable` from `limited`.",
    ),
    advice(
        "keys_unavailable",
        "The token may be an API key, or the cookie a session, and the key store was never read or is older than `keys.max_staleness`.",
        Operator,
        "`check --connect` tries the store; the log has its error. `envoy_auth_tokens_keys_store_lag_seconds` says since when.",
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
