//! One link out of several: the carriers of a worker, of the node's thread, or of the streams'.
//!
//! ```text
//!                   ┌─► UdpLink       one socket, edge-triggered
//!  worker ► CarrierLink├─► FakeTcpLink   two sockets, IPv4 and IPv6; the first worker's also has the timers of all
//!                   └─► TcpLink       one descriptor for all connections
//! ```
//!
//! What is sent says which carrier takes it; what is received says which one it came by.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use os::fake_tcp::FakeTcpLink;
use os::poll::{Event, Interest, Poller};
use os::tcp::{TcpHandle, TcpLink};
use os::udp::UdpLink;
use packet::{Carrier, Link, RecvSlot, Transmit, Via};

/// Descriptors of the carriers in a worker's poller have tokens from this one up.
const UDP: u64 = 0;
const FAKE_TCP_V4: u64 = 1;
const FAKE_TCP_V6: u64 = 2;
/// The connections, and what wakes those who wait for room in one.
const TCP: u64 = 3;
const TCP_ROOM: u64 = 4;
/// The first token that is free for others.
pub(super) const TOKENS: u64 = 5;

/// All that carries datagrams for one thread.
#[derive(Debug)]
pub(crate) struct CarrierLink {
    udp: UdpLink,
    fake_tcp: Option<FakeTcpLink>,
    tcp: Option<TcpLink>,
    /// Who may have something to receive.
    ready: Ready,
    /// Whom to ask first next time: none is to starve the others.
    first: Carrier,
    /// Nobody waits for the descriptors of other carriers than UDP.
    sends_only: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    udp: bool,
    fake_tcp: bool,
    tcp: bool,
}

impl CarrierLink {
    pub(super) fn new(udp: UdpLink, fake_tcp: Option<FakeTcpLink>, tcp: Option<TcpLink>) -> Self {
        // What became ready before it was watched makes no edge.
        let ready = Ready { udp: true, fake_tcp: true, tcp: true };
        Self { udp, fake_tcp, tcp, ready, first: Carrier::Udp, sends_only: false }
    }

    /// Another handle on the same sockets, to send with. Where the carrier is full that is used, and it is not UDP, it says
    /// that it is out of memory: try again a little later, no event will tell when.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn sender(&self) -> io::Result<Self> {
        let fake_tcp = self.fake_tcp.as_ref().map(FakeTcpLink::try_clone).transpose()?;
        let tcp = self.tcp.as_ref().map(TcpLink::try_clone).transpose()?;
        Ok(Self { sends_only: true, ..Self::new(self.udp.try_clone()?, fake_tcp, tcp) })
    }

    /// The UDP socket.
    pub(super) fn udp(&self) -> &UdpLink {
        &self.udp
    }

    /// Watches everything, edge-triggered, with tokens below [`TOKENS`].
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub(super) fn watch(&self, poller: &Poller) -> io::Result<()> {
        let edge = Interest { edge: true, ..Interest::READ_WRITE };
        poller.add(&self.udp, UDP, edge)?;
        if let Some(fake_tcp) = &self.fake_tcp {
            for (descriptor, token) in fake_tcp.descriptors().into_iter().zip([FAKE_TCP_V4, FAKE_TCP_V6]) {
                poller.add(descriptor, token, edge)?;
            }
        }
        if let Some(tcp) = &self.tcp {
            for (descriptor, token) in tcp.descriptors().zip([TCP, TCP_ROOM]) {
                poller.add(descriptor, token, edge)?;
            }
        }
        Ok(())
    }

    /// Takes an event of one of the descriptors, and tells a worker what it means.
    pub(super) fn handle_event(&mut self, event: &Event, worker: &mut node::Ready) {
        let Event { token, readable, writable, .. } = *event;
        let carrier = match token {
            UDP => &mut self.ready.udp,
            FAKE_TCP_V4 | FAKE_TCP_V6 => &mut self.ready.fake_tcp,
            // Any edge may mean both.
            _ => {
                self.ready.tcp = true;
                (worker.link, worker.writable) = (true, true);
                return;
            }
        };
        *carrier |= readable;
        worker.link |= readable;
        worker.writable |= writable;
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called next.
    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let fake_tcp = self.fake_tcp.as_ref().and_then(FakeTcpLink::poll_timeout);
        fake_tcp.into_iter().chain(self.tcp.as_ref().and_then(TcpLink::poll_timeout)).min()
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(fake_tcp) = &mut self.fake_tcp {
            fake_tcp.handle_timeout(now);
        }
        if let Some(tcp) = &mut self.tcp {
            tcp.handle_timeout(now);
        }
    }

    /// As [`send_via`](Link::send_via), and routers may fragment it where they can.
    ///
    /// # Errors
    /// As [`send_via`](Link::send_via).
    pub(super) fn send_fragmentable(&mut self, via: Via, transmit: &Transmit<'_>) -> io::Result<usize> {
        match via.carrier {
            Carrier::Udp => self.udp.send_fragmentable(via, transmit),
            _ => self.send_via(via, transmit),
        }
    }

    /// Datagrams that the kernel has dropped because nobody took them in time. Wraps around.
    pub(super) fn receive_drops(&self) -> u64 {
        let udp = self.udp.receive_drops().unwrap_or(0);
        let fake_tcp = self.fake_tcp.as_ref().and_then(|link| link.receive_drops().ok()).unwrap_or(0);
        u64::from(udp) + u64::from(fake_tcp)
    }

    fn receive_by(&mut self, carrier: Carrier, slots: &mut [RecvSlot]) -> io::Result<usize> {
        let Self { udp, fake_tcp, tcp, ready, .. } = self;
        let (result, ready) = match (carrier, fake_tcp, tcp) {
            (Carrier::Udp, _, _) if ready.udp => (udp.recv(slots), &mut ready.udp),
            (Carrier::FakeTcp, Some(link), _) if ready.fake_tcp => (link.recv(slots), &mut ready.fake_tcp),
            (Carrier::Tcp, _, Some(link)) if ready.tcp => (link.recv(slots), &mut ready.tcp),
            _ => return Err(ErrorKind::WouldBlock.into()),
        };
        match &result {
            Ok(filled) => slots[..*filled].iter_mut().for_each(|slot| slot.carrier = carrier),
            // Whatever it is, the next event tells when to try again.
            Err(_) => *ready = false,
        }
        result
    }
}

