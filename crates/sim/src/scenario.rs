//! What a scenario can do to a world, and ask of it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use handshake::{PublicKey, StaticSecret};
use node::{NodeStatus, Notice, PeerStatus};
use packet::{Ecn, VnetHeader};
use stream::association::{Association, Ended};

use crate::inner::{TCP, Tuple, UDP, segment_count};
use crate::link::Uplink;
use crate::network::LinkConfig;
use crate::traffic::{FlowId, FlowReport, Load};
use crate::world::{NodeId, Received, World};

/// Traffic.
impl World {
    /// A UDP flow between the first inner addresses of two nodes.
    pub fn udp(&mut self, from: NodeId, to: NodeId) -> FlowId {
        self.open(from, to, UDP, 0, Ecn::NotEct)
    }

    /// A TCP flow between the first inner addresses of two nodes, as a kernel with segmentation offload sends it.
    /// Nothing is acknowledged or sent again: the flow shows what the tunnel does, not what TCP does about it.
    pub fn tcp(&mut self, from: NodeId, to: NodeId) -> FlowId {
        self.open(from, to, TCP, 0, Ecn::NotEct)
    }

    /// A flow of [`UDP`] or [`TCP`] between the inner addresses number `address` of two nodes, with ECN bits.
    pub fn open(&mut self, from: NodeId, to: NodeId, protocol: u8, address: usize, ecn: Ecn) -> FlowId {
        let src = self.machines[from.0].spec.inner[address];
        let dst = self.machines[to.0].spec.inner[address];
        self.open_from(from, to, protocol, src, dst, ecn)
    }

    /// A flow with a source address that may be none of the sender's.
    pub fn open_from(
        &mut self,
        from: NodeId,
        to: NodeId,
        protocol: u8,
        src: IpAddr,
        dst: IpAddr,
        ecn: Ecn,
    ) -> FlowId {
        let tuple = Tuple { src, dst, src_port: 0, dst_port: 7_000, ecn };
        self.ledger.open(from, to, protocol, tuple)
    }

    /// Sends `bytes` of payload on a flow, cut into segments of `segment_bytes` by the offload if given. Returns
    /// whether the TUN device's queue took it.
    pub fn send(&mut self, flow: FlowId, bytes: usize, segment_bytes: Option<u16>) -> bool {
        self.start_all();
        let draft = self.ledger.draft(flow, bytes, segment_bytes);
        let id = self.ledger.sender(flow);
        let machine = &mut self.machines[id.0];
        let taken = machine.send(flow.0, draft.bytes.clone());
        let (name, len) = (machine.spec.name.clone(), draft.bytes.len() - VnetHeader::LEN);
        let kind = if taken { "packet in" } else { "packet refused" };
        self.trace.push(self.now(), &name, "its TUN", len, kind);
        self.ledger.enter(draft, taken);
        self.drive(id);
        taken
    }

    /// Sends an IP packet written by hand. If it comes out somewhere unchanged, [`received`](Self::received) has it.
    pub fn send_packet(&mut self, from: NodeId, packet: &[u8]) -> bool {
        self.start_all();
        self.ledger.enter_raw(packet);
        let bytes = [&VnetHeader::default().to_bytes()[..], packet].concat();
        debug_assert_eq!(segment_count(&bytes), 1);
        let taken = self.machines[from.0].send(0, bytes);
        let name = self.machines[from.0].spec.name.clone();
        self.trace.push(self.now(), &name, "its TUN", packet.len(), "packet in, by hand");
        self.drive(from);
        taken
    }

