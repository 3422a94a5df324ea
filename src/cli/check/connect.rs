//! `check --connect`: whether what a server with this configuration needs is there and answers.

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config::{Config, KeyStore, Listen};
use crate::folder::FolderProblem;
use crate::keys::Keys;
use crate::keys::store::StoreUrl;
use crate::provider::Providers;

/// Something that a server needs, and what became of the attempt to reach it.
pub(super) struct Connection {
    /// The key of the configuration that names it.
    key: &'static str,
    /// What it is, without secrets.
    target: String,
    /// What it answers, or what is wrong.
    answer: Result<String, String>,
}

impl Connection {
    /// Whether it answers, and not by an error.
    pub(super) fn answers(&self) -> bool {
        self.answer.is_ok()
    }

    /// A line for people.
    pub(super) fn line(&self) -> String {
        let (key, target) = (self.key, &self.target);
        match &self.answer {
            Ok(answer) => format!("{key}: {target}: {answer}\n"),
            Err(problem) => format!("{key}: {target}: error: {problem}\n"),
        }
    }

    /// For programs: the members do not change.
    pub(super) fn to_json(&self) -> Value {
        let (Ok(message) | Err(message)) = &self.answer;
        json!({"key": self.key, "target": self.target, "answers": self.answers(), "message": message})
    }
}

/// Tries the folders of sockets, the store, the directory and the providers, in this order.  Nothing is changed.
pub(super) async fn try_all(config: &Config) -> Vec<Connection> {
    let startup = &config.startup;
    let listeners = [
        ("ext_authz.listen", Some(&startup.ext_authz.listen)),
        ("probes.listen", Some(&startup.probes.listen)),
        ("admin.listen", startup.admin.as_ref().map(|admin| &admin.listen)),
    ];
    let sockets = listeners.into_iter().filter_map(|(key, listen)| socket_folder(key, listen?));
    let mut connections: Vec<_> = sockets.collect();
    if let Some(store) = &startup.keys {
        connections.push(Connection {
            key: "keys.store",
            target: store.url.to_string(),
            answer: try_store(store).await,
        });
    }
    #[cfg(feature = "ldap")]
    if let Some(settings) = &config.rules.ldap {
        connections.extend(try_directory(settings).await);
    }
    let providers = Providers::new(Clock::system());
    for settings in &*config.rules.providers {
        connections.push(Connection {
            key: "oauth",
            target: settings.name.to_string(),
            answer: providers.probe(settings).await.map_err(|error| error.to_string()),
        });
    }
    connections
}

/// The folder of a Unix socket; `None` for another listener.
fn socket_folder(key: &'static str, listen: &Listen) -> Option<Connection> {
    match listen {
        Listen::Unix(path) => Some(Connection { key, target: listen.to_string(), answer: try_folder(path) }),
        Listen::Tcp(_) | Listen::Abstract(_) => None,
    }
}

fn try_folder(file: &std::path::Path) -> Result<String, String> {
    match FolderProblem::of_file(file) {
        None => Ok("its folder can be written".to_owned()),
        Some(problem) => Err(problem.to_string()),
    }
}

async fn try_store(store: &KeyStore) -> Result<String, String> {
    if let StoreUrl::Sqlite(path) = &store.url
        && !store.read_only
    {
        try_folder(path)?;
        if !path.exists() {
            return Ok("does not exist yet: the server creates it".to_owned());
        }
    }
    Keys::read_once(&store.url, Clock::system()).await.map_err(|error| error.to_string())?;
    if store.read_only {
        return Ok("can be read".to_owned());
    }
    let missing = Keys::missing_rights(&store.url).await.map_err(|error| error.to_string())?;
    if missing.is_empty() {
        return Ok("can be read".to_owned());
    }
    Err(format!(
        "it can be read, but the role in its URL lacks rights of a server that writes: {}. Grant it these rights, or set \
         `keys.read_only: true`, for which SELECT is enough",
        missing.join("; ")
    ))
}

#[cfg(feature = "ldap")]
async fn try_directory(settings: &std::sync::Arc<crate::config::LdapSettings>) -> Vec<Connection> {
    use crate::directory::{Directory, DirectoryError};

    const KEY: &str = "ldap.url";
    let directory = match Directory::start() {
        Ok(directory) => directory,
        Err(error) => {
            let answer = Err(format!("cannot start the thread for requests to the directory: {error}"));
            return vec![Connection { key: KEY, target: "directory".to_owned(), answer }];
        }
    };
    // The target names the server already.
    let problem = |error: DirectoryError| match error {
        DirectoryError::Servers(errors) => {
            errors.iter().map(|error| error.problem.to_string()).collect::<Vec<_>>().join("; ")
        }
        DirectoryError::Busy(_) | DirectoryError::DirectBind | DirectoryError::Stopped => error.to_string(),
    };
    let probed = directory.probe(settings).await.into_iter();
    probed.map(|(target, answer)| Connection { key: KEY, target, answer: answer.map_err(problem) }).collect()
}
