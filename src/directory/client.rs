//! Questions to the servers of a directory.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Found};
use super::entry::{self, MAX_GROUPS, Person};
use super::message::{Filter, NO_ATTRIBUTES, NoFilter, Scope, Search};
use super::servers::{Lease, Server, Servers};
use super::{
    DirectoryError, Entry, Lookup, MayBind, NobodyReason, Outcome, Problem, ServerError, Verification,
};
use crate::clock::Clock;
use crate::config::{Bind, LdapSettings};
use crate::distinguished_name::{DistinguishedName, escape_value};
use crate::person::normalized_name;
use crate::priority;
use crate::secret::Secret;

/// The most questions that run or wait for a connection.
const MAX_QUESTIONS: usize = 64;
/// One entry is somebody, two are nobody.
const MAX_ENTRIES: u32 = 2;
/// The filter that every entry passes.
const ANY_ENTRY: &str = "(objectClass=*)";

/// Asks directories, on a thread of its own.
pub struct Directory {
    runtime: Handle,
    questions: Arc<Semaphore>,
    /// The servers of the settings that were asked about last.
    servers: Mutex<Option<Arc<Servers>>>,
    clock: Clock,
    /// Its end is the thread's.
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

    /// Finds the entry of a name and binds as it with the password.  `may_bind` is asked once, with the entry's name,
    /// before the first bind.  Where a server does not answer a bind, the next one is tried with the same entry.
    ///
    /// # Errors
    /// Nothing is known of the name, or not whether the password is right.
    pub async fn verify(
        &self,
        settings: &Arc<LdapSettings>,
        name: &str,
        password: &Secret,
        may_bind: MayBind,
    ) -> Result<Verification, DirectoryError> {
        let Some(name) = normalized_name(name) else {
            return Ok(Verification::Nobody(NobodyReason::InvalidName));
        };
        // To a program that ends texts with NUL, a password that begins with it is empty.
        if password.expose().is_empty() || password.expose().contains('\0') {
            return Ok(Verification::Nobody(NobodyReason::UnusablePassword));
        }
        let (password, clock) = (password.clone(), self.clock.clone());
        self.ask(settings, |servers| async move {
            let mut bind = PersonBind { password, may_bind: Some(may_bind), allowed: None };
            let mut attempts = servers.attempts();
            loop {
                let server = attempts.next()?;
                let question = Question::new(server, &servers.settings, &name, &clock);
                match question.within_timeout(question.verify(&mut bind)).await {
                    Ok(answer) => {
                        attempts.answered(server);
                        return Ok(answer.unwrap_or_else(Verification::Nobody));
                    }
                    Err(problem) => attempts.failed(server, problem),
                }
            }
        })
        .await
    }

    /// Reads the entry of a name without a password.
    ///
    /// # Errors
    /// Nothing is known of the name.  [`DirectoryError::DirectBind`] where only people themselves read their entries.
    pub async fn find(&self, settings: &Arc<LdapSettings>, name: &str) -> Result<Lookup, DirectoryError> {
        let Some(name) = normalized_name(name) else { return Ok(Lookup::Nobody(NobodyReason::InvalidName)) };
        match &settings.bind {
            Bind::Direct { .. } => return Err(DirectoryError::DirectBind),
            Bind::Anonymous | Bind::Reader { .. } => {}
        }
        let clock = self.clock.clone();
        self.ask(settings, |servers| async move {
            let mut attempts = servers.attempts();
            loop {
                let server = attempts.next()?;
                let question = Question::new(server, &servers.settings, &name, &clock);
                match question.within_timeout(question.find()).await {
                    Ok(found) => {
                        attempts.answered(server);
                        return Ok(found.map_or_else(Lookup::Nobody, Lookup::Found));
                    }
                    Err(problem) => attempts.failed(server, problem),
                }
            }
        })
        .await
    }

