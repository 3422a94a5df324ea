//! The client of directories against a real OpenLDAP, in process.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use envoy_auth_tokens::clock::Clock;
use envoy_auth_tokens::config::{Bind, GroupSearch, LdapServer, LdapSettings};
use envoy_auth_tokens::directory::{Directory, DirectoryError, Lookup, Verification};
use envoy_auth_tokens::distinguished_name::DistinguishedName;
use envoy_auth_tokens::secret::Secret;
use futures_util::future::join_all;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::harness::ns_slapd::{self, NsSlapd};
use crate::harness::slapd::{
    GROUPS, GROUPS_OF_ANN, PARTNERS, PASSWORDS, PEOPLE, POSIX_GROUP, READER, READER_PASSWORD, Slapd,
    password, person,
};
use crate::harness::wait_until;

/// A client with a runtime for its questions.
struct Client {
    directory: Arc<Directory>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn start() -> Self {
        Self::with_clock(Clock::system())
    }

    fn with_clock(clock: Clock) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { directory: Arc::new(Directory::start_with_clock(clock).unwrap()), runtime }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn try_verify(
        &self,
        settings: &Arc<LdapSettings>,
        name: &str,
        password: &str,
    ) -> Result<Verification, DirectoryError> {
        let password = Secret::new(password.to_owned());
        self.wait(self.directory.verify(settings, name, &password, Box::new(|_| true)))
    }

    /// The answer as a line: `right ann`, `wrong uid=ann,…`, `nobody unknown`, or the error.
    fn verify(&self, settings: &Arc<LdapSettings>, name: &str, password: &str) -> String {
        match self.try_verify(settings, name, password) {
            Ok(Verification::Right(entry)) => format!("right {}", entry.subject),
            Ok(Verification::Wrong(dn)) => format!("wrong {}", dn.as_str()),
            Ok(Verification::NotTried(dn)) => format!("not tried {}", dn.as_str()),
            Ok(Verification::Rejected(reason)) => format!("nobody {}", reason.as_str()),
            Err(error) => {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains(PASSWORDS) && !shown.contains("uid="), "{shown}");
                error.to_string()
            }
        }
    }

    fn find(&self, settings: &Arc<LdapSettings>, name: &str) -> String {
        match self.wait(self.directory.find(settings, name)) {
            Ok(Lookup::Found(entry)) => format!("found {}", entry.subject),
            Ok(Lookup::Rejected(reason)) => format!("nobody {}", reason.as_str()),
            Err(error) => error.to_string(),
        }
    }
}

fn plain(slapd: &Slapd) -> LdapServer {
    LdapServer::Plain { host: "localhost".into(), port: slapd.port() }
}

fn tls(slapd: &Slapd) -> LdapServer {
    LdapServer::Tls { host: "localhost".into(), port: slapd.tls_port() }
}

fn direct() -> Bind {
    Bind::Direct { template: format!("uid=%s,{PEOPLE}").into() }
}

/// Settings for these servers, with the reader and the CA of the first.
fn settings(slapd: &Slapd, servers: &[LdapServer]) -> LdapSettings {
    let members = [("name", "cn"), ("email", "mail"), ("groups", "memberOf"), ("photo", "jpegPhoto")];
    LdapSettings {
        servers: servers.into(),
        start_tls: false,
        ca: [CertificateDer::from_pem_file(slapd.ca_file()).unwrap()].into(),
        bind: Bind::Reader { dn: READER.into(), password: Secret::new(READER_PASSWORD.to_owned()) },
        search_base: [PEOPLE.into(), PARTNERS.into()].into(),
        search_filter: "(uid=%s)".into(),
        id_attribute: "uid".into(),
        members: members.map(|(member, attribute)| (member.into(), attribute.into())).into(),
        groups_attribute: "memberOf".into(),
        group_search: None,
        roles: [].into(),
        plain_ids: false,
        at_check: true,
        max_wrong: 3,
        remember: Duration::ZERO,
        timeout: Duration::from_secs(30),
        binding: [0; 32],
    }
}

fn group_search(filter: &str, user_attribute: &str) -> Option<GroupSearch> {
    Some(GroupSearch {
        base: [GROUPS.into()].into(),
        filter: filter.into(),
        user_attribute: user_attribute.into(),
    })
}

fn names(groups: &[impl AsRef<str>]) -> HashSet<DistinguishedName> {
    groups.iter().map(|group| group.as_ref().parse().unwrap()).collect()
}

/// Holds that whoever searched on a connection bound on it last.
fn assert_nobody_searches_as_somebody_else(slapd: &Slapd, may_search: impl Fn(&str) -> bool) {
    let mut bound: HashMap<String, String> = HashMap::new();
    for line in slapd.log() {
        let word = |start: &str| {
            line.split_whitespace().find_map(|word| word.strip_prefix(start)).map(str::to_owned)
        };
        let Some(connection) = word("conn=") else { continue };
        if line.contains(" BIND dn=") && line.ends_with(" method=128") {
            bound.insert(connection, line.split('"').nth(1).unwrap().to_owned());
        } else if line.contains(" SRCH base=") {
            let who = bound.get(&connection).map_or("", String::as_str);
            assert!(may_search(who), "{who:?}: {line}");
        }
    }
}

