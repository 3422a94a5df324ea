//! A real OpenLDAP server, for one test alone.
//!
//! Its people are those of `slapd.ldif`; each has the password `hunter2-of-<name>`.  Ann is in the groups of
//! [`GROUPS_OF_ANN`], Bob in `staff` alone.  Five wrong passwords in a row lock an entry.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use super::guardian::{Guardian, children, kill_all};
use super::ldap::Administrator;
use super::pki::Ca;
use super::ports::free_port;
use super::server::signal;
use super::{tools, wait_until};

/// Who may read everything but passwords.
pub const READER: &str = "cn=reader,dc=example,dc=org";
pub const READER_PASSWORD: &str = "hunter2-of-the-reader";
pub const PEOPLE: &str = "ou=people,dc=example,dc=org";
pub const PARTNERS: &str = "ou=partners,dc=example,dc=org";
pub const GROUPS: &str = "ou=groups,dc=example,dc=org";
/// The part of each password that must never show anywhere.
pub const PASSWORDS: &str = "hunter2-of-";

/// The groups (`groupOfNames`) in which Ann is, in RFC 4514.
pub const GROUPS_OF_ANN: [&str; 5] = [
    "cn=admins,ou=groups,dc=example,dc=org",
    "cn=staff,ou=groups,dc=example,dc=org",
    "cn=Smith\\, Jones,ou=groups,dc=example,dc=org",
    "cn=a\\+b \\\"c\\\" \\\\d,ou=groups,dc=example,dc=org",
    "cn=Équipe,ou=groups,dc=example,dc=org",
];
/// The group (`posixGroup`) in which Ann and Bob are by their `uid`, without an attribute `memberOf`.
pub const POSIX_GROUP: &str = "cn=developers,ou=groups,dc=example,dc=org";

/// Whoever has bound reads everything but passwords.
const FOR_USERS: &str = "access to * by users read by * none\n";
const SUFFIX: &str = "dc=example,dc=org";
const ROOT: &str = "cn=root,dc=example,dc=org";
const ROOT_PASSWORD: &str = "hunter2-of-root";
const LDIF: &str = include_str!("slapd.ldif");

/// A server that dies with the test.
pub struct Slapd {
    folder: TempDir,
    port: u16,
    tls_port: u16,
    has_tls: bool,
    ca: Ca,
    /// How often it was started; each time with a log of its own.
    starts: Mutex<usize>,
    guardian: Mutex<Option<Guardian>>,
}

impl Slapd {
    /// A server that speaks LDAP, LDAP with StartTLS, LDAPS, and LDAP over a Unix socket.  Its certificate is for
    /// `localhost`.
    pub fn start() -> Self {
        Self::start_certified(&["localhost"])
    }

    /// The same with a certificate for these names.
    pub fn start_certified(names: &[&str]) -> Self {
        Self::new(Some(names), FOR_USERS)
    }

    /// One without a certificate: it refuses StartTLS, and has no port for LDAPS.
    pub fn start_without_tls() -> Self {
        Self::new(None, FOR_USERS)
    }

    /// One in which everybody may read everything but passwords.
    pub fn start_for_everybody() -> Self {
        Self::new(Some(&["localhost"]), "access to * by * read\n")
    }

    /// One with these rules of access (slapd.access(5)), a line each, behind that of passwords.
    pub fn start_with_access(rules: &str) -> Self {
        Self::new(Some(&["localhost"]), rules)
    }

