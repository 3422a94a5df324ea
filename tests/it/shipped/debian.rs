//! The Debian package and the systemd units: built, checked, and lived with on a Debian booted for it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::harness::envoy::persistent;
use crate::harness::machine::Machine;
use crate::harness::server::{Ran, run};
use crate::harness::{Envoy, Request, Upstream, tools, wait_until};

const INSTALL: &str = include_str!("../../../docs/install.md");
const UNIT: &str = include_str!("../../../deploy/systemd/envoy-auth-tokens.service");
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");
const NEXT_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-2");
const SERVICE: &str = "envoy-auth-tokens.service";
const SOCKET: &str = "/run/envoy-auth-tokens/ext_authz.sock";
const CONFIG: &str = "/etc/envoy-auth-tokens/config.yaml";

const ALICE: &str = "alice-token-0123456789";
const PASSWORD: &str = "correct-horse-battery-staple";

/// Builds the package of this version, as `make deb` does, into a folder that is made afresh.
fn build(version: &str, folder: &str) -> PathBuf {
    super::binary();
    let folder = tools::root().join("target/dist").join(folder);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new(tools::root().join("deploy/debian/build.sh"));
    command.env("OUTPUT", &folder);
    if version != VERSION {
        command.env("DEB_VERSION", version);
    }
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
    let architecture = printed("dpkg", &["--print-architecture"]);
    let package = folder.join(format!("envoy-auth-tokens_{version}_{}.deb", architecture.trim()));
    assert!(package.is_file(), "{}", ran.stdout);
    package
}

/// The package as it is published.
fn package() -> &'static Path {
    static PACKAGE: LazyLock<PathBuf> = LazyLock::new(|| build(VERSION, "this"));
    &PACKAGE
}

/// The one that comes after it.
fn next_package() -> &'static Path {
    static PACKAGE: LazyLock<PathBuf> = LazyLock::new(|| build(NEXT_VERSION, "next"));
    &PACKAGE
}

/// What a command prints that has to end well.
#[track_caller]
fn printed(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{program} {arguments:?}: {}{}", ran.stdout, ran.stderr);
    ran.stdout
}

fn field(package: &Path, name: &str) -> String {
    printed("dpkg-deb", &["--field", package.to_str().unwrap(), name]).trim_end().to_owned()
}

