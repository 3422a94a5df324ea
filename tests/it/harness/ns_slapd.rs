//! A real 389 Directory Server, for one test alone.
//!
//! Its people are Ann, who is in a group, and Bob.  Three wrong passwords lock an entry.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::guardian::Guardian;
use super::ldap::Administrator;
use super::ports::free_port;
use super::slapd::{GROUPS, PEOPLE, READER, READER_PASSWORD, password, person};
use super::{tools, wait_until};

/// The group of Ann.
pub const GROUP: &str = "cn=Smith\\, Jones,ou=groups,dc=example,dc=org";

const SUFFIX: &str = "dc=example,dc=org";
const ROOT: &str = "cn=root";
const ROOT_PASSWORD: &str = "hunter2-of-root";

/// A server that dies with the test.  It speaks LDAP without TLS.
pub struct NsSlapd {
    folder: TempDir,
    port: u16,
    _guardian: Guardian,
}

impl NsSlapd {
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a folder for ns-slapd");
        let port = free_port();
        let home = tools::ns_slapd().parent().expect("a folder");
        for part in ["bak", "cert", "config", "db", "inst", "ldif", "lock", "log", "run", "tmp"] {
            fs::create_dir(folder.path().join(part)).expect("a folder of ours");
        }
        let config = folder.path().join("config");
        fs::create_dir(config.join("schema")).expect("a folder of ours");
        for (from, to) in [("config", config.clone()), ("schema", config.join("schema"))] {
            for file in fs::read_dir(home.join(from)).expect("the server's files") {
                let file = file.expect("a file of the server's").path();
                fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("a copy of ours");
            }
        }
        fs::write(config.join("dse.ldif"), settings(&folder, port)).expect("a file of ours");

        let log = fs::File::create(folder.path().join("printed")).expect("the server's log");
        let mut shell = Command::new("sh");
        shell.stdout(Stdio::null()).stderr(log);
        // With a level of debugging it stays in the foreground.
        let arguments = ["-d".into(), "0".into(), "-D".into(), config.into_os_string()];
        let pid = ["-i".into(), folder.path().join("pid").into_os_string()];
        let arguments = arguments.into_iter().chain(pid);
        let guardian = Guardian::start(shell, "TERM", tools::ns_slapd(), arguments);
        let server = Self { folder, port, _guardian: guardian };
        wait_until("ns-slapd answers", || server.administrator().is_answered());
        server.add_people();
        server
    }

    /// The port of LDAP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("ldapi")
    }

    /// Who may change everything.
    pub fn administrator(&self) -> Administrator {
        Administrator { port: self.port, dn: ROOT, password: ROOT_PASSWORD }
    }

    fn add_people(&self) {
        let administrator = self.administrator();
        let may_read = "(targetattr != \"userPassword\")(version 3.0; acl \"read\"; \
                        allow (read, search, compare) userdn = \"ldap:///all\";)";
        let classes = ("objectClass", &["top", "domain"][..]);
        administrator.add(SUFFIX, &[classes, ("dc", &["example"]), ("aci", &[may_read])]);
        for unit in [PEOPLE, GROUPS] {
            administrator.add(unit, &[("objectClass", &["top", "organizationalUnit"])]);
        }
        let classes = ("objectClass", &["top", "organizationalRole", "simpleSecurityObject"][..]);
        administrator.add(READER, &[classes, ("cn", &["reader"]), ("userPassword", &[READER_PASSWORD])]);
        for name in ["ann", "bob"] {
            let classes = ("objectClass", &["top", "inetOrgPerson"][..]);
            let password = password(name);
            let secret = ("userPassword", &[&*password][..]);
            let attributes = [classes, secret, ("uid", &[name]), ("cn", &[name]), ("sn", &["Example"])];
            administrator.add(&person(name), &attributes);
        }
        let classes = ("objectClass", &["top", "groupOfNames"][..]);
        administrator.add(GROUP, &[classes, ("cn", &["Smith, Jones"]), ("member", &[&person("ann")])]);
    }
}

