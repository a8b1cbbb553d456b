//! One socket a family, and what leaves and arrives by them.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use mdns::{Destination, Family, Transmit};
use os::multicast::{Departure, MulticastSocket, Received, is_missing};
use os::netlink::PortUsers;
use packet::Pool;
use tokio::io::unix::AsyncFd;

use crate::error::StartError;
use crate::ready::watched;
use crate::statistics::SocketStatistics;

/// The port of Multicast DNS (RFC 6762 §3).
const PORT: u16 = 5353;
const GROUP_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)), PORT);
const GROUP_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb)), PORT);

/// Which families to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

/// The sockets. A family that the kernel does not have is left out.
#[derive(Debug)]
pub(crate) struct Sockets {
    v4: Option<AsyncFd<MulticastSocket>>,
    v6: Option<AsyncFd<MulticastSocket>>,
    users: Option<PortUsers>,
    failed_receives: u64,
}

impl Sockets {
    /// Binds in the network namespace of the calling thread.
    pub(crate) fn bind(families: Families) -> Result<Self, StartError> {
        let v4 = families.ipv4.then(|| bind(GROUP_V4)).transpose()?.flatten();
        let v6 = families.ipv6.then(|| bind(GROUP_V6)).transpose()?.flatten();
        Ok(Self { v4, v6, users: PortUsers::open().ok(), failed_receives: 0 })
    }

    /// Whether another program has the port.
    pub(crate) fn share_port(&mut self) -> bool {
        let ours = self.both().count();
        let users = self.users.as_mut().and_then(|users| users.udp(PORT).ok());
        // A kernel without that knowledge: then what it was when the port was bound has to do.
        users.map_or_else(|| self.both().any(|socket| socket.get_ref().shares_port()), |users| users > ours)
    }

    pub(crate) fn statistics(&self) -> SocketStatistics {
        let drops = self.both().map(|socket| u64::from(socket.get_ref().receive_drops().unwrap_or_default()));
        SocketStatistics {
            receive_drops: drops.sum(),
            failed_receives: self.failed_receives,
            ..SocketStatistics::default()
        }
    }

    fn both(&self) -> impl Iterator<Item = &AsyncFd<MulticastSocket>> {
        self.v4.iter().chain(&self.v6)
    }

    fn of(&self, family: Family) -> Option<&AsyncFd<MulticastSocket>> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    fn of_mut(&mut self, family: Family) -> Option<&mut AsyncFd<MulticastSocket>> {
        match family {
            Family::V4 => self.v4.as_mut(),
            Family::V6 => self.v6.as_mut(),
        }
    }

    /// Receives from the group on an interface from now on; whether that is possible.
    pub(crate) fn join(&self, family: Family, interface: u32) -> bool {
        self.of(family).is_some_and(|socket| socket.get_ref().join(interface).is_ok())
    }

    pub(crate) fn leave(&self, family: Family, interface: u32) {
        if let Some(socket) = self.of(family) {
            // It has gone, and the membership with it.
            let _ = socket.get_ref().leave(interface);
        }
    }

    /// Sends a packet, at once or not at all.
    pub(crate) fn send(&mut self, packet: &[u8], transmit: &Transmit) -> io::Result<()> {
        let (family, departure) = departure(transmit);
        let Some(socket) = self.of_mut(family) else { return Err(io::ErrorKind::Unsupported.into()) };
        socket.get_mut().send(packet, &departure)
    }

    /// Sends a packet as soon as its socket has room.
    pub(crate) async fn send_later(&mut self, packet: &[u8], transmit: &Transmit) -> io::Result<()> {
        let (family, departure) = departure(transmit);
        let Some(socket) = self.of_mut(family) else { return Err(io::ErrorKind::Unsupported.into()) };
        loop {
            let mut ready = socket.writable_mut().await?;
            if let Ok(result) = ready.try_io(|socket| socket.get_mut().send(packet, &departure)) {
                return result;
            }
        }
    }

    /// Waits for packets and appends those that are there to `received`, in buffers of `pool`. Loses nothing when it is
    /// dropped while it waits.
    pub(crate) async fn recv(&mut self, pool: &Pool, received: &mut Vec<Received>) {
        poll_fn(|context| {
            for socket in self.v4.iter_mut().chain(&mut self.v6) {
                self.failed_receives += recv_ready(socket, context, pool, received);
            }
            if received.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

fn bind(group: SocketAddr) -> Result<Option<AsyncFd<MulticastSocket>>, StartError> {
    match MulticastSocket::bind(group) {
        Ok(socket) => watched(socket).map(Some).map_err(StartError::Socket),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(StartError::PortInUse),
        Err(error) => Err(StartError::Socket(error)),
    }
}

fn departure(transmit: &Transmit) -> (Family, Departure) {
    let (family, to) = match transmit.to {
        Destination::Multicast(Family::V4) => (Family::V4, GROUP_V4),
        Destination::Multicast(Family::V6) => (Family::V6, GROUP_V6),
        Destination::Unicast(to) if to.is_ipv4() => (Family::V4, to),
        Destination::Unicast(to) => (Family::V6, to),
    };
    (family, Departure { interface: transmit.interface, source: transmit.source, to })
}

/// Takes what one socket has, or registers to be woken when it has something. Returns how often receiving failed.
fn recv_ready(
    socket: &mut AsyncFd<MulticastSocket>,
    context: &mut Context<'_>,
    pool: &Pool,
    received: &mut Vec<Received>,
) -> u64 {
    let mut failures = 0;
    while let Poll::Ready(ready) = socket.poll_read_ready_mut(context) {
        // The runtime is ending, and this task with it.
        let Ok(mut ready) = ready else { break };
        match ready.try_io(|socket| socket.get_mut().recv(pool, received)) {
            Ok(Ok(_)) => break,
            Ok(Err(_)) => {
                // Until the kernel says again that there is something, so that an error that stays does not spin.
                failures += 1;
                ready.clear_ready();
            }
            // Nothing there after all, and readiness is cleared: register.
            Err(_) => {}
        }
    }
    failures
}