    /// Tries each server: its URL, with what answered in words for people, or with what is wrong.
    pub async fn probe(&self, settings: &Arc<LdapSettings>) -> Vec<(String, Result<String, DirectoryError>)> {
        let clock = self.clock.clone();
        let probed = self.ask(settings, |servers| async move {
            let mut answers = Vec::new();
            for server in servers.all() {
                let question = Question::new(server, &servers.settings, "", &clock);
                let answer = question.within_timeout(question.probe()).await.map_err(|problem| {
                    DirectoryError::Servers(vec![ServerError { server: server.url.clone(), problem }])
                });
                answers.push((server.url.clone(), answer));
            }
            Ok(answers)
        });
        probed.await.unwrap_or_else(|error| vec![("ldap".to_owned(), Err(error))])
    }

    /// Lets a question run on the thread, to its end.
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
    may_bind: Option<MayBind>,
    /// The entry for which it was allowed.
    allowed: Option<DistinguishedName>,
}

impl PersonBind {
    /// Whether the bind with this entry may be tried.  The caller is asked once, not for every server.
    fn is_allowed(&mut self, dn: &DistinguishedName) -> bool {
        if let Some(may_bind) = self.may_bind.take()
            && may_bind(dn)
        {
            self.allowed = Some(dn.clone());
        }
        self.allowed.as_ref() == Some(dn)
    }
}

/// What a bind with a person's entry says of the password.
enum BindAnswer {
    Right,
    Wrong,
    Nobody(NobodyReason),
}

impl BindAnswer {
    /// RFC 4511, appendix A.  What a code says of the server, or of the way to it, is no answer.
    fn of(outcome: Outcome) -> Result<Self, Problem> {
        match outcome.code {
            Outcome::SUCCESS => Ok(Self::Right),
            // Active Directory says by this one, too, that an account is locked, expired or disabled.
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
                Ok(Self::Nobody(NobodyReason::Alias))
            }
            Outcome::REFERRAL => Ok(Self::Nobody(NobodyReason::Referral)),
            _ => Err(Problem::Bind(outcome)),
        }
    }
}

/// A question to one server.  What it says is an answer, or why a name stands for nobody.
struct Question<'q> {
    server: &'q Server,
    settings: &'q LdapSettings,
    name: &'q str,
    clock: &'q Clock,
    deadline: Instant,
}

impl<'q> Question<'q> {
    fn new(server: &'q Server, settings: &'q LdapSettings, name: &'q str, clock: &'q Clock) -> Self {
        Self { server, settings, name, clock, deadline: Instant::now() + settings.timeout }
    }

    async fn within_timeout<T>(
        &self,
        answer: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        timeout_at(self.deadline, answer).await.unwrap_or(Err(Problem::NoAnswer(self.settings.timeout)))
    }

    async fn verify(&self, bind: &mut PersonBind) -> Result<Result<Verification, NobodyReason>, Problem> {
        match &self.settings.bind {
            Bind::Direct { template } => self.verify_directly(template, bind).await,
            Bind::Anonymous | Bind::Reader { .. } => self.verify_after_search(bind).await,
        }
    }

    /// Searches for the entry, and binds as it on another connection.
    async fn verify_after_search(
        &self,
        bind: &mut PersonBind,
    ) -> Result<Result<Verification, NobodyReason>, Problem> {
        let mut reader = self.server.reader(self.deadline).await?;
        let person = self.search_person(&mut reader.connection).await?;
        reader.give_back();
        let person = match person {
            Ok(person) => person,
            Err(reason) => return Ok(Err(reason)),
        };
        if !bind.is_allowed(&person.dn) {
            return Ok(Ok(Verification::NotTried(person.dn)));
        }
        let mut lease = self.server.bind_connection(self.deadline).await?;
        let outcome = lease.connection.bind(person.dn.as_str(), bind.password.expose()).await?;
        lease.give_back();
        match BindAnswer::of(outcome)? {
            BindAnswer::Right => {}
            BindAnswer::Wrong => return Ok(Ok(Verification::Wrong(person.dn))),
            BindAnswer::Nobody(reason) => return Ok(Err(reason)),
        }
        let groups = match &self.settings.group_search {
            None => Ok(Vec::new()),
            Some(_) => {
                let mut reader = self.server.reader(self.deadline).await?;
                let groups = self.search_groups(&mut reader.connection, &person).await?;
                reader.give_back();
                groups
            }
        };
        let entry = groups.and_then(|groups| person.with_groups(self.name, self.settings, groups));
        Ok(entry.map(Verification::Right))
    }

