//! The client of providers, at which people log in: OpenID Connect (Core 1.0, Discovery 1.0) or plain OAuth 2 (RFC 6749).
//!
//! A browser is sent to the provider ([`Providers::authorization_url`]) and comes back with a code, which
//! [`Providers::redeem`] exchanges for the **claims** of the person.  By OpenID Connect these are those of the ID
//! token, merged with userinfo where the provider has it; by plain OAuth 2 they are the answer of `api_url`.  Cookies,
//! `state` and pages are the caller's, and what claims mean is decided elsewhere, too.
//!
//! Limits:
//! - A request has `timeout`, with the time that it waits while four others to the same provider are on their way.
//! - An answer has at most 1 MiB, an ID token 64 KiB, a set of keys a hundred.
//! - A provider's document and its keys are kept for an hour.  Afterwards log-in waits until the provider has answered
//!   again.  Keys are renewed before that for an ID token that none of them signed, at most once a minute.
//!
//! Guarantees:
//! - Nothing is sent without TLS, but to 127.0.0.0/8, ::1 and `localhost`.  Certificates are verified always.  No redirect
//!   is followed.
//! - An ID token counts only when RS256, ES256 or EdDSA signed it by a key that the provider publishes for this, and when
//!   it names the issuer, this client and the nonce of this log-in.
//! - No token outlives the call that fetched it.
//!
//! Errors: [`ProviderError`], whose texts and `Debug` hold no code, token, secret or verifier.

mod cached;
mod client;
mod document;
mod endpoint;
mod error;
mod id_token;
mod key_set;
mod token_endpoint;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::config::{Endpoints, ProviderSettings};
use crate::person::ProviderName;

use self::cached::Cached;
use self::client::{Client, Outgoing};
use self::document::{Document, People, url_of_document};
use self::endpoint::Endpoint;
use self::id_token::{Expected, Unverified};
use self::key_set::KeySet;

pub use self::error::{DocumentProblem, EndpointError, IdTokenProblem, ProviderError, RequestProblem};
pub use self::token_endpoint::Redemption;

/// How long a provider's document and its keys are kept.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// How often keys are renewed at most because an ID token was signed by none of them.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60);

/// Claims about the token that have no further use.  Two of them are digests of secrets.
const CLAIMS_OF_THE_TOKEN: [&str; 9] = [
    "nonce",
    "at_hash",
    "c_hash",
    "s_hash",
    // They may hold tokens: what a provider refers to elsewhere, and answers that repeat those of the token endpoint.
    "_claim_names",
    "_claim_sources",
    "access_token",
    "refresh_token",
    "id_token",
];

/// Asks providers.  A clone is the same.
#[derive(Clone)]
pub struct Providers {
    clock: Clock,
    /// One for each name that was ever asked.
    providers: Arc<Mutex<HashMap<ProviderName, Arc<Provider>>>>,
}

/// The parameters with which a browser is sent to the provider.
pub struct AuthorizationRequest<'a> {
    /// The address to which it returns.
    pub redirect_uri: &'a str,
    /// The state that it returns.
    pub state: &'a str,
    /// The nonce that the ID token repeats.  Plain OAuth 2 does not have one.
    pub nonce: &'a str,
    /// What proves later that the code is redeemed by the party that requested it (RFC 7636): 43 to 128 of A-Z, a-z, 0-9 and
    /// `-._~`.  Its digest is sent.
    pub verifier: &'a str,
}

/// The state of one provider.
struct Provider {
    client: Client,
    /// That of the settings.
    binding: [u8; 32],
    /// Whether the client has a secret to present.
    has_secret: bool,
    document: Cached<Document>,
    keys: Cached<KeySet>,
    /// Why keys could not be renewed, and when that was.
    failed_renewal: Mutex<Option<(Duration, ProviderError)>>,
}

