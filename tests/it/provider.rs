//! The client of providers, in process: against two real ones, and against one that lies.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256};
use envoy_auth_tokens::clock::Clock;
use envoy_auth_tokens::config::{Endpoints, ProviderSettings};
use envoy_auth_tokens::provider::{AuthorizationRequest, ProviderError, Providers, Redemption};
use envoy_auth_tokens::secret::Secret;
use futures_util::future::join_all;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use url::Url;

use crate::harness::lying_provider::{
    ACCESS_TOKEN, API, CODE, DOCUMENT, KEYS, LyingProvider, Reply, SigningKey, TOKEN, USERINFO,
    authenticated, unsigned,
};
use crate::harness::oidc_provider::OidcProvider;
use crate::harness::oidc_provider_mock::OidcProviderMock;
use crate::harness::pki::Ca;
use crate::keys_store::Time;

const REDIRECT_URI: &str = "http://127.0.0.1:1/login/corporate/callback";
const STATE: &str = "state-of-this-attempt";
const NONCE: &str = "nonce-of-this-attempt";
const VERIFIER: &str = "verifier-that-nobody-may-see-0123456789-0123456789";
const CLIENT_ID: &str = "envoy auth:tokens";
/// What basic authentication would break if it were not written as forms write it.
const CLIENT_SECRET: &str = "secret-that-nobody-may-see+%25/&=:x";

/// Long, so that a busy machine is no provider that is down.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client, under a clock that is set, of one provider.
struct Client {
    providers: Providers,
    settings: Arc<ProviderSettings>,
    time: Time,
}

fn settings(endpoints: Endpoints) -> ProviderSettings {
    ProviderSettings {
        name: "corporate".parse().unwrap(),
        label: "Corporate".into(),
        endpoints,
        client_id: CLIENT_ID.into(),
        client_secret: Some(Secret::new(CLIENT_SECRET.to_owned())),
        scopes: ["openid", "profile", "email", "groups"].map(Into::into).into(),
        id: "sub".parse().unwrap(),
        members: [].into(),
        roles: [].into(),
        plain_ids: false,
        allowed_domains: [].into(),
        logout_url: None,
        ca: [].into(),
        timeout: TIMEOUT,
        binding: [0; 32],
    }
}

fn open_id(issuer: String) -> ProviderSettings {
    settings(Endpoints::OpenIdConnect { issuer: issuer.into() })
}

fn with_secret(settings: ProviderSettings, id: &str, secret: Option<&str>) -> ProviderSettings {
    let client_secret = secret.map(|secret| Secret::new(secret.to_owned()));
    ProviderSettings { client_id: id.into(), client_secret, ..settings }
}

fn within(settings: ProviderSettings, timeout: Duration) -> ProviderSettings {
    ProviderSettings { timeout, ..settings }
}

/// What is said of an error: whether the provider is out, the word for logs, the text.  It holds no secret.
#[track_caller]
fn said(error: &ProviderError) -> String {
    let shown = format!("{error} {error:?}");
    for secret in ["nobody-may-see", "nobody+may+see", NONCE, "eyJ"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let kind = if error.is_outage() { "outage" } else { "denied" };
    format!("{kind} {}: {error}", error.reason())
}

impl Client {
    /// One whose time stands still.
    fn of(settings: ProviderSettings) -> Self {
        let time = Time::new();
        Self { providers: Providers::new(time.clock()), settings: Arc::new(settings), time }
    }

    /// One whose time goes on, as that of real providers does; what passes by the test's will passes beside it.
    fn living(settings: ProviderSettings) -> Self {
        let time = Time::new();
        let (passed, start) = (time.clone(), time.now());
        let clock = Clock::from_fn(move || Timestamp::now() + passed.now().duration_since(start));
        Self { providers: Providers::new(clock), settings: Arc::new(settings), time }
    }

    /// The same client, configured otherwise.
    fn reconfigured(&self, settings: ProviderSettings) -> Self {
        Self { providers: self.providers.clone(), settings: Arc::new(settings), time: self.time.clone() }
    }

    async fn begin(&self) -> Result<String, ProviderError> {
        let request = AuthorizationRequest {
            redirect_uri: REDIRECT_URI,
            state: STATE,
            nonce: NONCE,
            verifier: VERIFIER,
        };
        self.providers.authorization_url(&self.settings, &request).await
    }

    async fn redeem(&self, redemption: Redemption<'_>) -> Result<Map<String, Value>, ProviderError> {
        self.providers.redeem(&self.settings, &redemption).await
    }

    /// Redeems the code of a log-in that went well.
    async fn finish(&self, code: &str) -> Result<Map<String, Value>, ProviderError> {
        self.redeem(redemption(code)).await
    }

    /// What comes of a log-in at a provider that lies: the `sub`, or the error.
    async fn outcome(&self) -> String {
        outcome(self.finish(CODE).await)
    }
}

fn redemption(code: &str) -> Redemption<'_> {
    Redemption { code, redirect_uri: REDIRECT_URI, verifier: VERIFIER, nonce: NONCE }
}

#[track_caller]
fn outcome(redeemed: Result<Map<String, Value>, ProviderError>) -> String {
    match redeemed {
        Ok(claims) => format!("ok {}", claims["sub"].as_str().unwrap()),
        Err(error) => said(&error),
    }
}

/// A parameter of an address.
fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The code that a browser brought back, with the state of the attempt.
#[track_caller]
fn code(callback: &Url) -> String {
    assert!(callback.as_str().starts_with(REDIRECT_URI), "{callback}");
    assert_eq!(parameter(callback, "state").as_deref(), Some(STATE), "{callback}");
    parameter(callback, "code").unwrap_or_else(|| panic!("no code: {callback}"))
}

mod real {
    use super::*;

    fn people() -> Value {
        json!({
            "ann": {"name": "Ann Example", "email": "ann@example.com", "email_verified": true, "groups": ["admins", "staff"]},
            "bob": {"name": "Bob Example"},
        })
    }

    fn client(changes: Value) -> Value {
        let mut client = json!({
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "redirect_uris": [REDIRECT_URI],
        });
        for (member, value) in changes.as_object().unwrap() {
            client[member] = value.clone();
        }
        client
    }

