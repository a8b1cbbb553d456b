//! A connection of either kind that kcptun takes and makes: TCP, or a Unix socket where an address is a path.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::options::{Address, to_listen_on};
use crate::failure::Failure;
use crate::proxy::bind_tcp;

/// A connection whose bytes a stream carries.
#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Connects to the target of a server.
    pub(super) async fn to(target: &Address) -> io::Result<Self> {
        match target {
            Address::Host(host) => TcpStream::connect(&**host).await.map(Self::Tcp),
            Address::Path(path) => UnixStream::connect(path).await.map(Self::Unix),
        }
    }

    /// Sends at once what is written.
    pub(super) fn set_nodelay(&self) {
        if let Self::Tcp(tcp) = self {
            let _ = tcp.set_nodelay(true);
        }
    }

    /// Has the end of the connection be a reset, where there is such a thing: nobody takes a part for the whole.
    pub(super) fn cut_off(&self) {
        if let Self::Tcp(tcp) = self {
            let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

/// Where a client takes connections.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    /// With the path, which goes when the listener does.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// [`Failure`]: the address is none of this machine's, or in use.
    pub(super) fn bind(name: &str, address: &Address) -> Result<Self, Failure> {
        match address {
            Address::Host(host) => {
                let listen = to_listen_on(name, host)?;
                bind_tcp(listen)
                    .map(Self::Tcp)
                    .map_err(|error| Failure::Runtime(format!("TCP {listen} cannot be listened on: {error}")))
            }
            Address::Path(path) => {
                bind_unix(path).map(|listener| Self::Unix(listener, path.clone())).map_err(|error| {
                    Failure::Runtime(format!("{} cannot be listened on: {error}", path.display()))
                })
            }
        }
    }

    /// The next connection, and who made it.
    pub(super) async fn accept(&self) -> io::Result<(Connection, String)> {
        match self {
            Self::Tcp(listener) => {
                let (tcp, from) = listener.accept().await?;
                Ok((Connection::Tcp(tcp), from.to_string()))
            }
            Self::Unix(listener, path) => {
                let (unix, _) = listener.accept().await?;
                Ok((Connection::Unix(unix), path.display().to_string()))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes the place of a socket that nobody listens on any more, as after a crash.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let bound = UnixListener::bind(path);
    let in_use = bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    if !in_use {
        return bound;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        _ => bound,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_unix_socket_carries_a_connection_takes_the_place_of_a_dead_one_and_goes_with_its_listener() {
        let path = std::env::temp_dir().join(format!("sm-kcptun-{}.sock", std::process::id()));
        let address = Address::Path(path.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // As a listener leaves it that was killed.
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let listener = Listener::bind("--localaddr", &address).unwrap();
            let mut ours = Connection::to(&address).await.unwrap();
            let (mut theirs, _) = listener.accept().await.unwrap();
            ours.write_all(b"hello").await.unwrap();
            let mut got = [0; 5];
            theirs.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"hello");
            assert!(Listener::bind("--localaddr", &address).is_err(), "it is in use");
            drop(listener);
        });
        assert!(!path.exists());
    }
}
