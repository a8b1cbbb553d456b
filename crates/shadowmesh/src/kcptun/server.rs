//! The server: a session for each client, a TCP connection for each stream.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use log::{debug, info, warn};
use stream::smux::StreamId;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connection::Connection;
use super::crypt::Cipher;
use super::driver::Driver;
use super::link::Link;
use super::options::{Address, ServerArgs, Settings, to_listen_on};
use super::pump::pump;
use super::{CONNECT_MAX, DRAIN_MAX, Stop, open_socket};
use crate::failure::Failure;

/// Runs until told to stop.
pub(super) async fn run(args: ServerArgs, settings: Settings, stop: Stop) -> Result<(), Failure> {
    let listen = to_listen_on("--listen", &args.listen)?;
    let socket = open_socket(listen, &settings)?;
    let cipher = Rc::new(Cipher::new(settings.cipher, &settings.key));
    let target = Rc::new(Address::parse("--target", &args.target)?);
    info!("listening on UDP {listen} for streams to {target}");
    let (quiet, on_target) = (settings.quiet, Rc::clone(&target));
    let on_opened = Box::new(move |link: &Rc<Link>, stream| {
        spawn_local(serve(Rc::clone(link), stream, Rc::clone(&on_target), quiet));
    });
    let driver = Driver::new(socket, cipher, settings.mtu, on_opened);
    let mut driver =
        driver.map_err(|error| super::runtime("cannot start", &error))?.accepting(settings.session, quiet);
    tokio::select! {
        () = driver.run() => {}
        () = stop.requested() => {}
    }
    driver.drain(DRAIN_MAX).await;
    info!("stopped");
    Ok(())
}

/// Carries one stream to the target.
async fn serve(link: Rc<Link>, stream: StreamId, target: Rc<Address>, quiet: bool) {
    let peer = link.peer;
    let connected = timeout(CONNECT_MAX, Connection::to(&target)).await;
    let tcp = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(tcp) => tcp,
        Err(error) => {
            warn!("{peer}: cannot connect to {target}: {error}");
            link.session().streams().reset(stream, Instant::now());
            link.mark_ready();
            return;
        }
    };
    if !quiet {
        info!("{peer}: stream {} opened to {target}", stream.get());
    }
    let outcome = pump(link, stream, tcp).await;
    if !quiet {
        info!("{peer}: stream {} closed", stream.get());
    }
    if let Err(error) = outcome {
        debug!("{peer}: stream {}: {error}", stream.get());
    }
}