    #[tokio::test]
    async fn people_log_in_by_every_algorithm_and_every_way_to_present_a_secret() {
        let method = "token_endpoint_auth_method";
        let algorithm = "id_token_signed_response_alg";
        let clients = json!([
            client(json!({})),
            client(json!({"client_id": "ec", algorithm: "ES256"})),
            client(json!({"client_id": "ed", algorithm: "EdDSA"})),
            {"client_id": "public", "redirect_uris": [REDIRECT_URI], method: "none"},
            client(json!({"client_id": "ps", algorithm: "PS256"})),
        ]);
        let provider = OidcProvider::start(clients, people());
        for (client_id, secret) in [
            (CLIENT_ID, Some(CLIENT_SECRET)),
            ("ec", Some(CLIENT_SECRET)),
            ("ed", Some(CLIENT_SECRET)),
            ("public", None),
        ] {
            let client = Client::living(with_secret(open_id(provider.issuer()), client_id, secret));
            let callback = provider.log_in(&client.begin().await.unwrap(), "ann");
            let iss = parameter(&callback, "iss");
            client.providers.check_issuer(&client.settings, iss.as_deref()).await.unwrap();
            let claims =
                client.finish(&code(&callback)).await.unwrap_or_else(|error| panic!("{client_id}: {error}"));
            // Of userinfo and of the ID token.
            let expected = [
                ("sub", json!("ann")),
                ("name", json!("Ann Example")),
                ("email_verified", json!(true)),
                ("groups", json!(["admins", "staff"])),
                ("iss", json!(provider.issuer())),
            ];
            for (claim, value) in expected {
                assert_eq!(claims[claim], value, "{client_id}");
            }
            assert!(!claims.contains_key("nonce") && !claims.contains_key("at_hash"), "{claims:?}");
        }
        // An algorithm that does not count.
        let client = Client::living(with_secret(open_id(provider.issuer()), "ps", Some(CLIENT_SECRET)));
        let callback = provider.log_in(&client.begin().await.unwrap(), "ann");
        assert_eq!(
            outcome(client.finish(&code(&callback)).await),
            "denied id_token: the ID token is signed by PS256: only RS256, ES256 and EdDSA are accepted"
        );
    }

    #[tokio::test]
    async fn claims_may_stand_in_the_id_token_alone() {
        let provider = OidcProvider::start_with_claims_in_id_token(json!([client(json!({}))]), people());
        let client = Client::living(open_id(provider.issuer()));
        for (name, groups) in [("ann", json!(["admins", "staff"])), ("bob", json!(null))] {
            let callback = provider.log_in(&client.begin().await.unwrap(), name);
            let claims = client.finish(&code(&callback)).await.unwrap();
            assert_eq!(
                (&claims["sub"], claims.get("groups").unwrap_or(&Value::Null)),
                (&json!(name), &groups)
            );
        }
    }

    #[tokio::test]
    async fn a_code_counts_once_for_one_client_one_redirect_uri_and_one_verifier() {
        let other = client(json!({"client_id": "other"}));
        let provider = OidcProvider::start(json!([client(json!({})), other]), people());
        let client = Client::living(open_id(provider.issuer()));
        let log_in = async |name| code(&provider.log_in(&client.begin().await.unwrap(), name));

        let used = log_in("ann").await;
        assert_eq!(outcome(client.finish(&used).await), "ok ann");
        let url = format!("{}/token", provider.issuer());
        let refused = format!(
            "denied code_refused: {url} answers invalid_grant: the code was used before, or is too old"
        );
        assert_eq!(outcome(client.finish(&used).await), refused);
        assert_eq!(outcome(client.finish("code-that-nobody-may-see").await), refused);

        let code = log_in("ann").await;
        let elsewhere = Redemption { redirect_uri: "http://127.0.0.1:1/elsewhere", ..redemption(&code) };
        assert_eq!(outcome(client.redeem(elsewhere).await), refused);
        let code = log_in("ann").await;
        let verifier = "another-verifier-that-nobody-may-see-0123456789";
        assert_eq!(outcome(client.redeem(Redemption { verifier, ..redemption(&code) }).await), refused);
        let code = log_in("ann").await;
        let stranger =
            client.reconfigured(with_secret(open_id(provider.issuer()), "other", Some(CLIENT_SECRET)));
        assert_eq!(outcome(stranger.finish(&code).await), refused);
        let code = log_in("ann").await;
        let wrong = client.reconfigured(with_secret(open_id(provider.issuer()), CLIENT_ID, Some("wrong")));
        assert_eq!(
            outcome(wrong.finish(&code).await),
            format!(
                "denied code_refused: {url} answers invalid_client: are `client_id` and `client_secret` those of this \
                 provider?"
            )
        );
        let code = log_in("ann").await;
        assert_eq!(
            outcome(client.redeem(Redemption { nonce: "another", ..redemption(&code) }).await),
            "denied id_token: the ID token is the answer to another log-in (`nonce`)"
        );
    }

    #[tokio::test]
    async fn whoever_denies_comes_back_without_a_code() {
        let provider = OidcProvider::start(json!([client(json!({}))]), people());
        let client = Client::living(open_id(provider.issuer()));
        let callback = provider.deny(&client.begin().await.unwrap());
        assert_eq!(parameter(&callback, "error").as_deref(), Some("access_denied"));
        assert_eq!(parameter(&callback, "state").as_deref(), Some(STATE));
        assert_eq!(parameter(&callback, "iss"), Some(provider.issuer()));
        assert_eq!(parameter(&callback, "code"), None);
    }

    #[tokio::test]
    async fn an_issuer_is_the_configured_one_and_there_where_the_provider_always_says_it() {
        let provider = OidcProvider::start(json!([client(json!({}))]), people());
        let client = Client::living(open_id(provider.issuer()));
        let check = async |iss: Option<&str>| {
            let checked = client.providers.check_issuer(&client.settings, iss).await;
            checked.err().map(|error| said(&error))
        };
        assert_eq!(check(Some(&provider.issuer())).await, None);
        let absent = "denied other_issuer: the answer does not name its issuer: `iss` is missing, which this provider \
                      always sends (RFC 9207)";
        assert_eq!(check(None).await.as_deref(), Some(absent));
        let other =
            "denied other_issuer: the answer is another provider's: its `iss` is not `issuer` (RFC 9207)";
        for iss in ["", "https://id.example.com", &format!("{}/", provider.issuer())] {
            assert_eq!(check(Some(iss)).await.as_deref(), Some(other), "{iss}");
        }
        // One that says nothing of it may leave it out, and may not say another.
        let mock = OidcProviderMock::start(&[]);
        let client = Client::living(open_id(mock.issuer()));
        for (iss, is_right) in [(None, true), (Some(mock.issuer()), true), (Some(provider.issuer()), false)] {
            let checked = client.providers.check_issuer(&client.settings, iss.as_deref()).await;
            assert_eq!(checked.is_ok(), is_right, "{iss:?}");
        }
    }

    #[tokio::test]
    async fn a_provider_that_comes_back_with_other_keys_is_believed_a_minute_later() {
        let provider = OidcProvider::start(json!([client(json!({}))]), people());
        let client = Client::living(open_id(provider.issuer()));
        let log_in = async || code(&provider.log_in(&client.begin().await.unwrap(), "ann"));
        let before = log_in().await;
        assert_eq!(outcome(client.finish(&before).await), "ok ann");
        provider.stop();
        let gone = outcome(client.finish(&before).await);
        assert!(gone.starts_with("outage unreachable: http://127.0.0.1:"), "{gone}");
        assert_eq!(provider.resume(), provider.address());
        let unknown = "denied id_token: the ID token is signed by a key that the provider does not publish";
        assert_eq!(outcome(client.finish(&log_in().await).await), unknown);
        client.time.pass(60);
        assert_eq!(outcome(client.finish(&log_in().await).await), "ok ann");
    }

