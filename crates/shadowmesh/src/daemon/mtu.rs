//! How large a packet may be: from the paths to the peers, when the configuration does not say.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use handshake::Protocol;
use packet::Carrier;

use crate::config::{Config, Endpoint, MTU_MIN, Peer};

/// What a path carries when the kernel does not know better, and the most that is assumed of any, in bytes.
const PATH_MTU: u16 = 1_500;

/// Bytes around an inner packet in a sealed datagram: the header of 16, the content byte, and the tag of 16.
const SHADOWMESH_OVERHEAD: u16 = 16 + 1 + 16;

/// The most segments of one UDP GSO send that every kernel takes (`UDP_MAX_SEGMENTS` before Linux 6.9).
const GSO_SEGMENTS_MAX: u32 = 64;

/// The MTU of the TUN device: what fits the widest path to a peer. What is too large for another peer's, the worker
/// that meets it deals with.
pub(super) fn of_paths(config: &Config) -> u16 {
    let widest = config.peers.iter().flat_map(of_peer).max();
    // Nobody to ask: what fits every peer that may be added.
    widest.unwrap_or_else(|| inner(PATH_MTU, Carrier::Udp, None, Protocol::ShadowMesh))
}

/// By each of the carriers to a peer.
fn of_peer(peer: &Peer) -> impl Iterator<Item = u16> {
    let (path, address) = match &peer.endpoint {
        Some(Endpoint::Address(address)) => (os::udp::path_mtu(*address).unwrap_or(PATH_MTU), Some(*address)),
        // A name may turn out to be an address of either family.
        Some(Endpoint::Name { .. }) | None => (PATH_MTU, None),
    };
    let protocol = peer.protocol;
    peer.ways.iter().map(move |way| inner(path, way.carrier, address, protocol))
}

/// The largest inner packet whose sealed datagram fits a path of `path` bytes.
fn inner(path: u16, carrier: Carrier, endpoint: Option<SocketAddr>, protocol: Protocol) -> u16 {
    // An unknown family might be the one with the larger header.
    let unknown = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let to = endpoint.map_or(unknown, |endpoint| endpoint.ip().to_canonical());
    node::packet_max(protocol, carrier, to, path.min(PATH_MTU)).max(MTU_MIN)
}

/// The largest super-packet to take from the TUN device, in bytes, so that its sealed train leaves in one UDP GSO send.
///
/// A send carries at most `n = min(64, ⌊65,507 / (mtu + 33)⌋)` sealed segments. A super-packet of `n` segments has one
/// header and `n` payloads. With the smallest header, the 40 bytes of IPv4 and TCP, that is `n · (mtu − 40) + 40`
/// bytes. TCP never fills it: the kernel subtracts its own `MAX_TCP_HEADER` (160 bytes and more) before it counts
/// payloads, so larger headers stay within `n` segments too. A forwarded super-packet can come out one segment longer;
/// the worker then sends twice.
pub(super) fn gso_bytes_max(mtu: u16) -> u32 {
    let sealed = u32::from(mtu) + u32::from(SHADOWMESH_OVERHEAD);
    let segments = GSO_SEGMENTS_MAX.min(packet::MAX_DATAGRAM as u32 / sealed);
    segments * (u32::from(mtu) - 40) + 40
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Option<SocketAddr> = Some(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1));
    const V6: Option<SocketAddr> = Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 1));

    #[test]
    fn a_full_packet_just_fits_the_path() {
        assert_eq!(inner(1500, Carrier::Udp, V4, Protocol::ShadowMesh), 1500 - 20 - 8 - 33);
        assert_eq!(inner(1500, Carrier::Udp, V6, Protocol::ShadowMesh), 1500 - 40 - 8 - 33);
        assert_eq!(inner(1500, Carrier::Udp, None, Protocol::ShadowMesh), 1419);
        assert_eq!(inner(1492, Carrier::Udp, V4, Protocol::ShadowMesh), 1431);
        assert_eq!(inner(1500, Carrier::FakeTcp, V4, Protocol::ShadowMesh), 1500 - 20 - 32 - 33);
    }

    #[test]
    fn wireguard_packets_leave_room_for_their_padding() {
        assert_eq!(inner(1500, Carrier::Udp, V4, Protocol::WireGuard), 1440);
        assert_eq!(inner(1500, Carrier::Udp, V6, Protocol::WireGuard), 1408, "1,420, rounded down");
    }

    #[test]
    fn the_mtu_is_neither_below_what_ipv6_needs_nor_beyond_ethernet() {
        assert_eq!(inner(1280, Carrier::Udp, V6, Protocol::ShadowMesh), 1280);
        assert_eq!(inner(0, Carrier::Udp, V6, Protocol::WireGuard), 1280);
        assert_eq!(inner(65_535, Carrier::Udp, V4, Protocol::ShadowMesh), 1439);
    }

    #[test]
    fn the_sealed_train_of_a_super_packet_fits_one_send() {
        for mtu in [1280, 1419, 1439, 1500, 9000] {
            let bytes = gso_bytes_max(mtu);
            let payload = u32::from(mtu) - 40;
            let segments = (bytes - 40).div_ceil(payload);
            assert!(segments <= 64);
            assert!(bytes - 40 + segments * (40 + 33) <= packet::MAX_DATAGRAM as u32);
        }
    }
}