    /// Binds as the person, and reads the entry on the same connection.
    async fn verify_directly(
        &self,
        template: &str,
        bind: &mut PersonBind,
    ) -> Result<Result<Verification, NobodyReason>, Problem> {
        let dn = template.replace("%s", &escape_value(self.name));
        let dn: DistinguishedName = dn.parse().map_err(Problem::Template)?;
        if !bind.is_allowed(&dn) {
            return Ok(Ok(Verification::NotTried(dn)));
        }
        let mut lease = self.server.bind_connection(self.deadline).await?;
        let outcome = lease.connection.bind(dn.as_str(), bind.password.expose()).await?;
        match BindAnswer::of(outcome)? {
            BindAnswer::Right => {}
            BindAnswer::Wrong => {
                lease.give_back();
                return Ok(Ok(Verification::Wrong(dn)));
            }
            BindAnswer::Nobody(reason) => {
                lease.give_back();
                return Ok(Err(reason));
            }
        }
        let person = match self.search_person(&mut lease.connection).await? {
            Ok(person) if person.dn == dn => Ok(person),
            Ok(_) => Err(NobodyReason::OtherEntry),
            Err(NobodyReason::Unknown) => Err(NobodyReason::Unreadable),
            Err(reason) => Err(reason),
        };
        self.entry(person, lease).await.map(|entry| entry.map(Verification::Right))
    }

    async fn find(&self) -> Result<Result<Entry, NobodyReason>, Problem> {
        let mut reader = self.server.reader(self.deadline).await?;
        let person = self.search_person(&mut reader.connection).await?;
        self.entry(person, reader).await
    }

    /// The entry of a person, whose groups this connection reads, too.
    async fn entry(
        &self,
        person: Result<Person, NobodyReason>,
        mut lease: Lease<'_>,
    ) -> Result<Result<Entry, NobodyReason>, Problem> {
        let entry = match person {
            Ok(person) => {
                let groups = self.search_groups(&mut lease.connection, &person).await?;
                groups.and_then(|groups| person.with_groups(self.name, self.settings, groups))
            }
            Err(reason) => Err(reason),
        };
        lease.give_back();
        Ok(entry)
    }

    /// The only entry of the name.
    async fn search_person(
        &self,
        connection: &mut Connection,
    ) -> Result<Result<Person, NobodyReason>, Problem> {
        let filter = Filter::new(&self.settings.search_filter, self.name)
            .map_err(|NoFilter| Problem::Filter("search_filter"))?;
        let attributes = entry::attributes(self.settings);
        let mut entry: Option<Person> = None;
        for base in &self.settings.search_base {
            let search = self.subtree(base, &filter, &attributes, MAX_ENTRIES);
            let found = match search_below(connection, &search).await? {
                Ok(found) => found,
                Err(reason) => return Ok(Err(reason)),
            };
            // A server that counts on is one that has more than one entry, whatever it sent.
            if found.has_more || found.entries.len() > 1 {
                return Ok(Err(NobodyReason::SeveralEntries));
            }
            for other in found.entries {
                let person = match Person::read(other, self.settings, self.clock.now()) {
                    Ok(person) => person,
                    Err(reason) => return Ok(Err(reason)),
                };
                match &entry {
                    // Bases may lie within each other.
                    Some(known) if known.dn == person.dn => {}
                    Some(_) => return Ok(Err(NobodyReason::SeveralEntries)),
                    None => entry = Some(person),
                }
            }
        }
        Ok(entry.ok_or(NobodyReason::Unknown))
    }

