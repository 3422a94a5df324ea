//! ID tokens (OpenID Connect Core 1.0, sections 2 and 3.1.3.7): JSON Web Tokens (RFC 7519) that a provider signed
//! (RFC 7515).
//!
//! Nothing of a token is in an error, but for the name of its algorithm and those of its claims.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::error::IdTokenProblem;
use super::key_set::{Algorithm, KeySet};

/// The most bytes of a token.
const MAX_BYTES: usize = 64 * 1024;

/// How far the provider's time may be ahead of ours, in seconds.
const LEEWAY: f64 = 60.0;

/// The longest name of an algorithm that is shown.
const MAX_ALGORITHM_NAME: usize = 20;

/// A token with an unverified signature.
pub(super) struct Unverified<'t> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// Header and payload, as they were signed.
    message: &'t str,
    payload: &'t str,
    signature: &'t str,
}

/// The required claims of a token.
pub(super) struct Expected<'e> {
    pub(super) issuer: &'e str,
    pub(super) client_id: &'e str,
    pub(super) nonce: &'e str,
    /// Seconds since 1970.
    pub(super) now: i64,
}

impl<'t> Unverified<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It is none, or signed by an algorithm that does not count.
    pub(super) fn parse(token: &'t str) -> Result<Self, IdTokenProblem> {
        if token.len() > MAX_BYTES {
            return Err(IdTokenProblem::TooLong(MAX_BYTES));
        }
        let (header, payload, signature) = match *token.splitn(6, '.').collect::<Vec<_>>() {
            [header, payload, signature] => (header, payload, signature),
            [_, _, _, _, _] => return Err(IdTokenProblem::Encrypted),
            _ => return Err(IdTokenProblem::NotAToken),
        };
        let message = &token[..header.len() + 1 + payload.len()];
        let header = object(header).ok_or(IdTokenProblem::NotAToken)?;
        let name = header.get("alg").and_then(Value::as_str).ok_or(IdTokenProblem::NotAToken)?;
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name);
        let algorithm = algorithm.ok_or_else(|| IdTokenProblem::Algorithm(shown(name)))?;
        if header.contains_key("crit") {
            return Err(IdTokenProblem::Critical);
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(IdTokenProblem::NotAToken),
        };
        Ok(Self { algorithm, key_id, message, payload, signature })
    }

    /// The claims, if one of these keys signed them and they are valid.
    ///
    /// # Errors
    /// The token proves nothing.
    pub(super) fn verify(
        &self,
        keys: &KeySet,
        expected: &Expected<'_>,
    ) -> Result<Map<String, Value>, IdTokenProblem> {
        let mut fitting = keys.fitting(self.algorithm, self.key_id.as_deref());
        let key = match (fitting.next(), fitting.next()) {
            (Some(key), None) => key,
            (None, _) => return Err(IdTokenProblem::UnknownKey),
            (Some(_), Some(_)) => return Err(IdTokenProblem::SeveralKeys),
        };
        let signature = URL_SAFE_NO_PAD.decode(self.signature);
        if !signature.is_ok_and(|signature| key.signed(self.message.as_bytes(), &signature)) {
            return Err(IdTokenProblem::Signature);
        }
        let claims = object(self.payload).ok_or(IdTokenProblem::NotAToken)?;
        check(&claims, expected)?;
        Ok(claims)
    }
}

/// A part of a token: a JSON object in base64url.
fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The name of an algorithm, if it may be shown: a token can write anything there.
fn shown(algorithm: &str) -> Box<str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !algorithm.is_empty() && algorithm.len() <= MAX_ALGORITHM_NAME && algorithm.bytes().all(is_name) {
        algorithm.into()
    } else {
        "an algorithm of its own".into()
    }
}

