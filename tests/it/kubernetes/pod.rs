//! What a kubelet makes of a Pod, as far as processes can have it without a cluster: the folders of its volumes, an
//! environment, a user and a command for each container, and probes that are asked.
//!
//! What differs from a real Pod: volumes are in a temporary folder, and every path into one is written anew, in
//! arguments and in files; the listeners that a test names get free ports of this machine; the root folder is this
//! machine's, and nothing filters system calls.  Where the test is not root's, all containers run as its user.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;
use tempfile::TempDir;

use super::manifests::{Manifests, containers};
use crate::harness::log::Log;
use crate::harness::server::{BINARY, signal};
use crate::harness::{MAX_WAIT, Request, tools};

/// A Pod of a Deployment, whose volumes are laid out.
pub struct Pod {
    spec: Value,
    folder: TempDir,
    /// How often volumes were written.
    generation: Cell<u32>,
    /// What the test writes instead of what the files say.
    instead: Vec<(String, String)>,
    /// Where a container port is on this machine.
    ports: RefCell<BTreeMap<u64, SocketAddr>>,
}

impl Pod {
    /// The Pod of this Deployment, with the ConfigMaps and Secrets among these objects.
    pub fn new(objects: &Manifests, deployment: &str, instead: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a fresh folder");
        // Other users' processes find their way through it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let spec = objects.get("Deployment", deployment)["spec"]["template"]["spec"].clone();
        let instead = instead.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let pod = Self { spec, folder, generation: Cell::new(0), instead, ports: RefCell::default() };
        for volume in pod.volumes() {
            std::fs::create_dir(pod.volume(volume["name"].as_str().unwrap())).unwrap();
        }
        pod.publish(objects);
        pod
    }

    /// Brings ConfigMaps and Secrets as they are now, as a kubelet does: whole, by the swap of a link.
    pub fn publish(&self, objects: &Manifests) {
        self.generation.set(self.generation.get() + 1);
        for volume in self.volumes() {
            let home = self.volume(volume["name"].as_str().unwrap());
            if volume["emptyDir"].is_object() {
                self.share(&home, 0o777);
                continue;
            }
            let data = home.join(format!("..{}", self.generation.get()));
            let mode = ["projected", "configMap", "secret"]
                .iter()
                .find_map(|kind| volume[*kind]["defaultMode"].as_u64());
            let mode = u32::try_from(mode.unwrap_or(0o644)).unwrap();
            let files = contents(volume, objects);
            for (path, content) in &files {
                let file = data.join(path);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                let content = String::from_utf8(content.clone()).expect("text");
                std::fs::write(&file, self.here(&content)).unwrap();
                self.share(&file, mode);
            }
            let swapped = home.join("..data_tmp");
            symlink(data.file_name().unwrap(), &swapped).unwrap();
            std::fs::rename(swapped, home.join("..data")).unwrap();
            for path in files.keys() {
                let top = Path::new(path).iter().next().unwrap();
                if std::fs::symlink_metadata(home.join(top)).is_err() {
                    symlink(Path::new("..data").join(top), home.join(top)).unwrap();
                }
            }
        }
    }

