//! Questions to the servers of a directory.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Found};
use super::entry::{self, FoundPerson, MAX_GROUPS};
use super::message::{Filter, NO_ATTRIBUTES, NoFilter, Scope, Search};
use super::servers::{Lease, Server, Servers};
use super::{
    DirectoryError, Entry, Lookup, MayBind, Outcome, Problem, RejectionReason, Searcher, ServerError,
    Verification,
};
use crate::clock::Clock;
use crate::config::{Bind, LdapSettings};
use crate::distinguished_name::{DistinguishedName, escape_value};
use crate::person::normalized_name;
use crate::priority;
use crate::secret::Secret;

/// The most questions that run or wait for a connection.
const MAX_QUESTIONS: usize = 64;
/// How many entries a search for a person asks for: a second entry shows that the name is ambiguous.
const MAX_FOUND_ENTRIES: u32 = 2;
/// The keys that say where people and groups are searched for, below `ldap`.
const SEARCH_BASE: &str = "search_base";
const GROUP_SEARCH_BASE: &str = "group_search.base";
/// The filter that every entry passes.
const ANY_ENTRY: &str = "(objectClass=*)";

/// Asks directories, on a thread of its own.
pub struct Directory {
    runtime: Handle,
    questions: Arc<Semaphore>,
    /// The servers of the settings that were asked about last.
    servers: Mutex<Option<Arc<Servers>>>,
    clock: Clock,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Directory {
    /// Starts the thread.  It ends with this value.
    ///
    /// # Errors
    /// The operating system gives no thread, or no event queue.
    pub fn start() -> io::Result<Self> {
        Self::start_with_clock(Clock::system())
    }

    /// The same with a clock, by which entries expire and servers that failed are asked again.
    ///
    /// # Errors
    /// As [`Directory::start`].
    pub fn start_with_clock(clock: Clock) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            priority::lower();
            // Ends when the other end is dropped.
            let _ = runtime.block_on(stopped);
            // getaddrinfo may still run.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("directory".to_owned()).spawn(run)?;
        Ok(Self {
            runtime: handle,
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            servers: Mutex::default(),
            clock,
            _stop: stop,
        })
    }

    /// Finds the entry of a name and binds as this entry with the password.  `may_bind` is called with the entry's name
    /// before each bind: if a server does not answer a bind, the next server gets another.
    ///
    /// # Errors
    /// It is not known who the name belongs to, or whether the password is right.
    pub async fn verify(
        &self,
        settings: &Arc<LdapSettings>,
        name: &str,
        password: &Secret,
        may_bind: MayBind,
    ) -> Result<Verification, DirectoryError> {
        let Some(name) = normalized_name(name) else {
            return Ok(Verification::Rejected(RejectionReason::InvalidName));
        };
        // For a server that ends texts at NUL, a password that begins with NUL is empty.
        if password.expose().is_empty() || password.expose().contains('\0') {
            return Ok(Verification::Rejected(RejectionReason::UnusablePassword));
        }
        let (password, clock) = (password.clone(), self.clock.clone());
        self.ask(settings, |servers| async move {
            let mut bind = PersonBind { password, may_bind };
            let mut attempts = servers.attempts();
            loop {
                let server = attempts.next()?;
                let question = ServerQuestion::new(server, &servers.settings, &name, &clock);
                let answer = match question.within_timeout(question.verify(&mut bind)).await {
                    Ok(verification) => verification,
                    Err(NoEntry::Rejected(reason)) => Verification::Rejected(reason),
                    Err(NoEntry::Problem(problem)) => {
                        attempts.failed(server, problem);
                        continue;
                    }
                };
                attempts.answered(server);
                return Ok(answer);
            }
        })
        .await
    }