    /// Packets written by hand that came out of a node's TUN device.
    pub fn received(&self, node: NodeId) -> &[Received] {
        self.received.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Lets a flow send by itself from now on.
    pub fn generate(&mut self, flow: FlowId, load: Load) {
        self.start_load(flow, load);
    }

    /// How a flow has fared so far.
    pub fn flow(&self, flow: FlowId) -> FlowReport {
        self.ledger.report(flow)
    }

    /// Probes a peer through the tunnel, waiting at most `timeout`: the round-trip time, if it answered.
    pub fn ping(&mut self, from: NodeId, to: NodeId, timeout: Duration) -> Option<Duration> {
        self.start_all();
        let (at, peer) = (self.clock(from), self.machines[from.0].peer_id(to)?);
        let id = self.machines[from.0].node_mut()?.ping(at, peer, None, timeout);
        self.drive(from);
        // The node must answer by the end of the timeout; a world in which it does not is broken.
        let limit = timeout + Duration::from_millis(1);
        if !self.run_until(limit, |world| world.pongs.contains_key(&(from, id))) {
            let name = &self.machines[from.0].spec.name;
            self.fail(&format!("{name}: ping {id} has no result after its timeout of {timeout:?}"));
        }
        self.pongs.get(&(from, id)).and_then(|pong| pong.rtt)
    }

    /// Starts a fresh handshake.
    pub fn rekey(&mut self, node: NodeId, peer: NodeId) {
        self.start_all();
        let at = self.clock(node);
        let id = self.machines[node.0].peer_id(peer);
        if let (Some(id), Some(running)) = (id, self.machines[node.0].node_mut()) {
            running.rekey(at, id);
            self.drive(node);
        }
    }

    /// A node's status.
    ///
    /// # Panics
    /// When the node is down.
    #[track_caller]
    pub fn status(&mut self, node: NodeId) -> NodeStatus {
        self.start_all();
        match self.machines[node.0].status(self.clock(node)) {
            Some(status) => status,
            None => self.fail("status of a node that is down"),
        }
    }

    /// A node's status of one of its peers.
    ///
    /// # Panics
    /// When the node is down or has no such peer.
    #[track_caller]
    pub fn peer_status(&mut self, node: NodeId, peer: NodeId) -> PeerStatus {
        let mut status = self.status(node);
        match self.machines[node.0].peer_id(peer) {
            Some(peer) => status.peers.swap_remove(peer.0 as usize),
            None => self.fail("status of a peer that is none"),
        }
    }

    /// All notices of a node so far, with the world time.
    pub fn notices(&self, node: NodeId) -> &[(Duration, Notice)] {
        self.notices.get(&node).map_or(&[], Vec::as_slice)
    }

    /// How often a node has dropped packets for a reason, over all peers and none.
    pub fn drops(&mut self, node: NodeId, reason: node::DropReason) -> u64 {
        let status = self.status(node);
        let of =
            |drops: &std::collections::BTreeMap<String, u64>| drops.get(reason.name()).copied().unwrap_or(0);
        of(&status.drops) + status.peers.iter().map(|peer| of(&peer.drops)).sum::<u64>()
    }
}

/// Streams.
impl World {
    /// Does something with the streams of a node to a peer, then sends what is to be sent. `None` while the node has no session
    /// with the peer: it is asked for. Of no use for a node without [`NodeSpec::streams`](crate::NodeSpec::streams).
    pub fn with_streams<T>(
        &mut self,
        node: NodeId,
        peer: NodeId,
        what: impl FnOnce(&mut Association, Instant) -> T,
    ) -> Option<T> {
        self.start_all();
        let at = self.clock(node);
        let machine = &mut self.machines[node.0];
        let id = machine.peer_id(peer)?;
        let done = machine.streams_mut()?.association(at, id).map(|association| what(association, at));
        self.drive(node);
        done
    }

    /// Why sessions of streams have ended since a node was started.
    pub fn streams_ended(&mut self, node: NodeId, peer: NodeId) -> &[Ended] {
        let machine = &mut self.machines[node.0];
        let id = machine.peer_id(peer);
        let ended = machine.streams_mut().zip(id).map(|(streams, id)| streams.ended(id));
        ended.unwrap_or_default()
    }
}

/// Faults.
impl World {
    /// Sets what the paths between two nodes do, both ways, from all their present addresses.
    pub fn set_link(&mut self, a: NodeId, b: NodeId, config: LinkConfig) {
        self.set_path(a, b, config);
        self.set_path(b, a, config);
    }

    /// Sets what the paths from one node to another do.
    pub fn set_path(&mut self, from: NodeId, to: NodeId, config: LinkConfig) {
        let targets = self.outside(to);
        for source in self.outside(from) {
            for &target in targets.iter().filter(|to| to.is_ipv4() == source.is_ipv4()) {
                self.network.set(source, target, config);
            }
        }
    }

    /// Sets what all paths do.
    pub fn set_all_links(&mut self, config: LinkConfig) {
        self.network.set_default(config);
    }

    /// Lets nothing pass between two nodes. What is under way still arrives.
    pub fn partition(&mut self, a: NodeId, b: NodeId) {
        self.partitions.insert((a.min(b), a.max(b)));
        self.note(a, "cut off");
    }

    /// Ends a partition.
    pub fn heal(&mut self, a: NodeId, b: NodeId) {
        self.partitions.remove(&(a.min(b), a.max(b)));
        self.note(a, "reachable again");
    }

    /// Gives a machine other outer addresses, as when a laptop changes networks. Nobody is told. Paths of the new
    /// addresses behave like those of [`set_all_links`](Self::set_all_links) until set.
    pub fn move_to(&mut self, node: NodeId, addresses: &[IpAddr]) {
        self.machines[node.0].spec.addresses = addresses.to_vec();
        self.machines[node.0].addresses_changed();
        self.note(node, "moves");
    }

