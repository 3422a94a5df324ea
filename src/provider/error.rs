//! Why a log-in at a provider fails, in words for its operator.  They hold no code, no token, no secret and no verifier.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, Error as TlsError};

/// A provider could not be asked, or its answer about a person is not valid.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProviderError {
    /// A request got no answer that could be used.
    #[error("{url}: {problem}")]
    Request {
        /// Where it went, without the query.
        url: String,
        /// The problem.
        problem: RequestProblem,
    },
    /// The configuration names a URL to which nothing is sent.
    #[error("`{key}` {problem}")]
    Url {
        /// The key of the configuration.
        key: &'static str,
        /// The problem.
        problem: EndpointError,
    },
    /// The document of OpenID Connect Discovery cannot be used.
    #[error("{url}: {problem}")]
    Document {
        /// Where it is.
        url: String,
        /// The problem.
        problem: DocumentProblem,
    },
    /// The token endpoint denies the code, or us.
    #[error("{url} answers {error}{advice}", advice = refusal_advice(error))]
    Refused {
        /// The token endpoint.
        url: String,
        /// A code of RFC 6749, section 5.2, or of GitHub's.
        error: &'static str,
    },
    /// An access token that has just been given is not good enough to be told who its bearer is.
    #[error(
        "{url} denies the access token with status {status}: check that `scopes` has all scopes that it \
         needs"
    )]
    AccessTokenDenied {
        /// Where it was presented.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// No ID token came with the access token.
    #[error("the answer has no ID token: check that `openid` is among `scopes`")]
    NoIdToken,
    /// The ID token proves nothing.
    #[error("the ID token {0}")]
    IdToken(IdTokenProblem),
    /// userinfo is about another person than the ID token, or does not name the person.
    #[error("{url} {what}", what = other_subject(is_absent))]
    OtherSubject {
        /// The userinfo endpoint.
        url: String,
        /// Whether there is no `sub` at all.
        is_absent: bool,
    },
    /// The callback has no `iss` although the provider always sends it, or one that is not the configured issuer.
    #[error("the answer {what} (RFC 9207)", what = other_issuer(is_absent))]
    OtherIssuer {
        /// Whether there is no `iss` at all.
        is_absent: bool,
    },
}

impl ProviderError {
    /// Whether nothing is known of the person because the provider is down, slow, or answers what cannot be used.
    /// Otherwise it has spoken, and the person is denied.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Request { .. } | Self::Url { .. } | Self::Document { .. } => true,
            Self::Refused { .. }
            | Self::AccessTokenDenied { .. }
            | Self::NoIdToken
            | Self::IdToken(_)
            | Self::OtherSubject { .. }
            | Self::OtherIssuer { .. } => false,
        }
    }

    /// The word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request { problem, .. } => problem.reason(),
            Self::Url { .. } | Self::Document { .. } => "discovery",
            Self::Refused { .. } => "code_refused",
            Self::AccessTokenDenied { .. } => "access_token_denied",
            Self::NoIdToken | Self::IdToken(_) => "id_token",
            Self::OtherSubject { .. } => "other_subject",
            Self::OtherIssuer { .. } => "other_issuer",
        }
    }
}

/// The codes of a token endpoint that are passed on; others may hold anything.
const REFUSALS: [&str; 9] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    // GitHub's.
    "bad_verification_code",
    "incorrect_client_credentials",
    "redirect_uri_mismatch",
];

/// The code of an answer, if it may be shown.
pub(super) fn refusal(error: &str) -> &'static str {
    REFUSALS.into_iter().find(|known| *known == error).unwrap_or("an error of its own")
}

fn refusal_advice(error: &str) -> &'static str {
    match error {
        "invalid_client" | "incorrect_client_credentials" => {
            ": are `client_id` and `client_secret` those of this provider?"
        }
        "unauthorized_client" | "unsupported_grant_type" => {
            ": is the client allowed the authorization code flow there?"
        }
        "invalid_grant" | "bad_verification_code" => ": the code was used before, or is too old",
        "redirect_uri_mismatch" => ": the redirect URI is not registered there",
        _ => "",
    }
}