    /// Reads the entry of a name without a password.
    ///
    /// # Errors
    /// Nothing is known of the name.  [`DirectoryError::DirectBind`] where only people themselves read their entries.
    pub async fn find(&self, settings: &Arc<LdapSettings>, name: &str) -> Result<Lookup, DirectoryError> {
        let Some(name) = normalized_name(name) else {
            return Ok(Lookup::Rejected(RejectionReason::InvalidName));
        };
        match &settings.bind {
            Bind::Direct { .. } => return Err(DirectoryError::DirectBind),
            Bind::Anonymous | Bind::Reader { .. } => {}
        }
        let clock = self.clock.clone();
        self.ask(settings, |servers| async move {
            let mut attempts = servers.attempts();
            loop {
                let server = attempts.next()?;
                let question = ServerQuestion::new(server, &servers.settings, &name, &clock);
                let answer = match question.within_timeout(question.find()).await {
                    Ok(entry) => Lookup::Found(entry),
                    Err(NoEntry::Rejected(reason)) => Lookup::Rejected(reason),
                    Err(NoEntry::Problem(problem)) => {
                        attempts.failed(server, problem);
                        continue;
                    }
                };
                attempts.answered(server);
                return Ok(answer);
            }
        })
        .await
    }

    /// Tries each server.  Returns each URL with a description of the server that answered, or with the problem.
    pub async fn probe(&self, settings: &Arc<LdapSettings>) -> Vec<(String, Result<String, DirectoryError>)> {
        let clock = self.clock.clone();
        let probed = self.ask(settings, |servers| async move {
            let mut answers = Vec::new();
            for server in servers.all() {
                let question = ServerQuestion::new(server, &servers.settings, "", &clock);
                let answer = question.within_timeout(question.probe()).await.map_err(|problem| {
                    DirectoryError::Servers(vec![ServerError { server: server.url.clone(), problem }])
                });
                answers.push((server.url.clone(), answer));
            }
            Ok(answers)
        });
        probed.await.unwrap_or_else(|error| vec![("ldap".to_owned(), Err(error))])
    }

    /// Runs a question on the thread, to its end.
    async fn ask<T, F>(
        &self,
        settings: &Arc<LdapSettings>,
        question: impl FnOnce(Arc<Servers>) -> F,
    ) -> Result<T, DirectoryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DirectoryError>> + Send + 'static,
    {
        let permit = Arc::clone(&self.questions).try_acquire_owned();
        let permit = permit.map_err(|_| DirectoryError::Busy(MAX_QUESTIONS))?;
        let answer = question(self.servers(settings));
        let task = self.runtime.spawn(async move {
            let answer = answer.await;
            drop(permit);
            answer
        });
        // It is not cancelled: it panicked, or the thread has ended.
        task.await.unwrap_or(Err(DirectoryError::Stopped))
    }

    fn servers(&self, settings: &Arc<LdapSettings>) -> Arc<Servers> {
        let mut current = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(servers) if Arc::ptr_eq(&servers.settings, settings) => Arc::clone(servers),
            Some(_) | None => {
                let _runtime = self.runtime.enter();
                Arc::clone(current.insert(Servers::new(Arc::clone(settings), self.clock.clone())))
            }
        }
    }
}

/// A bind that a person asks for.
struct PersonBind {
    password: Secret,
    /// Asked before each bind.
    may_bind: MayBind,
}

/// Why a server has no entry for an answer.
enum NoEntry {
    /// It answered: the name is rejected.
    Rejected(RejectionReason),
    /// It did not answer.
    Problem(Problem),
}

impl From<RejectionReason> for NoEntry {
    fn from(reason: RejectionReason) -> Self {
        Self::Rejected(reason)
    }
}

impl From<Problem> for NoEntry {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Whether the connection on which this was the answer can be used again: every answer on it was read.
fn is_read<T>(answer: &Result<T, NoEntry>) -> bool {
    !matches!(answer, Err(NoEntry::Problem(_)))
}

/// The result of a bind with a person's entry.
enum BindAnswer {
    Right,
    Wrong,
    Rejected(RejectionReason),
}

impl BindAnswer {
    /// RFC 4511, appendix A.  A code about the server or the connection is not an answer about the person.
    fn of(outcome: Outcome) -> Result<Self, Problem> {
        match outcome.code {
            Outcome::SUCCESS => Ok(Self::Right),
            // Active Directory also returns this code for an account that is locked, expired or disabled.
            Outcome::INVALID_CREDENTIALS
            // The entry has no password, or does not exist.
            | Outcome::INAPPROPRIATE_AUTHENTICATION
            | Outcome::NO_SUCH_OBJECT
            // The account is locked after wrong passwords, deactivated, or may not log in (389 Directory Server, and
            // password policies).
            | Outcome::CONSTRAINT_VIOLATION
            | Outcome::UNWILLING_TO_PERFORM
            | Outcome::INSUFFICIENT_ACCESS => Ok(Self::Wrong),
            Outcome::ALIAS_PROBLEM | Outcome::ALIAS_DEREFERENCING_PROBLEM => {
                Ok(Self::Rejected(RejectionReason::Alias))
            }
            Outcome::REFERRAL => Ok(Self::Rejected(RejectionReason::Referral)),
            _ => Err(Problem::Bind(outcome)),
        }
    }
}

/// A question to one server.
struct ServerQuestion<'q> {
    server: &'q Server,
    settings: &'q LdapSettings,
    name: &'q str,
    clock: &'q Clock,
    deadline: Instant,
}

