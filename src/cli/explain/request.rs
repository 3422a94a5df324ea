//! The request to explain: from flags, JSON, or a line of the decision log.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use clap::Args;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::super::{ExplainError, read_secret};
use crate::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http};
use crate::credential::{CredentialLocation, query};
use crate::ext_authz::codec::request::is_nearly_policy;
use crate::secret::Secret;
use crate::snapshot::Snapshot;

/// A request, and what Envoy's route says about it.
pub(super) struct RequestInput {
    /// The method as sent.
    pub method: String,
    /// The host as sent.
    pub host: String,
    /// The path with its query.
    pub path: Secret,
    /// Names and values in their order.
    pub headers: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// How Envoy encoded the headers.
    pub encoding: Encoding,
    /// The policy that Envoy's route names.
    pub policy: Option<String>,
    /// A key of `context_extensions` that is nearly `policy`.
    pub misspelled_policy: Option<String>,
}

/// The request as flags.
#[derive(Args)]
pub(super) struct RequestArgs {
    /// The method of the request
    #[arg(long, default_value = "GET")]
    method: String,
    /// The host of the request
    #[arg(long, default_value = "localhost")]
    host: String,
    /// The path of the request with its query
    #[arg(long, required_unless_present_any = ["request", "log_line", "connect", "user", "reason"])]
    path: Option<String>,
    /// A header that carries no credential, such as 'upgrade: websocket'
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The policy that Envoy's route names (in context_extensions; for the module in filter_config)
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
}

/// A user may write a credential into the wrong flag.
impl fmt::Debug for RequestArgs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RequestArgs").field("headers", &self.headers.len()).finish_non_exhaustive()
    }
}

/// The secrets of the request, each in a file or on standard input.
#[derive(Debug, Args)]
pub(super) struct SecretArgs {
    /// A header whose value is in a file (`-`: standard input), such as x-api-key=FILE
    #[arg(long = "header-file", value_name = "NAME=FILE")]
    header_files: Vec<String>,
    /// A query parameter whose value is in a file (`-`: standard input), such as _auth_token=FILE
    #[arg(long = "query-file", value_name = "NAME=FILE")]
    query_files: Vec<String>,
    /// Send `Authorization: Bearer` with the token in this file (`-`: standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    token_file: Option<PathBuf>,
    /// Send `Authorization: Basic` with this user name; with --connect and without a request: show this person
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The file with the password (`-`: standard input)
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
}

#[cfg(feature = "ldap")]
impl RequestArgs {
    /// Whether they describe no request.
    pub(super) fn are_none(&self) -> bool {
        self.path.is_none()
    }
}