fn other_subject(is_absent: &bool) -> &'static str {
    if *is_absent {
        "does not name the person: `sub` is missing"
    } else {
        "is about another person than the ID token: its `sub` differs"
    }
}

fn other_issuer(is_absent: &bool) -> &'static str {
    if *is_absent {
        "does not name its issuer: `iss` is missing, which this provider always sends"
    } else {
        "is another provider's: its `iss` is not `issuer`"
    }
}

/// A text is not a URL for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is not a URL, or has no host.
    #[error("is not a URL such as https://id.example.com/token")]
    NotAUrl,
    /// Requests to it could be read on the way.
    #[error("is not https; http is allowed only for 127.0.0.1, [::1] and localhost")]
    NotHttps,
    /// It has a part that no request has.
    #[error("has a user name, a password or a fragment")]
    Excess,
}

/// The problem of a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestProblem {
    /// `getaddrinfo` knows no address.
    #[error("its name cannot be resolved: {0}")]
    Unresolvable(Arc<io::Error>),
    /// No connection is made.
    #[error("cannot be reached: {0}")]
    Unreachable(Arc<io::Error>),
    /// What is sent by http would leave this machine.
    #[error("is http, and its address is not on this machine")]
    NotLoopback,
    /// No answer came in time.
    #[error("did not answer within {0:?} (`timeout`)")]
    NoAnswer(Duration),
    /// All requests that may be were on their way for as long as one may take.
    #[error("was not asked: {0} requests to this provider were in progress until the time limit (`timeout`)")]
    Busy(usize),
    /// No CA is known.
    #[error("there is no CA to verify it: the system has none, and `ca` is not set")]
    NoCa,
    /// The URL cannot be asked for.
    #[error("is not a URL that can be requested")]
    NotARequest,
    /// The handshake failed.
    #[error("TLS: {0}{advice}", advice = tls_advice(.0))]
    Tls(Arc<io::Error>),
    /// The connection ended, or the response is not HTTP.
    #[error("sent an incomplete answer: {0}")]
    Lost(Arc<hyper::Error>),
    /// The body ended before its time.
    #[error("sent an incomplete answer: the body was cut")]
    Cut,
    /// The answer is longer than any that is needed.
    #[error("sent an answer of more than {0} bytes")]
    TooLong(usize),
    /// The answer leads elsewhere.
    #[error("answers status {0}, a redirect, which is not followed: write the URL that it leads to")]
    Redirect(u16),
    /// The answer has a status that says nothing.
    #[error("answers status {0}{advice}", advice = status_advice(.0))]
    Status(u16),
    /// The answer is not JSON.
    #[error("sent an answer that is not a JSON object")]
    NotJson,
    /// The answer is signed or encrypted.
    #[error("answers with application/jwt: configure the provider to send userinfo as plain JSON")]
    Jwt,
    /// The answer lacks something, or has it in a form that it never has.
    #[error("answers JSON whose `{0}` is missing or not valid")]
    Member(&'static str),
    /// The set of keys is longer than any that is needed.
    #[error("has more than {0} keys")]
    TooManyKeys(usize),
    /// No key signs ID tokens.
    #[error("has no key for RS256, ES256 or EdDSA")]
    NoKey,
}

impl RequestProblem {
    fn reason(&self) -> &'static str {
        match self {
            Self::Unresolvable(_) | Self::Unreachable(_) | Self::NotLoopback | Self::NotARequest => {
                "unreachable"
            }
            Self::NoAnswer(_) => "no_answer",
            Self::Busy(_) => "busy",
            Self::NoCa | Self::Tls(_) => "tls",
            Self::Lost(_)
            | Self::Cut
            | Self::TooLong(_)
            | Self::Redirect(_)
            | Self::Status(_)
            | Self::NotJson
            | Self::Jwt
            | Self::Member(_)
            | Self::TooManyKeys(_)
            | Self::NoKey => "bad_answer",
        }
    }
}

