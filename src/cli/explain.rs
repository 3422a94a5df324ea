//! `explain`

use std::fmt::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use super::{Complaint, ConfigFile, print, read_secret};
use crate::attributes::{Attributes, Encoding, Header, Headers, Http};
use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::Rules;
use crate::credential::{Place, query};
use crate::decision::{Decision, Refusal};
use crate::ext_authz::frame;
use crate::ext_authz::response::{self, Answers};
use crate::ext_authz::wire::check_response::HttpResponse;
use crate::ext_authz::wire::{CheckResponse, HeaderValueOption};
use crate::identity::Sources;
use crate::identity::passwords::Passwords;
use crate::secret::Secret;

/// How often a password is asked about again: a verification may outlast one Check.
const TRIES: usize = 100;

/// Decides one request as a Check would, with the same code, and prints each step.
///
/// A credential is read from a file or standard input: arguments can be seen by every process.
#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    config: ConfigFile,
    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's host
    #[arg(long, default_value = "localhost")]
    host: String,
    /// The request's path with its query
    #[arg(long)]
    path: String,
    /// A header that is no credential, such as 'upgrade: websocket'
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A header whose value is in a file, or on standard input for `-`, such as x-api-key=FILE
    #[arg(long = "header-file", value_name = "NAME=FILE")]
    header_files: Vec<String>,
    /// A query parameter whose value is in a file, or on standard input for `-`, such as _auth_token=FILE
    #[arg(long = "query-file", value_name = "NAME=FILE")]
    query_files: Vec<String>,
    /// The policy that Envoy's route names in context_extensions
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Send `Authorization: Bearer` with the token in this file, or on standard input for `-`
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    token_file: Option<PathBuf>,
    /// Send `Authorization: Basic` with this user name
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// The password is in this file, or on standard input for `-`
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Complaint> {
        let config = self.config.load()?;
        let headers = self.headers(&config.rules)?;
        let entries = headers
            .iter()
            .map(|(name, value)| Header { name: name.as_bytes(), value: value.expose().as_bytes() });
        let mut http = Http {
            method: self.method.as_bytes(),
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            headers: Headers::new(Encoding::Lines, entries.collect()),
        };
        refuse_credentials_in_path(&http, &config.rules)?;
        let path = self.path_with_secrets()?;
        http.path = path.expose().as_bytes();
        let request =
            Attributes { http: Some(http.clone()), policy: self.policy.as_deref().map(str::as_bytes) };

        let (decision, answer) = decide(config.rules, &request, &http)?;
        let explanation = explanation(&decision, &answer);
        if self.json {
            return print(&format!("{explanation:#}\n"));
        }
        print(&text(&explanation))
    }

    fn headers(&self, rules: &Rules) -> Result<Vec<(String, Secret)>, Complaint> {
        let mut headers = Vec::new();
        for line in &self.headers {
            let (name, value) =
                line.split_once(':').ok_or_else(|| "error: --header is written 'name: value'".to_owned())?;
            let name = header_name(name)?;
            if is_credential_header(&name, rules) {
                return Err(format!(
                    "error: the header {name} carries a credential, and arguments can be seen by every process: \
                     use --token-file, --user, or --header-file {name}=FILE"
                ));
            }
            headers.push((name, Secret::new(value.trim().to_owned())));
        }
        for argument in &self.header_files {
            let (name, path) = argument
                .split_once('=')
                .ok_or_else(|| "error: --header-file is written name=FILE".to_owned())?;
            headers.push((header_name(name)?, read_secret("header", Path::new(path))?));
        }
        if let Some(path) = &self.token_file {
            let token = read_secret("token", path)?;
            headers.push(("authorization".to_owned(), Secret::new(format!("Bearer {}", token.expose()))));
        }
        if let (Some(user), Some(path)) = (&self.user, &self.password_file) {
            let password = read_secret("password", path)?;
            let pair = Secret::new(STANDARD.encode(format!("{user}:{}", password.expose())));
            headers.push(("authorization".to_owned(), Secret::new(format!("Basic {}", pair.expose()))));
        }
        Ok(headers)
    }

    /// The path with the parameters whose values stand in files.
    fn path_with_secrets(&self) -> Result<Secret, Complaint> {
        let mut path = zeroize::Zeroizing::new(self.path.clone());
        for argument in &self.query_files {
            let (name, file) = argument
                .split_once('=')
                .ok_or_else(|| "error: --query-file is written name=FILE".to_owned())?;
            let value = read_secret("query parameter", Path::new(file))?;
            let encode =
                |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
            let separator = if path.contains('?') { '&' } else { '?' };
            write!(path, "{separator}{}={}", encode(name), encode(value.expose()))
                .expect("a String takes every character");
        }
        Ok(Secret::new(path.to_string()))
    }
}

fn refuse_credentials_in_path(http: &Http<'_>, rules: &Rules) -> Result<(), Complaint> {
    let carried = rules.places.order().iter().find_map(|place| match place {
        Place::Query { name } => query::values(http, name).any(|value| !value.is_empty()).then_some(name),
        Place::Bearer
        | Place::Basic { .. }
        | Place::Session { .. }
        | Place::Header { .. }
        | Place::Cookie { .. } => None,
    });
    match carried {
        None => Ok(()),
        Some(name) => Err(format!(
            "error: the query parameter {name} carries a credential, and arguments can be seen by every \
             process: leave it out of --path and use --query-file {name}=FILE"
        )),
    }
}

