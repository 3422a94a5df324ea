//! Redeems a code at the token endpoint (RFC 6749, section 4.1.3; RFC 7636, section 4.5).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::client::{Client, Outgoing, unexpected};
use super::document::{ClientAuthentication, Document};
use super::error::{ProviderError, RequestProblem, refusal};
use crate::config::ProviderSettings;
use crate::secret::Secret;

/// What was handed to us at a log-in, and what we held back for it.
pub struct Redemption<'a> {
    /// The code of the callback.
    pub code: &'a str,
    /// The redirect URI of the attempt.
    pub redirect_uri: &'a str,
    /// The verifier of the attempt (RFC 7636).
    pub verifier: &'a str,
    /// The nonce of the attempt, which the ID token repeats.
    pub nonce: &'a str,
}

/// What a code is exchanged for.
pub(super) struct Tokens {
    pub(super) id_token: Option<Secret>,
    /// The value of `Authorization` by which it is presented.
    pub(super) bearer: Option<HeaderValue>,
}

/// Exchanges a code.
///
/// # Errors
/// [`ProviderError::Request`] or [`ProviderError::Refused`].
pub(super) async fn redeem(
    client: &Client,
    document: &Document,
    settings: &ProviderSettings,
    redemption: &Redemption<'_>,
) -> Result<Tokens, ProviderError> {
    let url = &document.token_endpoint;
    let (authorization, form) = request(document.client_authentication, settings, redemption);
    let answer = client.send(Outgoing { url, authorization, form: Some(form) }, settings.timeout).await?;
    let mut members = match answer.status {
        StatusCode::OK => answer.object().ok_or(RequestProblem::NotJson),
        // Section 5.2; what else has such a status comes from something before the provider.
        status if status.is_client_error() => {
            answer.object().filter(|members| members.contains_key("error")).ok_or(unexpected(status))
        }
        status => Err(unexpected(status)),
    }
    .map_err(|problem| url.error(problem))?;
    // GitHub says so with status 200.
    if let Some(error) = members.get("error") {
        let url = url.to_string();
        return Err(ProviderError::Refused { url, error: refusal(error.as_str().unwrap_or_default()) });
    }
    let read = |members: &mut _| {
        Ok(Tokens { id_token: take_text(members, "id_token")?, bearer: take_bearer(members)? })
    };
    read(&mut members).map_err(|problem| url.error(problem))
}

/// `Authorization`, and the form.
fn request(
    authentication: ClientAuthentication,
    settings: &ProviderSettings,
    redemption: &Redemption<'_>,
) -> (Option<HeaderValue>, String) {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", redemption.code)
        .append_pair("redirect_uri", redemption.redirect_uri)
        .append_pair("code_verifier", redemption.verifier);
    let authorization = match (&settings.client_secret, authentication) {
        (Some(secret), ClientAuthentication::Basic) => Some(basic(&settings.client_id, secret)),
        (Some(secret), ClientAuthentication::Post) => {
            form.append_pair("client_id", &settings.client_id);
            form.append_pair("client_secret", secret.expose());
            None
        }
        (None, ClientAuthentication::Basic | ClientAuthentication::Post) => {
            form.append_pair("client_id", &settings.client_id);
            None
        }
    };
    (authorization, form.finish())
}

/// `Authorization: Basic …`: both are written as forms write them first (RFC 6749, section 2.3.1).
fn basic(client_id: &str, secret: &Secret) -> HeaderValue {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
        .expect("base64 has only characters of a header");
    value.set_sensitive(true);
    value
}

fn take_text(
    members: &mut Map<String, Value>,
    member: &'static str,
) -> Result<Option<Secret>, RequestProblem> {
    match members.remove(member) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(Secret::new(text))),
        Some(_) => Err(RequestProblem::Member(member)),
    }
}

/// The access token, if it is one that its bearer presents (RFC 6750).
fn take_bearer(members: &mut Map<String, Value>) -> Result<Option<HeaderValue>, RequestProblem> {
    let Some(token) = take_text(members, "access_token")? else {
        return Ok(None);
    };
    match members.get("token_type") {
        None => {}
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("bearer") => {}
        // A token of another kind is not to be used (RFC 6749, section 7.1).
        Some(_) => return Err(RequestProblem::Member("token_type")),
    }
    let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
    let mut value = value.map_err(|_| RequestProblem::Member("access_token"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_written_as_forms_first() {
        let value = basic("a:b c", &Secret::new("p+ü%&".to_owned()));
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), b"a%3Ab+c:p%2B%C3%BC%25%26");
        assert_eq!(format!("{value:?}"), "Sensitive");
    }
}