    fn new(names: Option<&[&str]>, access: &str) -> Self {
        let folder = TempDir::new().expect("a folder for slapd");
        let port = free_port();
        // Each has its own name: a client looks for a CA by it.
        let ca = Ca::new(&format!("the CA of the directory at {port}"));
        let has_tls = names.is_some();
        let slapd = Self {
            folder,
            port,
            tls_port: free_port(),
            has_tls,
            ca,
            starts: Mutex::new(0),
            guardian: Mutex::new(None),
        };
        fs::create_dir(slapd.file("db")).expect("the database's folder");
        fs::write(slapd.file("ca.pem"), slapd.ca.pem()).expect("a file of ours");
        let tls = names.map(|names| {
            let pair = slapd.ca.issue(names);
            fs::write(slapd.file("cert.pem"), &pair.cert).expect("a file of ours");
            fs::write(slapd.file("key.pem"), &pair.key).expect("a file of ours");
            let file = |name| slapd.file(name).display().to_string();
            format!("TLSCertificateFile {}\nTLSCertificateKeyFile {}\n", file("cert.pem"), file("key.pem"))
        });
        fs::write(slapd.file("slapd.conf"), slapd.config(&tls.unwrap_or_default(), access))
            .expect("a file of ours");
        fs::write(slapd.file("people.ldif"), LDIF).expect("a file of ours");
        let mut load = Command::new(tools::slapd());
        load.args(["-T", "add", "-q", "-f"]).arg(slapd.file("slapd.conf"));
        let loaded = load.arg("-l").arg(slapd.file("people.ldif")).output().expect("slapadd");
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        slapd.resume();
        slapd.add_groups();
        slapd
    }

    fn config(&self, tls: &str, access: &str) -> String {
        let home = tools::slapd().parent().expect("a folder");
        let schemas = ["core", "cosine", "inetorgperson", "nis"].map(|schema| {
            format!("include {}\n", home.join("schema").join(schema).with_extension("schema").display())
        });
        format!(
            "{schemas}modulepath {modules}\nmoduleload back_mdb\nmoduleload memberof\nmoduleload ppolicy\n\
             pidfile {pid}\n{tls}database mdb\nsuffix {SUFFIX}\nrootdn {ROOT}\nrootpw {ROOT_PASSWORD}\n\
             directory {db}\ndbnosync\nindex objectClass,uid,member eq\n\
             overlay memberof\noverlay ppolicy\nppolicy_default cn=default,ou=policies,{SUFFIX}\n\
             access to attrs=userPassword by anonymous auth by * none\n{access}",
            schemas = schemas.concat(),
            modules = home.join("modules").display(),
            pid = self.file("pid").display(),
            db = self.file("db").display(),
        )
    }

    fn add_groups(&self) {
        let (administrator, ann, bob) = (self.administrator(), person("ann"), person("bob"));
        for group in GROUPS_OF_ANN {
            let members: &[&str] = if group.starts_with("cn=staff") { &[&ann, &bob] } else { &[&ann] };
            // The attribute `cn` comes from the name.
            administrator.add(group, &[("objectClass", &["groupOfNames"]), ("member", members)]);
        }
        let members = ("memberUid", &["ann", "bob"][..]);
        administrator
            .add(POSIX_GROUP, &[("objectClass", &["posixGroup"]), ("gidNumber", &["1000"]), members]);
    }

    /// `ldap://localhost:<port>`.
    pub fn url(&self) -> String {
        format!("ldap://localhost:{}", self.port)
    }

    /// `ldaps://localhost:<port>`.
    pub fn tls_url(&self) -> String {
        format!("ldaps://localhost:{}", self.tls_port)
    }

    /// `ldapi://<path>`.
    pub fn socket_url(&self) -> String {
        format!("ldapi://{}", self.socket().display().to_string().replace('/', "%2f"))
    }