#[test]
#[ignore = "takes long to pack: make test-shipped"]
fn the_module_has_a_package_that_needs_libc_alone() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("module.so");
    // It is built with the tests; what helps to debug it would only take long to pack.
    let stripped = Command::new("strip").arg("-o").arg(&module).arg(tools::module()).status().unwrap();
    assert!(stripped.success());
    let mut command = Command::new(tools::root().join("deploy/debian/build.sh"));
    command.arg("module").env("MODULE", &module).env("OUTPUT", folder.path());
    let ran = run(command, "");
    assert_eq!(ran.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
    let architecture = printed("dpkg", &["--print-architecture"]);
    let package =
        folder.path().join(format!("envoy-auth-tokens-module_{VERSION}_{}.deb", architecture.trim()));
    let package = package.to_str().unwrap();
    let files = printed("dpkg-deb", &["--contents", package]);
    assert!(files.contains(" ./usr/lib/envoy-auth-tokens/libenvoy_auth_tokens.so\n"), "{files}");
    let depends = printed("dpkg-deb", &["--field", package, "Depends"]);
    assert!(depends.starts_with("libc6 (>= ") && !depends.contains(','), "{depends}");

    let mut command = Command::new(tools::root().join("deploy/debian/build.sh"));
    command.arg("module").env("MODULE", folder.path().join("nothing.so"));
    let ran = run(command, "");
    assert!(ran.code() == Some(1) && ran.stderr.contains("run make module"), "{ran:?}");
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn the_package_holds_what_is_to_be_installed_and_nothing_else() {
    let package = package();
    assert_eq!(field(package, "Package"), "envoy-auth-tokens");
    assert_eq!(field(package, "Version"), VERSION);
    assert_eq!(field(package, "Depends"), "systemd | systemd-standalone-sysusers | systemd-sysusers");

    let changelog = include_str!("../../../deploy/debian/changelog");
    assert!(
        changelog.starts_with(&format!("envoy-auth-tokens ({VERSION}) ")),
        "its changelog ends with another version"
    );

    let contents = printed("dpkg-deb", &["--contents", package.to_str().unwrap()]);
    let mut files = String::new();
    for line in contents.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (mode, owner, path) = (words[0], words[1], words[5]);
        assert!(["0/0", "root/root"].contains(&owner), "{line}");
        // A manual page for each command, and the pages of docs/.
        let page = path.contains("/man1/envoy-auth-tokens-") || path.contains("/doc/envoy-auth-tokens/docs/");
        match mode.starts_with('d') {
            true => assert_eq!(mode, "drwxr-xr-x", "{line}"),
            false if page => assert_eq!(mode, "-rw-r--r--", "{line}"),
            false => writeln!(files, "{mode} {}", path.trim_start_matches("./")).unwrap(),
        }
    }
    let mut files: Vec<_> = files.lines().collect();
    files.sort_unstable_by_key(|line| line.split_once(' ').unwrap().1);
    assert_eq!(
        files,
        [
            "-rw-r----- etc/default/envoy-auth-tokens",
            "-rw-r----- etc/envoy-auth-tokens/config.yaml",
            "-rwxr-xr-x usr/bin/envoy-auth-tokens",
            "-rw-r--r-- usr/lib/systemd/system/envoy-auth-tokens.service",
            "-rw-r--r-- usr/lib/systemd/system/envoy-auth-tokens.socket",
            "-rw-r--r-- usr/lib/sysusers.d/envoy-auth-tokens.conf",
            "-rw-r--r-- usr/share/bash-completion/completions/envoy-auth-tokens",
            "-rw-r--r-- usr/share/doc/envoy-auth-tokens/README.md",
            "-rw-r--r-- usr/share/doc/envoy-auth-tokens/changelog.Debian.gz",
            "-rw-r--r-- usr/share/doc/envoy-auth-tokens/copyright",
            "-rw-r--r-- usr/share/doc/envoy-auth-tokens/examples/config.schema.json",
            "-rw-r--r-- usr/share/doc/envoy-auth-tokens/examples/config.yaml",
            "-rw-r--r-- usr/share/doc/envoy-auth-tokens/examples/envoy.yaml",
            "-rw-r--r-- usr/share/fish/vendor_completions.d/envoy-auth-tokens.fish",
            "-rw-r--r-- usr/share/lintian/overrides/envoy-auth-tokens",
            "-rw-r--r-- usr/share/man/man1/envoy-auth-tokens.1.gz",
            "-rw-r--r-- usr/share/zsh/vendor-completions/_envoy-auth-tokens",
        ]
    );

    let folder = TempDir::new().unwrap();
    let root = folder.path().to_str().unwrap();
    printed("dpkg-deb", &["--raw-extract", package.to_str().unwrap(), root]);
    let read = |path: &str| std::fs::read(folder.path().join(path)).unwrap();
    assert!(read("usr/bin/envoy-auth-tokens") == std::fs::read(super::binary()).unwrap(), "another binary");
    let conffiles = String::from_utf8(read("DEBIAN/conffiles")).unwrap();
    let mut conffiles: Vec<_> = conffiles.lines().collect();
    conffiles.sort_unstable();
    assert_eq!(conffiles, ["/etc/default/envoy-auth-tokens", CONFIG]);
    for command in ["serve", "check", "keys-create", "token-new"] {
        let page = format!("usr/share/man/man1/envoy-auth-tokens-{command}.1.gz");
        assert!(folder.path().join(&page).is_file(), "{page}");
    }
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn lintian_has_nothing_to_say() {
    let mut command = Command::new(tools::lintian());
    command
        .args(["--tag-display-limit", "0", "--allow-root", "--fail-on", "error,warning,info"])
        .arg(package());
    let ran = run(command, "");
    assert_eq!((ran.code(), ran.stdout.as_str()), (Some(0), ""), "{}{}", ran.stdout, ran.stderr);
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn the_same_binary_makes_the_same_package() {
    let again = build(VERSION, "again");
    assert!(
        std::fs::read(again).unwrap() == std::fs::read(package()).unwrap(),
        "two packages of one binary differ"
    );
}

/// The command of docs/install.md's section that begins with these words, for root and for nobody's terminal.
fn documented(words: &str) -> String {
    let (_, section) = INSTALL.split_once("\n## systemd and Debian package\n").unwrap();
    let line = section.lines().find(|line| line.starts_with(words)).unwrap_or_else(|| panic!("no {words}"));
    let command = line.split(" #").next().unwrap().trim_end();
    command.replace("sudo ", "").replace("apt install", "apt-get --yes install")
}

/// A Debian on which the package was installed by apt.
struct Debian {
    machine: Machine,
    upstream: Upstream,
}

impl Debian {
    fn fresh() -> Self {
        Self { machine: Machine::boot(), upstream: Upstream::start() }
    }

    fn installed() -> Self {
        let debian = Self::fresh();
        debian.install();
        debian
    }

    /// As docs/install.md says.
    fn install(&self) {
        let file = package().strip_prefix(tools::root().join("target/dist/this")).unwrap();
        self.machine.run("mkdir -p /root/target/dist");
        self.machine.copy(package(), &format!("/root/target/dist/{}", file.display()));
        self.apt(&documented("sudo apt install"));
    }

    #[track_caller]
    fn apt(&self, command: &str) {
        self.machine.run(&format!("cd /root; DEBIAN_FRONTEND=noninteractive {command} </dev/null"));
    }

    fn upgrade(&self) {
        self.machine.copy(next_package(), "/tmp/next.deb");
        self.apt("apt-get --yes install /tmp/next.deb");
    }

    /// Envoy in front of the application, with what the installed program prints for it.  It runs outside, where
    /// the machine's socket has another path.
    fn envoy(&self) -> Envoy {
        let command = documented("sudo envoy-auth-tokens envoy");
        let printed = self.machine.run(&format!(
            "{} --listen 127.0.0.1:0 --address unix:{}",
            command.replace("127.0.0.1:8080", &self.upstream.address().to_string()),
            self.machine.path(SOCKET).display(),
        ));
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        Envoy::configured(&format!("{admin}{}", persistent(&printed)))
    }

    /// Replaces the configuration as an editor does, who keeps owner and mode.
    fn configure(&self, text: &str) {
        self.machine.write("/tmp/config.yaml", text);
        self.machine.run(&format!("cat /tmp/config.yaml >{CONFIG}"));
    }

    /// What `systemctl edit` makes.
    fn drop_in(&self, name: &str, settings: &str) {
        let folder = "/etc/systemd/system/envoy-auth-tokens.service.d";
        self.machine.run(&format!("mkdir -p {folder}"));
        self.machine.write(&format!("{folder}/{name}.conf"), &format!("[Service]\n{settings}"));
        self.machine.run("systemctl daemon-reload");
    }

    /// A property of the service.
    fn property(&self, name: &str) -> String {
        let shown = self.machine.run(&format!("systemctl show --value --property {name} {SERVICE}"));
        shown.trim_end().to_owned()
    }

    /// Does something while clients go on asking, and holds that each of them passed.
    #[track_caller]
    fn unnoticed_by_clients(&self, envoy: &Envoy, token: &str, something: impl FnOnce()) {
        let stop = AtomicBool::new(false);
        let answers = std::thread::scope(|scope| {
            let clients = [(); 4].map(|()| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        answers.push(Request::new(envoy.address(), "GET", "/").bearer(token).send().status);
                    }
                    answers
                })
            });
            // Whatever happens to it, the clients come to an end.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(something));
            stop.store(true, Ordering::SeqCst);
            let answers = clients.map(|client| client.join().unwrap()).concat();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            answers
        });
        let others: Vec<_> = answers.iter().filter(|status| **status != 200).collect();
        assert!(
            others.is_empty(),
            "{} of {}: {others:?}\n{}",
            others.len(),
            answers.len(),
            self.machine.journal()
        );
        assert!(!answers.is_empty());
    }
}