#[test]
fn a_name_and_a_password_are_right_wrong_or_nobodys() {
    let slapd = Slapd::start();
    let settings = Arc::new(settings(&slapd, &[tls(&slapd)]));
    let client = Client::start();
    let ann = password("ann");
    let cases = [
        ("ann", &*ann, "right ann"),
        ("ANN", &ann, "right ann"),
        ("\u{ff41}\u{ff4e}\u{ff4e} ", &ann, "right ann"),
        ("bob", &password("bob"), "right bob"),
        ("renée", &password("renée"), "right renée"),
        // What is made of such an id is not this client's business.
        ("sa:deploy", &password("deploy"), "right sa:deploy"),
        ("ann", "wrong", "wrong uid=ann,ou=people,dc=example,dc=org"),
        ("ann", &ann[..ann.len() - 1], "wrong uid=ann,ou=people,dc=example,dc=org"),
        ("ann", &password("bob"), "wrong uid=ann,ou=people,dc=example,dc=org"),
        ("ann", "", "nobody unusable_password"),
        ("ann", "\0", "nobody unusable_password"),
        ("ann", &format!("{ann}\0"), "nobody unusable_password"),
        ("nobody", &ann, "nobody unknown"),
        ("*", &ann, "nobody unknown"),
        ("a*", &ann, "nobody unknown"),
        (")(uid=*", &ann, "nobody unknown"),
        ("ann)(uid=*", &ann, "nobody unknown"),
        ("ann)(|(uid=*", &ann, "nobody unknown"),
        ("\\61nn", &ann, "nobody unknown"),
        ("mallory,ou=guests", &password("mallory"), "nobody unknown"),
        ("uid=ann,ou=people,dc=example,dc=org", &ann, "nobody unknown"),
        ("ann\0", &ann, "nobody invalid_name"),
        ("an\u{ad}n", &ann, "nobody invalid_name"),
        ("", &ann, "nobody invalid_name"),
        (&"a".repeat(191), &ann, "nobody invalid_name"),
        ("twin", &password("twin"), "nobody several_entries"),
        ("double", &password("double"), "nobody several_entries"),
        ("frida", &password("frida"), "nobody several_ids"),
        ("root", &password("frida"), "nobody several_ids"),
        ("anna", &ann, "nobody alias"),
        ("dora", &password("dora"), "nobody disabled"),
        ("emil", &password("emil"), "nobody disabled"),
    ];
    for (name, password, answer) in cases {
        assert_eq!(client.verify(&settings, name, password), answer, "{name:?} {password:?}");
    }
    // Nothing else was tried.
    let tried =
        cases.iter().filter(|(_, _, answer)| answer.starts_with("right") || answer.starts_with("wrong"));
    assert_eq!(slapd.binds_of_people(), tried.count());
    assert_nobody_searches_as_somebody_else(&slapd, |who| who == READER);
    assert!(slapd.connections() <= 2, "{}", slapd.connections());

    // Without a password the same people are found.
    for (name, _, answer) in cases.iter().filter(|(_, _, answer)| !answer.ends_with("password")) {
        let found = match answer.split_once(' ').unwrap() {
            ("right", id) => format!("found {id}"),
            ("wrong", _) => format!("found {name}"),
            _ => (*answer).to_owned(),
        };
        assert_eq!(client.find(&settings, name), found, "{name:?}");
    }
}

#[test]
fn an_entry_tells_members_and_groups() {
    let slapd = Slapd::start();
    let client = Client::start();
    let entry = |settings: LdapSettings, name: &str| match client.try_verify(
        &Arc::new(settings),
        name,
        &password(name),
    ) {
        Ok(Verification::Right(entry)) => entry,
        other => panic!("{other:?}"),
    };
    let plain_settings = || settings(&slapd, &[plain(&slapd)]);
    let ann = entry(plain_settings(), "ann");
    assert_eq!((&*ann.name, &*ann.dn), ("ann", &*person("ann")));
    // A group whose name holds a comma is one name, and not that of another group.
    assert_eq!(names(&ann.groups), names(&GROUPS_OF_ANN));
    let members = json!({
        "name": "Ann Example", "email": ["a.example@example.org", "ann@example.org"], "groups": ann.groups,
    });
    assert_eq!(Value::from(ann.members), members);
    let carol = entry(plain_settings(), "carol");
    assert_eq!(Value::from(carol.members), json!({"name": "Carol Example", "groups": []}));

    // Groups that do not stand in the entry.
    let by_name = LdapSettings { group_search: group_search("(memberUid=%s)", "uid"), ..plain_settings() };
    let ann = entry(by_name, "ann");
    let all = [GROUPS_OF_ANN.as_slice(), &[POSIX_GROUP]].concat();
    assert_eq!(names(&ann.groups), names(&all));
    assert_eq!(ann.members["groups"], json!(ann.groups));
    let by_dn = || LdapSettings {
        groups_attribute: "seeAlso".into(),
        group_search: group_search("(member=%s)", "dn"),
        ..plain_settings()
    };
    assert_eq!(names(&entry(by_dn(), "ann").groups), names(&GROUPS_OF_ANN));
    // A name with a comma within it.
    let staff = GROUPS_OF_ANN[1];
    slapd.administrator().join(staff, "cn=Smith\\, Ren\\C3\\A9e,ou=people,dc=example,dc=org");
    assert_eq!(names(&entry(by_dn(), "renée").groups), names(&[staff]));
    // Whoever binds directly reads the groups, too.
    let direct = LdapSettings { bind: direct(), ..by_dn() };
    assert_eq!(names(&entry(direct, "bob").groups), names(&[staff]));
    assert_nobody_searches_as_somebody_else(&slapd, |who| who == READER || who == person("bob"));

    // An attribute that Ann has not, and Gus has.
    let by_number = |attribute: &str| LdapSettings { id_attribute: attribute.into(), ..plain_settings() };
    assert_eq!(entry(by_number("employeenumber"), "gus").subject, "4711");
    let nobody = client.verify(&Arc::new(by_number("employeeNumber")), "ann", &password("ann"));
    assert_eq!(nobody, "nobody no_id");
}