impl<'q> ServerQuestion<'q> {
    fn new(server: &'q Server, settings: &'q LdapSettings, name: &'q str, clock: &'q Clock) -> Self {
        Self { server, settings, name, clock, deadline: Instant::now() + settings.timeout }
    }

    async fn within_timeout<T, E: From<Problem>>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let no_answer = || Err(Problem::NoAnswer(self.settings.timeout).into());
        timeout_at(self.deadline, answer).await.unwrap_or_else(|_| no_answer())
    }

    async fn verify(&self, bind: &mut PersonBind) -> Result<Verification, NoEntry> {
        match &self.settings.bind {
            Bind::Direct { template } => self.verify_directly(template, bind).await,
            Bind::Anonymous | Bind::Reader { .. } => self.verify_after_search(bind).await,
        }
    }

    /// Searches for the entry, and binds as it on another connection.
    async fn verify_after_search(&self, bind: &mut PersonBind) -> Result<Verification, NoEntry> {
        let (person, reader) = self.search_as_reader().await?;
        reader.give_back();
        let person = person?;
        let mut lease = self.server.bind_connection(self.deadline).await?;
        if !(bind.may_bind)(&person.dn) {
            lease.give_back();
            return Ok(Verification::NotTried(person.dn));
        }
        let outcome = lease.connection.bind(person.dn.as_str(), bind.password.expose()).await?;
        lease.give_back();
        match BindAnswer::of(outcome)? {
            BindAnswer::Right => {}
            BindAnswer::Wrong => return Ok(Verification::Wrong(person.dn)),
            BindAnswer::Rejected(reason) => return Err(reason.into()),
        }
        let groups = match &self.settings.group_search {
            None => Vec::new(),
            Some(_) => {
                let mut reader = self.server.reader(self.deadline).await?;
                let mut groups = self.search_groups(&mut reader.connection, &person).await;
                if is_lost(&groups) && reader.is_reused {
                    drop(reader);
                    reader = self.server.fresh_reader(self.deadline).await?;
                    groups = self.search_groups(&mut reader.connection, &person).await;
                }
                if is_read(&groups) {
                    reader.give_back();
                }
                groups?
            }
        };
        Ok(Verification::Right(person.with_groups(self.name, self.settings, groups)?))
    }

    /// Binds as the person, and reads the entry on the same connection.
    async fn verify_directly(&self, template: &str, bind: &mut PersonBind) -> Result<Verification, NoEntry> {
        let dn = template.replace("%s", &escape_value(self.name));
        let dn: DistinguishedName = dn.parse().map_err(Problem::Template)?;
        let mut lease = self.server.bind_connection(self.deadline).await?;
        if !(bind.may_bind)(&dn) {
            lease.give_back();
            return Ok(Verification::NotTried(dn));
        }
        let outcome = lease.connection.bind(dn.as_str(), bind.password.expose()).await?;
        match BindAnswer::of(outcome)? {
            BindAnswer::Right => {}
            BindAnswer::Wrong => {
                lease.give_back();
                return Ok(Verification::Wrong(dn));
            }
            BindAnswer::Rejected(reason) => {
                lease.give_back();
                return Err(reason.into());
            }
        }
        let person = match self.search_person(&mut lease.connection).await {
            Ok(person) if person.dn == dn => Ok(person),
            Ok(_) => Err(RejectionReason::OtherEntry.into()),
            Err(NoEntry::Rejected(RejectionReason::Unknown)) => Err(RejectionReason::Unreadable.into()),
            Err(other) => Err(other),
        };
        Ok(Verification::Right(self.entry(person, lease).await?))
    }

    async fn find(&self) -> Result<Entry, NoEntry> {
        let (person, reader) = self.search_as_reader().await?;
        self.entry(person, reader).await
    }

    /// The entry of a person, with the groups that this connection reads as well.
    async fn entry(
        &self,
        person: Result<FoundPerson, NoEntry>,
        mut lease: Lease<'_>,
    ) -> Result<Entry, NoEntry> {
        let entry = match person {
            Ok(person) => {
                let groups = self.search_groups(&mut lease.connection, &person).await;
                groups.map(|groups| (person, groups))
            }
            Err(no_entry) => Err(no_entry),
        };
        if is_read(&entry) {
            lease.give_back();
        }
        let (person, groups) = entry?;
        Ok(person.with_groups(self.name, self.settings, groups)?)
    }

    /// The result of a search for the name, and the connection, on which every answer was read.  A server may close an
    /// idle connection at the moment when it is used again: then a new one is tried.
    async fn search_as_reader(&self) -> Result<(Result<FoundPerson, NoEntry>, Lease<'q>), Problem> {
        let mut reader = self.server.reader(self.deadline).await?;
        let mut person = self.search_person(&mut reader.connection).await;
        if is_lost(&person) && reader.is_reused {
            drop(reader);
            reader = self.server.fresh_reader(self.deadline).await?;
            person = self.search_person(&mut reader.connection).await;
        }
        match person {
            Err(NoEntry::Problem(problem)) => Err(problem),
            answered => Ok((answered, reader)),
        }
    }

    /// The only entry of the name.
    async fn search_person(&self, connection: &mut Connection) -> Result<FoundPerson, NoEntry> {
        let filter = Filter::new(&self.settings.search_filter, self.name)
            .map_err(|NoFilter| Problem::Filter("search_filter"))?;
        let attributes = entry::attributes(self.settings);
        let mut entry: Option<FoundPerson> = None;
        for base in &self.settings.search_base {
            let search = self.subtree(base, &filter, &attributes, MAX_FOUND_ENTRIES);
            let found = self.search_below(connection, &search, SEARCH_BASE).await?;
            // A server that reports more results has more than one entry, whatever it sent.
            if found.has_more || found.entries.len() > 1 {
                return Err(RejectionReason::SeveralEntries.into());
            }
            for other in found.entries {
                let person = FoundPerson::read(other, self.settings, self.clock.now())?;
                match &entry {
                    // Search bases may overlap.
                    Some(known) if known.dn == person.dn => {}
                    Some(_) => return Err(RejectionReason::SeveralEntries.into()),
                    None => entry = Some(person),
                }
            }
        }
        Ok(entry.ok_or(RejectionReason::Unknown)?)
    }

    /// The names of the groups that `group_search` finds.
    async fn search_groups(
        &self,
        connection: &mut Connection,
        person: &FoundPerson,
    ) -> Result<Vec<String>, NoEntry> {
        let mut groups = Vec::new();
        let Some(search) = &self.settings.group_search else { return Ok(groups) };
        for key in person.group_keys(&search.user_attribute) {
            let filter = Filter::new(&search.filter, key)
                .map_err(|NoFilter| Problem::Filter("group_search.filter"))?;
            for base in &search.base {
                let limit = u32::try_from(MAX_GROUPS).expect("a small number");
                let search = self.subtree(base, &filter, &[NO_ATTRIBUTES], limit);
                let found = self.search_below(connection, &search, GROUP_SEARCH_BASE).await?;
                if found.has_more {
                    return Err(RejectionReason::TooManyGroups.into());
                }
                groups.extend(found.entries.into_iter().map(|group| group.dn));
            }
        }
        Ok(groups)
    }

    fn subtree<'s>(
        &self,
        base: &'s str,
        filter: &'s Filter,
        attributes: &'s [&'s str],
        size_limit: u32,
    ) -> Search<'s> {
        let timeout = self.settings.timeout;
        let whole_seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        // The server stops searching when this client does.
        let time_limit = u32::try_from(whole_seconds).unwrap_or(u32::MAX);
        Search { base, scope: Scope::Subtree, filter, attributes, size_limit, time_limit }
    }

    /// Connects, binds as the reader, and reads the bases of all searches.
    async fn probe(&self) -> Result<String, Problem> {
        let mut lease = match &self.settings.bind {
            Bind::Direct { .. } => self.server.bind_connection(self.deadline).await?,
            Bind::Anonymous | Bind::Reader { .. } => self.server.reader(self.deadline).await?,
        };
        let encryption = lease.connection.encryption.clone().unwrap_or_else(|| "no encryption".to_owned());
        let who = match &self.settings.bind {
            Bind::Direct { .. } => {
                lease.give_back();
                return Ok(format!(
                    "answers ({encryption}); nothing can be read without a person's password"
                ));
            }
            Bind::Anonymous => "anonymous".to_owned(),
            Bind::Reader { dn, .. } => format!("bound as {dn}"),
        };
        let filter = Filter::new(ANY_ENTRY, "").map_err(|NoFilter| Problem::Filter(ANY_ENTRY))?;
        let people = self.settings.search_base.iter().map(|base| (SEARCH_BASE, base));
        let groups = self.settings.group_search.iter().flat_map(|search| &search.base);
        let groups = groups.map(|base| (GROUP_SEARCH_BASE, base));
        let mut bases = 0;
        for (key, base) in people.chain(groups) {
            let whole = self.subtree(base, &filter, &[NO_ATTRIBUTES], 1);
            let search = Search { scope: Scope::Base, ..whole };
            let found = lease.connection.search(&search).await?;
            if !found.outcome.is_success() || found.entries.is_empty() {
                let missing = Outcome::new(Outcome::NO_SUCH_OBJECT, "");
                let outcome = if found.outcome.is_success() { missing } else { found.outcome };
                return Err(self.search_failed(key, base, outcome));
            }
            bases += 1;
        }
        lease.give_back();
        let plural = if bases == 1 { "" } else { "s" };
        Ok(format!("answers ({encryption}, {who}); {bases} search base{plural} can be read"))
    }

    /// A search for or about a person, below the base that this key names.  The server's error text is left out, since
    /// it may contain the name.
    async fn search_below(
        &self,
        connection: &mut Connection,
        search: &Search<'_>,
        key: &'static str,
    ) -> Result<Found, NoEntry> {
        let found = connection.search(search).await?;
        match found.outcome.code {
            Outcome::SUCCESS | Outcome::SIZE_LIMIT_EXCEEDED => Ok(found),
            Outcome::REFERRAL => Err(RejectionReason::Referral.into()),
            _ => Err(self.search_failed(key, search.base, found.outcome.without_message()).into()),
        }
    }

    fn search_failed(&self, key: &'static str, base: &str, outcome: Outcome) -> Problem {
        let searcher = match &self.settings.bind {
            Bind::Anonymous => Searcher::Anonymous,
            Bind::Reader { .. } => Searcher::Reader,
            Bind::Direct { .. } => Searcher::Person,
        };
        Problem::Search { key, base: base.to_owned(), searcher, outcome }
    }
}

/// Whether the connection was closed.
fn is_lost<T>(answer: &Result<T, NoEntry>) -> bool {
    matches!(answer, Err(NoEntry::Problem(Problem::Lost(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_right_wrong_or_not_answered() {
        for (codes, expected) in [
            (&[0][..], "right"),
            (&[19, 32, 48, 49, 50, 53], "wrong"),
            (&[33, 36], "alias"),
            (&[10], "referral"),
            (&[1, 2, 3, 4, 7, 8, 11, 12, 13, 14, 16, 34, 51, 52, 54, 64, 71, 80, 118, 4096], "no answer"),
        ] {
            for &code in codes {
                let answer = match BindAnswer::of(Outcome::new(code, "")) {
                    Ok(BindAnswer::Right) => "right",
                    Ok(BindAnswer::Wrong) => "wrong",
                    Ok(BindAnswer::Rejected(reason)) => reason.as_str(),
                    Err(_) => "no answer",
                };
                assert_eq!(answer, expected, "{code}");
            }
        }
    }
}