fn tls_advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ".  Name the CA of its certificate with `ca`"
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => ".  Use a name that is in its certificate, or issue a certificate with this name",
        Some(TlsError::InvalidCertificate(CertificateError::Other(_))) => {
            ".  A server cannot use a certificate that is its own CA: let a CA sign one, and name the CA with `ca`"
        }
        Some(TlsError::InvalidMessage(_)) => ".  Does it speak http at this port?",
        Some(_) | None => "",
    }
}

fn status_advice(status: &u16) -> &'static str {
    match *status {
        404 => ": is the URL right?",
        429 => ": it is asked too often",
        _ => "",
    }
}

/// What is wrong with a document of OpenID Connect Discovery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentProblem {
    /// It speaks of another issuer than the one configured.
    #[error("names another issuer: set `issuer` to exactly the value of `issuer` in that document")]
    OtherIssuer,
    /// A member is missing, or has a form that it never has.
    #[error("`{0}` is missing or not valid")]
    Member(&'static str),
    /// A member is a URL to which nothing is sent.
    #[error("`{0}` {1}")]
    Endpoint(&'static str, EndpointError),
    /// The provider would not hold the code against the verifier.
    #[error(
        "`code_challenge_methods_supported` lacks S256: this provider does not support PKCE (RFC 7636), which is \
         required"
    )]
    NoPkce,
    /// The client's secret cannot be presented.
    #[error("`token_endpoint_auth_methods_supported` has neither client_secret_basic nor client_secret_post")]
    NoClientAuthentication,
}

/// Why an ID token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenProblem {
    /// Longer than any is.
    #[error("has more than {0} bytes")]
    TooLong(usize),
    /// Not three parts, or one of them is not what it should be.
    #[error("is not a signed JSON Web Token")]
    NotAToken,
    /// Five parts: the token is encrypted, and there is no key for it.
    #[error("is encrypted: configure the provider to sign it only")]
    Encrypted,
    /// The header has `crit`.
    #[error("has critical extensions (`crit`), which this server does not support")]
    Critical,
    /// Signed by an algorithm that does not count.
    #[error("is signed by {0}: only RS256, ES256 and EdDSA are accepted")]
    Algorithm(Box<str>),
    /// No key of the provider is the one that the token names.
    #[error("is signed by a key that the provider does not publish")]
    UnknownKey,
    /// It could be any of several.
    #[error("does not say by which of several keys it is signed")]
    SeveralKeys,
    /// The signature is not by the key.
    #[error("is not signed by the provider's key")]
    Signature,
    /// A claim is missing.
    #[error("lacks `{0}`")]
    Missing(&'static str),
    /// A claim has a type that it never has.
    #[error("has a `{0}` that is not valid")]
    Form(&'static str),
    /// `iss`
    #[error("is of another issuer (`iss`)")]
    Issuer,
    /// `aud`
    #[error("is for another client (`aud`)")]
    Audience,
    /// `azp`
    #[error("was given to another client (`azp`)")]
    AuthorizedParty,
    /// `exp`
    #[error("has expired (`exp`)")]
    Expired,
    /// `nbf` or `iat`
    #[error("is not valid yet (`{0}`): check the clocks of both machines")]
    NotYetValid(&'static str),
    /// `nonce`
    #[error("is the answer to another log-in (`nonce`)")]
    Nonce,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_codes_of_a_token_endpoint_are_shown() {
        assert_eq!(refusal("invalid_grant"), "invalid_grant");
        for error in ["", "invalid_grant ", "the code 8LmM1a is unknown", "INVALID_GRANT"] {
            assert_eq!(refusal(error), "an error of its own", "{error}");
        }
    }
}
