//! The side of the targets: what a peer asks for on a stream that it has opened.
//!
//! ```text
//!  stream ──► request ──► rules ──► name look-up ──► rules, for every address ──► connect ──► answer ──► pump
//! ```
//!
//! A name is looked up here, once, and only the addresses that were checked are connected to: a name server that
//! answers differently the next time (DNS rebinding) gains nothing.

mod dial;
mod listen;
mod names;
mod udp;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use ipnet::IpNet;
use log::debug;
use node::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::acl::{Acl, Rule};
use super::pump::pump;
use super::request::{ACCEPTED, ListenerId, Refusal, Request, Transport};
use super::shared::{Account, Shared, StreamSlot};
use super::stop::{Stop, StopHandle};
use super::target::Target;

use names::Names;

pub use listen::RemoteForward;

/// What `[exit]` says.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Which targets to open in spite of the defaults.
    pub allow: Vec<Rule>,
    /// Which targets to close.
    pub deny: Vec<Rule>,
    /// Where peers may have us listen.
    pub listen: Vec<Rule>,
}

/// What one peer may, or all that have no rules of their own.
#[derive(Debug)]
struct PeerRules {
    acl: Acl,
    listen: Vec<Rule>,
}

/// Serves the streams that peers open.
#[derive(Debug)]
pub struct Exit {
    shared: Rc<Shared>,
    /// Without, every request to connect, send or listen is refused.
    rules: Option<PeerRules>,
    /// For these peers instead.
    rules_of: HashMap<PeerId, Option<PeerRules>>,
    /// What each peer holds here: at most one for each that has ever opened a stream.
    accounts: RefCell<HashMap<PeerId, Rc<Account>>>,
    /// For what this node itself asks of peers.
    own_account: Rc<Account>,
    names: Rc<Names>,
    /// What peers listen for on our behalf, and where what comes to them is to go.
    remote: RefCell<HashMap<(PeerId, ListenerId), (Transport, Target)>>,
    /// What we listen for on behalf of peers.
    listeners: RefCell<HashMap<(PeerId, Transport, SocketAddr), Rc<StopHandle>>>,
}

impl Exit {
    /// With `rules`, an exit for all peers; without, only for what comes back from remote forwards. `overlay` are the addresses
    /// of the overlay, this node's and all others', to which no peer is carried unless a rule allows it.
    pub fn new(shared: &Rc<Shared>, rules: Option<Rules>, overlay: &[IpNet]) -> Rc<Self> {
        Self::with_rules_of_peers(shared, rules, Vec::new(), overlay)
    }

    /// As [`new`](Self::new), with other rules, or none, in place of `rules` for some peers.
    pub fn with_rules_of_peers(
        shared: &Rc<Shared>,
        rules: Option<Rules>,
        rules_of: Vec<(PeerId, Option<Rules>)>,
        overlay: &[IpNet],
    ) -> Rc<Self> {
        let compiled = |rules: Option<Rules>| {
            rules.map(|rules| PeerRules {
                acl: Acl::new(rules.allow, rules.deny, overlay),
                listen: rules.listen,
            })
        };
        Rc::new(Self {
            shared: Rc::clone(shared),
            rules: compiled(rules),
            rules_of: rules_of.into_iter().map(|(peer, rules)| (peer, compiled(rules))).collect(),
            accounts: RefCell::default(),
            own_account: Account::of_this_host(shared),
            names: Rc::new(Names::new()),
            remote: RefCell::default(),
            listeners: RefCell::default(),
        })
    }

    /// Serves one stream that `peer` has opened, until it ends or `stop`. `open` opens streams to the same peer, for what
    /// comes to a listener.
    pub async fn serve<S, O>(self: Rc<Self>, peer: PeerId, mut stream: S, open: O, stop: Stop)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        O: AsyncFn() -> io::Result<S> + 'static,
    {
        let served = tokio::select! {
            biased;
            () = stop.requested() => return,
            request = self.request(peer, &mut stream) => match request {
                Ok((slot, request, early)) => self.fulfil(slot, request, peer, &mut stream, early, open, &stop).await,
                Err(failure) => Err(failure),
            },
        };
        match served {
            Ok(()) => {}
            Err(Failure::Refused(refusal)) => {
                debug!("refused peer {}: {refusal}", peer.0);
                // The peer may be gone by now.
                let code = [refusal.code()];
                let told = timeout(self.shared.settings.request_timeout, stream.write_all(&code));
                if matches!(told.await, Ok(Ok(()))) {
                    let _ = stream.shutdown().await;
                }
            }
            Err(Failure::Gone(error)) => debug!("stream of peer {}: {error}", peer.0),
        }
    }

