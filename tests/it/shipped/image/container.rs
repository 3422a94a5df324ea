//! A container without an engine: the image's root, read-only, in namespaces of its own, as the image's user.
//!
//! buildah builds the image and lays out its root; the kernel does the rest, as it does for an engine: bind
//! mounts for what is mounted, a new process tree whose first process is ours, no new privileges.  There is
//! neither /dev nor /proc, which is less than a container has.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::server::{Ran, Server, run, signal};
use crate::harness::tools;
use crate::shipped::storage::Storage;

/// What the image is called, so that nobody's own is touched.
const NAME: &str = "localhost/envoy-auth-tokens-under-test:latest";

/// Where things are mounted that the image has no place for: an engine makes such places, too.
const FOLDERS: [&str; 2] = ["etc/envoy-auth-tokens", "run/secrets"];
const FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// The image as it was built, and a root made of it.
pub struct Image {
    pub root: PathBuf,
    /// Mode, owner and path of each file, by path.
    pub files: Vec<String>,
    /// What the image says about how it is run.
    pub config: Value,
    storage: Storage,
    folder: PathBuf,
}

impl Image {
    /// Built once for all tests.
    pub fn shared() -> &'static Self {
        static IMAGE: LazyLock<Image> = LazyLock::new(Image::build);
        &IMAGE
    }

    fn build() -> Self {
        super::super::binary();
        let folder = tools::root().join("target/image/storage");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        let storage = Storage::new(&folder);

        let mut build = Command::new("deploy/image.sh");
        build.current_dir(tools::root()).env("BUILDER", "buildah").env("IMAGE", NAME);
        storage.of(&mut build);
        let built = run(build, "");
        assert_eq!(built.code(), Some(0), "{}{}", built.stdout, built.stderr);

        let inspected = storage.buildah(&["inspect", "--type", "image", NAME]);
        let mut inspected: Value = serde_json::from_str(&inspected).unwrap();
        let root = storage.root_of(NAME);
        let mut find = Command::new("find");
        let listed = output(find.arg(&root).args(["-mindepth", "1", "-printf", "%P %M %U:%G\n"]));
        let mut files: Vec<_> =
            listed.lines().map(|line| line.split_once(' ').expect("path and mode")).collect();
        files.sort_unstable();
        let files = files.into_iter().map(|(path, mode)| format!("{mode} /{path}")).collect();
        for folder in FOLDERS {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in FILES {
            fs::write(root.join(file), "").unwrap();
        }
        Self { root, files, config: inspected["Docker"]["config"].take(), storage, folder }
    }

    /// What a registry would hold of it, in bytes.
    pub fn compressed(&self) -> u64 {
        let archive = self.folder.join("archive");
        let to = format!("dir:{}", archive.display());
        self.storage.buildah(&["push", "--compression-format", "gzip", NAME, &to]);
        let files = fs::read_dir(&archive).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        files.sum()
    }

    /// Runs a part of `deploy/release.sh` with the image, for a registry on loopback.
    pub fn release(&self, part: &str, registry: &str, output: &Path) -> Ran {
        let mut command = Command::new(tools::root().join("deploy/release.sh"));
        command.arg(part).env("BUILDER", "buildah").env("IMAGE", NAME);
        command.env("REGISTRY", registry).env("PLAIN_HTTP", "yes").env("OUTPUT", output);
        self.storage.of(&mut command);
        run(command, "")
    }

    /// Pushes one like it under this name, as a machine of this architecture would push its own.
    pub fn push(&self, name: &str, architecture: &str) {
        let of_another = format!("{NAME}-{architecture}");
        let container = self.storage.buildah(&["from", "--pull-never", NAME]);
        self.storage.buildah(&["config", "--arch", architecture, container.trim()]);
        self.storage.buildah(&["commit", "--rm", container.trim(), &of_another]);
        self.storage.buildah(&["push", "--tls-verify=false", &of_another, &format!("docker://{name}")]);
    }

    /// A container with this configuration.
    pub fn run(&'static self, config: &str) -> Run {
        let volumes = Volumes { folder: TempDir::new().unwrap() };
        for (name, owner) in [("etc", 0), ("secrets", 0), ("files", 0), ("sockets", 65532), ("data", 65532)] {
            volumes.make(name, owner);
        }
        Run { image: self, volumes, environment: Vec::new(), files: Vec::new(), network: false }
            .config(config)
    }

    fn words(&self, key: &str) -> Vec<String> {
        serde_json::from_value(self.config[key].clone()).unwrap()
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What outlives a container.
struct Volumes {
    folder: TempDir,
}

impl Volumes {
    /// A folder that this user owns; everybody may look into those of root, as an engine mounts them.
    fn make(&self, name: &str, owner: u32) {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A container that is about to start.
pub struct Run {
    image: &'static Image,
    volumes: Volumes,
    environment: Vec<(String, String)>,
    /// Mounted read-only: what, and where.
    files: Vec<(PathBuf, &'static str)>,
    network: bool,
}

/// Mounts what `$@` says up to `--`, and becomes what stands behind it.
const START: &str = r#"
root=$1; shift
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
    mount --bind "$2" "$root$3"
    [ "$1" = rw ] || mount -o remount,bind,ro "$root$3"
    shift 3
done
shift
mount -o remount,bind,ro "$root"
exec env -i "$@"
"#;

/// A new network has a loopback that is down.
const LOOPBACK_UP: &str = r#"
import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sh", b"lo", 0x41))
"#;

impl Run {
    fn config(self, text: &str) -> Self {
        fs::write(self.volumes.path("etc/config.yaml"), text).unwrap();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `/run/secrets/NAME`, for the image's user alone to read.
    pub fn secret(self, name: &str, text: &str) -> Self {
        let path = self.volumes.path("secrets").join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        chown(&path, Some(65532), Some(65532)).unwrap();
        self
    }

    /// A file in the place of one that the image has, or an engine makes.
    pub fn file(mut self, target: &'static str, text: &str) -> Self {
        let path = self.volumes.path("files").join(target.replace('/', "-"));
        fs::write(&path, text).unwrap();
        self.files.push((path, target));
        self
    }

    /// No other process is on its network, and its ports are its own.
    pub fn in_a_network_of_its_own(mut self) -> Self {
        self.network = true;
        self
    }

    /// The sockets and the data are those of a container that has ended.
    pub fn with_volumes_of(self, ended: Container) -> Self {
        for name in ["sockets", "data"] {
            fs::remove_dir(self.volumes.path(name)).unwrap();
            fs::rename(ended.volumes.path(name), self.volumes.path(name)).unwrap();
        }
        self
    }

    /// The image's entry point with these arguments, in its own root.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        if self.network {
            command.args(["--net", "--", "sh", "-euc"]);
            command.arg(format!("python3 -c '{LOOPBACK_UP}'\n{START}"));
        } else {
            command.args(["--", "sh", "-euc", START]);
        }
        let root = &self.image.root;
        command.arg("start").arg(root);
        let folders = [
            ("ro", "etc", "/etc/envoy-auth-tokens"),
            ("ro", "secrets", "/run/secrets"),
            ("rw", "sockets", "/run/envoy-auth-tokens"),
            ("rw", "data", "/var/lib/envoy-auth-tokens"),
        ];
        for (mode, name, target) in folders {
            command.arg(mode).arg(self.volumes.path(name)).arg(target);
        }
        for (path, target) in &self.files {
            command.arg("ro").arg(path).arg(target);
        }
        command.arg("--").args(self.image.words("Env"));
        command.args(self.environment.iter().map(|(name, value)| format!("{name}={value}")));
        let user = self.image.config["User"].as_str().unwrap();
        command.args(["setpriv", "--no-new-privs", "chroot", &format!("--userspec={user}"), "--groups="]);
        command.arg(root).args(self.image.words("Entrypoint")).args(arguments);
        command
    }

    /// `docker run IMAGE ARGUMENTS`, to its end.
    pub fn finish(self, arguments: &[&str]) -> Ran {
        run(self.command(arguments), "")
    }

    /// `docker run --detach IMAGE`: its own command, and a log that the tests can read.
    pub fn start(self) -> Container {
        let serve = self.image.words("Cmd");
        let serve: Vec<&str> = serve.iter().map(String::as_str).chain(["--log-format", "json"]).collect();
        let server = Server::by(self.command(&serve), TempDir::new().unwrap());
        Container { server, image: self.image, environment: self.environment, volumes: self.volumes }
    }
}

/// A running container; it dies with this value.
pub struct Container {
    pub server: Server,
    image: &'static Image,
    environment: Vec<(String, String)>,
    volumes: Volumes,
}

impl Container {
    /// The volume at `/run/envoy-auth-tokens`.
    pub fn sockets(&self) -> PathBuf {
        self.volumes.path("sockets")
    }

    /// The volume at `/var/lib/envoy-auth-tokens`.
    pub fn data(&self) -> PathBuf {
        self.volumes.path("data")
    }

    /// Its first process, as this machine numbers it.
    fn first_process(&self) -> u32 {
        let mut ps = Command::new("ps");
        let listed = output(ps.args(["-o", "pid=", "--ppid", &self.server.process().to_string()]));
        listed.trim().parse().unwrap_or_else(|_| panic!("one process, not {listed:?}"))
    }

    /// SIGTERM to its first process.
    pub fn terminate(&self) {
        signal("-TERM", self.first_process());
    }

    /// Holds that the process has what a hardened container leaves it, and no more.
    pub fn assert_confined(&self) {
        let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", self.first_process())).unwrap();
        let status = of("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} {status}")).split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(field("Uid:"), ["65532"; 4]);
        assert_eq!(field("Gid:"), ["65532"; 4]);
        assert!(field("Groups:").is_empty(), "{status}");
        assert_eq!(field("NSpid:").last(), Some(&"1"), "it is the first process");
        assert_eq!(
            (field("CapEff:"), field("CapPrm:")),
            (vec!["0000000000000000"], vec!["0000000000000000"])
        );
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        // As the process sees them: what is mounted where, and how.
        let mounts = of("mountinfo");
        let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
        let mode = |at: &str| {
            let mount = mounts.iter().rev().find(|mount| mount[4] == at);
            mount.unwrap_or_else(|| panic!("nothing is mounted at {at}: {mounts:?}"))[5].split(',').next()
        };
        assert_eq!((mode("/"), mode("/etc/envoy-auth-tokens")), (Some("ro"), Some("ro")));
        assert_eq!(mode("/var/lib/envoy-auth-tokens"), Some("rw"));
    }

    /// `docker exec`
    pub fn exec(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first_process().to_string()]);
        command
            .args(["--mount", "--net", "--pid", "--root", "--wd", "--setuid", "65532", "--setgid", "65532"]);
        command.arg("--").args(words);
        command.env_clear().envs(self.image.words("Env").iter().filter_map(|pair| pair.split_once('=')));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        run(command, "")
    }

    /// A program of this machine in the container's network.
    pub fn in_its_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first_process().to_string(), "--net", "--", program]);
        command
    }
}