fn check(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), IdTokenProblem> {
    if text(claims, "iss")? != expected.issuer {
        return Err(IdTokenProblem::Issuer);
    }
    if text(claims, "sub")?.is_empty() {
        return Err(IdTokenProblem::Form("sub"));
    }
    let audiences = audiences(claims)?;
    if !audiences.contains(&expected.client_id) {
        return Err(IdTokenProblem::Audience);
    }
    if claims.contains_key("azp") || audiences.len() > 1 {
        let authorized_party = text(claims, "azp")?;
        if authorized_party != expected.client_id {
            return Err(IdTokenProblem::AuthorizedParty);
        }
    }
    // Exact for 285 million years.
    let now = expected.now as f64;
    if now >= time(claims, "exp")? {
        return Err(IdTokenProblem::Expired);
    }
    if time(claims, "iat")? > now + LEEWAY {
        return Err(IdTokenProblem::NotYetValid("iat"));
    }
    if claims.contains_key("nbf") && time(claims, "nbf")? > now + LEEWAY {
        return Err(IdTokenProblem::NotYetValid("nbf"));
    }
    if text(claims, "nonce")? != expected.nonce {
        return Err(IdTokenProblem::Nonce);
    }
    Ok(())
}

fn text<'c>(claims: &'c Map<String, Value>, claim: &'static str) -> Result<&'c str, IdTokenProblem> {
    let value = claims.get(claim).ok_or(IdTokenProblem::Missing(claim))?;
    value.as_str().ok_or(IdTokenProblem::Form(claim))
}

/// Seconds since 1970, which may have a fraction (RFC 7519, section 2).
fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<f64, IdTokenProblem> {
    let value = claims.get(claim).ok_or(IdTokenProblem::Missing(claim))?;
    value.as_f64().filter(|seconds| seconds.is_finite()).ok_or(IdTokenProblem::Form(claim))
}

/// `aud`: a text, or a list of texts.
fn audiences(claims: &Map<String, Value>) -> Result<Vec<&str>, IdTokenProblem> {
    match claims.get("aud") {
        None => Err(IdTokenProblem::Missing("aud")),
        Some(Value::String(audience)) => Ok(vec![audience]),
        Some(Value::Array(list)) => {
            list.iter().map(Value::as_str).collect::<Option<_>>().ok_or(IdTokenProblem::Form("aud"))
        }
        Some(_) => Err(IdTokenProblem::Form("aud")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn problem(token: &str) -> IdTokenProblem {
        Unverified::parse(token).err().unwrap()
    }

    #[test]
    fn only_three_algorithms_count_and_the_others_are_named() {
        for algorithm in ["RS256", "ES256", "EdDSA"] {
            assert!(Unverified::parse(&token(&format!("{{\"alg\": \"{algorithm}\"}}"), "{}")).is_ok());
        }
        for algorithm in
            ["none", "None", "HS256", "PS256", "RS384", "RS512", "ES384", "ES512", "ES256K", "rs256"]
        {
            let problem = problem(&token(&format!("{{\"alg\": \"{algorithm}\"}}"), "{}"));
            assert_eq!(
                problem.to_string(),
                format!("is signed by {algorithm}: only RS256, ES256 and EdDSA are accepted")
            );
        }
        for algorithm in ["", "a b", "<script>", "RS256\\n", &"A".repeat(21)] {
            let problem = problem(&token(&format!("{{\"alg\": \"{algorithm}\"}}"), "{}"));
            assert!(problem.to_string().contains("an algorithm of its own"), "{algorithm}");
        }
    }

    #[test]
    fn what_is_no_signed_token_is_said() {
        let good = token("{\"alg\": \"RS256\"}", "{}");
        for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", &format!("{good}."), &format!("={good}")] {
            assert_eq!(problem(text), IdTokenProblem::NotAToken, "{text}");
        }
        for header in ["", "{", "[]", "7", "{}", "{\"alg\": null}", "{\"alg\": [\"RS256\"]}"] {
            assert_eq!(problem(&token(header, "{}")), IdTokenProblem::NotAToken, "{header}");
        }
        assert_eq!(problem(&token("{\"alg\": \"RS256\", \"kid\": 7}", "{}")), IdTokenProblem::NotAToken);
        assert_eq!(problem("a.b.c.d.e"), IdTokenProblem::Encrypted);
        for critical in ["[]", "[\"b64\"]", "null"] {
            let header = format!("{{\"alg\": \"RS256\", \"crit\": {critical}, \"b64\": true}}");
            assert_eq!(problem(&token(&header, "{}")), IdTokenProblem::Critical);
        }
        let long = "a".repeat(MAX_BYTES + 1);
        assert_eq!(problem(&long), IdTokenProblem::TooLong(MAX_BYTES));
    }
}
