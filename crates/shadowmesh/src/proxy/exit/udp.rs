//! Datagrams of one association: from a stream to their targets, and back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use node::PeerId;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Failure;
use super::dial::{is_allowed, is_ours};
use super::names::Names;
use crate::proxy::acl::{Acl, Verdict};
use crate::proxy::frames::{Frame, FrameQueue, carry, receive};
use crate::proxy::request::Refusal;
use crate::proxy::shared::{Account, Shared};
use crate::proxy::stop::Stop;
use crate::proxy::target::Target;

/// Hosts of one association whose answers are let in.
const HOSTS_MAX: usize = 4_096;

/// Names of one association whose addresses are remembered.
const NAMES_MAX: usize = 64;

/// Names of one association looked up at a time, and datagrams that wait for their turn.
const LOOKUPS_MAX: usize = 8;

/// Where the datagrams of a stream go.
pub(super) enum Destination<'a> {
    /// To the target of their frame, if it is allowed.
    AsFramed(&'a Acl),
    /// To where this node's configuration says, whatever their frame says.
    Fixed(&'a Target),
}

/// Carries datagrams until the stream ends, nothing has come or gone for long, or `stop`.
pub(super) async fn relay<S>(
    account: &Rc<Account>,
    peer: PeerId,
    names: &Rc<Names>,
    destination: &Destination<'_>,
    stream: &mut S,
    early: Vec<u8>,
    stop: &Stop,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = account.shared();
    let queue = FrameQueue::new(account);
    let relay = Relay {
        shared,
        destination,
        socket: DualSocket::bind()?,
        hosts: RefCell::default(),
        names: RefCell::default(),
    };
    let mut encoded = Vec::new();
    if let Destination::Fixed(target) = destination {
        target.encode(&mut encoded);
    }
    let (ask, asked) = mpsc::channel(LOOKUPS_MAX);
    let to_targets = carry(stream, &queue, early, |frame| {
        let target = if encoded.is_empty() { frame.target } else { &encoded };
        match relay.address(target) {
            Some(address) => relay.send(frame.data, address),
            // Datagrams for names that are being looked up wait in the channel, and in the tasks that it feeds.
            None if ask.try_send((target.into(), frame.data.into())).is_ok() => {}
            None => shared.counters.datagrams_dropped.increment(),
        }
    });
    let mut source = Vec::new();
    let to_stream = receive(shared, &relay.socket.socket, |data, from| {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        // Nobody but those who were sent something has a reason to send.
        if !relay.hosts.borrow().contains_key(&from.ip()) {
            return shared.counters.datagrams_dropped.increment();
        }
        source.clear();
        Target::Address(from).encode(&mut source);
        queue.push(Frame { target: &source, data });
    });
    tokio::select! {
        biased;
        () = stop.requested() => Ok(()),
        ended = to_targets => Ok(ended?),
        () = to_stream => Ok(()),
        () = relay.look_up(asked, peer, names) => Ok(()),
        () = queue.unused(shared.settings.association_timeout) => Ok(()),
    }
}

/// A datagram for a name, and the name, encoded.
type Pending = (Box<[u8]>, Box<[u8]>);

struct Relay<'a> {
    shared: &'a Shared,
    destination: &'a Destination<'a>,
    socket: DualSocket,
    /// Hosts that something was sent to, and whether they are other hosts than this one.
    hosts: RefCell<HashMap<IpAddr, bool>>,
    /// Addresses of names, by their encoded target.
    names: RefCell<HashMap<Box<[u8]>, SocketAddr>>,
}

impl Relay<'_> {
    /// The address of an encoded target, unless it is a name that must be looked up.
    fn address(&self, target: &[u8]) -> Option<SocketAddr> {
        match Target::decode(target) {
            Ok(Some((Target::Address(address), _))) => Some(address),
            _ => self.names.borrow().get(target).copied(),
        }
    }

    fn send(&self, data: &[u8], to: SocketAddr) {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let verdict = match self.destination {
            Destination::AsFramed(acl) => acl.verdict(to),
            Destination::Fixed(_) => Verdict::Allowed,
        };
        let mut hosts = self.hosts.borrow_mut();
        let known = hosts.get(&to.ip()).copied();
        let is_foreign = || known.unwrap_or_else(|| !is_ours(to.ip()));
        if verdict == Verdict::Denied || (verdict == Verdict::AllowedIfForeign && !is_foreign()) {
            self.shared.counters.exit_denied.increment();
            return self.shared.counters.datagrams_dropped.increment();
        }
        if known.is_none() {
            if hosts.len() >= HOSTS_MAX {
                // Answers on their way are lost; the next question lets the next answer in.
                hosts.clear();
            }
            hosts.insert(to.ip(), is_foreign());
        }
        if self.socket.send(data, to).is_err() {
            self.shared.counters.datagrams_dropped.increment();
        }
    }

    /// Looks names up, a few at a time, and sends the datagrams that wait for them. Never ends.
    async fn look_up(&self, mut asked: mpsc::Receiver<Pending>, peer: PeerId, names: &Rc<Names>) {
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                Some((name, data)) = asked.recv(), if under_way.len() < LOOKUPS_MAX => {
                    if let Some(address) = self.address(&name) {
                        self.send(&data, address);
                        continue;
                    }
                    let names = Rc::clone(names);
                    under_way.spawn_local(async move { (look_up(&names, peer, &name).await, name, data) });
                }
                Some(Ok((found, name, data))) = under_way.join_next(), if !under_way.is_empty() => {
                    self.found(found, name, &data);
                }
                else => std::future::pending().await,
            }
        }
    }

    fn found(&self, found: Result<Vec<SocketAddr>, Refusal>, name: Box<[u8]>, data: &[u8]) {
        let addresses = found.unwrap_or_default();
        let usable = addresses.into_iter().find(|&address| match self.destination {
            Destination::AsFramed(acl) => is_allowed(acl, address),
            Destination::Fixed(_) => true,
        });
        let Some(address) = usable else {
            self.shared.counters.exit_name_not_found.increment();
            return self.shared.counters.datagrams_dropped.increment();
        };
        let mut names = self.names.borrow_mut();
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(name, address);
        self.send(data, address);
    }
}

async fn look_up(names: &Rc<Names>, peer: PeerId, name: &[u8]) -> Result<Vec<SocketAddr>, Refusal> {
    match Target::decode(name) {
        Ok(Some((target, _))) => names.resolve(peer, &target).await,
        _ => Err(Refusal::NameNotFound),
    }
}

/// One socket for both families; for IPv4 only where the host has no IPv6.
struct DualSocket {
    socket: UdpSocket,
    v6: bool,
}

impl DualSocket {
    fn bind() -> io::Result<Self> {
        let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let (socket, v6) = match Self::bind_to(any_v6) {
            Ok(socket) => (socket, true),
            Err(_) => (Self::bind_to(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?, false),
        };
        Ok(Self { socket, v6 })
    }

    fn bind_to(address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// Not through the runtime, which would have us wait: a full socket drops, as UDP does.
    fn send(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        let to = match to {
            SocketAddr::V4(to) if self.v6 => SocketAddr::from((to.ip().to_ipv6_mapped(), to.port())),
            other => other,
        };
        SockRef::from(&self.socket).send_to(data, &SockAddr::from(to))
    }
}