impl Link for CarrierLink {
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize> {
        self.send_via(Via::default(), transmit)
    }

    #[inline]
    fn send_via(&mut self, via: Via, transmit: &Transmit<'_>) -> io::Result<usize> {
        let result = match (via.carrier, &mut self.fake_tcp, &mut self.tcp) {
            (Carrier::Udp, _, _) => return self.udp.send_via(via, transmit),
            (Carrier::FakeTcp, Some(link), _) => link.send(transmit),
            (Carrier::Tcp, _, Some(link)) => link.send(transmit),
            _ => Err(ErrorKind::Unsupported.into()),
        };
        match result {
            Err(error) if self.sends_only && error.kind() == ErrorKind::WouldBlock => {
                Err(ErrorKind::OutOfMemory.into())
            }
            result => result,
        }
    }

    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        if self.fake_tcp.is_none() && self.tcp.is_none() {
            return self.udp.recv(slots);
        }
        let order = match self.first {
            Carrier::Udp => [Carrier::Udp, Carrier::FakeTcp, Carrier::Tcp],
            Carrier::FakeTcp => [Carrier::FakeTcp, Carrier::Tcp, Carrier::Udp],
            Carrier::Tcp => [Carrier::Tcp, Carrier::Udp, Carrier::FakeTcp],
        };
        for (place, carrier) in order.into_iter().enumerate() {
            if let Ok(filled) = self.receive_by(carrier, slots) {
                self.first = order[(place + 1) % order.len()];
                return Ok(filled);
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }
}

/// Opens and closes what has connections: the node's thread's part of the carriers.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) fake_tcp: Option<FakeTcpDialler>,
    pub(super) tcp: Option<TcpHandle>,
}

/// What it takes to call by crafted TCP.
#[derive(Debug)]
pub(super) struct FakeTcpDialler {
    pub(super) handle: os::fake_tcp::FakeTcpHandle,
    /// The guards of the peers, by their number.
    pub(super) keys: Vec<carrier::guard::GuardKey>,
}

impl Dialler {
    /// Opens a flow or connection to a peer unless there is one.
    ///
    /// # Errors
    /// There is no way there now.
    pub(super) fn dial(&self, carrier: Carrier, peer: usize, to: SocketAddr) -> io::Result<()> {
        match (carrier, &self.fake_tcp, &self.tcp) {
            (Carrier::FakeTcp, Some(fake_tcp), _) => match fake_tcp.keys.get(peer) {
                Some(key) => fake_tcp.handle.dial(to, key.clone()),
                None => Ok(()),
            },
            (Carrier::Tcp, _, Some(tcp)) => tcp.dial(to),
            _ => Ok(()),
        }
    }

    /// A place does not answer: opens another connection to it, if the one that there is has stopped to pass anything.
    pub(super) fn redial(&self, carrier: Carrier, to: SocketAddr) {
        if let (Carrier::Tcp, Some(tcp)) = (carrier, &self.tcp) {
            tcp.redial(to);
        }
    }

    /// A peer has proved to be there: it is no stranger any more.
    pub(super) fn vouch_for(&self, carrier: Carrier, place: SocketAddr) {
        match (carrier, &self.fake_tcp, &self.tcp) {
            (Carrier::FakeTcp, Some(fake_tcp), _) => fake_tcp.handle.validate(place),
            (Carrier::Tcp, _, Some(tcp)) => tcp.vouch_for(place),
            _ => {}
        }
    }

    /// Where carriers other than UDP are called.
    pub(super) fn listening(&self) -> impl Iterator<Item = (Carrier, SocketAddr)> {
        let fake_tcp = self.fake_tcp.as_ref().and_then(|fake_tcp| fake_tcp.handle.listen_address());
        let tcp = self.tcp.as_ref().and_then(TcpHandle::listen_address);
        [(Carrier::FakeTcp, fake_tcp), (Carrier::Tcp, tcp)]
            .into_iter()
            .filter_map(|(carrier, address)| Some((carrier, address?)))
    }

    /// What happened so far, by carrier.
    pub(super) fn counts(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut carriers = BTreeMap::new();
        let named = |(name, count): (&str, u64)| (name.to_owned(), count);
        if let Some(fake_tcp) = &self.fake_tcp {
            let counts = fake_tcp.handle.counts();
            carriers.insert(Carrier::FakeTcp.to_string(), counts.iter().map(named).collect());
        }
        if let Some(tcp) = &self.tcp {
            let counts = tcp.counts();
            carriers.insert(Carrier::Tcp.to_string(), counts.iter().map(named).collect());
        }
        carriers
    }

    /// Closes the flow or connection to a place.
    pub(super) fn hang_up(&self, carrier: Carrier, from: SocketAddr) {
        match (carrier, &self.fake_tcp, &self.tcp) {
            (Carrier::FakeTcp, Some(fake_tcp), _) => fake_tcp.handle.hang_up(from),
            (Carrier::Tcp, _, Some(tcp)) => tcp.hang_up(from),
            _ => {}
        }
    }
}