#[test]
fn a_person_with_more_groups_than_the_server_tells_is_nobody() {
    let slapd = Slapd::start();
    let client = Client::start();
    // One more than OpenLDAP tells at once.
    for number in 0..501 {
        let dn = format!("cn=group {number},{GROUPS}");
        let number = number.to_string();
        slapd.administrator().add(
            &dn,
            &[("objectClass", &["posixGroup"]), ("gidNumber", &[&number]), ("memberUid", &["carol"])],
        );
    }
    let settings = LdapSettings {
        group_search: group_search("(memberUid=%s)", "uid"),
        ..settings(&slapd, &[plain(&slapd)])
    };
    let settings = Arc::new(settings);
    assert_eq!(client.verify(&settings, "carol", &password("carol")), "nobody too_many_groups");
    slapd.administrator().delete(&format!("cn=group 7,{GROUPS}"));
    assert_eq!(client.verify(&settings, "carol", &password("carol")), "right carol");
}

#[test]
fn every_way_to_a_server_leads_there() {
    let slapd = Slapd::start();
    let client = Client::start();
    let socket = LdapServer::Socket(slapd.socket().into());
    for (server, start_tls, ways) in [
        (plain(&slapd), false, "no encryption"),
        (plain(&slapd), true, "TLSv1_3, "),
        (tls(&slapd), false, "TLSv1_3, "),
        // StartTLS is for `ldap://` alone.
        (tls(&slapd), true, "TLSv1_3, "),
        (socket.clone(), true, "no encryption"),
    ] {
        for bind in [None, Some(direct())] {
            let is_direct = bind.is_some();
            let mut settings = LdapSettings { start_tls, ..settings(&slapd, from_ref(&server)) };
            settings.bind = bind.unwrap_or(settings.bind);
            let settings = Arc::new(settings);
            assert_eq!(client.verify(&settings, "ann", &password("ann")), "right ann", "{server:?}");
            let wrong = client.verify(&settings, "ann", "wrong");
            assert_eq!(wrong, "wrong uid=ann,ou=people,dc=example,dc=org", "{server:?}");
            let probed = client.wait(client.directory.probe(&settings));
            let [(_, Ok(told))] = &*probed else { panic!("{probed:?}") };
            assert!(told.starts_with(&format!("answers ({ways}")), "{told}");
            assert_eq!(told.contains("2 search bases"), !is_direct, "{told}");
        }
    }
    // With StartTLS nothing was asked before TLS was there.
    let log = slapd.log();
    let connections_with = |what: &str| -> HashSet<String> {
        let lines = log.iter().filter(|line| line.contains(what));
        lines
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("conn=")))
            .map(str::to_owned)
            .collect()
    };
    for connection in connections_with("STARTTLS") {
        let of_it = |line: &&String| line.split_whitespace().any(|word| word == connection);
        let lines: Vec<_> = log.iter().filter(of_it).collect();
        let place = |what: &str| lines.iter().position(|line| line.contains(what)).unwrap();
        assert!(place(" TLS established ") < place(" BIND "), "{lines:?}");
    }
    assert_eq!(connections_with("STARTTLS").len(), 3);
}

#[test]
fn a_server_that_does_not_prove_who_it_is_learns_nothing() {
    let client = Client::start();
    let (slapd, other, without) = (Slapd::start(), Slapd::start(), Slapd::start_without_tls());
    let by_address = |port| LdapServer::Plain { host: "127.0.0.1".into(), port };
    let by_tls_address = |port| LdapServer::Tls { host: "127.0.0.1".into(), port };
    let cases = [
        // A name that is not the certificate's.
        (
            by_tls_address(slapd.tls_port()),
            false,
            "TLS: invalid peer certificate: certificate not valid for name",
        ),
        (by_address(slapd.port()), true, "TLS: invalid peer certificate: certificate not valid for name"),
        // A CA that is not ours.
        (
            tls(&other),
            false,
            "TLS: invalid peer certificate: UnknownIssuer.  Name the CA of its certificate with `ldap.ca`",
        ),
        (plain(&other), true, "TLS: invalid peer certificate: UnknownIssuer"),
        (plain(&without), true, "refused StartTLS: "),
        // TLS where plain LDAP is spoken, and the other way round.
        (
            LdapServer::Tls { host: "localhost".into(), port: without.port() },
            false,
            "If the server expects plain LDAP at this port (usually 389), write ldap:// with `ldap.start_tls: true`",
        ),
        (
            LdapServer::Plain { host: "localhost".into(), port: slapd.tls_port() },
            true,
            "If the server expects TLS at this port (usually 636), write ldaps://",
        ),
        // Nobody is reached there, and nobody is tried.
        (
            LdapServer::Plain { host: "192.0.2.1".into(), port: 389 },
            false,
            "its address is not on this machine",
        ),
        (
            LdapServer::Plain { host: "nowhere.invalid".into(), port: 389 },
            true,
            "its name cannot be resolved: ",
        ),
        (LdapServer::Tls { host: "no_name_..".into(), port: 636 }, false, ""),
        (LdapServer::Socket(slapd.socket().with_file_name("nowhere").into()), false, "cannot be reached: "),
    ];
    for (server, start_tls, problem) in cases {
        for bind in [None, Some(direct())] {
            let mut settings = LdapSettings { start_tls, ..settings(&slapd, from_ref(&server)) };
            settings.bind = bind.unwrap_or(settings.bind);
            let answer = client.verify(&Arc::new(settings), "ann", &password("ann"));
            assert!(answer.contains(problem) && answer.starts_with("ldap"), "{server:?}: {answer}");
        }
    }
    for server in [&slapd, &other, &without] {
        let log = server.log().join("\n");
        assert!(!log.contains(" BIND ") && !log.contains(" SRCH "), "{log}");
    }
}