/// The whole configuration, as the server's own installer makes it of its templates.
fn settings(folder: &TempDir, port: u16) -> String {
    let home = tools::ns_slapd().parent().expect("a folder");
    let template = |name: &str| fs::read_to_string(home.join("data").join(name)).expect("a template");
    let output = Command::new("id").arg("-un").output().expect("`id`");
    let user = String::from_utf8(output.stdout).expect("a name");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let values = [
        ("schema_dir", file("config/schema")),
        ("lock_dir", file("lock")),
        ("tmp_dir", file("tmp")),
        ("cert_dir", file("cert")),
        ("ldif_dir", file("ldif")),
        ("bak_dir", file("bak")),
        ("run_dir", file("run")),
        ("inst_dir", file("inst")),
        ("log_dir", file("log")),
        ("config_dir", file("config")),
        ("db_dir", file("db")),
        ("db_home_dir", file("db")),
        ("db_lib", "bdb".to_owned()),
        ("fqdn", "localhost".to_owned()),
        ("ds_port", port.to_string()),
        ("ds_user", user.trim().to_owned()),
        ("rootdn", ROOT.to_owned()),
        ("ds_passwd", format!("{{CLEAR}}{ROOT_PASSWORD}")),
        ("ldapi_enabled", "on".to_owned()),
        ("ldapi", file("ldapi")),
        ("ldapi_autobind", "off".to_owned()),
        ("ds_suffix", SUFFIX.to_owned()),
        ("ds_bename", "people".to_owned()),
    ];
    let mut settings = template("template-dse.ldif").trim_end().to_owned();
    // The template of Debian lacks these; without them the server means to be upgraded, with plugins elsewhere.
    for (name, kind) in [("entryuuid_syntax", "syntax"), ("entryuuid", "betxnpreoperation")] {
        write!(
            settings,
            "\n\ndn: cn={name},cn=plugins,cn=config\nobjectclass: top\nobjectclass: nsSlapdPlugin\ncn: {name}\n\
             nsslapd-pluginpath: lib{library}-plugin\nnsslapd-plugininitfunc: {name}_plugin_init\n\
             nsslapd-plugintype: {kind}\nnsslapd-pluginenabled: on\nnsslapd-pluginId: {name}\n\
             nsslapd-pluginVersion: none\nnsslapd-pluginVendor: none\nnsslapd-pluginDescription: none",
            library = name.replace('_', "-"),
        )
        .expect("a string grows");
    }
    let suffix = template("template-suffix-db.ldif");
    let suffix: Vec<_> = suffix.lines().filter(|line| !line.starts_with('#')).collect();
    settings += &format!("\n\n{}\n", suffix.join("\n").trim());
    for (name, value) in values {
        settings = settings.replace(&format!("%{name}%"), &value);
    }
    // Where the plugins are, and what the tests want of them.
    let plugins = home.join("plugins").display().to_string();
    for key in ["nsslapd-pluginpath", "nsslapd-pluginPath"] {
        settings = settings.replace(&format!("{key}: lib"), &format!("{key}: {plugins}/lib"));
    }
    let member_of = "memberof_postop_init\nnsslapd-plugintype: betxnpostoperation\nnsslapd-pluginenabled: ";
    assert!(settings.contains(&format!("{member_of}off")), "{settings}");
    settings = settings.replace(&format!("{member_of}off"), &format!("{member_of}on"));
    let lockout = "passwordLockout: on\npasswordMaxFailure: 3\npasswordUnlock: off\n";
    settings.replacen("nsslapd-rootdn: ", &format!("{lockout}nsslapd-rootdn: "), 1)
}

impl Drop for NsSlapd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["printed", "log/errors", "log/access"] {
                let log = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                println!("ns-slapd's {name}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}