impl RequestInput {
    /// The request as rules read it.
    pub(super) fn attributes(&self) -> Attributes<'_> {
        let headers = self.headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value });
        let http = Http {
            method: self.method.as_bytes(),
            host: self.host.as_bytes(),
            path: self.path.expose().as_bytes(),
            headers: Headers::new(self.encoding, headers.collect()),
            client: ClientAddress::UNKNOWN,
        };
        Attributes {
            http: Some(http),
            policy: self.policy.as_deref().map(str::as_bytes),
            misspelled_policy: self.misspelled_policy.as_deref().map(str::as_bytes),
        }
    }

    /// Adds a header line.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), Zeroizing::new(value.as_bytes().to_vec())));
    }

    /// Reads the request from flags.
    pub(super) fn from_args(args: RequestArgs, snapshot: &Snapshot) -> Result<Self, ExplainError> {
        let path = args.path.ok_or(
            "error: --path is missing; without a request --user NAME --connect shows a person of the directory",
        )?;
        let mut input = Self {
            method: args.method,
            host: args.host,
            path: Secret::new(path),
            headers: Vec::new(),
            encoding: Encoding::Lines,
            policy: args.policy,
            misspelled_policy: None,
        };
        for line in &args.headers {
            let (name, value) = line.split_once(':').ok_or("error: --header is written 'name: value'")?;
            let name = header_name(name)?;
            if is_credential_header(&name, snapshot) {
                return Err(format!(
                    "error: the header {name} carries a credential, and arguments can be seen by every process: \
                     use --token-file, --user, or --header-file {name}=FILE"
                )
                .into());
            }
            input.add(&name, value.trim());
        }
        input.reject_credentials_in_path(snapshot)?;
        Ok(input)
    }

    fn reject_credentials_in_path(&self, snapshot: &Snapshot) -> Result<(), ExplainError> {
        let attributes = self.attributes();
        let http = attributes.http.as_ref();
        let is_filled =
            |name: &str| http.is_some_and(|http| query::values(http, name).any(|value| !value.is_empty()));
        let carried = snapshot.locations.order().iter().find_map(|location| {
            let CredentialLocation::Query { name } = location else { return None };
            is_filled(name).then_some(name)
        });
        match carried {
            None => Ok(()),
            Some(name) => Err(format!(
                "error: the query parameter {name} carries a credential, and arguments can be seen by every \
                 process: leave it out of --path and use --query-file {name}=FILE"
            )
            .into()),
        }
    }

    /// Reads a request from a JSON text: our own shape, or a CheckRequest as protobuf writes JSON.
    pub(super) fn from_json(text: &str) -> Result<Self, ExplainError> {
        // The errors of the JSON library quote nothing of the text.
        let value: Value =
            serde_json::from_str(text).map_err(|error| wrong(&format!("it is no JSON: {error}")))?;
        let Value::Object(members) = &value else {
            return Err(wrong("it is no object"));
        };
        match members.get("attributes") {
            Some(attributes) => Self::from_check_request(attributes),
            None => Self::from_members(members),
        }
    }

    fn from_members(members: &Map<String, Value>) -> Result<Self, ExplainError> {
        let known = ["method", "host", "path", "headers", "policy"];
        if members.keys().any(|name| !known.contains(&name.as_str())) {
            return Err(wrong("it has a member that is none of method, host, path, headers, policy"));
        }
        let mut headers = Vec::new();
        for (name, value) in object(members.get("headers"), "headers")? {
            let name = header_name(name)?;
            let lines = match value {
                Value::Array(lines) => lines.as_slice(),
                line => std::slice::from_ref(line),
            };
            for line in lines {
                headers.push((name.clone(), Zeroizing::new(text(Some(line), "headers")?.into())));
            }
        }
        let or = |name: &str, default: &str| match members.get(name) {
            None => Ok(default.to_owned()),
            value => text(value, name).map(str::to_owned),
        };
        Ok(Self {
            method: or("method", "GET")?,
            host: or("host", "localhost")?,
            path: Secret::new(text(members.get("path"), "path")?.to_owned()),
            headers,
            encoding: Encoding::Lines,
            policy: members
                .get("policy")
                .map(|policy| text(Some(policy), "policy"))
                .transpose()?
                .map(Into::into),
            misspelled_policy: None,
        })
    }

    /// `envoy.service.auth.v3.CheckRequest` in protobuf's JSON, whose names are written in either way.
    fn from_check_request(attributes: &Value) -> Result<Self, ExplainError> {
        let http = member(member(attributes, "request"), "http");
        if http.is_null() {
            return Err(wrong(
                "it has no attributes.request.http: the TCP filter input, and is denied with no_http",
            ));
        }
        // What has its default value may be left out.
        let field = |name: &str| match member(http, name) {
            Value::Null => Ok(String::new()),
            value => text(Some(value), name).map(str::to_owned),
        };
        let lines = member(member(http, "headerMap"), "headers");
        let (encoding, headers) = match lines.as_array().filter(|lines| !lines.is_empty()) {
            Some(lines) => (Encoding::Lines, lines.iter().map(raw_header).collect::<Result<_, _>>()?),
            None => (Encoding::Joined, joined_headers(member(http, "headers"))?),
        };
        let extensions = member(attributes, "contextExtensions");
        let policy = member(extensions, "policy");
        let mut keys = extensions.as_object().into_iter().flat_map(serde_json::Map::keys);
        Ok(Self {
            method: field("method")?,
            host: field("host")?,
            path: Secret::new(field("path")?),
            headers,
            encoding,
            policy: policy.as_str().map(str::to_owned),
            misspelled_policy: keys.rfind(|key| is_nearly_policy(key.as_bytes())).cloned(),
        })
    }
}

impl SecretArgs {
    /// Whether there is none.
    pub(super) fn are_none(&self) -> bool {
        self.header_files.is_empty()
            && self.query_files.is_empty()
            && self.token_file.is_none()
            && self.user.is_none()
    }

    /// The name that is alone: without a password.
    pub(super) fn user_alone(&self) -> Option<&str> {
        self.user.as_deref().filter(|_| self.password_file.is_none())
    }