#[test]
fn another_kind_of_server_says_the_same_in_its_own_way() {
    let server = NsSlapd::start();
    let client = Client::start();
    let slapd = Slapd::start_without_tls();
    let plain = LdapServer::Plain { host: "localhost".into(), port: server.port() };
    let socket = LdapServer::Socket(server.socket().into());
    let reading = || LdapSettings {
        search_base: [PEOPLE.into()].into(),
        ..settings(&slapd, &[plain.clone(), socket.clone()])
    };
    let settings = Arc::new(reading());
    let directly = Arc::new(LdapSettings { bind: direct(), ..reading() });
    let (ann, bob) = (person("ann"), person("bob"));
    for (settings, unknown) in
        [(&settings, "nobody unknown"), (&directly, "wrong uid=zoe,ou=people,dc=example,dc=org")]
    {
        assert_eq!(client.verify(settings, "ann", &password("ann")), "right ann");
        assert_eq!(client.verify(settings, "ann", "wrong"), format!("wrong {ann}"));
        assert_eq!(client.verify(settings, "zoe", "wrong"), unknown);
        assert_eq!(client.verify(settings, "ann", ""), "nobody unusable_password");
        assert_eq!(client.verify(settings, "*", "wrong").split(' ').next(), unknown.split(' ').next());
    }
    match client.try_verify(&settings, "ann", &password("ann")) {
        Ok(Verification::Right(entry)) => assert_eq!(names(&entry.groups), names(&[ns_slapd::GROUP])),
        other => panic!("{other:?}"),
    }
    let probed = client.wait(client.directory.probe(&settings));
    assert!(probed.len() == 2 && probed.iter().all(|(_, told)| told.is_ok()), "{probed:?}");

    // Its own way to deactivate an account, which it tells by `unwilling to perform`.
    server.administrator().set(&bob, "nsAccountLock", &["true"]);
    assert_eq!(client.verify(&settings, "bob", &password("bob")), "nobody disabled");
    assert_eq!(client.find(&settings, "bob"), "nobody disabled");
    assert_eq!(client.verify(&directly, "bob", &password("bob")), format!("wrong {bob}"));
    // Its own lock, which it tells by `constraint violation`.
    for _ in 0..4 {
        assert_eq!(client.verify(&settings, "ann", "wrong"), format!("wrong {ann}"));
    }
    assert_eq!(client.verify(&settings, "ann", &password("ann")), format!("wrong {ann}"));
}

/// What somebody on the way answers to the first bytes of a connection; then what else came, until the client leaves.
fn attacker(answers: Vec<Vec<u8>>) -> (LdapServer, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut came = vec![0; 4096];
            let length = stream.read(&mut came).unwrap();
            came.truncate(length);
            stream.write_all(&answer).unwrap();
            // The client may be gone with bytes unread.
            let _ = stream.read_to_end(&mut came);
            tell.send(came).unwrap();
        }
    });
    (LdapServer::Plain { host: "localhost".into(), port }, told)
}

/// The end of an operation: the answer to the request of this id, with this code.
fn response(id: u8, operation: u8, code: u8) -> Vec<u8> {
    vec![0x30, 0x0c, 2, 1, id, operation, 7, 0x0a, 1, code, 4, 0, 4, 0]
}

/// The answer to StartTLS, which is the first request.
fn extended_response(code: u8) -> Vec<u8> {
    response(1, 0x78, code)
}