    /// Kills a node without notice.
    pub fn kill(&mut self, node: NodeId) {
        self.note(node, "killed");
        self.machines[node.0].kill();
    }

    /// The private key of a node, as whoever has broken into it would have it.
    pub fn steal_key(&self, node: NodeId) -> StaticSecret {
        self.machines[node.0].stolen_key()
    }

    /// The public key of a node.
    pub fn public_key(&self, node: NodeId) -> PublicKey {
        self.machines[node.0].public_key
    }

    /// Starts a node (again, if it runs): same keys, and what it has kept on disk.
    pub fn restart(&mut self, node: NodeId) {
        self.start_all();
        self.kill(node);
        self.start(node);
    }

    /// Stops a machine without its noticing: a suspended laptop, a frozen virtual machine.
    pub fn pause(&mut self, node: NodeId) {
        self.note(node, "paused");
        self.machines[node.0].paused = true;
    }

    /// Lets a paused machine go on.
    pub fn resume(&mut self, node: NodeId) {
        self.note(node, "resumed");
        self.machines[node.0].paused = false;
        self.machines[node.0].armed = None;
        self.drive(node);
    }

    /// Moves a node's own clock ahead of the world's, by so much more than it was. (A monotonic clock never goes back.)
    pub fn jump_clock(&mut self, node: NodeId, ahead: Duration) {
        self.start_all();
        self.note(node, "clock jumps");
        self.machines[node.0].ahead += ahead;
        self.machines[node.0].armed = None;
        self.drive(node);
    }

    /// Sets how many seconds a node's wall clock differs from the world's. It is read when the node starts.
    pub fn set_wall_clock_offset(&mut self, node: NodeId, seconds: i64) {
        self.machines[node.0].unix_offset_s = seconds;
    }

    /// Tells a node where a peer is now, as after a look-up of its host name.
    pub fn set_endpoint(&mut self, node: NodeId, peer: NodeId) {
        let version = self.machines[node.0].spec.addresses.first().copied();
        let Some(endpoint) = self.machines[peer.0].endpoint(version) else { return };
        self.tell_endpoint(node, peer, endpoint);
    }

    /// Tells a node where a peer is supposed to be.
    pub fn tell_endpoint(&mut self, node: NodeId, peer: NodeId, endpoint: SocketAddr) {
        self.tell_endpoints(node, peer, &[endpoint]);
    }

    /// Tells a node the addresses of a peer's host name.
    pub fn tell_endpoints(&mut self, node: NodeId, peer: NodeId, endpoints: &[SocketAddr]) {
        self.start_all();
        for &endpoint in endpoints {
            self.trust(node, endpoint);
        }
        let (at, id) = (self.clock(node), self.machines[node.0].peer_id(peer));
        if let (Some(id), Some(running)) = (id, self.machines[node.0].node_mut()) {
            running.set_endpoints(at, id, endpoints);
            self.drive(node);
        }
    }

    /// Tells a node where on its local network a peer might be, as Multicast DNS does.
    pub fn offer_endpoint(&mut self, node: NodeId, peer: NodeId, endpoint: SocketAddr) {
        self.start_all();
        self.trust(node, endpoint);
        let (at, id) = (self.clock(node), self.machines[node.0].peer_id(peer));
        if let (Some(id), Some(running)) = (id, self.machines[node.0].node_mut()) {
            running.offer_endpoint(at, id, endpoint);
            self.drive(node);
        }
    }

    /// Changes a machine's own connection.
    pub fn set_uplink(&mut self, node: NodeId, uplink: Uplink) {
        self.start_all();
        self.machines[node.0].spec.uplink = uplink;
        for link in self.machines[node.0].links_mut() {
            link.uplink = uplink;
        }
    }

    /// Lets the next `count` sends of each of a node's sockets fail with `ENOBUFS`.
    pub fn exhaust_send_buffers(&mut self, node: NodeId, count: u32) {
        self.start_all();
        self.note(node, "ENOBUFS to come");
        for link in self.machines[node.0].links_mut() {
            link.no_buffers = count;
        }
    }

    /// Lets the TUN device refuse super-packets from now on, or take them again.
    pub fn set_offloads(&mut self, node: NodeId, offloads: bool) {
        self.start_all();
        for tun in self.machines[node.0].tuns_mut() {
            tun.offloads = offloads;
        }
    }

    /// Takes the TUN device down, or up.
    pub fn set_tun_up(&mut self, node: NodeId, up: bool) {
        self.start_all();
        self.note(node, if up { "TUN up" } else { "TUN down" });
        self.machines[node.0].set_tun_up(up);
        self.drive(node);
    }

    fn note(&mut self, node: NodeId, what: &'static str) {
        let name = self.machines[node.0].spec.name.clone();
        self.trace.push(self.now(), &name, "", 0, what);
    }
}