    /// Reads them and puts them into the request.
    pub(super) fn add_to(&self, input: &mut RequestInput) -> Result<(), ExplainError> {
        if self.user_alone().is_some() {
            return Err("error: --user needs --password-file; with --connect and without a request it shows who that is".into());
        }
        for argument in &self.header_files {
            let (name, path) = argument.split_once('=').ok_or("error: --header-file is written name=FILE")?;
            let name = header_name(name)?;
            input.add(&name, read_secret("header", Path::new(path))?.expose());
        }
        if let Some(path) = &self.token_file {
            let token = read_secret("token", path)?;
            let value = Secret::new(format!("Bearer {}", token.expose()));
            input.add("authorization", value.expose());
        }
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            let password = read_secret("password", path)?;
            let pair = Secret::new(format!("{user}:{}", password.expose()));
            let value = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
            input.add("authorization", value.expose());
        }
        for argument in &self.query_files {
            let (name, file) = argument.split_once('=').ok_or("error: --query-file is written name=FILE")?;
            let value = read_secret("query parameter", Path::new(file))?;
            let encode =
                |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
            let mut path = Zeroizing::new(input.path.expose().to_owned());
            let separator = if path.contains('?') { '&' } else { '?' };
            write!(path, "{separator}{}={}", encode(name), encode(value.expose()))
                .expect("a String takes every character");
            input.path = Secret::new(path.to_string());
        }
        Ok(())
    }
}

fn wrong(why: &str) -> ExplainError {
    format!(
        "error: the request cannot be read: {why}. It is JSON such as \
         {{\"method\": \"GET\", \"host\": \"api.example\", \"path\": \"/x\", \"headers\": {{\"authorization\": \"…\"}}, \
         \"policy\": \"read\"}}, or Envoy's CheckRequest"
    )
    .into()
}

/// Which member is wrong may be said; what is there may be a secret.
fn text<'v>(value: Option<&'v Value>, name: &str) -> Result<&'v str, ExplainError> {
    value.and_then(Value::as_str).ok_or_else(|| wrong(&format!("{name} is missing or no text")))
}

fn object<'v>(
    value: Option<&'v Value>,
    name: &str,
) -> Result<impl Iterator<Item = (&'v String, &'v Value)>, ExplainError> {
    let members = match value {
        None | Some(Value::Null) => None,
        Some(Value::Object(members)) => Some(members),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(wrong(&format!("{name} is no object")));
        }
    };
    Ok(members.into_iter().flatten())
}

/// A member by its name in lowerCamelCase, or in the snake_case of the protocol.
fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    let snake = name.chars().fold(String::new(), |mut snake, character| {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
        snake
    });
    value.get(name).or_else(|| value.get(snake)).unwrap_or(&Value::Null)
}

fn joined_headers(headers: &Value) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>, ExplainError> {
    object(Some(headers), "headers")?
        .map(|(name, value)| Ok((name.clone(), Zeroizing::new(text(Some(value), "headers")?.into()))))
        .collect()
}

/// Envoy fills one of `value` and `rawValue`.
fn raw_header(header: &Value) -> Result<(String, Zeroizing<Vec<u8>>), ExplainError> {
    let name = text(header.get("key"), "headerMap.headers.key")?.to_owned();
    let raw = match member(header, "rawValue") {
        Value::Null => Vec::new(),
        value => {
            let encoded = text(Some(value), "headerMap.headers.rawValue")?;
            let decoded = STANDARD.decode(encoded).or_else(|_| URL_SAFE.decode(encoded));
            decoded.map_err(|_| wrong("a rawValue is no base64"))?
        }
    };
    let value = match (raw.is_empty(), header.get("value")) {
        (true, Some(value)) => text(Some(value), "headerMap.headers.value")?.as_bytes().to_vec(),
        (true, None) | (false, _) => raw,
    };
    Ok((name, Zeroizing::new(value)))
}

fn header_name(written: &str) -> Result<String, ExplainError> {
    let name = http::HeaderName::from_bytes(written.trim().as_bytes());
    let name = name.map_err(|_| "error: that is no header's name: it has letters, digits and - in it")?;
    Ok(name.as_str().to_owned())
}

fn is_credential_header(name: &str, snapshot: &Snapshot) -> bool {
    let is_location = |location: &CredentialLocation| location.header() == Some(name);
    matches!(name, "authorization" | "cookie") || snapshot.locations.order().iter().any(is_location)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_show_nothing_that_may_be_a_credential() {
        let args = RequestArgs {
            method: "hunter2".to_owned(),
            host: "hunter2".to_owned(),
            path: Some("/?_auth_token=hunter2".to_owned()),
            headers: vec!["x-api-key: hunter2".to_owned()],
            policy: Some("hunter2".to_owned()),
        };
        assert_eq!(format!("{args:?}"), "RequestArgs { headers: 1, .. }");
    }
}