#[test]
fn what_comes_before_tls_counts_for_nothing() {
    let slapd = Slapd::start_without_tls();
    let client = Client::start();
    // A success for whoever asks next: with the ids 1, 2 and 3, a bind and the end of a search.
    let successes = |operation: u8| (1..=3).flat_map(|id| response(id, operation, 0)).collect::<Vec<_>>();
    // Sequences within each other, each four bytes shorter than the one around it.
    let nested = (1..=1_000_u16)
        .rev()
        .flat_map(|depth| [&[0x30, 0x82], &(4 * (depth - 1)).to_be_bytes()[..]].concat());
    let cases = [
        ([extended_response(0), successes(0x61)].concat(), "sent bytes before TLS started"),
        ([extended_response(0), successes(0x65)].concat(), "sent bytes before TLS started"),
        ([extended_response(0), vec![0]].concat(), "sent bytes before TLS started"),
        (extended_response(52), "refused StartTLS: unavailable (52)"),
        // A success for another operation, for another request, and without being asked.
        (successes(0x61), "sent bytes that are not LDAP"),
        (response(9, 0x78, 0), "sent bytes that are not LDAP"),
        (response(0, 0x78, 52), "refused StartTLS: unavailable (52)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "sent bytes that are not LDAP"),
        // A message of two gigabytes, and one that is nested a thousand times.
        (vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff], "sent an answer that is too long"),
        (nested.collect(), "sent bytes that are not LDAP"),
    ];
    let (server, came) = attacker(cases.iter().map(|(answer, _)| answer.clone()).collect());
    for (answer, problem) in &cases {
        let settings = LdapSettings { start_tls: true, ..settings(&slapd, from_ref(&server)) };
        let told = client.verify(&Arc::new(settings), "ann", &password("ann"));
        assert!(told.contains(problem), "{:02x?}: {told}", &answer[..answer.len().min(40)]);
        // It saw the request for StartTLS and nothing more.
        let came = came.recv().unwrap();
        let start_tls =
            [&[0x30, 0x1d, 2, 1, 1, 0x77, 0x18, 0x80, 0x16][..], b"1.3.6.1.4.1.1466.20037"].concat();
        assert_eq!(came, start_tls, "{}", String::from_utf8_lossy(&came));
    }

    // What comes after the handshake has begun fails it: a plain success instead of a ServerHello.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = LdapServer::Plain { host: "localhost".into(), port: listener.local_addr().unwrap().port() };
    let late = successes(0x61);
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut came = vec![0; 4096];
        let _ = stream.read(&mut came).unwrap();
        stream.write_all(&extended_response(0)).unwrap();
        let length = stream.read(&mut came).unwrap();
        stream.write_all(&late).unwrap();
        came.truncate(length);
        let _ = stream.read_to_end(&mut came);
        came
    });
    let settings = LdapSettings { start_tls: true, ..settings(&slapd, &[server]) };
    let told = client.verify(&Arc::new(settings), "ann", &password("ann"));
    assert!(told.contains("TLS: "), "{told}");
    let came = thread.join().unwrap();
    // A handshake, in which nobody's name stands.
    assert_eq!(came[0], 0x16);
    assert!(!String::from_utf8_lossy(&came).contains(PASSWORDS));
}

#[test]
fn people_bind_directly_and_read_their_own_entry() {
    let slapd = Slapd::start();
    let client = Client::start();
    let directly = |filter: &str| {
        let plain = settings(&slapd, &[tls(&slapd)]);
        Arc::new(LdapSettings { bind: direct(), search_filter: filter.into(), ..plain })
    };
    let settings = directly("(uid=%s)");
    for (name, password, answer) in [
        ("ann", &*password("ann"), "right ann"),
        ("bob", &password("bob"), "right bob"),
        ("ann", "wrong", "wrong uid=ann,ou=people,dc=example,dc=org"),
        ("ann", "", "nobody unusable_password"),
        ("nobody", "wrong", "wrong uid=nobody,ou=people,dc=example,dc=org"),
        (
            "mallory,ou=guests",
            &password("mallory"),
            "wrong uid=mallory\\,ou\\=guests,ou=people,dc=example,dc=org",
        ),
        (
            "ann+cn=ann example",
            &password("ann"),
            "wrong uid=ann\\+cn\\=ann example,ou=people,dc=example,dc=org",
        ),
        ("*", &password("ann"), "wrong uid=*,ou=people,dc=example,dc=org"),
        ("#04", &password("ann"), "wrong uid=\\#04,ou=people,dc=example,dc=org"),
        // There is another one of this name among the partners.
        ("twin", &password("twin"), "nobody several_entries"),
        ("dora", &password("dora"), "nobody disabled"),
        ("frida", &password("frida"), "nobody several_ids"),
    ] {
        assert_eq!(client.verify(&settings, name, password), answer, "{name:?} {password:?}");
    }
    assert_eq!(slapd.binds(&format!("uid=mallory,ou=guests,{PEOPLE}")), 0);
    // One connection after the other person, who searches as nobody else.
    assert_nobody_searches_as_somebody_else(&slapd, |who| who.starts_with("uid="));
    for line in slapd.log().iter().filter(|line| line.contains(" SRCH base=")) {
        assert!(line.contains(" deref=0 "), "{line}");
    }

    // The entry that is found must be the one that bound.
    assert_eq!(client.verify(&directly("(uid=ann)"), "bob", &password("bob")), "nobody other_entry");
    assert_eq!(client.verify(&directly("(mail=%s)"), "bob", &password("bob")), "nobody unreadable_entry");
    let without_a_password = client.wait(client.directory.find(&settings, "ann"));
    assert!(matches!(without_a_password, Err(DirectoryError::DirectBind)), "{without_a_password:?}");
}

#[test]
fn the_access_that_the_document_gives_is_enough_and_no_less_is() {
    let document = include_str!("../../docs/ldap.md");
    let blocks: Vec<String> = document
        .split("\n```\n")
        .filter(|block| block.starts_with("olcAccess: "))
        .map(|block| {
            let rules = block.lines().map(|line| {
                let (_, rule) = line.split_once('}').unwrap();
                format!("access {}\n", rule.replace("cn=reader,ou=services,dc=example,dc=org", READER))
            });
            rules.collect()
        })
        .collect();
    let [for_a_reader, for_people] = &blocks[..] else { panic!("{blocks:?}") };
    let client = Client::start();
    let ask = |rules: &str, bind: Option<Bind>| {
        let slapd = Slapd::start_with_access(rules);
        let mut settings = settings(&slapd, &[tls(&slapd)]);
        settings.search_base = [PEOPLE.into()].into();
        settings.bind = bind.unwrap_or(settings.bind);
        client.try_verify(&Arc::new(settings), "ann", &password("ann"))
    };
    for (rules, bind) in [(for_a_reader, None), (for_people, Some(direct()))] {
        let Ok(Verification::Right(entry)) = ask(rules, bind) else { panic!("{rules}") };
        assert_eq!(entry.groups.len(), GROUPS_OF_ANN.len(), "{entry:?}");
    }
    let own_entry_alone = "access to * by self read by * none\n";
    let error = ask(own_entry_alone, Some(direct())).unwrap_err().to_string();
    assert!(error.contains("none that the person who bound may see: no such object (32)"), "{error}");
}