    /// Starts a container as its user.
    pub fn start(&self, container: &str, objects: &Manifests, more: &[&str]) -> Running {
        let (program, image) = match container {
            "envoy" => (tools::envoy(), "envoyproxy/envoy:"),
            _ => (Path::new(BINARY), "envoy-auth-tokens:"),
        };
        let spec = self.container(container);
        assert!(spec["image"].as_str().unwrap().contains(image), "{spec}");
        assert!(spec["command"].is_null(), "the image's own entrypoint: {spec}");
        let mut command = self.command(container, program);
        command.args(texts(&spec["args"]).map(|argument| self.here(argument))).args(more);
        command.envs(self.environment(spec, objects));
        if container != "envoy" {
            // Where it looks by default is somewhere else here.
            command.env("ENVOY_AUTH_TOKENS_CONFIG", self.path("/etc/envoy-auth-tokens/config.yaml"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a container's process");
        let log = Log::of("a container", &mut child);
        Running { child, log }
    }

    /// A program with nothing but what the container's securityContext leaves it.
    pub fn command(&self, container: &str, program: &Path) -> Command {
        let pod = &self.spec["securityContext"];
        let own = &self.container(container)["securityContext"];
        let id = |member: &str| own[member].as_u64().or(pod[member].as_u64()).expect("a number");
        self.command_as(id("runAsUser"), id("runAsGroup"), program)
    }

    /// A program as this user, in this group and the Pod's own.
    pub fn command_as(&self, user: u64, group: u64, program: &Path) -> Command {
        let program = self.installed(program);
        if !is_root() {
            let mut command = Command::new(program);
            command.env_clear();
            return command;
        }
        let mut command = Command::new("setpriv");
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).current_dir("/");
        command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
        match self.spec["securityContext"]["fsGroup"].as_u64() {
            Some(group) => command.arg(format!("--groups={group}")),
            None => command.arg("--clear-groups"),
        };
        command.args(["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]).arg(program);
        command
    }

    /// Asks a probe, once.
    pub fn probe(&self, container: &str, probe: &str) -> bool {
        let spec = &self.container(container)[probe];
        if let Some(get) = spec["httpGet"].as_object() {
            assert!(get.get("scheme").is_none() && get.get("host").is_none(), "{spec}");
            let request = Request::new(self.port(&get["port"]), "GET", get["path"].as_str().unwrap());
            return request
                .header("connection", "close")
                .try_send()
                .is_some_and(|answer| answer.status == 200);
        }
        if spec["tcpSocket"].is_object() {
            return TcpStream::connect(self.port(&spec["tcpSocket"]["port"])).is_ok();
        }
        let mut words = texts(&spec["exec"]["command"]);
        assert_eq!(words.next(), Some("/usr/bin/envoy-auth-tokens"), "where the image has it: {spec}");
        let mut command = self.command(container, Path::new(BINARY));
        command.args(words.map(|word| self.here(word)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("the probe's command").success()
    }

    /// Waits for a probe of a running container as a kubelet does.
    #[track_caller]
    pub fn wait_for(&self, container: &str, probe: &str, running: &Running) {
        let deadline = Instant::now() + MAX_WAIT;
        while !self.probe(container, probe) {
            let log = running.log.text();
            assert!(Instant::now() < deadline, "the {probe} of {container}: in vain; its log:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// This port of a container is there.
    pub fn lead(&self, port: u64, to: SocketAddr) {
        self.ports.borrow_mut().insert(port, to);
    }

    fn port(&self, port: &Value) -> SocketAddr {
        let ports = self.ports.borrow();
        *ports.get(&port.as_u64().expect("a number")).unwrap_or_else(|| panic!("nobody listens on {port}"))
    }

    /// Where a container's path is on this machine.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(self.here(path))
    }

    /// A text for processes that have the volumes in this folder.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for container in containers(&self.spec) {
            for mount in container["volumeMounts"].as_array().unwrap_or(&Vec::new()) {
                assert!(mount["subPath"].is_null(), "it would never be updated: {mount}");
                let volume = self.volume(mount["name"].as_str().unwrap());
                let path = mount["mountPath"].as_str().unwrap();
                text = text.replace(&format!("{path}/"), &format!("{}/", volume.display()));
            }
        }
        self.instead.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }

    /// What a container finds in its environment.
    pub fn environment(&self, container: &Value, objects: &Manifests) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for source in container["envFrom"].as_array().unwrap_or(&Vec::new()) {
            found.extend(values("Secret", &source["secretRef"], objects));
        }
        for variable in container["env"].as_array().unwrap_or(&Vec::new()) {
            let name = variable["name"].as_str().unwrap();
            if let Some(value) = variable["value"].as_str() {
                found.insert(name.to_owned(), value.as_bytes().to_vec());
                continue;
            }
            let reference = &variable["valueFrom"]["secretKeyRef"];
            let key = reference["key"].as_str().unwrap();
            let value = values("Secret", reference, objects).remove(key);
            let value = value.unwrap_or_else(|| panic!("the Pod waits for the key {key}: {variable}"));
            found.insert(name.to_owned(), value);
        }
        found
            .into_iter()
            .map(|(name, value)| (name, self.here(&String::from_utf8(value).expect("text"))))
            .collect()
    }

    fn container(&self, name: &str) -> &Value {
        let found = containers(&self.spec).into_iter().find(|container| container["name"] == name);
        found.unwrap_or_else(|| panic!("no container {name}"))
    }

    fn volumes(&self) -> &[Value] {
        self.spec["volumes"].as_array().expect("a list")
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives a file or folder its mode, and the Pod's group where it has one.
    fn share(&self, path: &Path, mode: u32) {
        let group = self.spec["securityContext"]["fsGroup"].as_u64().filter(|_| is_root());
        let group = group.map(|group| u32::try_from(group).unwrap());
        std::os::unix::fs::chown(path, None, group).unwrap();
        // In a folder what is made belongs to its group.
        let inherited = if group.is_some() && path.is_dir() { 0o2000 } else { 0 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | inherited)).unwrap();
    }

    /// A program where every user finds it: the project's own folder may be closed to others.
    fn installed(&self, program: &Path) -> PathBuf {
        let path = self.folder.path().join(program.file_name().unwrap());
        if !path.exists() {
            // By another process: a file that this one has open for writing could not be started.
            let copied = Command::new("cp").arg(program).arg(&path).status();
            assert!(copied.expect("cp").success(), "{} is not to be copied", program.display());
        }
        path
    }
}

/// A container's process; it dies with this value.
pub struct Running {
    child: Child,
    pub log: Log,
}

impl Running {
    /// Ends it as a kubelet does.
    pub fn terminate(&mut self) -> ExitStatus {
        signal("-TERM", self.child.id());
        self.log.wait_for_the_end();
        self.child.wait().unwrap()
    }

    pub fn terminate_soon(&self) {
        signal("-TERM", self.child.id());
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.log.wait_for_the_end();
        self.child.wait().unwrap()
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The address of one of our listeners, as our log tells it.
    pub fn listening(&self, listener: &str) -> SocketAddr {
        self.log.wait_for(&format!("saying where {listener} listens"), |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let this = line["message"] == "listening" && line["listener"] == listener;
            this.then(|| line["address"].as_str().unwrap().parse().unwrap())
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().expect("a list").iter().map(|word| word.as_str().expect("a text"))
}

/// The files of a volume.
fn contents(volume: &Value, objects: &Manifests) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let own = std::slice::from_ref(volume);
    for source in volume["projected"]["sources"].as_array().map_or(own, Vec::as_slice) {
        for (member, kind) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
            if source[member].is_object() {
                files.extend(values(kind, &source[member], objects));
            }
        }
    }
    files
}

/// What a reference to a ConfigMap or Secret finds there, under the names that it gives.
fn values(kind: &str, reference: &Value, objects: &Manifests) -> BTreeMap<String, Vec<u8>> {
    let name = reference["name"].as_str().or(reference["secretName"].as_str()).expect("a name");
    let Some(object) = objects.find(kind, name) else {
        assert_eq!(reference["optional"], true, "the Pod waits for the {kind} {name}");
        return BTreeMap::new();
    };
    let decode = |text: &str| match kind {
        "Secret" => base64::engine::general_purpose::STANDARD.decode(text).expect("base64"),
        _ => text.as_bytes().to_vec(),
    };
    let data = object["data"].as_object().into_iter().flatten();
    let mut data: BTreeMap<_, _> =
        data.map(|(key, text)| (key.clone(), decode(text.as_str().unwrap()))).collect();
    let Some(items) = reference["items"].as_array() else {
        return data;
    };
    let pick = |item: &Value| {
        let key = item["key"].as_str().unwrap();
        let value =
            data.remove(key).unwrap_or_else(|| panic!("the Pod waits for the key {key} of {kind} {name}"));
        (item["path"].as_str().unwrap().to_owned(), value)
    };
    items.iter().map(pick).collect()
}