impl Providers {
    /// A client that knows nothing of any provider yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, providers: Arc::default() }
    }

    /// Where a browser is sent, which is the provider's authorization endpoint with the parameters of this log-in.  At the
    /// first log-in, and every hour, the provider is asked for its document.
    ///
    /// # Errors
    /// The document cannot be had.
    pub async fn authorization_url(
        &self,
        settings: &Arc<ProviderSettings>,
        request: &AuthorizationRequest<'_>,
    ) -> Result<String, ProviderError> {
        let document = self.document(&self.provider(settings), settings).await?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(request.verifier));
        let scopes = settings.scopes.join(" ");
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", &settings.client_id),
            ("redirect_uri", request.redirect_uri),
            ("state", request.state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        if !scopes.is_empty() {
            parameters.push(("scope", &scopes));
        }
        match document.people {
            People::IdToken { .. } => parameters.push(("nonce", request.nonce)),
            People::Api(_) => {}
        }
        Ok(document.authorization_endpoint.with_query(&parameters))
    }

    /// Holds the `iss` of a callback against the issuer (RFC 9207): it is the same where it comes, and comes where the
    /// provider's document says that it always does.  Plain OAuth 2 has no issuer, and nothing is wrong with any.
    ///
    /// # Errors
    /// [`ProviderError::OtherIssuer`], or the document cannot be had.
    pub async fn check_issuer(
        &self,
        settings: &Arc<ProviderSettings>,
        iss: Option<&str>,
    ) -> Result<(), ProviderError> {
        let Endpoints::OpenIdConnect { issuer } = &settings.endpoints else {
            return Ok(());
        };
        match iss {
            Some(iss) if iss == &**issuer => Ok(()),
            Some(_) => Err(ProviderError::OtherIssuer { is_absent: false }),
            None => match self.document(&self.provider(settings), settings).await?.people {
                People::IdToken { always_sends_issuer: true, .. } => {
                    Err(ProviderError::OtherIssuer { is_absent: true })
                }
                People::IdToken { always_sends_issuer: false, .. } | People::Api(_) => Ok(()),
            },
        }
    }

    /// Redeems a code, and tells what the provider says of the person: the claims of the ID token with userinfo's beside
    /// them, of which the ID token's win; or what `api_url` answers.  The tokens are gone when this returns.
    ///
    /// # Errors
    /// The provider could not be asked ([`ProviderError::is_outage`]), denies the code, or proves nothing.
    pub async fn redeem(
        &self,
        settings: &Arc<ProviderSettings>,
        redemption: &Redemption<'_>,
    ) -> Result<Map<String, Value>, ProviderError> {
        let provider = self.provider(settings);
        let document = self.document(&provider, settings).await?;
        let tokens = token_endpoint::redeem(&provider.client, &document, settings, redemption).await?;
        match &document.people {
            People::IdToken { issuer, jwks_uri, userinfo_endpoint, .. } => {
                let token = tokens.id_token.ok_or(ProviderError::NoIdToken)?;
                let expected = Expected {
                    issuer,
                    client_id: &settings.client_id,
                    nonce: redemption.nonce,
                    now: self.clock.now().as_second(),
                };
                let claims = self.verify(&provider, settings, jwks_uri, token.expose(), &expected).await?;
                let claims = match (userinfo_endpoint, tokens.bearer) {
                    (Some(url), Some(bearer)) => {
                        with_userinfo(claims, provider.present(settings, url, bearer).await?, url)?
                    }
                    (Some(_), None) | (None, _) => claims,
                };
                Ok(without_claims_of_the_token(claims))
            }
            People::Api(url) => {
                let lacks_token = || document.token_endpoint.error(RequestProblem::Member("access_token"));
                let claims = provider.present(settings, url, tokens.bearer.ok_or_else(lacks_token)?).await?;
                Ok(without_claims_of_the_token(claims))
            }
        }
    }

    /// Asks a provider for its document and its keys, or, by plain OAuth 2, whether a server answers at its URLs; says
    /// what answered, in words.  Nothing is kept, and nothing is taken from what was kept.
    ///
    /// # Errors
    /// Log-in would not work.
    pub async fn probe(&self, settings: &Arc<ProviderSettings>) -> Result<String, ProviderError> {
        let provider = Arc::new(Provider::new(settings));
        let document = self.document(&provider, settings).await?;
        match &document.people {
            People::IdToken { jwks_uri, .. } => {
                let keys = self.keys(&provider, settings, jwks_uri, MAX_AGE).await?;
                match keys.len() {
                    0 => Err(jwks_uri.error(RequestProblem::NoKey)),
                    1 => Ok("answers, with 1 key for ID tokens".to_owned()),
                    count => Ok(format!("answers, with {count} keys for ID tokens")),
                }
            }
            People::Api(api_url) => {
                for url in [&document.authorization_endpoint, &document.token_endpoint, api_url] {
                    let request = Outgoing { url, authorization: None, form: None };
                    // Without parameters and tokens it says no more than that it is there.
                    provider.client.send(request, settings.timeout).await?;
                }
                Ok("`auth_url`, `token_url` and `api_url` answer".to_owned())
            }
        }
    }

    /// The state of the provider of these settings.
    fn provider(&self, settings: &ProviderSettings) -> Arc<Provider> {
        let mut providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        match providers.get(&settings.name) {
            Some(provider) if provider.is_of(settings) => Arc::clone(provider),
            Some(_) | None => {
                let provider = Arc::new(Provider::new(settings));
                providers.insert(settings.name.clone(), Arc::clone(&provider));
                provider
            }
        }
    }

    async fn document(
        &self,
        provider: &Arc<Provider>,
        settings: &Arc<ProviderSettings>,
    ) -> Result<Arc<Document>, ProviderError> {
        let fetch = || {
            let (provider, settings) = (Arc::clone(provider), Arc::clone(settings));
            async move { provider.fetch_document(&settings).await }
        };
        provider.document.get(self.clock.elapsed(), MAX_AGE, fetch).await
    }

    /// The provider's keys, fetched less than `max_age` ago.
    async fn keys(
        &self,
        provider: &Arc<Provider>,
        settings: &Arc<ProviderSettings>,
        jwks_uri: &Endpoint,
        max_age: Duration,
    ) -> Result<Arc<KeySet>, ProviderError> {
        let fetch = || {
            let (provider, settings, url) = (Arc::clone(provider), Arc::clone(settings), jwks_uri.clone());
            async move {
                let set = provider.get(&settings, &url).await?;
                KeySet::read(&set).map_err(|problem| url.error(problem))
            }
        };
        provider.keys.get(self.clock.elapsed(), max_age, fetch).await
    }

    /// The same, fetched less than a minute ago; a failure counts for as long.
    async fn renewed_keys(
        &self,
        provider: &Arc<Provider>,
        settings: &Arc<ProviderSettings>,
        jwks_uri: &Endpoint,
    ) -> Result<Arc<KeySet>, ProviderError> {
        let now = self.clock.elapsed();
        let failed = || provider.failed_renewal.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failed().clone();
        if let Some((then, error)) = failure
            && now.saturating_sub(then) < RENEWAL_INTERVAL
        {
            return Err(error);
        }
        let renewed = self.keys(provider, settings, jwks_uri, RENEWAL_INTERVAL).await;
        *failed() = renewed.as_ref().err().map(|error| (now, error.clone()));
        renewed
    }

    async fn verify(
        &self,
        provider: &Arc<Provider>,
        settings: &Arc<ProviderSettings>,
        jwks_uri: &Endpoint,
        token: &str,
        expected: &Expected<'_>,
    ) -> Result<Map<String, Value>, ProviderError> {
        let token = Unverified::parse(token).map_err(ProviderError::IdToken)?;
        let keys = self.keys(provider, settings, jwks_uri, MAX_AGE).await?;
        let verified = match token.verify(&keys, expected) {
            // The provider may have other keys by now.
            Err(IdTokenProblem::UnknownKey | IdTokenProblem::Signature) => {
                token.verify(&*self.renewed_keys(provider, settings, jwks_uri).await?, expected)
            }
            verified => verified,
        };
        verified.map_err(ProviderError::IdToken)
    }
}