#[test]
fn referrals_are_not_followed() {
    let slapd = Slapd::start();
    let client = Client::start();
    let remote = "ou=remote,dc=example,dc=org";
    let searching = |bases: &[&str]| {
        let search_base = bases.iter().map(|base| Box::from(*base)).collect();
        Arc::new(LdapSettings { search_base, ..settings(&slapd, &[plain(&slapd)]) })
    };
    // A search that is sent elsewhere, and one of which a part would be.
    let below = format!("ou=people,{remote}");
    for base in [remote, &below] {
        assert_eq!(client.verify(&searching(&[base]), "ann", &password("ann")), "nobody referral");
    }
    let whole = searching(&["dc=example,dc=org"]);
    assert_eq!(client.verify(&whole, "zoe", "any"), "nobody unknown");
    assert_eq!(client.verify(&whole, "ann", &password("ann")), "right ann");
    // One entry that two bases hold is one entry.
    let twice = searching(&["dc=example,dc=org", PEOPLE]);
    assert_eq!(client.verify(&twice, "ann", &password("ann")), "right ann");
    let bind = Bind::Direct { template: format!("uid=%s,{remote}").into() };
    let directly = Arc::new(LdapSettings { bind, ..settings(&slapd, &[plain(&slapd)]) });
    // OpenLDAP does not say that it would refer.
    assert_eq!(client.verify(&directly, "ann", &password("ann")), format!("wrong uid=ann,{remote}"));
}

#[test]
fn the_caller_says_whether_a_bind_is_tried() {
    let slapd = Slapd::start();
    let client = Client::start();
    for bind in [None, Some(direct())] {
        let mut settings = settings(&slapd, &[plain(&slapd)]);
        settings.bind = bind.unwrap_or(settings.bind);
        let settings = Arc::new(settings);
        for (allows, expected) in [(true, 1), (false, 0)] {
            let (asked, before) = (Arc::new(AtomicUsize::new(0)), slapd.binds(&person("ann")));
            let count = Arc::clone(&asked);
            let may_bind = Box::new(move |dn: &DistinguishedName| {
                assert_eq!(dn.as_str(), person("ann"));
                count.fetch_add(1, Ordering::SeqCst);
                allows
            });
            let right = Secret::new(password("ann"));
            let answer = client.wait(client.directory.verify(&settings, "ann", &right, may_bind)).unwrap();
            assert_eq!(matches!(answer, Verification::Right(_)), allows, "{answer:?}");
            assert_eq!(matches!(answer, Verification::NotTried(_)), !allows, "{answer:?}");
            assert_eq!(slapd.binds(&person("ann")) - before, expected);
            assert_eq!(asked.load(Ordering::SeqCst), 1);
        }
    }
}

#[test]
fn what_changes_in_the_directory_counts_at_once() {
    let slapd = Slapd::start();
    let client = Client::start();
    let settings = Arc::new(settings(&slapd, &[tls(&slapd)]));
    let ann = password("ann");
    assert_eq!(client.verify(&settings, "ann", &ann), "right ann");
    slapd.set_password("ann", "hunter2-of-ann, changed");
    assert_eq!(client.verify(&settings, "ann", &ann), "wrong uid=ann,ou=people,dc=example,dc=org");
    assert_eq!(client.verify(&settings, "ann", "hunter2-of-ann, changed"), "right ann");

    let groups = |name: &str| match client.wait(client.directory.find(&settings, name)) {
        Ok(Lookup::Found(entry)) => names(&entry.groups),
        other => panic!("{other:?}"),
    };
    let staff = GROUPS_OF_ANN[1];
    assert_eq!(groups("bob"), names(&[staff]));
    slapd.administrator().leave(staff, &person("bob"));
    assert_eq!(groups("bob"), names(&[] as &[&str]));
    slapd.administrator().join(staff, &person("carol"));
    assert_eq!(groups("carol"), names(&[staff]));

    slapd.administrator().set(&person("ann"), "shadowExpire", &["0"]);
    assert_eq!(client.find(&settings, "ann"), "nobody disabled");
    slapd.administrator().set(&person("ann"), "shadowExpire", &[]);
    assert_eq!(client.find(&settings, "ann"), "found ann");
    slapd.administrator().delete(&person("bob"));
    assert_eq!(client.verify(&settings, "bob", &password("bob")), "nobody unknown");

    // Five wrong passwords, and the directory's own lock says no to the right one.
    for wrong in 1..=5 {
        assert!(client.verify(&settings, "gus", "wrong").starts_with("wrong "));
        assert_eq!(slapd.failures("gus"), wrong);
    }
    assert!(client.verify(&settings, "gus", &password("gus")).starts_with("wrong "));
}

