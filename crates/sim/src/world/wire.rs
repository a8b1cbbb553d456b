//! What happens to datagrams between machines: checkers and filters look at them, translators change their addresses,
//! paths lose them or let them arrive.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use carrier::overhead;
use packet::{Carrier, Ecn};

use super::{Event, NodeId, World};
use crate::check::Kind;
use crate::link::Outgoing;
use crate::machine::Machine;
use crate::nat::{Nat, NatId, NatMapping};
use crate::network::{Fate, LinkConfig, Size};
use crate::trace::Trace;

/// A datagram about to cross the network, for a filter to judge.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// World time.
    pub at: Duration,
    /// Who sends.
    pub from: NodeId,
    /// Who has the address it is sent to; `None` when nobody does.
    pub to: Option<NodeId>,
    /// The address it is sent to.
    pub address: SocketAddr,
    /// What it travels in.
    pub carrier: Carrier,
    /// What it is.
    pub kind: Kind,
    /// Its payload.
    pub bytes: &'a [u8],
}

/// A datagram as an eavesdropper saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// World time.
    pub at: Duration,
    /// Source address.
    pub from: SocketAddr,
    /// Destination address.
    pub to: SocketAddr,
    /// What it is.
    pub kind: Kind,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// Datagrams that were lost outside of the nodes, and what else the world counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Datagrams that left a node.
    pub sent: u64,
    /// Datagrams that reached a running node, duplicates included.
    pub delivered: u64,
    /// Datagrams that did not.
    pub lost: u64,
    /// Datagrams with a flipped bit.
    pub corrupted: u64,
}

