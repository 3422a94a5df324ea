//! Connections: listening sockets (TCP, Unix, abstract Unix), TLS, HTTP/1, HTTP/2, and the limits of each.

#[cfg(feature = "server")]
pub mod activation;
pub mod activity;
pub mod connection_limit;
#[cfg(feature = "server")]
pub mod header_block_limit;
pub mod http1;
#[cfg(feature = "server")]
pub mod http2;
pub mod log_throttle;
pub mod tls;
pub mod write_timeout;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::config::Listen;
use crate::folder::FolderProblem;

/// How long the listener pauses after an error such as too many open files, which a retry at once would repeat.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The mode of a Unix socket: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A bound socket.  Dropped, it removes the file of a Unix socket, unless another one has taken its place.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    file: Option<(PathBuf, FileIdentity)>,
}

/// Device and inode: which file it is, whatever its name.
type FileIdentity = (u64, u64);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A file at the path is not a socket.
    #[error(
        "cannot listen on {0}: the path is a file that is not a socket; remove it or choose another path"
    )]
    NotASocket(Listen),
    /// Another process listens there.
    #[error("cannot listen on {0}: another process is listening there; stop it or choose another address")]
    InUse(Listen),
    /// The socket's folder is missing, or the process may not write in it.
    #[error("cannot listen on {address}: {problem}")]
    Folder {
        /// The address.
        address: Listen,
        /// The problem with the folder.
        problem: FolderProblem,
    },
    /// The operating system does not allow it.
    #[error("cannot listen on {address}: {error}{}", advice(.address, .error))]
    Refused {
        /// The address.
        address: Listen,
        /// The error of the operating system.
        error: io::Error,
    },
}

/// A hint for an address that the operating system does not allow; empty if its error is clear.
fn advice(address: &Listen, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (Listen::Tcp(_), io::ErrorKind::PermissionDenied) => {
            "; a port below 1024 is for root, or for a process with CAP_NET_BIND_SERVICE: choose a higher one"
        }
        (Listen::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            "; this machine has no interface with that address: write one that it has, or 0.0.0.0 or [::] for all"
        }
        _ => "",
    }
}

impl Listener {
    /// Binds an address.  A stale Unix socket without a listener is replaced.
    ///
    /// # Errors
    /// [`BindError`] names the address and the problem.
    pub async fn bind(address: &Listen) -> Result<Self, BindError> {
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address.clone()),
            _ => BindError::Refused { address: address.clone(), error },
        };
        match address {
            Listen::Tcp(tcp) => {
                let socket = Socket::Tcp(TcpListener::bind(tcp).await.map_err(refused)?);
                Ok(Self { socket, file: None })
            }
            Listen::Unix(path) => {
                remove_stale_socket(address, path).await?;
                let socket = bind_file(path).map_err(|error| match FolderProblem::of_file(path) {
                    Some(problem) => BindError::Folder { address: address.clone(), problem },
                    None => refused(error),
                })?;
                let identity = identity_of(path).map_err(refused)?;
                Ok(Self { socket: Socket::Unix(socket), file: Some((path.clone(), identity)) })
            }
            Listen::Abstract(name) => {
                let socket = bind_abstract(name).map_err(refused)?;
                Ok(Self { socket: Socket::Unix(socket), file: None })
            }
        }
    }

    /// The address as bound: where the configured one has port 0, with the port that the operating system chose.
    pub fn address(&self, configured: &Listen) -> Listen {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map_or_else(|_| configured.clone(), Listen::Tcp),
            Socket::Unix(_) => configured.clone(),
        }
    }

    /// The next connection.  An error is logged, and the next connection is accepted.
    /// [`connection_limit::LimitedListener`] limits how many are open.
    pub async fn accept(&self) -> Stream {
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    // A response is one small write: Nagle's algorithm would only delay it.
                    let _ = stream.set_nodelay(true);
                    Stream::Tcp(stream)
                }),
                Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
            };
            match accepted {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some((path, identity)) = &self.file else {
            return;
        };
        // The next process may have bound the same path already: its socket stays.
        if identity_of(path).is_ok_and(|found| found == *identity) {
            // It may be gone by now, which is no error.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a stale socket without a listener, and nothing else.
async fn remove_stale_socket(address: &Listen, path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(address.clone()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| BindError::Refused { address: address.clone(), error })
        }
        // A process listens or may listen: its socket stays.
        Ok(_) | Err(_) => Err(BindError::InUse(address.clone())),
    }
}

/// Binds a socket file that never has more permissions than [`SOCKET_MODE`], not even for a moment: Linux gives the
/// file the mode of the unbound socket, reduced by the umask.
fn bind_file(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    let descriptor = std::fs::File::from(socket.as_fd().try_clone_to_owned()?);
    descriptor.set_permissions(std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.bind(path)?;
    // The umask may have removed the permissions of the group.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)
}

fn identity_of(path: &Path) -> io::Result<FileIdentity> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn bind_abstract(name: &str) -> io::Result<UnixListener> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Connects to an address that a listener was bound to.
///
/// # Errors
/// The error of the operating system.
pub async fn connect(address: &Listen) -> io::Result<Stream> {
    match address {
        Listen::Tcp(tcp) => TcpStream::connect(tcp).await.map(Stream::Tcp),
        Listen::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        Listen::Abstract(name) => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream).map(Stream::Unix)
        }
    }
}

/// A connection.
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// TLS over one of the others ([`tls`]).  Boxed, so that it does not make the others larger.
    Tls(Box<TlsStream<Stream>>),
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// An address.
    Ip(IpAddr),
    /// A process of this machine, over a Unix socket.
    Unix,
}

impl Stream {
    /// The other end; `None` when the client has disconnected already.
    pub fn peer(&self) -> Option<Peer> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| Peer::Ip(address.ip())),
            Self::Unix(_) => Some(Peer::Unix),
            Self::Tls(stream) => stream.get_ref().0.peer(),
        }
    }

    /// The client's address, for the log.
    pub fn client(&self) -> String {
        match self {
            Self::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string())
            }
            Self::Unix(_) => "unix".to_owned(),
            Self::Tls(stream) => stream.get_ref().0.client(),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp(_) => "Stream::Tcp",
            Self::Unix(_) => "Stream::Unix",
            Self::Tls(_) => "Stream::Tls",
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    /// A vectored write would make the HTTP/2 library flush after every answer of 256 bytes or more
    /// instead of gathering several: a system call each.
    fn is_write_vectored(&self) -> bool {
        false
    }
}