    #[tokio::test]
    async fn people_log_in_at_a_second_provider() {
        let ann =
            json!({"sub": "ann", "name": "Ann Example", "email": "ann@example.com", "groups": ["admins"]});
        let provider = OidcProviderMock::start(&[ann]);
        let registered = provider.register(&[REDIRECT_URI]);
        let with = |secret| with_secret(open_id(provider.issuer()), &registered.client_id, Some(secret));
        let client = Client::living(with(&registered.client_secret));
        let log_in = async |sub| code(&provider.log_in(&client.begin().await.unwrap(), sub));

        let used = log_in("ann").await;
        let claims = client.finish(&used).await.unwrap();
        let expected = [("sub", json!("ann")), ("name", json!("Ann Example")), ("groups", json!(["admins"]))];
        for (claim, value) in expected {
            assert_eq!(claims[claim], value);
        }
        assert_eq!(outcome(client.finish(&log_in("stranger").await).await), "ok stranger");

        let url = format!("{}/oauth2/token", provider.issuer());
        let refused = format!(
            "denied code_refused: {url} answers invalid_grant: the code was used before, or is too old"
        );
        assert_eq!(outcome(client.finish(&used).await), refused);
        let code = log_in("ann").await;
        let elsewhere = Redemption { redirect_uri: "http://127.0.0.1:1/elsewhere", ..redemption(&code) };
        assert_eq!(outcome(client.redeem(elsewhere).await), refused);
        let code = log_in("ann").await;
        let wrong = outcome(client.reconfigured(with("wrong")).finish(&code).await);
        assert!(wrong.starts_with(&format!("denied code_refused: {url} answers invalid_client")), "{wrong}");
        let callback = provider.deny(&client.begin().await.unwrap());
        assert_eq!(parameter(&callback, "error").as_deref(), Some("access_denied"));
        assert_eq!(parameter(&callback, "code"), None);
    }
}

/// A provider that lies about nothing yet, its key `a`, and a client of it.
struct Liar {
    provider: LyingProvider,
    key: SigningKey,
    client: Client,
}

impl Liar {
    fn new() -> Self {
        Self::signing_by(SigningKey::rs256())
    }

    fn signing_by(key: SigningKey) -> Self {
        let provider = LyingProvider::start();
        let client = Client::of(open_id(provider.issuer()));
        let liar = Self { provider, key, client };
        liar.publish(&[liar.key.public("a")]);
        liar.provider.give(&liar.token(json!({})));
        liar.provider.reply(USERINFO, Reply::Json(json!({"sub": "carol", "name": "Carol"})));
        liar
    }

    fn publish(&self, keys: &[Value]) {
        self.provider.reply(KEYS, Reply::Json(json!({"keys": keys})));
    }

    /// Good claims with these in place of their own; `null` takes one out.
    fn claims(&self, changes: Value) -> Value {
        let now = self.client.time.now().as_second();
        let mut claims = json!({
            "iss": self.provider.issuer(), "sub": "carol", "aud": CLIENT_ID, "nonce": NONCE,
            "exp": now + 300, "iat": now,
        });
        for (claim, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(claim),
                _ => claims.as_object_mut().unwrap().insert(claim.clone(), value.clone()),
            };
        }
        claims
    }

    fn token(&self, changes: Value) -> String {
        self.key.sign("a", &self.claims(changes))
    }

    /// What comes of a log-in with this ID token.
    async fn outcome_of(&self, token: &str) -> String {
        self.provider.give(token);
        self.client.outcome().await
    }
}