    async fn request<S: AsyncRead + Unpin>(
        &self,
        peer: PeerId,
        stream: &mut S,
    ) -> Result<(StreamSlot, Request, Vec<u8>), Failure> {
        self.shared.counters.exit_requests.increment();
        let slot = self.account(peer).stream_slot().ok_or_else(|| {
            self.shared.counters.refused_limit.increment();
            Failure::Refused(Refusal::TooMany)
        })?;
        let read = async {
            let mut bytes = Vec::with_capacity(Request::LEN_MAX);
            loop {
                match Request::decode(&bytes) {
                    Ok(Some((request, len))) => {
                        bytes.drain(..len);
                        return Ok((request, bytes));
                    }
                    Ok(None) if stream.read_buf(&mut bytes).await? == 0 => {
                        return Err(Failure::Gone(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        debug!("{error}");
                        self.shared.counters.refused_protocol.increment();
                        return Err(Failure::Refused(Refusal::NotUnderstood));
                    }
                }
            }
        };
        let read = timeout(self.shared.settings.request_timeout, read).await;
        let (request, early) = read.map_err(|_| Failure::Gone(io::ErrorKind::TimedOut.into()))??;
        Ok((slot, request, early))
    }

    #[expect(clippy::too_many_arguments, reason = "one call, of what a stream is and what surrounds it")]
    async fn fulfil<S, O>(
        &self,
        _slot: StreamSlot,
        request: Request,
        peer: PeerId,
        stream: &mut S,
        early: Vec<u8>,
        open: O,
        stop: &Stop,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        O: AsyncFn() -> io::Result<S> + 'static,
    {
        match request {
            Request::Connect(target) => {
                let acl = &self.rules(peer)?.acl;
                self.connect(peer, &target, Some(acl), stream, early, stop).await
            }
            Request::Datagrams => {
                let acl = &self.rules(peer)?.acl;
                stream.write_all(&[ACCEPTED]).await?;
                let destination = udp::Destination::AsFramed(acl);
                udp::relay(&self.account(peer), peer, &self.names, &destination, stream, early, stop).await
            }
            Request::Listen { listener, transport, address } => {
                let rules = &self.rules(peer)?.listen;
                if !super::acl::may_listen(rules, address) {
                    self.shared.counters.exit_denied.increment();
                    return Err(Failure::Refused(Refusal::NotAllowed));
                }
                self.listen(peer, listener, transport, address, stream, open, stop).await
            }
            Request::Incoming(listener) => {
                let known = self.remote.borrow().get(&(peer, listener)).cloned();
                match known.ok_or(Failure::Refused(Refusal::NotAllowed))? {
                    (Transport::Tcp, target) => self.connect(peer, &target, None, stream, early, stop).await,
                    (Transport::Udp, target) => {
                        stream.write_all(&[ACCEPTED]).await?;
                        let destination = udp::Destination::Fixed(&target);
                        udp::relay(&self.account(peer), peer, &self.names, &destination, stream, early, stop)
                            .await
                    }
                }
            }
        }
    }

    fn account(&self, peer: PeerId) -> Rc<Account> {
        let mut accounts = self.accounts.borrow_mut();
        Rc::clone(accounts.entry(peer).or_insert_with(|| Account::of_a_peer(&self.shared)))
    }

    fn rules(&self, peer: PeerId) -> Result<&PeerRules, Failure> {
        self.rules_of.get(&peer).unwrap_or(&self.rules).as_ref().ok_or_else(|| {
            self.shared.counters.exit_denied.increment();
            Failure::Refused(Refusal::NotAllowed)
        })
    }

    /// Connects to `target`, if `acl` lets it, and carries bytes.
    async fn connect<S>(
        &self,
        peer: PeerId,
        target: &Target,
        acl: Option<&Acl>,
        stream: &mut S,
        early: Vec<u8>,
        stop: &Stop,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let dialled = tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            dialled = timeout(self.shared.settings.connect_timeout, self.dial(peer, target, acl)) => dialled,
        };
        let mut socket = dialled.unwrap_or(Err(Refusal::TimedOut)).map_err(Failure::Refused)?;
        stream.write_all(&[ACCEPTED]).await?;
        let pumped = pump(&self.account(peer), stream, &mut socket, early, stop).await;
        if pumped.is_err() {
            // The target must not take what arrived for the whole.
            let _ = socket.set_zero_linger();
        }
        Ok(pumped?)
    }

    async fn dial(&self, peer: PeerId, target: &Target, acl: Option<&Acl>) -> Result<TcpStream, Refusal> {
        let addresses = self.names.resolve(peer, target).await.inspect_err(|_| {
            self.shared.counters.exit_name_not_found.increment();
        })?;
        let allowed = match acl {
            Some(acl) => addresses.into_iter().filter(|&address| dial::is_allowed(acl, address)).collect(),
            None => addresses,
        };
        if allowed.is_empty() {
            self.shared.counters.exit_denied.increment();
            return Err(Refusal::NotAllowed);
        }
        dial::connect(allowed).await
    }
}

/// Why a stream is not served further.
#[derive(Debug)]
enum Failure {
    /// The peer is told why.
    Refused(Refusal),
    /// The stream is gone, or cannot be trusted to be whole.
    Gone(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}