#[test]
fn a_reader_that_may_not_read_is_an_error_and_no_wrong_password() {
    let (slapd, open) = (Slapd::start(), Slapd::start_for_everybody());
    let client = Client::start();
    let ask = |slapd: &Slapd, change: &dyn Fn(&mut LdapSettings)| {
        let mut settings = settings(slapd, &[tls(slapd)]);
        change(&mut settings);
        client.verify(&Arc::new(settings), "ann", &password("ann"))
    };
    let anonymous = |settings: &mut LdapSettings| settings.bind = Bind::Anonymous;
    assert_eq!(ask(&open, &anonymous), "right ann");
    let answer = ask(&slapd, &anonymous);
    let missing = "searching ou=people,dc=example,dc=org (`ldap.search_base`): there is no such entry, or none that may be \
                   seen without a bind: no such object (32).  Check the spelling, or name a `bind_dn`";
    assert!(answer.contains(missing), "{answer}");
    let answer = ask(&slapd, &|settings| {
        let password = Secret::new("hunter2-of-nobody".to_owned());
        settings.bind = Bind::Reader { dn: READER.into(), password };
    });
    assert!(answer.contains("denied `bind_dn`: invalid credentials (49)"), "{answer}");
    let answer =
        ask(&slapd, &|settings| settings.search_base = ["ou=nowhere,dc=example,dc=org".into()].into());
    let missing = "searching ou=nowhere,dc=example,dc=org (`ldap.search_base`): there is no such entry, or none that \
                   `bind_dn` may see: no such object (32)";
    assert!(answer.contains(missing), "{answer}");
    let answer = ask(&slapd, &|settings| settings.search_filter = "(uid=%s".into());
    assert!(answer.contains("`search_filter` is not a filter of RFC 4515"), "{answer}");
    // A connection that was bound by other settings is not used.
    assert_eq!(ask(&slapd, &|_| {}), "right ann");
    assert!(ask(&slapd, &anonymous).contains("no such object (32)"));

    let probe = |slapd: &Slapd, change: &dyn Fn(&mut LdapSettings)| {
        let mut settings = settings(slapd, &[tls(slapd), plain(slapd)]);
        change(&mut settings);
        let probed = client.wait(client.directory.probe(&Arc::new(settings)));
        assert_eq!(
            probed.iter().map(|(url, _)| url.clone()).collect::<Vec<_>>(),
            [slapd.tls_url(), slapd.url()]
        );
        probed.into_iter().map(|(_, told)| told.unwrap_or_else(|error| error.to_string())).collect::<Vec<_>>()
    };
    let told = probe(&slapd, &|_| {});
    assert!(
        told[0].ends_with("bound as cn=reader,dc=example,dc=org); 2 search bases can be read"),
        "{told:?}"
    );
    assert_eq!(
        told[1],
        "answers (no encryption, bound as cn=reader,dc=example,dc=org); 2 search bases can be read"
    );
    assert!(probe(&open, &anonymous)[1].starts_with("answers (no encryption, anonymous); "), "{told:?}");
    let told = probe(&slapd, &|settings| {
        settings.group_search = Some(GroupSearch {
            base: ["ou=nowhere,dc=example,dc=org".into()].into(),
            filter: "(memberUid=%s)".into(),
            user_attribute: "uid".into(),
        });
    });
    let missing = "searching ou=nowhere,dc=example,dc=org (`ldap.group_search.base`): there is no such entry";
    assert!(told[0].contains(missing), "{told:?}");
}

#[test]
fn a_server_that_hangs_dies_or_comes_back_says_nothing_wrong() {
    let slapd = Slapd::start();
    let client = Client::start();
    for server in [tls(&slapd), plain(&slapd), LdapServer::Socket(slapd.socket().into())] {
        let patient = Arc::new(settings(&slapd, from_ref(&server)));
        let right =
            || assert_eq!(client.verify(&patient, "ann", &password("ann")), "right ann", "{server:?}");
        right();
        // Connections that are open already, and new ones.
        let short = LdapSettings { timeout: Duration::from_secs(1), ..settings(&slapd, from_ref(&server)) };
        let short = Arc::new(short);
        wait_until("it answers", || client.verify(&short, "ann", &password("ann")) == "right ann");
        slapd.freeze();
        for _ in 0..2 {
            let told = client.verify(&short, "ann", &password("ann"));
            assert!(told.contains("did not answer within 1s (`ldap.timeout`)"), "{server:?}: {told}");
        }
        slapd.thaw();
        wait_until("it answers again", || client.verify(&short, "ann", &password("ann")) == "right ann");
        right();

        slapd.stop();
        slapd.resume();
        right();
        slapd.kill();
        let told = client.verify(&patient, "ann", &password("ann"));
        assert!(told.contains("cannot be reached: "), "{server:?}: {told}");
        slapd.resume();
        right();
    }
}