#[tokio::test]
async fn a_browser_is_sent_with_what_the_code_flow_needs() {
    let liar = Liar::new();
    let mut document = liar.provider.document();
    document["authorization_endpoint"] = json!(liar.provider.url("/authorize?tenant=a%20b"));
    liar.provider.reply(DOCUMENT, Reply::Json(document));
    let url = Url::parse(&liar.client.begin().await.unwrap()).unwrap();
    let pairs: Vec<_> =
        url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let expected = [
        ("tenant", "a b"),
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", REDIRECT_URI),
        ("state", STATE),
        // By `printf %s VERIFIER | openssl dgst -sha256 -binary | basenc --base64url`, without the padding.
        ("code_challenge", "mNSqfFm9ksMonPZ1IgGBpUEzJ-pitfWgOllJPpe5vwM"),
        ("code_challenge_method", "S256"),
        ("scope", "openid profile email groups"),
        ("nonce", NONCE),
    ];
    assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn requests_say_who_we_are_and_what_they_must() {
    let liar = Liar::new();
    assert_eq!(liar.client.outcome().await, "ok carol");
    let asked = |path| {
        let [asked] = &*liar.provider.asked(path) else { panic!("one request to {path}") };
        asked.clone()
    };
    let agent = concat!("envoy-auth-tokens/", env!("CARGO_PKG_VERSION"));
    let host = liar.provider.issuer().strip_prefix("http://").unwrap().to_owned();
    for (path, method) in [(DOCUMENT, "GET"), (KEYS, "GET"), (TOKEN, "POST"), (USERINFO, "GET")] {
        let asked = asked(path);
        assert_eq!(asked.method, method);
        assert_eq!(asked.header("accept"), Some("application/json"));
        assert_eq!(asked.header("user-agent"), Some(agent));
        assert_eq!(asked.header("host"), Some(&*host));
    }
    let token = asked(TOKEN);
    assert_eq!(token.header("content-type"), Some("application/x-www-form-urlencoded"));
    // `envoy+auth%3Atokens:secret-that-nobody-may-see%2B%2525%2F%26%3D%3Ax`
    assert_eq!(
        token.header("authorization"),
        Some(
            "Basic ZW52b3krYXV0aCUzQXRva2VuczpzZWNyZXQtdGhhdC1ub2JvZHktbWF5LXNlZSUyQiUyNTI1JTJGJTI2JTNEJTNBeA=="
        )
    );
    let sent = |body: &str| {
        let pairs = url::form_urlencoded::parse(body.as_bytes());
        pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    let grant = [
        "grant_type=authorization_code".to_owned(),
        format!("code={CODE}"),
        format!("redirect_uri={REDIRECT_URI}"),
        format!("code_verifier={VERIFIER}"),
    ];
    assert_eq!(sent(&token.body), grant);
    assert_eq!(asked(USERINFO).header("authorization"), Some(&*format!("Bearer {ACCESS_TOKEN}")));

    // A provider that wants the secret in the form, and a client without any.
    let id = format!("client_id={CLIENT_ID}");
    for (secret, added) in [
        (Some(CLIENT_SECRET), vec![id.clone(), format!("client_secret={CLIENT_SECRET}")]),
        (None, vec![id.clone()]),
    ] {
        let liar = Liar::new();
        let mut document = liar.provider.document();
        document["token_endpoint_auth_methods_supported"] = json!(["client_secret_post"]);
        liar.provider.reply(DOCUMENT, Reply::Json(document));
        let client =
            liar.client.reconfigured(with_secret(open_id(liar.provider.issuer()), CLIENT_ID, secret));
        assert_eq!(client.outcome().await, "ok carol");
        let [token] = &*liar.provider.asked(TOKEN) else { panic!("one request") };
        assert_eq!(token.header("authorization"), None);
        assert_eq!(sent(&token.body), [grant.to_vec(), added].concat());
    }
}

#[tokio::test]
async fn an_id_token_counts_only_when_it_is_whole_and_for_this_log_in() {
    let liar = Liar::new();
    let now = liar.client.time.now().as_second();
    let (issuer, us) = (liar.provider.issuer(), CLIENT_ID);
    let good = [
        json!({}),
        json!({"aud": [us]}),
        json!({"aud": [us, "other"], "azp": us}),
        json!({"azp": us}),
        json!({"exp": now + 1}),
        json!({"exp": now as f64 + 0.5}),
        json!({"iat": now + 60, "nbf": now + 60}),
        json!({"iat": now - 100_000}),
    ];
    for changes in good {
        assert_eq!(liar.outcome_of(&liar.token(changes.clone())).await, "ok carol", "{changes}");
    }
    let not_yet = |claim| format!("is not valid yet (`{claim}`): check the clocks of both machines");
    let form = |claim| format!("has a `{claim}` that is not valid");
    let (other_issuer, other_client) = ("is of another issuer (`iss`)", "is for another client (`aud`)");
    let other_party = "was given to another client (`azp`)";
    let bad = [
        (json!({"iss": null}), "lacks `iss`".to_owned()),
        (json!({"sub": null}), "lacks `sub`".to_owned()),
        (json!({"aud": null}), "lacks `aud`".to_owned()),
        (json!({"exp": null}), "lacks `exp`".to_owned()),
        (json!({"iat": null}), "lacks `iat`".to_owned()),
        (json!({"nonce": null}), "lacks `nonce`".to_owned()),
        (json!({"iss": "https://id.example.com"}), other_issuer.to_owned()),
        (json!({"iss": format!("{issuer}/")}), other_issuer.to_owned()),
        (json!({"iss": issuer.to_uppercase()}), other_issuer.to_owned()),
        (json!({"iss": [issuer]}), form("iss")),
        (json!({"sub": ""}), form("sub")),
        (json!({"sub": 7}), form("sub")),
        (json!({"aud": "other"}), other_client.to_owned()),
        (json!({"aud": ""}), other_client.to_owned()),
        (json!({"aud": []}), other_client.to_owned()),
        (json!({"aud": ["other"]}), other_client.to_owned()),
        (json!({"aud": us.to_uppercase()}), other_client.to_owned()),
        (json!({"aud": format!("{us} other")}), other_client.to_owned()),
        (json!({"aud": [us, 7]}), form("aud")),
        (json!({"aud": {us: true}}), form("aud")),
        (json!({"aud": [us, "other"]}), "lacks `azp`".to_owned()),
        (json!({"aud": [us, "other"], "azp": "other"}), other_party.to_owned()),
        (json!({"azp": "other"}), other_party.to_owned()),
        (json!({"azp": [us]}), form("azp")),
        (json!({"exp": now}), "has expired (`exp`)".to_owned()),
        (json!({"exp": now - 1}), "has expired (`exp`)".to_owned()),
        (json!({"exp": -1}), "has expired (`exp`)".to_owned()),
        (json!({"exp": (now + 300).to_string()}), form("exp")),
        (json!({"exp": true}), form("exp")),
        (json!({"iat": now + 61}), not_yet("iat")),
        (json!({"iat": "now"}), form("iat")),
        (json!({"nbf": now + 61}), not_yet("nbf")),
        (json!({"nbf": "now"}), form("nbf")),
        (json!({"nonce": "another"}), "is the answer to another log-in (`nonce`)".to_owned()),
        (json!({"nonce": ""}), "is the answer to another log-in (`nonce`)".to_owned()),
        (json!({"nonce": [NONCE]}), form("nonce")),
    ];
    for (changes, problem) in bad {
        let outcome = liar.outcome_of(&liar.token(changes.clone())).await;
        assert_eq!(outcome, format!("denied id_token: the ID token {problem}"), "{changes}");
    }
}

#[tokio::test]
async fn an_id_token_counts_only_when_a_published_key_signed_it() {
    let (ec, ed, stranger) = (SigningKey::es256(), SigningKey::eddsa(), SigningKey::rs256());
    let liar = Liar::new();
    let claims = liar.claims(json!({}));
    let enc = |mut key: Value| {
        key["use"] = json!("enc");
        key
    };
    liar.publish(&[
        liar.key.public("a"),
        ec.public("ec"),
        ed.public("ed"),
        enc(SigningKey::es256().anonymous()),
        enc(stranger.public("encrypts")),
    ]);
    for token in [ec.sign("ec", &claims), ed.sign("ed", &claims)] {
        assert_eq!(liar.outcome_of(&token).await, "ok carol");
    }
    // Without an id, where one key fits.
    for key in [&liar.key, &ec, &ed] {
        let token = key.sign_with(&json!({"alg": key.algorithm()}), &claims);
        assert_eq!(liar.outcome_of(&token).await, "ok carol", "{}", key.algorithm());
    }
    let unknown = "is signed by a key that the provider does not publish";
    let signature = "is not signed by the provider's key";
    let by = |algorithm: &str| format!("is signed by {algorithm}: only RS256, ES256 and EdDSA are accepted");
    let header = |algorithm: &str| json!({"alg": algorithm, "kid": "a"});
    let swapped = |token: &str, part: usize, by: &str| {
        let mut parts: Vec<_> = token.split('.').collect();
        parts[part] = by;
        parts.join(".")
    };
    let good = liar.key.sign("a", &claims);
    let somebody_elses = liar.token(json!({"sub": "root"}));
    let parts: Vec<_> = somebody_elses.split('.').collect();
    let public = liar.key.public_bytes();
    let bad = [
        (unsigned(&header("none"), &claims), by("none")),
        (unsigned(&json!({"alg": "NONE"}), &claims), by("NONE")),
        (swapped(&good, 2, ""), signature.to_owned()),
        (authenticated(&public, &header("HS256"), &claims), by("HS256")),
        // Its header says what counts.
        (authenticated(&public, &header("RS256"), &claims), signature.to_owned()),
        (liar.key.sign_by(&RSA_PSS_SHA256, &header("PS256"), &claims), by("PS256")),
        (liar.key.sign_by(&RSA_PSS_SHA256, &header("RS256"), &claims), signature.to_owned()),
        (liar.key.sign_by(&RSA_PKCS1_SHA384, &header("RS384"), &claims), by("RS384")),
        (liar.key.sign_by(&RSA_PKCS1_SHA512, &header("RS512"), &claims), by("RS512")),
        (liar.key.sign_by(&RSA_PKCS1_SHA512, &header("RS256"), &claims), signature.to_owned()),
        (stranger.sign("a", &claims), signature.to_owned()),
        (stranger.sign("b", &claims), unknown.to_owned()),
        (stranger.sign("encrypts", &claims), unknown.to_owned()),
        // One key for another's id.
        (ec.sign("a", &claims), unknown.to_owned()),
        (ed.sign("ec", &claims), unknown.to_owned()),
        (swapped(&good, 1, parts[1]), signature.to_owned()),
        (swapped(&good, 2, parts[2]), signature.to_owned()),
        (format!("{good}="), signature.to_owned()),
        (
            liar.key.sign_with(&json!({"alg": "RS256", "kid": "a", "crit": ["exp"]}), &claims),
            "has critical extensions (`crit`), which this server does not support".to_owned(),
        ),
        (format!("{good}.a.b"), "is encrypted: configure the provider to sign it only".to_owned()),
        ("token".to_owned(), "is not a signed JSON Web Token".to_owned()),
        (liar.key.sign("a", &json!(["sub"])), "is not a signed JSON Web Token".to_owned()),
        ("a".repeat(65_537), "has more than 65536 bytes".to_owned()),
    ];
    for (token, problem) in bad {
        let outcome = liar.outcome_of(&token).await;
        assert_eq!(outcome, format!("denied id_token: the ID token {problem}"));
    }
    // Without an id, where two keys fit.
    let liar = Liar::new();
    liar.publish(&[liar.key.anonymous(), stranger.anonymous()]);
    let token = liar.key.sign_with(&json!({"alg": "RS256"}), &liar.claims(json!({})));
    assert_eq!(
        liar.outcome_of(&token).await,
        "denied id_token: the ID token does not say by which of several keys it is signed"
    );
}

#[tokio::test]
async fn an_answer_without_an_id_token_proves_nothing() {
    let liar = Liar::new();
    liar.provider.reply(TOKEN, Reply::Json(json!({"access_token": ACCESS_TOKEN, "token_type": "Bearer"})));
    assert_eq!(
        liar.client.outcome().await,
        "denied id_token: the answer has no ID token: check that `openid` is among `scopes`"
    );
    // userinfo is only for who has an access token.
    liar.provider.reply(TOKEN, Reply::Json(json!({"id_token": liar.token(json!({}))})));
    assert_eq!(liar.client.outcome().await, "ok carol");
    assert_eq!(liar.provider.asked(USERINFO).len(), 0);
}

#[tokio::test]
async fn keys_are_renewed_once_a_minute_and_kept_for_an_hour() {
    let liar = Liar::new();
    let fetched = || liar.provider.asked(KEYS).len();
    let unknown = "denied id_token: the ID token is signed by a key that the provider does not publish";
    let next = SigningKey::rs256();
    let by_next = || next.sign("b", &liar.claims(json!({})));

    assert_eq!(liar.client.outcome().await, "ok carol");
    for second in 0..5 {
        assert_eq!(liar.outcome_of(&by_next()).await, unknown, "{second}");
    }
    assert_eq!(fetched(), 1);
    liar.client.time.pass(59);
    assert_eq!((liar.outcome_of(&by_next()).await.as_str(), fetched()), (unknown, 1));
    liar.client.time.pass(1);
    for _ in 0..5 {
        assert_eq!((liar.outcome_of(&by_next()).await.as_str(), fetched()), (unknown, 2));
    }
    // The provider publishes the new key; the old one counts as long as it is published.
    liar.publish(&[liar.key.public("a"), next.public("b")]);
    liar.client.time.pass(60);
    assert_eq!((liar.outcome_of(&by_next()).await.as_str(), fetched()), ("ok carol", 3));
    assert_eq!(liar.outcome_of(&liar.token(json!({}))).await, "ok carol");

    // A failure counts for a minute, too, and harms nobody whose key is known.
    liar.client.time.pass(60);
    liar.provider.reply(KEYS, Reply::Status(500, json!({})));
    let out = format!("outage bad_answer: {}: answers status 500", liar.provider.url(KEYS));
    let stranger = SigningKey::rs256();
    for _ in 0..3 {
        let token = stranger.sign("c", &liar.claims(json!({})));
        assert_eq!((liar.outcome_of(&token).await, fetched()), (out.clone(), 4));
    }
    assert_eq!((liar.outcome_of(&by_next()).await.as_str(), fetched()), ("ok carol", 4));

    // After an hour those that were kept count no more.
    liar.client.time.pass(3600);
    assert_eq!((liar.outcome_of(&by_next()).await, fetched()), (out, 5));
    liar.publish(&[next.public("b")]);
    assert_eq!((liar.outcome_of(&by_next()).await.as_str(), fetched()), ("ok carol", 6));
    assert_eq!(liar.outcome_of(&liar.token(json!({}))).await, unknown);
}

#[tokio::test]
async fn a_key_that_was_changed_under_its_id_is_renewed() {
    let liar = Liar::new();
    assert_eq!(liar.client.outcome().await, "ok carol");
    let next = SigningKey::rs256();
    liar.publish(&[next.public("a")]);
    liar.client.time.pass(60);
    assert_eq!(liar.outcome_of(&next.sign("a", &liar.claims(json!({})))).await, "ok carol");
    assert_eq!(liar.provider.asked(KEYS).len(), 2);
}

#[tokio::test]
async fn userinfo_speaks_of_the_same_person_and_the_id_token_wins() {
    let liar = Liar::new();
    let info = json!({"sub": "carol", "name": "Carol", "groups": ["admins"], "nonce": "x", "iss": "other"});
    liar.provider.reply(USERINFO, Reply::Json(info));
    liar.provider.give(&liar.token(json!({"name": "Caroline", "at_hash": "x"})));
    let claims = liar.client.finish(CODE).await.unwrap();
    assert_eq!(
        (&claims["name"], &claims["groups"], &claims["iss"]),
        (&json!("Caroline"), &json!(["admins"]), &json!(liar.provider.issuer()))
    );
    assert!(!claims.contains_key("nonce") && !claims.contains_key("at_hash"));

    let url = liar.provider.url(USERINFO);
    let other =
        format!("denied other_subject: {url} is about another person than the ID token: its `sub` differs");
    let absent = format!("denied other_subject: {url} does not name the person: `sub` is missing");
    for (reply, said) in [
        (Reply::Json(json!({"sub": "root"})), other.clone()),
        (Reply::Json(json!({"sub": "Carol"})), other.clone()),
        (Reply::Json(json!({"sub": ["carol"]})), other),
        (Reply::Json(json!({"name": "Carol"})), absent),
        (
            Reply::Body("application/jwt; charset=utf-8", b"eyJ".to_vec()),
            format!(
                "outage bad_answer: {url}: answers with application/jwt: configure the provider to send userinfo as plain JSON"
            ),
        ),
        (
            Reply::Status(401, json!({"error": "invalid_token"})),
            format!(
                "denied access_token_denied: {url} denies the access token with status 401: check that `scopes` has all scopes that it needs"
            ),
        ),
    ] {
        liar.provider.reply(USERINFO, reply.clone());
        assert_eq!(liar.client.outcome().await, said, "{reply:?}");
    }
}

#[tokio::test]
async fn a_document_that_lies_sends_nobody_anywhere() {
    let liar = Liar::new();
    let url = liar.provider.url(DOCUMENT);
    for (member, value, problem) in [
        (
            "issuer",
            json!("https://id.example.com"),
            "names another issuer: set `issuer` to exactly the value of `issuer` in that document",
        ),
        ("issuer", json!(null), "`issuer` is missing or not valid"),
        (
            "token_endpoint",
            json!("http://id.example.com/token"),
            "`token_endpoint` is not https; http is allowed only for 127.0.0.1, [::1] and localhost",
        ),
        (
            "authorization_endpoint",
            json!("javascript:alert(1)"),
            "`authorization_endpoint` is not a URL such as https://id.example.com/token",
        ),
        ("jwks_uri", json!(["x"]), "`jwks_uri` is missing or not valid"),
        (
            "userinfo_endpoint",
            json!("https://a:b@id.example.com"),
            "`userinfo_endpoint` has a user name, a password or a fragment",
        ),
        (
            "code_challenge_methods_supported",
            json!(["plain"]),
            "`code_challenge_methods_supported` lacks S256: this provider does not support PKCE (RFC 7636), which is required",
        ),
        (
            "token_endpoint_auth_methods_supported",
            json!(["private_key_jwt"]),
            "`token_endpoint_auth_methods_supported` has neither client_secret_basic nor client_secret_post",
        ),
    ] {
        let mut document = liar.provider.document();
        document[member] = value;
        liar.provider.reply(DOCUMENT, Reply::Json(document));
        let error = liar.client.begin().await.unwrap_err();
        assert_eq!(said(&error), format!("outage discovery: {url}: {problem}"));
        // `check --connect` says the same.
        let error = liar.client.providers.probe(&liar.client.settings).await.unwrap_err();
        assert_eq!(said(&error), format!("outage discovery: {url}: {problem}"));
    }
    // Nothing of all that was kept.
    liar.provider.reply(DOCUMENT, Reply::Json(liar.provider.document()));
    assert_eq!(liar.client.outcome().await, "ok carol");
}

#[tokio::test]
async fn a_bad_answer_at_any_step_is_an_outage() {
    let liar = Liar::new();
    let honest = liar.provider.document();
    let cut =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"a\": 1".to_vec();
    let endless = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\": \"";
    let endless = [&endless[..], &vec![b'a'; 1024 * 1024]].concat();
    let evil = Liar::new();
    for (path, good) in [
        (DOCUMENT, Reply::Json(honest)),
        (KEYS, Reply::Json(json!({"keys": [liar.key.public("a")]}))),
        (
            TOKEN,
            Reply::Json(json!({
                "id_token": liar.token(json!({})), "access_token": ACCESS_TOKEN, "token_type": "Bearer",
            })),
        ),
        (USERINFO, Reply::Json(json!({"sub": "carol"}))),
    ] {
        let url = liar.provider.url(path);
        let bad = "bad_answer";
        for (reply, reason, problem) in [
            (Reply::Status(500, json!({"error": "invalid_grant"})), bad, "answers status 500"),
            (Reply::Status(503, json!({})), bad, "answers status 503"),
            (Reply::Status(429, json!({})), bad, "answers status 429: it is asked too often"),
            (Reply::Status(404, json!({})), bad, "answers status 404: is the URL right?"),
            (Reply::Status(204, json!({})), bad, "answers status 204"),
            (Reply::Body("text/html", b"<html>".to_vec()), bad, "sent an answer that is not a JSON object"),
            (Reply::Json(json!([])), bad, "sent an answer that is not a JSON object"),
            (Reply::Body("application/json", Vec::new()), bad, "sent an answer that is not a JSON object"),
            (Reply::Bytes(cut.clone()), bad, "sent an incomplete answer: the body was cut"),
            (Reply::Bytes(endless.clone()), bad, "sent an answer of more than 1048576 bytes"),
            (
                Reply::Redirect(evil.provider.url(path)),
                bad,
                "answers status 302, a redirect, which is not followed: write the URL that it leads to",
            ),
            (Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), bad, "sent an incomplete answer: "),
            (Reply::Nothing, bad, "sent an incomplete answer: "),
        ] {
            liar.provider.reply(path, reply.clone());
            let client = Client::of(open_id(liar.provider.issuer()));
            let outcome = client.outcome().await;
            let expected = format!("outage {reason}: {url}: {problem}");
            assert!(outcome.starts_with(&expected), "{reply:?} at {path}: {outcome}");
        }
        liar.provider.reply(path, good);
        assert_eq!(liar.client.outcome().await, "ok carol");
    }
    for path in [DOCUMENT, KEYS, TOKEN, USERINFO] {
        assert!(evil.provider.asked(path).is_empty(), "a redirect was followed to {path}");
    }
}

#[tokio::test]
async fn a_provider_that_says_nothing_at_any_step_is_an_outage() {
    let silent = [DOCUMENT, KEYS, TOKEN, USERINFO].map(|path| async move {
        let liar = Liar::new();
        liar.provider.reply(path, Reply::Silence);
        let timeout = Duration::from_secs(3);
        let client = Client::of(within(open_id(liar.provider.issuer()), timeout));
        let url = liar.provider.url(path);
        let expected = format!("outage no_answer: {url}: did not answer within 3s (`timeout`)");
        assert_eq!(client.outcome().await, expected);
    });
    join_all(silent).await;
}

#[tokio::test]
async fn a_provider_that_is_gone_at_any_step_is_an_outage() {
    // An address where nobody listens.
    let nobody = "http://localhost:1/";
    for member in ["token_endpoint", "jwks_uri", "userinfo_endpoint"] {
        let liar = Liar::new();
        let mut document = liar.provider.document();
        document[member] = json!(nobody);
        liar.provider.reply(DOCUMENT, Reply::Json(document));
        let outcome = liar.client.outcome().await;
        assert!(
            outcome.starts_with(&format!("outage unreachable: {nobody}: cannot be reached: ")),
            "{outcome}"
        );
    }
    for issuer in [nobody.trim_end_matches('/'), "https://no-such-host.invalid"] {
        let client = Client::of(open_id(issuer.to_owned()));
        let outcome = client.outcome().await;
        assert!(outcome.starts_with(&format!("outage unreachable: {issuer}/.well-known/")), "{outcome}");
        assert!(client.begin().await.unwrap_err().is_outage());
        assert!(client.providers.check_issuer(&client.settings, None).await.unwrap_err().is_outage());
        assert!(client.providers.probe(&client.settings).await.unwrap_err().is_outage());
    }
}

#[tokio::test]
async fn what_a_token_endpoint_refuses_is_said_without_its_own_words() {
    let liar = Liar::new();
    let url = liar.provider.url(TOKEN);
    for (reply, said) in [
        (
            Reply::Status(400, json!({"error": "invalid_grant", "error_description": CODE})),
            "denied code_refused: @ answers invalid_grant: the code was used before, or is too old",
        ),
        (
            Reply::Status(401, json!({"error": "invalid_client"})),
            "denied code_refused: @ answers invalid_client: are `client_id` and `client_secret` those of this provider?",
        ),
        (Reply::Status(400, json!({"error": CODE})), "denied code_refused: @ answers an error of its own"),
        (Reply::Status(400, json!({"error": [1]})), "denied code_refused: @ answers an error of its own"),
        // As GitHub does.
        (
            Reply::Json(json!({"error": "bad_verification_code", "error_description": "…"})),
            "denied code_refused: @ answers bad_verification_code: the code was used before, or is too old",
        ),
        (Reply::Status(400, json!({})), "outage bad_answer: @: answers status 400"),
        (
            Reply::Json(json!({"id_token": 7})),
            "outage bad_answer: @: answers JSON whose `id_token` is missing or not valid",
        ),
        (
            Reply::Json(json!({"access_token": ACCESS_TOKEN, "token_type": "mac", "id_token": "x"})),
            "outage bad_answer: @: answers JSON whose `token_type` is missing or not valid",
        ),
        (
            Reply::Json(json!({"access_token": format!("{ACCESS_TOKEN}\r\nx: y"), "id_token": "x"})),
            "outage bad_answer: @: answers JSON whose `access_token` is missing or not valid",
        ),
    ] {
        liar.provider.reply(TOKEN, reply.clone());
        assert_eq!(liar.client.outcome().await, said.replace('@', &url), "{reply:?}");
    }
}

#[tokio::test]
async fn a_document_is_asked_for_once_an_hour_however_many_wait() {
    let liar = Liar::new();
    let asked = || liar.provider.asked(DOCUMENT).len();
    let begun = join_all((0..20).map(|_| liar.client.begin())).await;
    assert!(begun.iter().all(Result::is_ok), "{begun:?}");
    assert_eq!(asked(), 1);
    liar.client.time.pass(3599);
    liar.client.begin().await.unwrap();
    assert_eq!(asked(), 1);
    liar.client.time.pass(1);
    liar.client.begin().await.unwrap();
    assert_eq!(asked(), 2);
    // What is old does not count, even where nothing newer can be had.
    liar.client.time.pass(3600);
    liar.provider.reply(DOCUMENT, Reply::Status(503, json!({})));
    assert!(liar.client.begin().await.unwrap_err().is_outage());
    // A provider that is configured otherwise is asked anew.
    liar.provider.reply(DOCUMENT, Reply::Json(liar.provider.document()));
    liar.client.begin().await.unwrap();
    let asked_before = asked();
    let same = liar.client.reconfigured(within(open_id(liar.provider.issuer()), Duration::from_secs(20)));
    same.begin().await.unwrap();
    assert_eq!(asked(), asked_before);
    let other = ProviderSettings { binding: [1; 32], ..open_id(liar.provider.issuer()) };
    liar.client.reconfigured(other).begin().await.unwrap();
    assert_eq!(asked(), asked_before + 1);
}

#[tokio::test]
async fn four_requests_are_on_their_way_at_a_time() {
    let liar = Liar::new();
    liar.client.begin().await.unwrap();
    liar.provider.reply(TOKEN, Reply::Silence);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (providers, settings) = (liar.client.providers.clone(), Arc::clone(&liar.client.settings));
            tokio::spawn(async move { providers.redeem(&settings, &redemption(CODE)).await })
        })
        .collect();
    while liar.provider.asked(TOKEN).len() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let hasty = liar.client.reconfigured(within(open_id(liar.provider.issuer()), Duration::from_millis(200)));
    assert_eq!(
        hasty.outcome().await,
        format!(
            "outage busy: {}: was not asked: 4 requests to this provider were in progress until the time limit (`timeout`)",
            liar.provider.url(TOKEN)
        )
    );
    // Whoever waits goes on when one of them ends.
    liar.provider.give(&liar.token(json!({})));
    let patient = tokio::spawn({
        let (providers, settings) = (liar.client.providers.clone(), Arc::clone(&liar.client.settings));
        async move { providers.redeem(&settings, &redemption(CODE)).await }
    });
    tokio::task::yield_now().await;
    for task in waiting {
        task.abort();
    }
    assert_eq!(outcome(patient.await.unwrap()), "ok carol");
    assert_eq!(liar.provider.asked(TOKEN).len(), 5);
}