    /// The port of LDAP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of LDAPS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.file("ldapi")
    }

    /// The file with the CA that signed the certificate, in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The server is gone, as after an orderly stop.
    pub fn stop(&self) {
        let guardian = self.guardian.lock().expect("nobody panicked here").take();
        if let Some(guardian) = guardian {
            guardian.end();
        }
    }

    /// `kill -9`.
    pub fn kill(&self) {
        kill_all(&[self.process()]);
        self.stop();
    }

    /// The server is there (again), with the same people at the same addresses.
    pub fn resume(&self) {
        let mut urls = format!("ldap://127.0.0.1:{} {}", self.port, self.socket_url());
        if self.has_tls {
            urls += &format!(" ldaps://127.0.0.1:{}", self.tls_port);
        }
        let mut starts = self.starts.lock().expect("nobody panicked here");
        *starts += 1;
        let log = fs::File::create(self.file(format!("log.{starts}"))).expect("the server's log");
        drop(starts);
        let mut shell = Command::new("sh");
        shell.stdout(Stdio::null()).stderr(log);
        // Statistics: one line for each connection, operation and result.
        let (config, urls) = (self.file("slapd.conf").into_os_string(), urls.into());
        let arguments = ["-d".into(), "stats".into(), "-f".into(), config, "-h".into(), urls];
        let guardian = Guardian::start(shell, "TERM", tools::slapd(), arguments);
        *self.guardian.lock().expect("nobody panicked here") = Some(guardian);
        wait_until("slapd answers", || self.administrator().is_answered());
    }

    /// It stands still; what reaches it is kept.
    pub fn freeze(&self) {
        let process = self.process();
        signal("-STOP", process);
        // Each of its threads stops by itself.
        wait_until("slapd stands still", || {
            let threads = fs::read_dir(format!("/proc/{process}/task")).expect("slapd's threads");
            threads.map(|thread| thread.expect("a thread").path().join("stat")).all(|stat| {
                let stat = fs::read_to_string(stat).expect("a thread's state");
                stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
            })
        });
    }

    /// It goes on.
    pub fn thaw(&self) {
        signal("-CONT", self.process());
    }

    /// Changes the password of a person in `ou=people`.
    pub fn set_password(&self, uid: &str, password: &str) {
        self.administrator().set(&person(uid), "userPassword", &[password]);
    }

    /// How many wrong passwords in a row the directory's own lock has counted for a person in `ou=people`.
    pub fn failures(&self, uid: &str) -> usize {
        self.administrator().values(&person(uid), "pwdFailureTime").len()
    }

    /// What the server logged: a line for each connection, operation and result, but for those of this harness.
    pub fn log(&self) -> Vec<String> {
        let starts = *self.starts.lock().expect("nobody panicked here");
        // Connections are counted anew with every start.
        (1..=starts).flat_map(|start| others(&self.log_of(start))).collect()
    }

    fn log_of(&self, start: usize) -> String {
        fs::read_to_string(self.file(format!("log.{start}"))).unwrap_or_default()
    }

    /// How many binds with this name the server was asked for.
    pub fn binds(&self, dn: &str) -> usize {
        let bind = format!(" BIND dn=\"{dn}\" method=128");
        self.log().iter().filter(|line| line.ends_with(&bind)).count()
    }

    /// How many binds it was asked for, those of [`READER`] excepted.
    pub fn binds_of_people(&self) -> usize {
        let binds = self
            .log()
            .iter()
            .filter(|line| line.contains(" BIND dn=") && line.ends_with(" method=128"))
            .count();
        binds - self.binds(READER)
    }

    /// How many searches it was asked for.
    pub fn searches(&self) -> usize {
        self.log().iter().filter(|line| line.contains(" SRCH base=")).count()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.log().iter().filter(|line| line.contains(" ACCEPT from ")).count()
    }

    /// The administrator, who may change everything.
    pub fn administrator(&self) -> Administrator {
        Administrator { port: self.port, dn: ROOT, password: ROOT_PASSWORD }
    }

    fn process(&self) -> u32 {
        let guardian = self.guardian.lock().expect("nobody panicked here");
        let processes = children(guardian.as_ref().expect("slapd runs").process());
        processes.first().copied().expect("slapd runs")
    }

    fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The name of a person in `ou=people`.
pub fn person(uid: &str) -> String {
    format!("uid={uid},{PEOPLE}")
}

/// The password of a person, before anybody changed it.
pub fn password(uid: &str) -> String {
    format!("{PASSWORDS}{uid}")
}

/// The lines of a log that are not of the harness' own connections.
fn others(log: &str) -> Vec<String> {
    let connection = |line: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| word.starts_with("conn=")).map(str::to_owned)
    };
    let root = format!("dn=\"{ROOT}\"");
    let own: HashSet<_> = log.lines().filter(|line| line.contains(&root)).filter_map(connection).collect();
    let is_others = |line: &&str| connection(line).is_none_or(|connection| !own.contains(&connection));
    log.lines().filter(is_others).map(str::to_owned).collect()
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let lines = self.log();
            println!("slapd printed at last:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