    /// The names of the groups that `group_search` finds.
    async fn search_groups(
        &self,
        connection: &mut Connection,
        person: &Person,
    ) -> Result<Result<Vec<String>, NobodyReason>, Problem> {
        let mut groups = Vec::new();
        let Some(search) = &self.settings.group_search else { return Ok(Ok(groups)) };
        for key in person.group_keys(&search.user_attribute) {
            let filter = Filter::new(&search.filter, key)
                .map_err(|NoFilter| Problem::Filter("group_search.filter"))?;
            for base in &search.base {
                let limit = u32::try_from(MAX_GROUPS).expect("a small number");
                let search = self.subtree(base, &filter, &[NO_ATTRIBUTES], limit);
                let found = match search_below(connection, &search).await? {
                    Ok(found) => found,
                    Err(reason) => return Ok(Err(reason)),
                };
                if found.has_more {
                    return Ok(Err(NobodyReason::TooManyGroups));
                }
                groups.extend(found.entries.into_iter().map(|group| group.dn));
            }
        }
        Ok(Ok(groups))
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
        // A server gives up when we do.
        let time_limit = u32::try_from(whole_seconds).unwrap_or(u32::MAX);
        Search { base, scope: Scope::Subtree, filter, attributes, size_limit, time_limit }
    }

    /// Connects, binds as the reader, and looks at the bases of all searches.
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
        let groups = self.settings.group_search.iter().flat_map(|search| &search.base);
        let mut bases = 0;
        for base in self.settings.search_base.iter().chain(groups) {
            let whole = self.subtree(base, &filter, &[NO_ATTRIBUTES], 1);
            let search = Search { scope: Scope::Base, ..whole };
            let found = lease.connection.search(&search).await?;
            if !found.outcome.is_success() || found.entries.is_empty() {
                let missing = Outcome::new(Outcome::NO_SUCH_OBJECT, "");
                let outcome = if found.outcome.is_success() { missing } else { found.outcome };
                return Err(Problem::Search { base: base.to_string(), outcome });
            }
            bases += 1;
        }
        lease.give_back();
        let plural = if bases == 1 { "" } else { "s" };
        Ok(format!("answers ({encryption}, {who}); {bases} search base{plural} can be read"))
    }
}

/// A search, whose failure says of the server that it cannot answer.
async fn search_below(
    connection: &mut Connection,
    search: &Search<'_>,
) -> Result<Result<Found, NobodyReason>, Problem> {
    let found = connection.search(search).await?;
    match found.outcome.code {
        Outcome::SUCCESS | Outcome::SIZE_LIMIT_EXCEEDED => Ok(Ok(found)),
        Outcome::REFERRAL => Ok(Err(NobodyReason::Referral)),
        _ => Err(Problem::Search { base: search.base.to_owned(), outcome: found.outcome }),
    }
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
                    Ok(BindAnswer::Nobody(reason)) => reason.as_str(),
                    Err(_) => "no answer",
                };
                assert_eq!(answer, expected, "{code}");
            }
        }
    }

    #[test]
    fn the_caller_is_asked_once_about_one_entry() {
        let ann: DistinguishedName = "uid=ann,dc=org".parse().unwrap();
        let other: DistinguishedName = "uid=ann,dc=com".parse().unwrap();
        for allows in [true, false] {
            let may_bind: MayBind = Box::new(move |_| allows);
            let password = Secret::new("right".to_owned());
            let mut bind = PersonBind { password, may_bind: Some(may_bind), allowed: None };
            assert_eq!(bind.is_allowed(&ann), allows);
            assert_eq!(bind.is_allowed(&ann), allows);
            assert!(!bind.is_allowed(&other));
        }
    }
}