fn header_name(written: &str) -> Result<String, Complaint> {
    let name = http::HeaderName::from_bytes(written.trim().as_bytes());
    name.map(|name| name.as_str().to_owned())
        .map_err(|_| "error: that is no header's name: it has letters, digits and - in it".to_owned())
}

fn is_credential_header(name: &str, rules: &Rules) -> bool {
    let is_place = |place: &Place| match place {
        Place::Header { name: place } => place.as_ref() == name,
        Place::Bearer
        | Place::Basic { .. }
        | Place::Session { .. }
        | Place::Query { .. }
        | Place::Cookie { .. } => false,
    };
    matches!(name, "authorization" | "cookie") || rules.places.order().iter().any(is_place)
}

/// Decides with the very engine and encoder that answer Envoy.
fn decide(
    rules: Rules,
    request: &Attributes<'_>,
    http: &Http<'_>,
) -> Result<(Decision, CheckResponse), Complaint> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("error: cannot start: {error}"))?;
    let passwords = Passwords::new(1)
        .map_err(|error| format!("error: the operating system gives no randomness: {error}"))?;
    let answers = Answers::new(&rules);
    // Keys are not asked: explaining must not open the store of a server that runs.
    let sources = Sources { passwords, keys: None, clock: Clock::system() };
    let authorizer = Authorizer::new(rules, sources);
    let decision = runtime.block_on(async {
        let mut decision = authorizer.authorize(request, None).await;
        for _ in 1..TRIES {
            if decision.outcome().refusal() != Some(Refusal::PasswordUnverified) {
                break;
            }
            decision = authorizer.authorize(request, None).await;
        }
        decision
    });
    let (answer, _) = answers.encode(&decision, Some(http));
    let answer = response::decode(frame::message(&answer)).map_err(|error| format!("error: {error}"))?;
    Ok((decision, answer))
}

fn explanation(decision: &Decision, answer: &CheckResponse) -> Value {
    let learned = &decision.learned;
    let outcome = decision.outcome();
    let passes_as = match &decision.verdict {
        Ok(permit) => Some(permit.known().map_or(json!("anonymous"), |known| json!(known.actor.members()))),
        Err(_) => None,
    };
    json!({
        "decision": outcome.as_str(),
        "reason": outcome.reason(),
        "policy": learned.policy.as_ref().map(|policy| policy.name().as_ref()),
        "credential": learned.known.as_ref().map(|known| json!({
            "kind": known.kind.as_str(),
            "name": known.name.as_ref(),
            "policies": known.policies.as_ref().map(|names| names.iter().map(AsRef::as_ref).collect::<Vec<&str>>()),
            "expires": known.expires_at.map(|expires_at| expires_at.to_string()),
        })),
        "actor": learned.known.as_ref().map(|known| known.actor.members()),
        "allow": learned.policy.as_ref().map(|policy| match policy.allow() {
            Some(allow) => allow.to_json(),
            None => json!("any actor"),
        }),
        "passes_as": passes_as,
        "answer": shown_answer(answer),
    })
}

fn shown_answer(answer: &CheckResponse) -> Value {
    let headers = |headers: &[HeaderValueOption]| -> Vec<Value> {
        let headers = headers.iter().filter_map(|option| option.header.as_ref());
        headers.map(|header| json!(shown_header(&header.key, &header.value))).collect()
    };
    match &answer.http_response {
        Some(HttpResponse::OkResponse(ok)) => json!({
            "set_headers": headers(&ok.headers),
            "remove_headers": ok.headers_to_remove,
            "remove_query_parameters": ok.query_parameters_to_remove,
        }),
        Some(HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied)) => json!({
            "status": denied.status.as_ref().map(|status| status.code),
            "headers": headers(&denied.headers),
            "body": denied.body,
        }),
        None => Value::Null,
    }
}

/// What remains of a `cookie` header may hold other secrets of the caller.
fn shown_header(name: &str, value: &str) -> String {
    if name == "cookie" { format!("{name}: (the rest of it)") } else { format!("{name}: {value}") }
}

fn text(explanation: &Value) -> String {
    let mut text = String::new();
    let mut line = |title: &str, value: &Value, absent: &str| {
        let value = match value {
            Value::Null => absent.to_owned(),
            Value::String(value) => value.clone(),
            other => other.to_string(),
        };
        writeln!(text, "{title:<12} {value}").expect("a String takes every character");
    };
    line("policy", &explanation["policy"], "none could be selected");
    line("credential", &explanation["credential"], "none that is known");
    line("actor", &explanation["actor"], "none");
    line("allow", &explanation["allow"], "unknown without a policy");
    line("decision", &explanation["decision"], "");
    line("reason", &explanation["reason"], "");
    if explanation["decision"] != "refused" {
        line("passes as", &explanation["passes_as"], "");
    }
    if let Value::Object(answer) = &explanation["answer"] {
        for (name, value) in answer {
            let Value::Array(items) = value else {
                line(name, value, "");
                continue;
            };
            for item in items {
                line(name, item, "");
            }
        }
    }
    text
}
