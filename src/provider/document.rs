//! The metadata of a provider: the document of OpenID Connect Discovery 1.0, section 3, or the configuration.

use serde_json::{Map, Value};

use super::endpoint::Endpoint;
use super::error::{DocumentProblem, EndpointError, ProviderError};

/// Where a provider's endpoints are, and how they are spoken to.
pub(super) struct Document {
    pub(super) authorization_endpoint: Endpoint,
    pub(super) token_endpoint: Endpoint,
    /// How a client with a secret presents it.
    pub(super) client_authentication: ClientAuthentication,
    pub(super) people: People,
}

/// How people are identified.
pub(super) enum People {
    /// OpenID Connect: an ID token, and userinfo where there is any.
    IdToken {
        /// As the configuration and the document both write it.
        issuer: Box<str>,
        jwks_uri: Endpoint,
        userinfo_endpoint: Option<Endpoint>,
        /// Each answer to a browser has `iss` (RFC 9207).
        always_sends_issuer: bool,
    },
    /// Plain OAuth 2: `api_url`.
    Api(Endpoint),
}

/// How the token endpoint learns the client's secret (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuthentication {
    /// `client_secret_basic`
    Basic,
    /// `client_secret_post`
    Post,
}

/// Where the document of this issuer is (section 4).
///
/// # Errors
/// The issuer is not https.
pub(super) fn url_of_document(issuer: &str) -> Result<Endpoint, EndpointError> {
    // The issuer itself has neither a query nor a fragment.
    if issuer.contains(['?', '#']) {
        return Err(EndpointError::Excess);
    }
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    Endpoint::parse(&format!("{base}/.well-known/openid-configuration"))
}

impl Document {
    /// The configuration of a provider without a document.
    ///
    /// # Errors
    /// One of the URLs is not https.
    pub(super) fn configured(auth_url: &str, token_url: &str, api_url: &str) -> Result<Self, ProviderError> {
        let read =
            |key, text: &str| Endpoint::parse(text).map_err(|problem| ProviderError::Url { key, problem });
        Ok(Self {
            authorization_endpoint: read("auth_url", auth_url)?,
            token_endpoint: read("token_url", token_url)?,
            client_authentication: ClientAuthentication::Basic,
            people: People::Api(read("api_url", api_url)?),
        })
    }

    /// Reads the document of this issuer.  `has_secret` says whether the client has one to present.
    ///
    /// # Errors
    /// It is another issuer's, lacks something, or cannot be worked with.
    pub(super) fn read(
        document: &Map<String, Value>,
        issuer: &str,
        has_secret: bool,
    ) -> Result<Self, DocumentProblem> {
        match document.get("issuer") {
            Some(Value::String(found)) if found == issuer => {}
            Some(Value::String(_)) => return Err(DocumentProblem::OtherIssuer),
            Some(_) | None => return Err(DocumentProblem::Member("issuer")),
        }
        let methods = texts(document, "code_challenge_methods_supported")?;
        if methods.is_some_and(|methods| !methods.contains(&"S256")) {
            return Err(DocumentProblem::NoPkce);
        }
        let methods = texts(document, "token_endpoint_auth_methods_supported")?;
        let offers = |method| methods.as_ref().is_none_or(|methods| methods.contains(&method));
        // Without the list it is client_secret_basic (section 3).
        let client_authentication = match (offers("client_secret_basic"), offers("client_secret_post")) {
            (true, _) => ClientAuthentication::Basic,
            (false, true) => ClientAuthentication::Post,
            (false, false) if has_secret => return Err(DocumentProblem::NoClientAuthentication),
            (false, false) => ClientAuthentication::Basic,
        };
        let always_sends_issuer = match document.get("authorization_response_iss_parameter_supported") {
            Some(Value::Bool(always)) => *always,
            None => false,
            Some(_) => {
                return Err(DocumentProblem::Member("authorization_response_iss_parameter_supported"));
            }
        };
        let needed = |member| endpoint(document, member)?.ok_or(DocumentProblem::Member(member));
        Ok(Self {
            authorization_endpoint: needed("authorization_endpoint")?,
            token_endpoint: needed("token_endpoint")?,
            client_authentication,
            people: People::IdToken {
                issuer: issuer.into(),
                jwks_uri: needed("jwks_uri")?,
                userinfo_endpoint: endpoint(document, "userinfo_endpoint")?,
                always_sends_issuer,
            },
        })
    }
}