fn status(envoy: &Envoy, token: &str) -> u16 {
    Request::new(envoy.address(), "GET", "/").bearer(token).send().status
}

/// What an administrator makes of the fresh configuration.
const ADMINISTERED: &str = "
ext_authz: {listen: \"unix:/run/envoy-auth-tokens/ext_authz.sock\"}
tokens: [{token: {$file: /etc/envoy-auth-tokens/alice}, actor: {id: alice}}]
keys: {store: \"sqlite:/var/lib/envoy-auth-tokens/keys.db\"}
admin: {listen: \"127.0.0.1:9192\"}
users: [{username: admin, password: {$env: ADMIN_PASSWORD}, actor: {id: admin, role: Admin}}]
";

impl Debian {
    /// Configures it, and issues a key.
    fn administered(&self) -> String {
        self.machine.write("/etc/envoy-auth-tokens/alice", ALICE);
        self.machine.run(&format!(
            "cd /etc/envoy-auth-tokens
            chgrp envoy-auth-tokens alice
            chmod 640 alice
            echo ADMIN_PASSWORD={PASSWORD} >>/etc/default/envoy-auth-tokens"
        ));
        self.configure(ADMINISTERED);
        self.machine.run("systemctl restart envoy-auth-tokens");
        let key = self.machine.run(&format!(
            "echo {PASSWORD} | envoy-auth-tokens keys create life --role Viewer --user admin --password-file -"
        ));
        key.trim_end().to_owned()
    }
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn a_package_is_installed_upgraded_removed_and_purged() {
    let debian = Debian::fresh();
    let machine = &debian.machine;
    machine.run("useradd --system envoy");
    let listing = || {
        machine.run(
            "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \\) -prune -o -print",
        )
    };
    let before = listing();

    // A fresh installation serves, and denies everybody.
    debian.install();
    assert_eq!(
        machine.run(&format!("systemctl is-active {SERVICE} envoy-auth-tokens.socket")),
        "active\nactive\n"
    );
    assert_eq!(
        machine.run(&format!("systemctl is-enabled {SERVICE} envoy-auth-tokens.socket")),
        "enabled\nenabled\n"
    );
    assert_eq!(
        machine.run(&format!(
            "stat --format '%A %U:%G %n' /etc/envoy-auth-tokens {CONFIG} {SOCKET} /var/lib/envoy-auth-tokens"
        )),
        format!(
            "drwxr-x--- root:envoy-auth-tokens /etc/envoy-auth-tokens
-rw-r----- root:envoy-auth-tokens {CONFIG}
srw-rw---- root:envoy-auth-tokens-clients {SOCKET}
drwx------ envoy-auth-tokens:envoy-auth-tokens /var/lib/envoy-auth-tokens
"
        )
    );
    let envoy = debian.envoy();
    assert_eq!(status(&envoy, ALICE), 401);
    assert_eq!(Request::new(envoy.address(), "GET", "/").send().status, 401);

    // Envoy's user may ask once it is in the group, and nobody else.
    let as_envoy = |command: &str| {
        machine.try_run(&format!("setpriv --reuid envoy --regid envoy --init-groups {command}"))
    };
    let ask = || as_envoy(&format!("envoy-auth-tokens health --address unix:{SOCKET}")).code();
    assert_eq!(ask(), Some(1));
    machine.run(&documented("sudo usermod"));
    assert_eq!(ask(), Some(0));
    let read = as_envoy(&format!("cat {CONFIG}"));
    assert!(read.stderr.contains("Permission denied"), "Envoy reads our configuration: {read:?}");

    let key = debian.administered();
    assert_eq!((status(&envoy, ALICE), status(&envoy, &key)), (200, 200));

    // An upgrade restarts the service, and no client notices.
    next_package();
    let process = debian.property("MainPID");
    debian.unnoticed_by_clients(&envoy, &key, || debian.upgrade());
    assert_ne!(debian.property("MainPID"), process);
    assert_eq!(machine.run("dpkg-query --show --showformat '${Version}' envoy-auth-tokens"), NEXT_VERSION);
    assert_eq!(machine.read(CONFIG), ADMINISTERED);
    assert_eq!((status(&envoy, ALICE), status(&envoy, &key)), (200, 200));

    // Removed, it answers nobody, and what was configured and issued is kept.
    debian.apt("apt-get --yes remove envoy-auth-tokens");
    assert_eq!(status(&envoy, ALICE), 503);
    let inactive = machine.try_run(&format!("systemctl is-active {SERVICE} envoy-auth-tokens.socket")).stdout;
    assert_eq!(inactive, "inactive\ninactive\n");
    assert_eq!(machine.run("ls /run | grep envoy || echo nothing"), "nothing\n");
    assert_eq!(machine.read(CONFIG), ADMINISTERED);
    debian.install();
    wait_until("the key after another installation", || status(&envoy, &key) == 200);

    // Purged, nothing is left but the users, and the file that the administrator made.
    debian.apt("apt-get --yes purge envoy-auth-tokens");
    assert_eq!(machine.run("ls /etc/envoy-auth-tokens"), "alice\n");
    machine.run("rm -r /etc/envoy-auth-tokens /root/target");
    let after = listing();
    let before: HashSet<_> = before.lines().collect();
    let of_ours = |path: &&str| {
        let kept_by_others =
            ["/var/log/", "/var/cache/", "/var/lib/apt/", "/var/lib/dpkg/", "/etc/.pwd.lock"];
        let old_users = ["/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-"];
        !kept_by_others.iter().any(|known| path.starts_with(known)) && !old_users.contains(path)
    };
    let left: Vec<_> = after.lines().filter(|path| !before.contains(path)).filter(of_ours).collect();
    assert!(left.is_empty(), "{left:#?}");
    assert!(!machine.read("/var/lib/dpkg/status").contains("Package: envoy-auth-tokens\n"));
    assert!(machine.read("/etc/passwd").contains("envoy-auth-tokens:"));
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn the_service_does_all_it_should_in_its_cage() {
    let debian = Debian::installed();
    let machine = &debian.machine;
    // Whatever the cage denies in silence is fatal here, so that nothing that we do is denied.
    debian.drop_in(
        "cage",
        "SystemCallErrorNumber=kill\nEnvironment=OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317\n",
    );
    let envoy = debian.envoy();
    let key = debian.administered();
    assert_eq!((status(&envoy, ALICE), status(&envoy, &key)), (200, 200));
    let by_password = || Request::new(envoy.address(), "GET", "/").basic("admin", PASSWORD).send().status;
    wait_until("the password", || by_password() == 200);

    // The cage is there.
    let process = debian.property("MainPID");
    let output = machine.read(&format!("/proc/{process}/status"));
    let has = |line: &str| output.lines().any(|found| found.split_whitespace().eq(line.split_whitespace()));
    for line in ["Seccomp: 2", "NoNewPrivs: 1", "CapPrm: 0000000000000000", "CapBnd: 0000000000000000"] {
        assert!(has(line), "no {line:?} in {output}");
    }
    let limits = machine.read(&format!("/proc/{process}/limits"));
    assert!(limits.lines().any(|line| line.starts_with("Max open files            8192 ")), "{limits}");
    let journal = machine.journal();
    assert!(!journal.contains("max_connections"), "a limit is too low: {journal}");

    // A file that changes is seen.
    machine.write("/etc/envoy-auth-tokens/alice", "alice-s-next-token-0123456789");
    wait_until("the next token", || status(&envoy, "alice-s-next-token-0123456789") == 200);
    assert_eq!(status(&envoy, ALICE), 401);
    machine.write("/etc/envoy-auth-tokens/alice", ALICE);
    wait_until("the first token", || status(&envoy, ALICE) == 200);

    // A mistake is told by `systemctl reload`, and changes nothing.
    debian.configure(&format!("{ADMINISTERED}nonsense: 1\n"));
    assert_ne!(machine.try_run("systemctl reload envoy-auth-tokens").code(), Some(0));
    wait_until("the mistake in the log", || machine.journal().contains("unknown key `nonsense`"));
    assert_eq!(status(&envoy, ALICE), 200);
    debian.configure(ADMINISTERED);
    let reload = || {
        let reloads = || machine.journal().matches("cause=\"SIGHUP\"").count();
        let before = reloads();
        machine.run("systemctl reload envoy-auth-tokens");
        wait_until("the reload", || reloads() > before);
    };
    reload();
    assert_eq!(debian.property("MainPID"), process, "a reload is no restart");

    // A credential that only root may read, as the unit shows it.
    let (_, shown) = UNIT.split_once("#   [Service]\n").unwrap();
    let lines = shown.lines().map_while(|line| line.strip_prefix("#   "));
    debian.drop_in("credential", &lines.fold(String::new(), |text, line| text + line + "\n"));
    machine.write("/root/bot-token", "carol-token-0123456789");
    machine.run("chmod 600 /root/bot-token");
    let (_, token) = shown.split_once("config.yaml: token: ").unwrap();
    let (token, _) = token.split_once('\n').unwrap();
    let carol = format!("tokens: [{{token: {token}, actor: {{id: carol}}}}, ");
    debian.configure(&ADMINISTERED.replace("tokens: [", &carol));
    machine.run("systemctl restart envoy-auth-tokens");
    assert_eq!(status(&envoy, "carol-token-0123456789"), 200);
    reload();

    // Restarts in a row, and no client notices.
    debian.unnoticed_by_clients(&envoy, ALICE, || {
        for _ in 0..3 {
            machine.run("systemctl restart envoy-auth-tokens");
        }
    });

    // What dies comes back, and so does what hangs.
    debian.drop_in("watchdog", "WatchdogSec=2s\n");
    machine.run("systemctl restart envoy-auth-tokens");
    for signal in ["KILL", "STOP"] {
        let process = debian.property("MainPID");
        machine.run(&format!("systemctl kill --kill-whom=main --signal={signal} {SERVICE}"));
        wait_until("another process", || {
            !["0", &process].contains(&&*debian.property("MainPID"))
                && debian.property("ActiveState") == "active"
        });
        wait_until("its answer", || status(&envoy, &key) == 200);
    }
    wait_until("the reason in the log", || machine.journal().contains("Watchdog timeout"));

    // Nothing of it was killed by the filter of system calls.
    let journal = machine.journal();
    assert!(!journal.contains("status=31/SYS"), "{journal}");
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn a_mistake_that_is_mended_needs_nobody_else() {
    let debian = Debian::installed();
    let machine = &debian.machine;
    // Another address than the socket's, so that the service cannot start.
    debian.configure(
        "ext_authz: {listen: 127.0.0.1:9191}\ntokens: [{token: alice-token-0123456789, actor: {id: a}}]\n",
    );
    assert_ne!(machine.try_run("systemctl restart envoy-auth-tokens").code(), Some(0));
    wait_until("more tries than systemd allows by default", || {
        debian.property("NRestarts").parse::<u32>().unwrap() > 5
    });
    let said = format!("the service manager listens on unix:{SOCKET}, and the configuration does not");
    assert!(machine.journal().contains(&said), "{}", machine.journal());
    // What the unit says to do about it.
    machine.run("systemctl disable --now envoy-auth-tokens.socket");
    wait_until("the service", || debian.property("ActiveState") == "active");
    machine.run("envoy-auth-tokens health --address 127.0.0.1:9191");
    // An upgrade does not bring the socket back.
    debian.upgrade();
    machine.run("envoy-auth-tokens health --address 127.0.0.1:9191");
    assert_eq!(machine.try_run("systemctl is-enabled envoy-auth-tokens.socket").stdout, "disabled\n");
}

/// How exposed systemd thinks that the service is, from 0 to 10.
fn exposure(machine: &Machine) -> f64 {
    let output = machine.run(&format!("systemd-analyze security --no-pager {SERVICE} | tail -n 1"));
    let (_, number) = output.split_once("service: ").unwrap_or_else(|| panic!("{output}"));
    number.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{output}"))
}

#[test]
#[ignore = "needs the static release build: make test-shipped"]
fn systemd_has_no_doubt_about_the_units() {
    let debian = Debian::installed();
    let machine = &debian.machine;
    let Ran { stdout, stderr, .. } = machine
        .try_run(&format!("systemd-analyze verify --man=no {SERVICE} envoy-auth-tokens.socket; echo $?"));
    assert_eq!((stdout.as_str(), stderr.as_str()), ("0\n", ""));
    let (_, documented) = UNIT.split_once("overall exposure level ").unwrap();
    let documented: f64 = documented.split(' ').next().unwrap().parse().unwrap();
    let found = exposure(machine);
    assert!(found <= documented, "{found} instead of {documented}");
}