#[test]
fn one_server_stands_in_for_another() {
    let (first, second) = (Slapd::start_certified(&["localhost"]), Slapd::start_without_tls());
    let elapsed = Arc::new(AtomicU64::new(0));
    let seconds = Arc::clone(&elapsed);
    let client = Client::with_clock(Clock::from_fns(Timestamp::now, move || {
        Duration::from_secs(seconds.load(Ordering::SeqCst))
    }));
    let settings =
        LdapSettings { timeout: Duration::from_secs(5), ..settings(&first, &[tls(&first), plain(&second)]) };
    let settings = Arc::new(settings);
    let ask = || {
        let before = (first.searches(), second.searches());
        assert_eq!(client.verify(&settings, "ann", &password("ann")), "right ann");
        (first.searches() > before.0, second.searches() > before.1)
    };
    assert_eq!(ask(), (true, false));
    let connections = first.connections();
    first.freeze();
    assert_eq!(ask(), (false, true));
    // The one that failed is not asked while another one answers …
    for _ in 0..3 {
        assert_eq!(ask(), (false, true));
    }
    first.thaw();
    assert!(first.administrator().is_answered());
    assert_eq!(first.connections(), connections);
    first.freeze();
    // … but comes last, when there is no other.
    second.stop();
    let told = client.verify(&settings, "ann", &password("ann"));
    let (one, other) = told.split_once("; ").unwrap();
    assert!(one.starts_with(&second.url()) && other.starts_with(&first.tls_url()), "{told}");
    assert!(other.contains("did not answer within 5s"), "{told}");
    first.thaw();
    wait_until("the first one answers", || client.verify(&settings, "ann", &password("ann")) == "right ann");
    second.resume();
    // It answered, and is the first again.
    assert_eq!(ask(), (true, false));
    first.stop();
    assert_eq!(ask(), (false, true));
    first.resume();
    assert_eq!(ask(), (false, true));
    elapsed.store(29, Ordering::SeqCst);
    assert_eq!(ask(), (false, true));
    elapsed.store(30, Ordering::SeqCst);
    assert_eq!(ask(), (true, false));
}

#[test]
fn questions_and_connections_are_bounded() {
    let slapd = Slapd::start();
    let client = Client::start();
    let settings = Arc::new(settings(&slapd, &[tls(&slapd)]));
    let right = Secret::new(password("ann"));
    let verify = || client.directory.verify(&settings, "ann", &right, Box::new(|_| true));
    let answers = client.wait(join_all((0..60).map(|_| verify())));
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Verification::Right(_)))), "{answers:?}");
    assert!(slapd.connections() <= 8, "{}", slapd.connections());

    // Questions that nobody waits for any more end by themselves, and are counted until then.
    let short = LdapSettings { timeout: Duration::from_secs(1), ..self::settings(&slapd, &[tls(&slapd)]) };
    let short = Arc::new(short);
    slapd.freeze();
    client.wait(async {
        let questions = (0..64).map(|_| client.directory.verify(&short, "ann", &right, Box::new(|_| true)));
        let given_up = tokio::time::timeout(Duration::from_millis(1), join_all(questions)).await;
        assert!(given_up.is_err());
        let one_more = client.directory.find(&short, "ann").await;
        assert!(matches!(one_more, Err(DirectoryError::Busy(64))), "{one_more:?}");
    });
    slapd.thaw();
    wait_until("questions are answered again", || client.find(&short, "ann") == "found ann");
}

/// A way to a directory that can end: when it was told to, it closes the connection on which the next bytes come, and
/// passes none of them on.
struct Way {
    port: u16,
    ends: Arc<AtomicBool>,
}

impl Way {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Self { port: listener.local_addr().unwrap().port(), ends: Arc::default() };
        let ends = Arc::clone(&way.ends);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, ends) = (client.unwrap(), Arc::clone(&ends));
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (mut answers, mut asker) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut answers, &mut asker));
                std::thread::spawn(move || {
                    let (mut client, mut server, mut bytes) = (client, server, [0; 4096]);
                    while let Ok(length @ 1..) = client.read(&mut bytes) {
                        if ends.swap(false, Ordering::SeqCst) {
                            break;
                        }
                        server.write_all(&bytes[..length]).unwrap();
                    }
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        });
        way
    }
}

#[test]
fn a_connection_that_the_server_closes_when_it_is_used_again_is_no_outage() {
    let slapd = Slapd::start();
    let way = Way::to(slapd.port());
    let client = Client::start();
    let server = LdapServer::Plain { host: "127.0.0.1".into(), port: way.port };
    let by_name = group_search("(memberUid=%s)", "uid");
    let settings = LdapSettings { group_search: by_name, ..settings(&slapd, &[server]) };
    let settings = Arc::new(settings);
    let ann = password("ann");
    assert_eq!(client.verify(&settings, "ann", &ann), "right ann");
    for _ in 0..2 {
        let before = slapd.connections();
        way.ends.store(true, Ordering::SeqCst);
        assert_eq!(client.find(&settings, "ann"), "found ann");
        assert!(!way.ends.load(Ordering::SeqCst), "a connection was closed");
        assert_eq!(slapd.connections() - before, 1);
        way.ends.store(true, Ordering::SeqCst);
        assert_eq!(client.verify(&settings, "ann", &ann), "right ann");
        assert_eq!(slapd.connections() - before, 2);
    }
}

#[test]
fn an_answer_about_one_entry_that_is_none_says_nothing_of_the_server() {
    let (first, second) = (Slapd::start(), Slapd::start());
    let client = Client::start();
    let members = [("name", "cn"), ("about", "description")];
    let members = members.map(|(member, attribute)| (member.into(), attribute.into())).into();
    let servers = [plain(&first), plain(&second)];
    let settings = Arc::new(LdapSettings { members, ..settings(&first, &servers) });
    let long = "x".repeat(1_200_000);
    first.administrator().set(&person("gus"), "description", &[&long]);
    assert_eq!(client.find(&settings, "gus"), "found gus", "at the second one");
    // The first one is asked first, as before.
    let before = (first.searches(), second.searches());
    assert_eq!(client.find(&settings, "ann"), "found ann");
    assert!(first.searches() > before.0);
    assert_eq!(second.searches(), before.1);
    second.administrator().set(&person("gus"), "description", &[&long]);
    let told = client.find(&settings, "gus");
    assert_eq!(told.matches("sent an answer that is too long").count(), 2, "{told}");
}
