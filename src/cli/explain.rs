//! `explain`

#[cfg(feature = "ldap")]
mod directory;
mod explanation;
mod log_line;
#[cfg(feature = "ldap")]
mod person;
mod reason;
mod request;
mod steps;
mod text;
mod trace;

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use self::explanation::{Explanation, Step};
use self::log_line::LoggedDecision;
#[cfg(feature = "ldap")]
use self::person::ExplainedPerson;
use self::reason::ExplainedReason;
use self::request::{RequestArgs, RequestInput, SecretArgs};
use self::steps::{DirectoryUse, ExplainedDecision, KeyStoreUse};
use self::trace::DecisionTrace;
use super::{CommandOutcome, ConfigFile, ExplainError, print, read_secret};
use crate::answer::Answer;
use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::{Bind, Config, Positions, Startup};
use crate::deny_reason::DenyReason;
use crate::ext_authz::codec::frame;
use crate::ext_authz::codec::response::{self, ResponseEncoder};
use crate::identity::Sources;
use crate::identity::passwords::Passwords;
use crate::identity::people::People;
use crate::keys::Keys;
use crate::snapshot::{Snapshot, SnapshotStore};

/// How often a Check with a password is tried: a verification may outlast one.
const MAX_TRIES: usize = 100;

/// Decides one request as a Check would, with the same code, and prints each step.
///
/// A credential is read from a file or standard input: arguments can be seen by every process.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    request_args: RequestArgs,
    /// Read the request from this file (`-`: standard input): JSON with method, host, path, headers and policy, or Envoy's
    /// CheckRequest as JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "host", "path", "headers", "policy"])]
    request: Option<PathBuf>,
    /// Read the request from a line of the decision log, text or JSON, in this file (`-`: standard input)
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["request", "method", "host", "path", "headers", "policy"]
    )]
    log_line: Option<PathBuf>,
    /// Explain a reason of denials instead of a request: what it means, who must act, and what to do
    #[arg(
        long,
        value_name = "REASON",
        value_parser = ExplainedReason::parser(),
        hide_possible_values = true,
        conflicts_with_all = ["method", "host", "path", "headers", "policy", "request", "log_line", "keys", "connect", "exit_code"]
    )]
    reason: Option<ExplainedReason>,
    #[command(flatten)]
    secrets: SecretArgs,
    /// Look up API keys and sessions in the key store; nothing is changed there
    #[arg(long)]
    keys: bool,
    /// Also ask the directory; with --user and without a request: show the entry, the groups and the role of this
    /// person, which needs no password
    #[arg(long)]
    connect: bool,
    /// Exit with 3 if the request is denied, or if the person is not found or has no role
    #[arg(long)]
    exit_code: bool,
    /// Print JSON; if the request cannot be explained, it has the member `error`
    #[arg(long)]
    json: bool,
}

impl ExplainArgs {
    pub(super) fn run(self) -> Result<CommandOutcome, ExplainError> {
        let json = self.json;
        match self.explain() {
            Err(error) if json => {
                print(&pretty(&json!({"error": error.message()}))?)?;
                Ok(CommandOutcome::Failure)
            }
            done => done,
        }
    }

    fn explain(self) -> Result<CommandOutcome, ExplainError> {
        let (json, exit_code) = (self.json, self.exit_code);
        if let Some(reason) = self.reason {
            print(&if json { pretty(&reason.to_json())? } else { reason.to_string() })?;
            return Ok(CommandOutcome::Success);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("error: cannot start: {error}"))?;
        #[cfg(feature = "ldap")]
        if let Some(user) = self.person_alone() {
            let person = runtime.block_on(self.person(user))?;
            let text = if json { pretty(&person)? } else { person.to_string() };
            print(&text)?;
            let is_rejected = person.is_rejected();
            return Ok(if exit_code && is_rejected {
                CommandOutcome::Denied
            } else {
                CommandOutcome::Success
            });
        }
        let explanation = runtime.block_on(self.explanation())?;
        if json {
            print(&pretty(&explanation)?)?;
        } else {
            print(&explanation.to_string())?;
        }
        let is_denied = explanation.decision == "denied";
        Ok(if exit_code && is_denied { CommandOutcome::Denied } else { CommandOutcome::Success })
    }

    /// The person who is to be shown, where no request is.
    #[cfg(feature = "ldap")]
    fn person_alone(&self) -> Option<&str> {
        let is_alone =
            self.connect && self.request_args.are_none() && self.request.is_none() && self.log_line.is_none();
        self.secrets.user_alone().filter(|_| is_alone)
    }

    #[cfg(feature = "ldap")]
    async fn person(&self, user: &str) -> Result<ExplainedPerson, ExplainError> {
        let path = &self.config.path;
        let (config, positions) = Config::load_with_positions(path).map_err(|errors| errors.to_string())?;
        let snapshot = Snapshot::build(&config, None).map_err(|error| error.about(path).to_string())?;
        ExplainedPerson::look_up(user, &snapshot, &positions, path.display().to_string()).await
    }

