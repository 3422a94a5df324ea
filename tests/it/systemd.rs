//! What systemd does for a service, done by the test: sockets that outlive the process, and readiness.

use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};

use crate::harness::server::Setup;
use crate::harness::{MAX_WAIT, Server, grpc};

const CONFIG: &str = "tokens: [{token: alice-token-0123456789, actor: {id: alice}}]\n";

fn passes(server: &Server) -> bool {
    let request = grpc::request("GET", "h", "/", &[("authorization", "Bearer alice-token-0123456789")]);
    grpc::code(&grpc::check(server, request)) == 0
}

#[test]
fn an_inherited_tcp_socket_is_served_and_outlives_the_process() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let server = || {
        let setup = Server::with(CONFIG).listen(&address).arg("--drain=0s");
        setup.inherit(socket.try_clone().unwrap()).start()
    };
    let mut first = server();
    assert!(passes(&first));
    first.terminate();
    assert_eq!(first.wait().code(), Some(0));
    // Nobody serves: a connection is not denied, it waits.
    let waiting = std::net::TcpStream::connect(&address);
    assert!(waiting.is_ok(), "{waiting:?}");
    assert!(passes(&server()));
}

#[test]
fn an_inherited_unix_socket_is_served_and_its_file_left_alone() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("ext_authz.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let setup = Server::with(CONFIG).listen(format!("unix:{}", path.display())).arg("--drain=0s");
    let mut server = setup.inherit(socket).start();
    assert!(passes(&server));
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    assert!(path.exists());
}

#[test]
fn a_socket_that_no_section_listens_on_is_named() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let ran = Server::with(CONFIG).inherit(socket).start_in_vain();
    assert_eq!(ran.code(), Some(1));
    let expected = format!("the service manager listens on {address}, and the configuration does not");
    assert!(ran.stderr.contains(&expected), "{}", ran.stderr);

    let no_listener = std::fs::File::open("/dev/null").unwrap();
    let ran = Server::with(CONFIG).inherit(no_listener).start_in_vain();
    assert_eq!(ran.code(), Some(1));
    assert!(ran.stderr.contains("socket 1 of the service manager cannot be used"), "{}", ran.stderr);
}

/// What the service manager of a server hears.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(MAX_WAIT)).unwrap();
        Self { folder, socket }
    }

    fn of(&self, setup: Setup) -> Setup {
        setup.env("NOTIFY_SOCKET", self.folder.path().join("notify").to_str().unwrap())
    }

    /// The first message from now on that has this line.
    fn hears(&self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let received = self.socket.recv(&mut buffer);
            let length = received.unwrap_or_else(|error| panic!("waiting for {wanted}: {error}"));
            let message = std::str::from_utf8(&buffer[..length]).unwrap().to_owned();
            if message.lines().any(|line| line == wanted) {
                return message;
            }
        }
    }
}

#[test]
fn the_service_manager_hears_when_we_serve_when_we_live_and_when_we_leave() {
    let manager = Manager::new();
    let setup = Server::with(CONFIG).arg("--drain=0s").env("WATCHDOG_USEC", "200000");
    let mut server = manager.of(setup).start();
    assert!(manager.hears("READY=1").contains("STATUS=serving"));
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    server.terminate();
    assert!(manager.hears("STOPPING=1").contains("STATUS=draining"));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_service_manager_hears_that_we_answer_and_wait_for_the_key_store() {
    let manager = Manager::new();
    // Nobody listens there.
    let config = format!("{CONFIG}keys: {{store: 'postgres://keys:keys@127.0.0.1:1/keys'}}\n");
    let setup = Server::with(&config).arg("--drain=0s").env("WATCHDOG_USEC", "200000");
    let mut server = manager.of(setup).start_listening();
    assert!(manager.hears("READY=1").contains("STATUS=waiting for the key store"));
    manager.hears("WATCHDOG=1");
    assert!(passes(&server));
    server.terminate();
    assert!(manager.hears("STOPPING=1").contains("STATUS=draining"));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_service_manager_that_is_not_there_stops_nothing() {
    let server = Server::with(CONFIG).env("NOTIFY_SOCKET", "/no/such/socket").start();
    assert!(passes(&server));
    server.log().wait_for("a warning", |line| {
        line.contains("cannot send the state of the server to the service manager").then_some(())
    });
}
