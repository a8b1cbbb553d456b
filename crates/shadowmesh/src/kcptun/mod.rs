//! `shadowmesh kcptun server|client`: TCP connections over KCP, as kcptun carries them.
//!
//! ```text
//!  TCP ──► client ── smux in (Snappy) in KCP in (FEC), encrypted, in UDP ──► server ──► TCP
//! ```
//!
//! kcptun's users can swap the binary in place, at either end or both: flags, JSON file, environment and every byte
//! on the wire are those of Debian's kcptun. What it does better needs no agreement: a connection that ends one way
//! goes on the other way when both ends are ours, losses are found earlier, trains leave in one system call.
//!
//! All of it runs in one thread: a `driver::Driver` for each UDP socket, a task (`pump`) for each stream.

mod client;
mod connection;
pub mod crypt;
mod driver;
mod link;
mod options;
mod pump;
mod server;
mod train;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use log::{LevelFilter, warn};
use os::poll::{Events, Interest, Poller};
use os::signal::{Signal, Signals};
use os::udp::{UdpConfig, UdpLink};
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::failure::{Failure, with_causes};
use crate::logging;
use options::Settings;
pub(crate) use options::{ClientArgs, ServerArgs, with_two_dashes};

/// How long the other ends may take to learn that their streams have ended.
const DRAIN_MAX: Duration = Duration::from_millis(700);
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Runs `kcptun server` until a signal ends it.
pub(crate) fn run_server(args: ServerArgs) -> Result<(), Failure> {
    let (args, settings) = args.resolve()?;
    start_log(&settings)?;
    run(|signals| server::run(args, settings, signals))
}

/// Runs `kcptun client` until a signal ends it.
pub(crate) fn run_client(args: ClientArgs) -> Result<(), Failure> {
    let (args, settings) = args.resolve()?;
    start_log(&settings)?;
    run(|signals| client::run(args, settings, signals))
}

/// Starts the log where the options want it, and says which of them do nothing.
fn start_log(settings: &Settings) -> Result<(), Failure> {
    match &settings.log {
        Some(path) => logging::start_in_file(LevelFilter::Info, path)
            .map_err(|error| Failure::Runtime(format!("--log: cannot write {}: {error}", path.display())))?,
        None => logging::start(LevelFilter::Info),
    }
    if !settings.without_effect.is_empty() {
        warn!("without effect in this program: {}", settings.without_effect.join(", "));
    }
    Ok(())
}

fn run<F: Future<Output = Result<(), Failure>>>(body: impl FnOnce(Stop) -> F) -> Result<(), Failure> {
    let failed = |what: &'static str| move |error: io::Error| runtime(what, &error);
    let stop = Stop::on_signals().map_err(failed("cannot watch signals"))?;
    if let Err(error) = os::files::raise_open_files() {
        log::debug!("cannot raise the limit of open files: {error}");
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("cannot start"))?;
    LocalSet::new().block_on(&runtime, async { body(stop).await })
}

/// A failure of the system.
fn runtime(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::Runtime(format!("{what}: {}", with_causes(error)))
}

/// Waits for the signal that ends the program.
struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Before any other thread is started, so that all of them have the signals blocked.
    fn on_signals() -> io::Result<Self> {
        let signals = Signals::block()?;
        let poller = Poller::new()?;
        poller.add(&signals, 0, Interest::READ)?;
        let (stop, stopped) = watch::channel(false);
        let watch = move || {
            let mut events = Events::with_capacity(1);
            while poller.wait(&mut events, None).is_ok() {
                while let Ok(Some(signal)) = signals.read() {
                    if matches!(signal, Signal::Interrupt | Signal::Terminate | Signal::Hangup) {
                        stop.send_replace(true);
                    }
                }
            }
        };
        thread::Builder::new().name("sm-signals".into()).spawn(watch)?;
        Ok(Self(stopped))
    }

    async fn requested(&self) {
        // An error means that the thread is gone, and so is the way to stop.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }
}

/// A UDP socket as the options want it.
fn open_socket(listen: SocketAddr, settings: &Settings) -> Result<UdpLink, Failure> {
    let config = UdpConfig {
        listen,
        workers: 1,
        send_buffer_bytes: settings.socket_buffer_bytes,
        receive_buffer_bytes: settings.socket_buffer_bytes,
        offload: true,
    };
    let failed = |error: &dyn std::error::Error| Failure::Runtime(with_causes(error));
    let link = os::udp::bind(&config).map_err(|error| failed(&error))?.remove(0);
    // kcptun lets datagrams that are too long for the path be fragmented.
    link.set_dont_fragment(false).map_err(|error| failed(&error))?;
    if settings.dscp > 0 {
        let socket = socket2::SockRef::from(&link);
        let traffic_class = settings.dscp << 2;
        let set = if is_v6(&socket) {
            // A socket of both families takes the traffic class from the one option for IPv6 and from the other one for IPv4;
            // one of IPv6 only may not have the latter.
            let _ = socket.set_tos_v4(traffic_class);
            socket.set_tclass_v6(traffic_class)
        } else {
            socket.set_tos_v4(traffic_class)
        };
        set.map_err(|error| runtime("cannot set --dscp", &error))?;
    }
    Ok(link)
}

fn is_v6(socket: &socket2::SockRef<'_>) -> bool {
    socket.local_addr().is_ok_and(|address| address.is_ipv6())
}

/// Any local address from which `remote` can be reached.
fn any_address_towards(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