#[tokio::test]
async fn certificates_are_verified() {
    let (ca, stranger) = (Ca::new("the CA of the provider"), Ca::new("the CA of somebody else"));
    let trusting = |ca: &Ca, provider: &LyingProvider| {
        let ca = [CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()];
        Client::of(ProviderSettings { ca: ca.into(), ..open_id(provider.issuer()) })
    };
    let said =
        async |client: &Client| client.begin().await.err().map(|error| said(&error)).unwrap_or_default();

    let good = LyingProvider::start_certified(&ca.issue(&["localhost"]));
    let url = Url::parse(&trusting(&ca, &good).begin().await.unwrap()).unwrap();
    assert_eq!((url.scheme(), url.path()), ("https", "/authorize"));

    let unknown = said(&trusting(&stranger, &good)).await;
    assert!(unknown.starts_with("outage tls: https://localhost:"), "{unknown}");
    assert!(unknown.ends_with("Name the CA of its certificate with `ca`"), "{unknown}");
    let untrusted = said(&Client::of(open_id(good.issuer()))).await;
    assert!(untrusted.starts_with("outage tls: "), "{untrusted}");
    assert!(good.asked(DOCUMENT).len() == 1, "something was sent before the certificate was verified");

    let other = LyingProvider::start_certified(&ca.issue(&["id.example.com"]));
    let name = said(&trusting(&ca, &other)).await;
    assert!(name.contains("Use a name that is in its certificate"), "{name}");
    let expired = LyingProvider::start_certified(&ca.issue_until(&["localhost"], 2020));
    let expired = said(&trusting(&ca, &expired)).await;
    assert!(expired.starts_with("outage tls: ") && expired.to_lowercase().contains("expired"), "{expired}");

    // http where https is meant, and the other way round.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        let mut greeting = [0; 16];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Until it is heard.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let spoken = said(&Client::of(open_id(format!("https://localhost:{port}")))).await;
    assert!(
        spoken.starts_with("outage tls: ") && spoken.ends_with("Does it speak http at this port?"),
        "{spoken}"
    );
    answering.join().unwrap();
    let spoken = said(&Client::of(open_id(good.issuer().replace("https", "http")))).await;
    assert!(spoken.starts_with("outage bad_answer: "), "{spoken}");
}