    async fn explanation(self) -> Result<Explanation, ExplainError> {
        let path = self.config.path;
        let (config, positions) = Config::load_with_positions(&path).map_err(|errors| errors.to_string())?;
        let mut snapshot = Snapshot::build(&config, None).map_err(|error| error.about(&path).to_string())?;
        let keys = if self.keys { Some(read_keys(&config.startup).await?) } else { None };
        let line = self.log_line.as_deref().map(LoggedDecision::read).transpose()?;
        let mut input = match (&line, &self.request) {
            (Some(line), _) => line.request()?,
            (None, Some(path)) => RequestInput::from_json(read_secret("request", path)?.expose())?,
            (None, None) => RequestInput::from_args(self.request_args, &snapshot)?,
        };
        match &line {
            Some(line) if self.secrets.are_none() => {
                line.add_credential(&mut input, &mut snapshot, keys.as_deref(), self.connect).await?;
            }
            Some(_) | None => self.secrets.add_to(&mut input)?,
        }
        let file = path.display().to_string();
        let mut explanation =
            decide(&config.startup, snapshot, &positions, file, &input, keys, self.connect).await?;
        if let Some(line) = line {
            let is_unknown = explanation.reason == DenyReason::UnknownToken.as_str();
            if is_unknown && self.secrets.are_none() {
                explanation.identity = Step { says: line.unknown_credential(), at: None };
            }
            explanation.notes.extend(line.notes());
            let policy = explanation.policy.as_deref();
            explanation.logged = Some(line.compare(explanation.decision, explanation.reason, policy));
        }
        Ok(explanation)
    }
}

fn pretty(value: &impl serde::Serialize) -> Result<String, ExplainError> {
    let json = serde_json::to_string_pretty(value).map_err(|error| format!("error: {error}"))?;
    Ok(format!("{json}\n"))
}

async fn read_keys(startup: &Startup) -> Result<std::sync::Arc<Keys>, ExplainError> {
    let Some(store) = &startup.keys else {
        return Err("error: --keys: the configuration has no section `keys`".into());
    };
    let keys = Keys::read_once(&store.url, Clock::system()).await;
    Ok(keys.map_err(|error| format!("error: {error}"))?)
}

/// Decides with the very engine and encoder that answer Envoy.
async fn decide(
    startup: &Startup,
    snapshot: Snapshot,
    positions: &Positions,
    file: String,
    input: &RequestInput,
    keys: Option<std::sync::Arc<Keys>>,
    connect: bool,
) -> Result<Explanation, ExplainError> {
    let passwords = Passwords::new(1)
        .map_err(|error| format!("error: the operating system gives no randomness: {error}"))?;
    let key_store = match (&startup.keys, &keys) {
        (None, _) => KeyStoreUse::None,
        (Some(_), Some(_)) => KeyStoreUse::Read,
        (Some(_), None) => KeyStoreUse::NotRead,
    };
    let directory = match &snapshot.ldap {
        Some(settings) if settings.at_check && connect => DirectoryUse::Asked,
        Some(settings) if settings.at_check => DirectoryUse::NotAsked,
        Some(settings) => {
            DirectoryUse::NotAtCheck { can_be_asked: !matches!(settings.bind, Bind::Direct { .. }) }
        }
        None => DirectoryUse::None,
    };
    let encoder = ResponseEncoder::new(&snapshot);
    let people =
        if connect { People::new(Clock::system()) } else { People::without_directory(Clock::system()) }
            .map_err(|error| format!("error: the operating system gives no randomness: {error}"))?;
    let sources = Sources { passwords, people, keys, clock: Clock::system() };
    let authorizer = Authorizer::new(SnapshotStore::new(snapshot), sources);
    let request = input.attributes();
    let mut trace = DecisionTrace::default();
    let mut decision = authorizer.authorize_traced(&request, None, &mut trace).await;
    for _ in 1..MAX_TRIES {
        let is_pending = matches!(
            decision.outcome().deny_reason(),
            Some(DenyReason::PasswordUnverified | DenyReason::DirectoryPending)
        );
        if !is_pending {
            break;
        }
        trace = DecisionTrace::default();
        decision = authorizer.authorize_traced(&request, None, &mut trace).await;
    }
    let http = request.http.as_ref().ok_or("error: there is no HTTP request")?;
    let answer = encoder.encode(&Answer::new(&decision, Some(http)));
    let answer = response::decode(frame::message(&answer)).map_err(|error| format!("error: {error}"))?;
    let explained = ExplainedDecision {
        file,
        positions,
        request: &request,
        http,
        decision: &decision,
        trace: &trace,
        answer: &answer,
        keys: key_store,
        directory,
    };
    Ok(explained.explanation())
}