impl Provider {
    fn new(settings: &ProviderSettings) -> Self {
        Self {
            client: Client::new(&settings.ca),
            binding: settings.binding,
            has_secret: settings.client_secret.is_some(),
            document: Cached::default(),
            keys: Cached::default(),
            failed_renewal: Mutex::default(),
        }
    }

    /// Whether what is known here holds for these settings, too.
    fn is_of(&self, settings: &ProviderSettings) -> bool {
        self.binding == settings.binding
            && self.has_secret == settings.client_secret.is_some()
            && self.client.ca() == &*settings.ca
    }

    async fn fetch_document(&self, settings: &ProviderSettings) -> Result<Document, ProviderError> {
        let issuer = match &settings.endpoints {
            Endpoints::OpenIdConnect { issuer } => issuer,
            Endpoints::OAuth2 { auth_url, token_url, api_url } => {
                return Document::configured(auth_url, token_url, api_url);
            }
        };
        let url = url_of_document(issuer);
        let url = url.map_err(|problem| ProviderError::Url { key: "issuer", problem })?;
        let document = self.get(settings, &url).await?;
        let read = Document::read(&document, issuer, self.has_secret);
        read.map_err(|problem| ProviderError::Document { url: url.to_string(), problem })
    }

    /// The public JSON object.
    async fn get(
        &self,
        settings: &ProviderSettings,
        url: &Endpoint,
    ) -> Result<Map<String, Value>, ProviderError> {
        let request = Outgoing { url, authorization: None, form: None };
        let answer = self.client.send(request, settings.timeout).await?;
        answer.into_object().map_err(|problem| url.error(problem))
    }

    /// The JSON object that is there for the bearer of an access token.
    async fn present(
        &self,
        settings: &ProviderSettings,
        url: &Endpoint,
        bearer: HeaderValue,
    ) -> Result<Map<String, Value>, ProviderError> {
        let request = Outgoing { url, authorization: Some(bearer), form: None };
        let answer = self.client.send(request, settings.timeout).await?;
        if let StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN = answer.status {
            let status = answer.status.as_u16();
            return Err(ProviderError::AccessTokenDenied { url: url.to_string(), status });
        }
        answer.into_object().map_err(|problem| url.error(problem))
    }
}

/// The claims of an ID token with userinfo's, which must speak of the same person, beside them.  Whether an email is
/// verified is believed of the one that it is beside.
fn with_userinfo(
    mut claims: Map<String, Value>,
    mut userinfo: Map<String, Value>,
    url: &Endpoint,
) -> Result<Map<String, Value>, ProviderError> {
    let (theirs, ours) = (userinfo.get("sub"), claims.get("sub"));
    if theirs.is_none() || theirs != ours {
        return Err(ProviderError::OtherSubject { url: url.to_string(), is_absent: theirs.is_none() });
    }
    if claims.contains_key("email") && claims.get("email") != userinfo.get("email") {
        userinfo.remove("email_verified");
    }
    if !claims.contains_key("email") && userinfo.contains_key("email") {
        claims.remove("email_verified");
    }
    userinfo.extend(claims);
    Ok(userinfo)
}

fn without_claims_of_the_token(mut claims: Map<String, Value>) -> Map<String, Value> {
    claims.retain(|claim, _| !CLAIMS_OF_THE_TOKEN.contains(&claim.as_str()));
    claims
}
