//! `explain`

mod explanation;
mod log_line;
mod request;
mod steps;
mod text;
mod trace;

use std::path::PathBuf;

use clap::Args;

use self::explanation::Explanation;
use self::log_line::LoggedDecision;
use self::request::{RequestArgs, RequestInput, SecretArgs};
use self::steps::{ExplainedDecision, KeyStoreUse};
use self::trace::DecisionTrace;
use super::{CommandOutcome, ConfigFile, ExplainError, print, read_secret};
use crate::answer::Answer;
use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::{Config, Positions, Startup};
use crate::deny_reason::DenyReason;
use crate::ext_authz::codec::frame;
use crate::ext_authz::codec::response::{self, ResponseEncoder};
use crate::identity::Sources;
use crate::identity::passwords::Passwords;
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
    /// Read the request from this file, or from standard input for `-`: JSON with method, host, path, headers and
    /// policy, or Envoy's CheckRequest as JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "host", "path", "headers", "policy"])]
    request: Option<PathBuf>,
    /// Read the request from a line of the decision log, text or JSON, in this file, or on standard input for `-`
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["request", "method", "host", "path", "headers", "policy"]
    )]
    log_line: Option<PathBuf>,
    #[command(flatten)]
    secrets: SecretArgs,
    /// Look API keys and sessions up in the key store, without changing anything there
    #[arg(long)]
    keys: bool,
    /// Exit with 3 when the request is denied
    #[arg(long)]
    exit_code: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ExplainArgs {
    pub(super) fn run(self) -> Result<CommandOutcome, ExplainError> {
        let (json, exit_code) = (self.json, self.exit_code);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("error: cannot start: {error}"))?;
        let explanation = runtime.block_on(self.explanation())?;
        if json {
            let json =
                serde_json::to_string_pretty(&explanation).map_err(|error| format!("error: {error}"))?;
            print(&format!("{json}\n"))?;
        } else {
            print(&explanation.to_string())?;
        }
        let is_denied = explanation.decision == "denied";
        Ok(if exit_code && is_denied { CommandOutcome::Denied } else { CommandOutcome::Success })
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
                line.add_credential(&mut input, &mut snapshot, keys.as_deref()).await?;
            }
            Some(_) | None => self.secrets.add_to(&mut input)?,
        }
        let mut explanation =
            decide(&config.startup, snapshot, &positions, path.display().to_string(), &input, keys).await?;
        if let Some(line) = line {
            explanation.notes.extend(line.notes());
            let policy = explanation.policy.as_deref();
            explanation.logged = Some(line.compare(explanation.decision, explanation.reason, policy));
        }
        Ok(explanation)
    }
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
) -> Result<Explanation, ExplainError> {
    let passwords = Passwords::new(1)
        .map_err(|error| format!("error: the operating system gives no randomness: {error}"))?;
    let key_store = match (&startup.keys, &keys) {
        (None, _) => KeyStoreUse::None,
        (Some(_), Some(_)) => KeyStoreUse::Read,
        (Some(_), None) => KeyStoreUse::NotRead,
    };
    let encoder = ResponseEncoder::new(&snapshot);
    let sources = Sources { passwords, keys, clock: Clock::system() };
    let authorizer = Authorizer::new(SnapshotStore::new(snapshot), sources);
    let request = input.attributes();
    let mut trace = DecisionTrace::default();
    let mut decision = authorizer.authorize_traced(&request, None, &mut trace).await;
    for _ in 1..MAX_TRIES {
        if decision.outcome().deny_reason() != Some(DenyReason::PasswordUnverified) {
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
    };
    Ok(explained.explanation())
}
