//! `forward` beside a `proxy` that runs with the same key: its ports are served through that one's session.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::config::Forward;
use crate::daemon::Holder;
use crate::failure::Failure;
use crate::proxy::Target;

/// Connections at once, of all forwards together.
const CONNECTIONS_MAX: usize = 1_024;
/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the forwards through the holder's SOCKS5 proxy until the holder has ended.
pub(super) fn run(holder: Arc<Holder>, socks5: SocketAddr, forwards: &[Forward]) -> Result<(), Failure> {
    let failed = |what: &str, error: &io::Error| Failure::Runtime(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("cannot start", &error))?;
    runtime.block_on(async {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        for Forward { listen, target, .. } in forwards {
            let listener = TcpListener::bind(listen).await;
            let listener = listener.map_err(|error| failed(&format!("cannot listen on {listen}"), &error))?;
            info!("forwarding {listen} to {target}, through {holder}, which uses the same key");
            tokio::spawn(accept(listener, target.clone(), socks5, Arc::clone(&permits)));
        }
        let (ended, end) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = ended.send(holder.wait_for_end());
        });
        match end.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed("cannot wait for the other program", &error)),
            Err(_) => Err(Failure::Runtime("cannot wait for the other program".into())),
        }
    })
}

async fn accept(listener: TcpListener, target: Target, socks5: SocketAddr, permits: Arc<Semaphore>) {
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((client, _)) => {
                let target = target.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(client, &target, socks5).await {
                        debug!("{target}: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(mut client: TcpStream, target: &Target, socks5: SocketAddr) -> io::Result<()> {
    let mut proxy = TcpStream::connect(socks5).await?;
    connect(&mut proxy, &target.to_string()).await?;
    let copied = copy_bidirectional(&mut client, &mut proxy).await;
    if copied.is_err() {
        // There is no other way to tell a client that this is not a server's orderly end.
        let _ = client.set_zero_linger();
    }
    copied.map(drop)
}

/// Asks for a connection as RFC 1928 has it.
async fn connect(proxy: &mut TcpStream, target: &str) -> io::Result<()> {
    let refused = |what: &str| io::Error::other(what.to_owned());
    let (host, port) = target.rsplit_once(':').ok_or_else(|| refused("no port"))?;
    let port: u16 = port.parse().map_err(|_| refused("no port"))?;
    // §3: version 5, one method, no authentication.
    proxy.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    proxy.read_exact(&mut chosen).await?;
    if chosen != [5, 0] {
        return Err(refused("the proxy wants a password"));
    }
    // §4: CONNECT; §5: an address as text is taken as a name.
    let host = host.trim_matches(['[', ']']);
    let len = u8::try_from(host.len()).map_err(|_| refused("the host name is too long"))?;
    let request = [&[5, 1, 0, 3, len], host.as_bytes(), &port.to_be_bytes()].concat();
    proxy.write_all(&request).await?;
    // §6: the reply, with the address it was bound to.
    let mut head = [0; 4];
    proxy.read_exact(&mut head).await?;
    if head[1] != 0 {
        return Err(refused(&format!("the proxy refused: reply {}", head[1])));
    }
    let len = match head[3] {
        1 => 4,
        4 => 16,
        _ => proxy.read_u8().await?.into(),
    };
    let mut bound = [0; 257];
    proxy.read_exact(&mut bound[..len + 2]).await.map(drop)
}