mod plain_oauth {
    use super::*;

    fn at(provider: &LyingProvider) -> ProviderSettings {
        let url = |path| provider.url(path).into();
        let endpoints =
            Endpoints::OAuth2 { auth_url: url("/authorize"), token_url: url(TOKEN), api_url: url(API) };
        ProviderSettings { scopes: ["read:user".into()].into(), ..settings(endpoints) }
    }

    fn start() -> (LyingProvider, Client) {
        let provider = LyingProvider::start();
        let answer = json!({"access_token": ACCESS_TOKEN, "token_type": "bearer", "scope": "read:user"});
        provider.reply(TOKEN, Reply::Json(answer));
        provider.reply(API, Reply::Json(json!({"login": "carol", "id": 583_231, "sub": "carol"})));
        let client = Client::of(at(&provider));
        (provider, client)
    }

    #[tokio::test]
    async fn the_api_tells_who_somebody_is() {
        let (provider, client) = start();
        let url = Url::parse(&client.begin().await.unwrap()).unwrap();
        assert_eq!((url.path(), parameter(&url, "scope").as_deref()), ("/authorize", Some("read:user")));
        assert_eq!((parameter(&url, "nonce"), parameter(&url, "state").as_deref()), (None, Some(STATE)));
        assert_eq!(parameter(&url, "code_challenge_method").as_deref(), Some("S256"));
        let claims = client.finish(CODE).await.unwrap();
        assert_eq!((&claims["login"], &claims["id"]), (&json!("carol"), &json!(583_231)));
        let [api] = &*provider.asked(API) else { panic!("one request") };
        assert_eq!(api.header("authorization"), Some(&*format!("Bearer {ACCESS_TOKEN}")));
        let [token] = &*provider.asked(TOKEN) else { panic!("one request") };
        assert!(token.header("authorization").unwrap().starts_with("Basic "));
        assert!(token.body.contains("code_verifier="));
        assert!(provider.asked(DOCUMENT).is_empty() && provider.asked(KEYS).is_empty());
        // There is no issuer to be another's.
        client.providers.check_issuer(&client.settings, Some("https://id.example.com")).await.unwrap();
    }

