//! The client: some connections to the server, a stream in one of them for each TCP connection.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use stream::session::Session;
use stream::smux::Role;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::sleep;

use super::connection::{Connection, Listener};
use super::crypt::Cipher;
use super::driver::Driver;
use super::link::Link;
use super::options::{Address, ClientArgs, Settings, host_and_port};
use super::pump::pump;
use super::{DRAIN_MAX, Stop, any_address_towards, open_socket};
use crate::failure::Failure;

/// How long to wait when no connection can be accepted for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How often expired connections are looked at.
const SCAVENGE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until told to stop.
pub(super) async fn run(args: ClientArgs, settings: Settings, stop: Stop) -> Result<(), Failure> {
    host_and_port("--remoteaddr", &args.remoteaddr)?;
    let listen = Address::parse("--localaddr", &args.localaddr)?;
    let listener = Listener::bind("--localaddr", &listen)?;
    let remote = &args.remoteaddr;
    info!("listening on {listen} for streams by way of UDP {remote}");
    let mut client = Client::new(&args, settings);
    let accept = async {
        let mut turn = 0;
        loop {
            match listener.accept().await {
                Ok((tcp, from)) => {
                    client.open(turn, tcp, from).await;
                    turn = (turn + 1) % client.connections.len();
                }
                Err(error) => {
                    warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop.requested() => {}
    }
    drop(listener);
    client.drain().await;
    info!("stopped");
    Ok(())
}

/// One place for a connection to the server.
#[derive(Debug, Default)]
struct Upstream {
    link: Option<Rc<Link>>,
    expires: Option<Instant>,
}

struct Client {
    remote: String,
    settings: Settings,
    cipher: Rc<Cipher>,
    connections: Vec<Upstream>,
    /// Zero: connections do not expire.
    lifetime: Duration,
    /// How long an expired connection may go on; `None` is as long as it has streams.
    grace: Option<Duration>,
    drivers: JoinSet<()>,
    /// Tells the drivers to end.
    stop: watch::Sender<bool>,
}

impl Client {
    fn new(args: &ClientArgs, settings: Settings) -> Self {
        Self {
            remote: args.remoteaddr.clone(),
            cipher: Rc::new(Cipher::new(settings.cipher, &settings.key)),
            settings,
            connections: (0..args.conn).map(|_| Upstream::default()).collect(),
            lifetime: Duration::from_secs(args.autoexpire),
            grace: u64::try_from(args.scavengettl).ok().map(Duration::from_secs),
            drivers: JoinSet::new(),
            stop: watch::channel(false).0,
        }
    }

    /// Opens a stream for a TCP connection.
    async fn open(&mut self, turn: usize, tcp: Connection, from: String) {
        let opened = match self.connection(turn).await {
            Ok(link) => {
                let opened = link.session().streams().open(Instant::now());
                opened.map(|stream| (link, stream)).map_err(io::Error::other)
            }
            Err(error) => Err(error),
        };
        let (link, stream) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                warn!("{from}: no stream by way of {}: {error}", self.remote);
                tcp.cut_off();
                return;
            }
        };
        link.mark_ready();
        let quiet = self.settings.quiet;
        spawn_local(async move {
            if !quiet {
                info!("{from}: stream {} opened", stream.get());
            }
            let outcome = pump(link, stream, tcp).await;
            if !quiet {
                info!("{from}: stream {} closed", stream.get());
            }
            if let Err(error) = outcome {
                debug!("{from}: stream {}: {error}", stream.get());
            }
        });
    }

    /// The connection in this place: the one there is, or a new one.
    async fn connection(&mut self, turn: usize) -> io::Result<Rc<Link>> {
        let now = Instant::now();
        let connection = &mut self.connections[turn];
        let expired = connection.expires.is_some_and(|at| at <= now);
        if let Some(link) = connection.link.as_ref().filter(|link| !link.is_closed() && !expired) {
            return Ok(Rc::clone(link));
        }
        if let Some(old) = connection.link.take().filter(|_| expired) {
            spawn_local(scavenge(old, self.grace.map(|grace| now + grace)));
        }
        let remote = lookup_host(&self.remote).await?.next().ok_or(io::ErrorKind::NotFound)?;
        let link = self.connect(remote)?;
        let expires = (!self.lifetime.is_zero()).then(|| now + self.lifetime);
        self.connections[turn] = Upstream { link: Some(Rc::clone(&link)), expires };
        Ok(link)
    }

    /// A new session, and the socket and the driver it needs.
    fn connect(&mut self, remote: SocketAddr) -> io::Result<Rc<Link>> {
        let failed = |failure: Failure| io::Error::other(failure.to_string());
        let socket = open_socket(any_address_towards(remote), &self.settings).map_err(failed)?;
        let mut conversation = [0; 4];
        getrandom::fill(&mut conversation).map_err(io::Error::other)?;
        let conversation = u32::from_le_bytes(conversation);
        // A server opens no streams; what tries all the same is refused.
        let refuse =
            Box::new(|link: &Rc<Link>, stream| link.session().streams().reset(stream, Instant::now()));
        let mut driver = Driver::new(socket, Rc::clone(&self.cipher), self.settings.mtu, refuse)?;
        let session = Session::new(Role::Client, conversation, self.settings.session.clone(), Instant::now());
        let link = driver.add(remote, session);
        let mut stop = self.stop.subscribe();
        while self.drivers.try_join_next().is_some() {}
        self.drivers.spawn_local(async move {
            tokio::select! {
                () = driver.run() => {}
                _ = stop.wait_for(|stop| *stop) => driver.drain(DRAIN_MAX).await,
            }
        });
        if !self.settings.quiet {
            info!("connection {conversation:08x} to {remote}");
        }
        Ok(link)
    }

    async fn drain(mut self) {
        self.stop.send_replace(true);
        while self.drivers.join_next().await.is_some() {}
    }
}

/// Closes an expired connection when its last stream has ended, or when it has had its time.
async fn scavenge(link: Rc<Link>, until: Option<Instant>) {
    let in_use = || !link.is_closed() && link.session().streams().streams() > 0;
    while in_use() && until.is_none_or(|until| Instant::now() < until) {
        sleep(SCAVENGE_INTERVAL).await;
    }
    link.session().streams().cut_off_all_behind(Instant::now());
    link.mark_ready();
    let until = Instant::now() + DRAIN_MAX;
    while !link.is_closed() && !link.peek_session().is_flushed() && Instant::now() < until {
        sleep(DRAIN_MAX / 10).await;
    }
    link.close();
}