pub(super) type Filter = Box<dyn FnMut(&Passing<'_>) -> bool>;

impl World {
    /// Asks `filter` about each datagram: `false` loses it. It replaces an earlier filter.
    pub fn set_filter(&mut self, filter: impl FnMut(&Passing<'_>) -> bool + 'static) {
        self.filter = Some(Box::new(filter));
    }

    /// Lets everything pass again.
    pub fn clear_filter(&mut self) {
        self.filter = None;
    }

    /// Starts to record all datagrams.
    pub fn start_capture(&mut self) {
        self.capture.get_or_insert_default();
    }

    /// What was recorded since the start of the capture, or the last call.
    pub fn take_captured(&mut self) -> Vec<Captured> {
        self.capture.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Sends a datagram to a node from an address of the world's choosing, as an attacker would. `to` is the node's
    /// present address.
    pub fn inject(&mut self, from: SocketAddr, to: NodeId, bytes: Vec<u8>) {
        self.start_all();
        let Some(to) = self.machines[to.0].endpoint(Some(from.ip())) else { return };
        let (carrier, ecn) = (Carrier::Udp, Ecn::NotEct);
        self.schedule(self.now, Event::Arrive { carrier, from, to, ecn, bytes, genuine: false });
    }

    /// What two nodes' paths do; of their first addresses of one IP version.
    pub fn link(&self, from: NodeId, to: NodeId) -> LinkConfig {
        let sources = self.outside(from);
        let same =
            |to: IpAddr| sources.iter().find(|from| from.is_ipv4() == to.is_ipv4()).map(|&from| (from, to));
        let there = self.outside(to).into_iter().find_map(same);
        there.map_or_else(LinkConfig::default, |(from, to)| self.network.get(from, to))
    }

    /// Adds a network address translator with that address outside. It forgets a mapping that was not used for `lifetime`.
    pub fn add_nat(&mut self, public: IpAddr, mapping: NatMapping, lifetime: Duration) -> NatId {
        self.nats.push(Nat::new(public, mapping, lifetime));
        NatId(self.nats.len() - 1)
    }

    /// Puts a machine behind a translator. Its own addresses are then known to nobody else.
    pub fn put_behind(&mut self, node: NodeId, nat: NatId) {
        self.machines[node.0].nat = Some(nat.0);
    }

    /// Lets a translator forget whom its ports stand for.
    pub fn rebind(&mut self, nat: NatId) {
        self.trace.push(self.now(), "NAT", "", 0, "rebinds");
        self.nats[nat.0].rebind();
    }

    /// The addresses by which the network knows a machine.
    pub(crate) fn outside(&self, node: NodeId) -> Vec<IpAddr> {
        let machine = &self.machines[node.0];
        machine.nat.map_or_else(|| machine.spec.addresses.clone(), |nat| vec![self.nats[nat].public])
    }

    /// A datagram reaches an address. Returns which running node has it, and the node's own name for that address.
    pub(super) fn arrive(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
        genuine: bool,
    ) -> Option<(NodeId, IpAddr)> {
        let kind = Kind::of(bytes);
        let from_name = self.name_of(from);
        let nat = self.nats.iter().find(|nat| nat.public == to.ip());
        let inside = nat.map_or(Some(to), |nat| nat.inbound(self.now, from, to.port()));
        let owner = inside.and_then(|_| self.owner(to)).filter(|id| self.machines[id.0].is_running());
        let (Some(id), Some(inside)) = (owner, inside) else {
            let why =
                if nat.is_some() && inside.is_none() { "lost: not let in" } else { "lost: nobody there" };
            self.trace.push(self.now, &from_name, &to.to_string(), bytes.len(), why);
            self.counts.lost += 1;
            // A duplicate of it may still come, later than what was sent after it.
            let sender = self.owner(from);
            for (_, (_, reordered)) in self.order.iter_mut().filter(|((from, _), _)| Some(*from) == sender) {
                *reordered = true;
            }
            return None;
        };
        self.counts.delivered += 1;
        let size = bytes.len();
        self.amplification.received(id.0 as u64, from, size);
        if genuine && kind == Kind::Data {
            self.trust(id, from);
        }
        let to_name = &self.machines[id.0].spec.name;
        self.trace.push(
            self.now,
            &from_name,
            to_name,
            size,
            if genuine { "arrives" } else { "arrives, not genuine" },
        );
        Some((id, inside.ip()))
    }

    /// The machine that an address, as the network knows it, stands for.
    fn owner(&self, address: SocketAddr) -> Option<NodeId> {
        let nat = self.nats.iter().position(|nat| nat.public == address.ip());
        let address = nat.map_or(Some(address), |nat| self.nats[nat].inside(address.port()))?;
        let owns = |machine: &Machine| {
            machine.nat == nat
                && machine.spec.port == address.port()
                && machine.spec.addresses.contains(&address.ip())
        };
        self.machines.iter().position(owns).map(NodeId)
    }

    fn name_of(&self, address: SocketAddr) -> String {
        self.owner(address).map_or_else(|| address.to_string(), |id| self.machines[id.0].spec.name.clone())
    }

    /// Carries one datagram from a machine into the network, past the checkers and the faults.
    pub(super) fn transmit(&mut self, id: NodeId, outgoing: Outgoing) {
        let Outgoing { leaves_at, carrier, source, to, ecn, bytes } = outgoing;
        let machine = &self.machines[id.0];
        let Some(address) = source.or_else(|| machine.address_for(to.ip())) else { return };
        let inside = SocketAddr::new(address, machine.spec.port);
        let from = machine.nat.map_or(inside, |nat| self.nats[nat].outbound(leaves_at, inside, to));
        let name = machine.spec.name.clone();
        let sender = (id.0 as u64) << 32 | u64::from(machine.starts);
        let owner = self.owner(to);
        let kind = Kind::of(&bytes);
        self.counts.sent += 1;
        let to_name = self.name_of(to);
        self.trace.push(leaves_at, &name, &to_name, bytes.len(), kind.name());
        // An address that nobody has: the session is told by the address then.
        let receiver = owner.map_or_else(|| hash_address(to), |owner| owner.0 as u64);
        let checked = self
            .plaintext
            .check(&bytes)
            .and_then(|()| self.nonces.check(sender, receiver, &bytes))
            .and_then(|()| self.amplification.sent(id.0 as u64, to, bytes.len()));
        if let Err(why) = checked {
            self.fail(&format!("{name}: {why}"));
        }
        if let Some(capture) = &mut self.capture {
            capture.push(Captured { at: leaves_at, from, to, kind, bytes: bytes.clone() });
        }
        let passing =
            Passing { at: leaves_at, from: id, to: owner, address: to, carrier, kind, bytes: &bytes };
        let filtered = self.filter.as_mut().is_some_and(|filter| !filter(&passing));
        let parted = owner.is_some_and(|owner| self.partitions.contains(&(id.min(owner), id.max(owner))));
        let fate = if filtered {
            Fate::Lost("lost: filtered")
        } else if parted {
            Fate::Lost("lost: partition")
        } else {
            let headers = overhead(carrier, to.ip()).into();
            let may_fragment = kind != Kind::Data && carrier == Carrier::Udp && to.is_ipv4();
            let size = Size { headers, may_fragment };
            self.network.carry(leaves_at, (from.ip(), to.ip()), size, bytes, ecn, &mut self.dice)
        };
        match fate {
            Fate::Lost(why) => {
                self.counts.lost += 1;
                self.trace.push(leaves_at, &name, &to_name, 0, why);
            }
            Fate::Arrives(deliveries) => {
                if let (Some(owner), Some(first)) = (owner, deliveries.first()) {
                    let (last, reordered) = self.order.entry((id, owner)).or_default();
                    *reordered |= first.at < *last;
                    *last = first.at.max(*last);
                }
                for delivery in deliveries {
                    self.counts.corrupted += u64::from(delivery.corrupted);
                    let genuine = !delivery.corrupted;
                    let (ecn, bytes) = (delivery.ecn, delivery.bytes);
                    self.schedule(delivery.at, Event::Arrive { carrier, from, to, ecn, bytes, genuine });
                }
            }
        }
    }
}

fn hash_address(address: SocketAddr) -> u64 {
    let mut trace = Trace::default();
    trace.push(Duration::ZERO, &address.to_string(), "", 0, "");
    trace.hash() | 1 << 63
}