    #[tokio::test]
    async fn what_it_answers_otherwise_is_said() {
        let (provider, client) = start();
        let (token, api) = (provider.url(TOKEN), provider.url(API));
        for (path, reply, said) in [
            (
                TOKEN,
                Reply::Json(json!({"token_type": "bearer"})),
                format!(
                    "outage bad_answer: {token}: answers JSON whose `access_token` is missing or not valid"
                ),
            ),
            (
                TOKEN,
                // As GitHub answers who does not ask for JSON.
                Reply::Body(
                    "application/x-www-form-urlencoded",
                    format!("access_token={ACCESS_TOKEN}").into_bytes(),
                ),
                format!("outage bad_answer: {token}: sent an answer that is not a JSON object"),
            ),
            (
                API,
                Reply::Status(403, json!({"message": "…"})),
                format!(
                    "denied access_token_denied: {api} denies the access token with status 403: check that `scopes` has all scopes that it needs"
                ),
            ),
            (
                API,
                Reply::Json(json!(["carol"])),
                format!("outage bad_answer: {api}: sent an answer that is not a JSON object"),
            ),
            (API, Reply::Status(502, json!({})), format!("outage bad_answer: {api}: answers status 502")),
            (API, Reply::Nothing, format!("outage bad_answer: {api}: sent an incomplete answer: ")),
        ] {
            let (provider_of_this, client_of_this) = start();
            provider_of_this.reply(path, reply.clone());
            let outcome = client_of_this.outcome().await;
            let here = |text: &str| text.replace(&provider_of_this.issuer(), &provider.issuer());
            assert!(here(&outcome).starts_with(&said), "{reply:?}: {outcome}");
        }
        assert_eq!(client.outcome().await, "ok carol");
    }