fn endpoint(
    document: &Map<String, Value>,
    member: &'static str,
) -> Result<Option<Endpoint>, DocumentProblem> {
    match document.get(member) {
        None => Ok(None),
        Some(Value::String(text)) => {
            Endpoint::parse(text).map(Some).map_err(|problem| DocumentProblem::Endpoint(member, problem))
        }
        Some(_) => Err(DocumentProblem::Member(member)),
    }
}

/// A list of texts, where the member is there.
fn texts<'d>(
    document: &'d Map<String, Value>,
    member: &'static str,
) -> Result<Option<Vec<&'d str>>, DocumentProblem> {
    let Some(value) = document.get(member) else {
        return Ok(None);
    };
    let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    texts.map(Some).ok_or(DocumentProblem::Member(member))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://id.example.com/a";

    /// A good document with these members in place of its own; `null` takes one out.
    fn read(changes: Value, has_secret: bool) -> Result<Document, DocumentProblem> {
        let mut document = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example.com/authorize?tenant=a",
            "token_endpoint": "https://id.example.com/token",
            "jwks_uri": "https://keys.example.com/",
            "userinfo_endpoint": "https://id.example.com/me",
        });
        let document = document.as_object_mut().unwrap();
        let Value::Object(changes) = changes else { panic!("members") };
        for (member, value) in changes {
            match value {
                Value::Null => document.remove(&member),
                value => document.insert(member, value),
            };
        }
        Document::read(document, ISSUER, has_secret)
    }

    fn problem(changes: Value) -> DocumentProblem {
        read(changes, true).err().unwrap()
    }

    #[test]
    fn a_document_is_the_issuers_own_and_whole() {
        let document = read(json!({}), true).ok().unwrap();
        assert_eq!(document.token_endpoint.to_string(), "https://id.example.com/token");
        for issuer in
            ["https://id.example.com/a/", "https://id.example.com/A", "HTTPS://id.example.com/a", ""]
        {
            assert_eq!(problem(json!({"issuer": issuer})), DocumentProblem::OtherIssuer, "{issuer}");
        }
        for issuer in [json!(null), json!([ISSUER]), json!({"a": ISSUER})] {
            assert_eq!(problem(json!({"issuer": issuer})), DocumentProblem::Member("issuer"));
        }
        for member in ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"] {
            if member != "userinfo_endpoint" {
                assert_eq!(problem(json!({member: null})), DocumentProblem::Member(member));
            }
            assert_eq!(problem(json!({member: 7})), DocumentProblem::Member(member));
            assert_eq!(
                problem(json!({member: "http://id.example.com/"})),
                DocumentProblem::Endpoint(member, EndpointError::NotHttps)
            );
        }
        assert!(read(json!({"userinfo_endpoint": null}), true).is_ok());
    }

    #[test]
    fn pkce_and_a_way_to_present_the_secret_are_needed() {
        let methods = "code_challenge_methods_supported";
        assert!(read(json!({methods: ["plain", "S256"]}), true).is_ok());
        assert_eq!(problem(json!({methods: ["plain"]})), DocumentProblem::NoPkce);
        assert_eq!(problem(json!({methods: []})), DocumentProblem::NoPkce);
        assert_eq!(problem(json!({methods: "S256"})), DocumentProblem::Member(methods));

        let methods = "token_endpoint_auth_methods_supported";
        let chosen = |list| read(json!({methods: list}), true).map(|document| document.client_authentication);
        assert_eq!(chosen(json!(null)), Ok(ClientAuthentication::Basic));
        assert_eq!(
            chosen(json!(["client_secret_post", "client_secret_basic"])),
            Ok(ClientAuthentication::Basic)
        );
        assert_eq!(chosen(json!(["private_key_jwt", "client_secret_post"])), Ok(ClientAuthentication::Post));
        assert_eq!(chosen(json!(["private_key_jwt"])), Err(DocumentProblem::NoClientAuthentication));
        assert_eq!(chosen(json!([1])), Err(DocumentProblem::Member(methods)));
        // Who has no secret presents none.
        assert!(read(json!({methods: ["none"]}), false).is_ok());
    }

    #[test]
    fn the_document_is_below_the_issuer() {
        for (issuer, url) in [
            ("https://id.example.com", "https://id.example.com/.well-known/openid-configuration"),
            ("https://id.example.com/", "https://id.example.com/.well-known/openid-configuration"),
            ("https://id.example.com/a", "https://id.example.com/a/.well-known/openid-configuration"),
        ] {
            assert_eq!(url_of_document(issuer).unwrap().to_string(), url);
        }
        for issuer in ["http://id.example.com", "https://id.example.com?a", "https://id.example.com#a", "id"]
        {
            assert!(url_of_document(issuer).is_err(), "{issuer}");
        }
    }
}
