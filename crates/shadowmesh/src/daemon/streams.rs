//! Starting and stopping the thread of the streams.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use ipnet::IpNet;
use node::Node;
use stream::kcp::KcpConfig;
use stream::session::SessionConfig;
use stream::smux::{Role, SmuxConfig, WhenFull};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot::Sender;

use super::carriers::CarrierLink;
use super::handle::Input;
use crate::config::{Config, ConfigError, Peer, Proxies, Streams};
use crate::control::types::StreamsStatus;
use crate::failure::Failure;
use crate::proxy::{Settings, Stop, StopHandle};
use crate::streams::{CannotListen, Inbox, Setup, StreamQueries, StreamsThread};

/// What a stream may send before it is told more. So much is held for each client that reads nothing at all.
const FIRST_WINDOW: u32 = 64 << 10;
/// And the most later. A window must hold what is on its way when the rate model probes for more, or the model takes the window
/// for the application's pace.
const STREAM_WINDOW_MAX: u32 = 16 << 20;

/// How long nothing may come from a peer before its streams end.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same where the peer may be reached by another carrier meanwhile: finding it takes up to three seconds.
const PATIENCE_WITH_CARRIERS: Duration = Duration::from_secs(6);

/// The shortest prefixes, of IPv4 and IPv6, that an overlay or a site has.
const OVERLAY_PREFIX_MIN: (u8, u8) = (8, 16);

/// What the streams need from the configuration, taken before the node takes the rest.
pub(super) struct Plan {
    proxies: Proxies,
    streams: Streams,
    roles: Vec<Role>,
    names: Vec<String>,
    patience: Vec<Duration>,
    overlay: Vec<IpNet>,
    path: std::path::PathBuf,
    pub(super) inbox: Arc<Inbox>,
    stop: StopHandle,
    stopped: Stop,
    pub(super) queries: StreamQueries,
    asked: UnboundedReceiver<Sender<StreamsStatus>>,
}

impl Plan {
    /// The plan, if the configuration asks for any streams.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn of(config: &Config) -> io::Result<Option<Self>> {
        let proxies = config.proxies.clone();
        if proxies.is_empty() {
            return Ok(None);
        }
        let ours = config.secret.public_key();
        // Any rule will do on which both ends agree.
        let role = |theirs: &handshake::PublicKey| {
            if ours.as_bytes() < theirs.as_bytes() { Role::Client } else { Role::Server }
        };
        let roles = config.peers.iter().map(|peer| role(&peer.public_key)).collect();
        let names = config.peers.iter().map(|peer| peer.name.clone()).collect();
        let patience = |peer: &Peer| if peer.ways.len() > 1 { PATIENCE_WITH_CARRIERS } else { PATIENCE };
        let patience = config.peers.iter().map(patience).collect();
        let (queries, asked) = unbounded_channel();
        let overlay = overlay(config);
        let (stop, stopped) = StopHandle::new();
        let inbox = Arc::new(Inbox::new()?);
        let streams = config.streams;
        let path = config.path.clone();
        Ok(Some(Self {
            proxies,
            streams,
            roles,
            names,
            patience,
            overlay,
            path,
            inbox,
            stop,
            stopped,
            queries,
            asked,
        }))
    }

    /// The thread's work, and who is told whether it has started.
    ///
    /// # Errors
    /// When there are no descriptors or random numbers left.
    pub(super) fn thread(
        self,
        node: &Node,
        link: &CarrierLink,
        inputs: SyncSender<Input>,
    ) -> io::Result<(StreamsThread, Started, StopHandle)> {
        let mut seed = [0; 4];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let config = SessionConfig {
            kcp: KcpConfig {
                mode: self.streams.mode,
                congestion: self.streams.congestion,
                ..KcpConfig::default()
            },
            smux: SmuxConfig {
                // Both ends are ours, and share their memory among all streams.
                when_full: WhenFull::CutOff,
                // More could not be served, and each would cost memory before it is refused.
                streams_max: Settings::within(self.streams.memory_max).streams_max,
                stream_first_window: FIRST_WINDOW,
                stream_receive_bytes_max: STREAM_WINDOW_MAX,
                ..SmuxConfig::default()
            },
            fec: self.streams.fec,
            compress: false,
            any_datagram_is_life: true,
        };
        let setup = Setup {
            port: node.stream_port(),
            link: link.sender()?,
            roles: self.roles,
            names: self.names,
            patience: self.patience,
            config,
            memory_max: self.streams.memory_max,
            node: inputs,
            seed: u32::from_ne_bytes(seed),
        };
        let (started, answer) = mpsc::sync_channel(1);
        let thread = StreamsThread {
            setup,
            inbox: self.inbox,
            link: link.udp().try_clone()?,
            proxies: self.proxies,
            overlay: self.overlay,
            stop: self.stopped,
            asked: self.asked,
            started,
        };
        Ok((thread, Started { answer, path: self.path }, self.stop))
    }
}

/// All addresses of the overlay: those of this node, one by one, and the networks that it shares with its peers or that lie
/// behind them. Networks so large that they are the Internet behind a peer are none of the overlay's.
fn overlay(config: &Config) -> Vec<IpNet> {
    let on_tun = || config.tun.iter().flat_map(|tun| &tun.addresses);
    let own = on_tun().map(|net| IpNet::from(net.addr()));
    let behind_peers = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let is_overlay = |net: &&IpNet| match net {
        IpNet::V4(net) => net.prefix_len() >= OVERLAY_PREFIX_MIN.0,
        IpNet::V6(net) => net.prefix_len() >= OVERLAY_PREFIX_MIN.1,
    };
    own.chain(on_tun().chain(behind_peers).filter(is_overlay).map(IpNet::trunc)).collect()
}

/// Will know whether all listeners stand.
pub(super) struct Started {
    answer: mpsc::Receiver<Result<(), CannotListen>>,
    path: std::path::PathBuf,
}

impl Started {
    /// Waits until they do.
    ///
    /// # Errors
    /// Which of them do not, and why.
    pub(super) fn wait(self) -> Result<(), Failure> {
        match self.answer.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failed)) => {
                let message = format!("cannot listen on {}: {}", failed.address, failed.error);
                let error = ConfigError::new(&self.path, message).at(failed.place);
                Err(Failure::Runtime(
                    error.help("choose another address or port for this `listen`").to_string(),
                ))
            }
            // The thread has ended, and says why by itself.
            Err(mpsc::RecvError) => Err(Failure::Silent),
        }
    }
}