    #[tokio::test]
    async fn nothing_is_sent_by_http_to_other_machines() {
        for (auth, token, api, said) in [
            ("http://id.example.com/a", "https://localhost/t", "https://localhost/p", "`auth_url`"),
            ("https://localhost/a", "http://id.example.com/t", "https://localhost/p", "`token_url`"),
            ("https://localhost/a", "https://localhost/t", "http://id.example.com/p", "`api_url`"),
        ] {
            let endpoints =
                Endpoints::OAuth2 { auth_url: auth.into(), token_url: token.into(), api_url: api.into() };
            let error = Client::of(settings(endpoints)).begin().await.unwrap_err();
            assert_eq!(
                super::said(&error),
                format!(
                    "outage discovery: {said} is not https; http is allowed only for 127.0.0.1, [::1] and localhost"
                )
            );
        }
    }

    #[tokio::test]
    async fn a_probe_wants_an_answer_of_each_url_and_presents_nothing() {
        let (provider, client) = start();
        let said = client.providers.probe(&client.settings).await.unwrap();
        assert_eq!(said, "`auth_url`, `token_url` and `api_url` answer");
        for path in ["/authorize", TOKEN, API] {
            let [asked] = &*provider.asked(path) else { panic!("one request to {path}") };
            assert_eq!(
                (asked.method.as_str(), asked.header("authorization"), &*asked.body),
                ("GET", None, "")
            );
        }
        provider.reply(API, Reply::Nothing);
        let error = client.providers.probe(&client.settings).await.unwrap_err();
        assert!(super::said(&error).starts_with(&format!("outage bad_answer: {}: ", provider.url(API))));
    }
}

#[tokio::test]
async fn a_probe_says_how_many_keys_sign_id_tokens() {
    let liar = Liar::new();
    let probe = async || liar.client.providers.probe(&liar.client.settings).await;
    assert_eq!(probe().await.unwrap(), "answers, with 1 key for ID tokens");
    liar.publish(&[liar.key.public("a"), SigningKey::es256().public("b"), json!({"kty": "oct", "k": "AA"})]);
    assert_eq!(probe().await.unwrap(), "answers, with 2 keys for ID tokens");
    let url = liar.provider.url(KEYS);
    liar.publish(&[]);
    let none = format!("outage bad_answer: {url}: has no key for RS256, ES256 or EdDSA");
    assert_eq!(said(&probe().await.unwrap_err()), none);
    liar.publish(&vec![liar.key.public("a"); 101]);
    let many = format!("outage bad_answer: {url}: has more than 100 keys");
    assert_eq!(said(&probe().await.unwrap_err()), many);
    assert_eq!(liar.client.outcome().await, many);
}
