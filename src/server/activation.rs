//! Sockets that the service manager opened (socket activation: systemd.socket(5), sd_listen_fds(3)).
//!
//! They outlive the process: while it restarts, connections wait in them instead of being refused.
//! A socket belongs to the listener with its address, so that the order and the names of sockets do not matter.

use std::io;
use std::os::linux::net::SocketAddrExt;

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use super::{BindError, Listener, Socket};
use crate::config::Listen;

/// The inherited sockets that no listener has taken yet, with their addresses.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(Listen, Socket)>);

/// Why the inherited sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Neither TCP nor a Unix stream socket, or one that does not listen.
    #[error(
        "socket {number} of the service manager cannot be used: {error}; \
         each must be a ListenStream= of systemd.socket"
    )]
    Unusable {
        /// Which of them, counted from 1.
        number: usize,
        /// The problem.
        error: io::Error,
    },
    /// Its address is not in the configuration: a client that connects there would wait forever.
    #[error(
        "the service manager listens on {0}, and the configuration does not; \
         write the same address into `listen` and into ListenStream="
    )]
    Unwanted(Listen),
}

impl InheritedSockets {
    /// The sockets of the environment (`LISTEN_FDS`, `LISTEN_PID`); usually there are none.
    ///
    /// Called within a runtime, which the sockets become a part of.
    ///
    /// # Errors
    /// [`ActivationError::Unusable`].
    pub fn from_environment() -> Result<Self, ActivationError> {
        let mut descriptors = ListenFd::from_env();
        let sockets = (0..descriptors.len()).map(|index| {
            let unusable = |error| ActivationError::Unusable { number: index + 1, error };
            take(&mut descriptors, index).map_err(unusable)
        });
        sockets.collect::<Result<_, _>>().map(Self)
    }

    /// The listener for an address: the inherited one, or one that is bound now.
    ///
    /// # Errors
    /// [`BindError`]: none was inherited, and the address cannot be bound.
    pub async fn listener(&mut self, address: &Listen) -> Result<Listener, BindError> {
        match self.0.iter().position(|(inherited, _)| inherited == address) {
            Some(index) => {
                let (_, socket) = self.0.swap_remove(index);
                // A Unix socket's file is the service manager's, as is its mode.
                Ok(Listener { socket, file: None })
            }
            None => Listener::bind(address).await,
        }
    }

    /// Checks that every socket was taken.
    ///
    /// # Errors
    /// [`ActivationError::Unwanted`].
    pub fn finish(self) -> Result<(), ActivationError> {
        match self.0.into_iter().next() {
            Some((address, _)) => Err(ActivationError::Unwanted(address)),
            None => Ok(()),
        }
    }
}

fn take(descriptors: &mut ListenFd, index: usize) -> io::Result<(Listen, Socket)> {
    if let Ok(Some(tcp)) = descriptors.take_tcp_listener(index) {
        tcp.set_nonblocking(true)?;
        let address = Listen::Tcp(tcp.local_addr()?);
        return Ok((address, Socket::Tcp(TcpListener::from_std(tcp)?)));
    }
    let Some(unix) = descriptors.take_unix_listener(index)? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    unix.set_nonblocking(true)?;
    let address = unix.local_addr()?;
    let address = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => Listen::Unix(path.to_owned()),
        (None, Some(name)) => Listen::Abstract(String::from_utf8_lossy(name).into_owned()),
        (None, None) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no address")),
    };
    Ok((address, Socket::Unix(UnixListener::from_std(unix)?)))
}
