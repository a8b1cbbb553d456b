//! Inner packets, built and taken apart again as a kernel would.
//!
//! Nothing here is shared with crate `packet`: what checks the checksums and the segmentation must not be what did
//! them. It is written to be plain, not fast.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packet::{Ecn, GsoType, VnetHeader};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flags.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Deliver now.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// Addresses, ports and ECN bits of a packet to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address; of the same IP version as the source.
    pub dst: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// ECN bits of the inner IP header.
    pub ecn: Ecn,
}

/// One transport segment as it reached a TUN device, after the segmentation that the kernel would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Addresses, ports, ECN.
    pub tuple: Tuple,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// TCP sequence number of the first payload byte; 0 for UDP.
    pub seq: u32,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// What the application gets.
    pub payload: Vec<u8>,
}

/// A UDP datagram in an IP packet with a complete checksum, after an all-zero vnet header.
pub fn udp(tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    build(tuple, &udp_header(tuple, payload.len()), payload, None)
}

/// UDP datagrams of `gso_size` bytes as one USO super-packet, its checksum partial.
pub fn udp_super(tuple: &Tuple, payload: &[u8], gso_size: u16) -> Vec<u8> {
    build(tuple, &udp_header(tuple, payload.len()), payload, Some((GsoType::UdpL4, gso_size)))
}

/// A TCP segment with a partial checksum, and as a TSO super-packet when the payload is longer than `mss`.
pub fn tcp(tuple: &Tuple, seq: u32, flags: u8, payload: &[u8], mss: u16) -> Vec<u8> {
    let kind = if tuple.src.is_ipv4() { GsoType::TcpV4 } else { GsoType::TcpV6 };
    let gso = if payload.len() > mss as usize { (kind, mss) } else { (GsoType::None, 0) };
    let mut header = [0; 20];
    header[..2].copy_from_slice(&tuple.src_port.to_be_bytes());
    header[2..4].copy_from_slice(&tuple.dst_port.to_be_bytes());
    header[4..8].copy_from_slice(&seq.to_be_bytes());
    header[8..12].copy_from_slice(&1_u32.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = flags;
    header[14..16].copy_from_slice(&0xffff_u16.to_be_bytes());
    build(tuple, &header, payload, Some(gso))
}

fn udp_header(tuple: &Tuple, payload_len: usize) -> [u8; 8] {
    let mut header = [0; 8];
    header[..2].copy_from_slice(&tuple.src_port.to_be_bytes());
    header[2..4].copy_from_slice(&tuple.dst_port.to_be_bytes());
    header[4..6].copy_from_slice(&(8 + payload_len as u16).to_be_bytes());
    header
}

/// Puts vnet and IP headers before a transport header. `offload`: leave the checksum partial, and cut by this.
fn build(tuple: &Tuple, transport: &[u8], payload: &[u8], offload: Option<(GsoType, u16)>) -> Vec<u8> {
    let protocol = if transport.len() == 8 { UDP } else { TCP };
    let checksum_at = checksum_offset(protocol);
    let mut body = [transport, payload].concat();
    let pseudo = pseudo_header(tuple, protocol, body.len());
    let mut sum = fold(sum_words(&pseudo, 0));
    if offload.is_none() {
        sum = match !fold(sum_words(&body, sum as u32)) {
            0 if protocol == UDP => 0xffff, // RFC 768: zero means that there is none
            sum => sum,
        };
    }
    body[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let ip = ip_header(tuple, protocol, body.len());
    let vnet = offload.map_or_else(VnetHeader::default, |(gso_type, gso_size)| VnetHeader {
        needs_checksum: true,
        gso_type,
        gso_ecn: false,
        hdr_len: (ip.len() + transport.len()) as u16,
        gso_size,
        csum_start: ip.len() as u16,
        csum_offset: checksum_at as u16,
    });
    [&vnet.to_bytes()[..], &ip, &body].concat()
}

fn ip_header(tuple: &Tuple, protocol: u8, body_len: usize) -> Vec<u8> {
    match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0; 20];
            header[0] = 0x45;
            header[1] = tuple.ecn as u8;
            header[2..4].copy_from_slice(&(20 + body_len as u16).to_be_bytes());
            header[6] = 0x40; // don't fragment
            header[8] = 64;
            header[9] = protocol;
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = !fold(sum_words(&header, 0));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (src, dst) => {
            let mut header = vec![0; 40];
            header[0] = 0x60;
            header[1] = (tuple.ecn as u8) << 4;
            header[4..6].copy_from_slice(&(body_len as u16).to_be_bytes());
            header[6] = protocol;
            header[7] = 64;
            header[8..24].copy_from_slice(&six(src).octets());
            header[24..40].copy_from_slice(&six(dst).octets());
            header
        }
    }
}

fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// How many packets a TUN read of these bytes (vnet header included) stands for.
pub fn segment_count(bytes: &[u8]) -> u64 {
    let Some((header, packet)) = bytes.split_first_chunk() else { return 1 };
    let Ok(vnet) = VnetHeader::parse(header) else { return 1 };
    if vnet.gso_type == GsoType::None || vnet.gso_size == 0 {
        return 1;
    }
    let payload = packet.len().saturating_sub(vnet.hdr_len as usize);
    payload.div_ceil(vnet.gso_size as usize).max(1) as u64
}

/// Takes what was written to a TUN device apart, checking all that a kernel checks, and more.
///
/// # Errors
/// What is wrong with it, for a person to read.
pub fn parse(bytes: &[u8]) -> Result<Vec<Segment>, String> {
    let (header, packet) = bytes.split_first_chunk().ok_or("shorter than a vnet header")?;
    let vnet = VnetHeader::parse(header).map_err(|error| error.to_string())?;
    let (mut tuple, protocol, ip_len) = parse_ip(packet)?;
    let body = &packet[ip_len..];
    let transport_len = match protocol {
        UDP if body.len() >= 8 => 8,
        TCP if body.len() >= 20 => usize::from(body[12] >> 4) * 4,
        UDP | TCP => return Err("truncated transport header".into()),
        other => return Err(format!("IP protocol {other}, which no generator sends")),
    };
    let payload = body.get(transport_len..).ok_or("TCP header longer than its packet")?;
    tuple.src_port = u16::from_be_bytes([body[0], body[1]]);
    tuple.dst_port = u16::from_be_bytes([body[2], body[3]]);
    if protocol == UDP && usize::from(u16::from_be_bytes([body[4], body[5]])) != body.len() {
        return Err("UDP length is not what the IP header says".into());
    }
    check_checksum(&vnet, &tuple, protocol, ip_len, body)?;
    let size = match vnet.gso_type {
        GsoType::None => payload.len().max(1),
        kind => {
            let expected = match (protocol, tuple.src) {
                (UDP, _) => GsoType::UdpL4,
                (_, IpAddr::V4(_)) => GsoType::TcpV4,
                (_, IpAddr::V6(_)) => GsoType::TcpV6,
            };
            if kind != expected {
                return Err(format!("GSO type {kind:?} where only {expected:?} fits"));
            }
            if vnet.gso_size == 0 || !vnet.needs_checksum {
                return Err("GSO without a segment size, or without a partial checksum".into());
            }
            if usize::from(vnet.hdr_len) != ip_len + transport_len {
                return Err(format!(
                    "hdr_len {} for {} bytes of header",
                    vnet.hdr_len,
                    ip_len + transport_len
                ));
            }
            vnet.gso_size as usize
        }
    };
    let tcp = protocol == TCP;
    let seq = if tcp { u32::from_be_bytes([body[4], body[5], body[6], body[7]]) } else { 0 };
    let all_flags = if tcp { body[13] } else { 0 };
    let chunks: Vec<&[u8]> = if payload.is_empty() { vec![payload] } else { payload.chunks(size).collect() };
    let last = chunks.len() - 1;
    Ok(chunks
        .into_iter()
        .enumerate()
        .map(|(i, chunk)| Segment {
            tuple,
            protocol,
            seq: seq.wrapping_add((i * size) as u32 * u32::from(tcp)),
            flags: if i == last { all_flags } else { all_flags & !(flags::FIN | flags::PSH) },
            payload: chunk.to_vec(),
        })
        .collect())
}

/// What a sender was told about a packet of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// The size that fits.
    pub mtu: u32,
    /// Addresses and ports of the packet.
    pub tuple: Tuple,
    /// Its transport.
    pub protocol: u8,
}

/// Whether a packet is ICMP "fragmentation needed", or "packet too big" of IPv6.
pub fn is_too_big(packet: &[u8]) -> bool {
    match packet {
        [0x45, ..] => packet.len() > 21 && packet[9] == 1 && packet[20..22] == [3, 4],
        [first, ..] if first >> 4 == 6 => packet.len() > 41 && packet[6] == 58 && packet[40] == 2,
        _ => false,
    }
}

/// Takes an ICMP message about a packet that was too large apart, with all that its receiver checks; `None` for
/// everything else.
///
/// # Errors
/// What is wrong with it.
pub fn parse_too_big(packet: &[u8]) -> Result<Option<TooBig>, String> {
    if !is_too_big(packet) {
        return Ok(None);
    }
    let (outer, protocol, ip_len) = parse_ip(packet)?;
    let message = &packet[ip_len..];
    let pseudo = if protocol == 58 { sum_words(&pseudo_header(&outer, 58, message.len()), 0) } else { 0 };
    if fold(sum_words(message, pseudo)) != 0xffff {
        return Err("wrong ICMP checksum".into());
    }
    let longest = if protocol == 58 { 1_280 } else { 576 };
    if packet.len() > longest {
        return Err(format!("{} bytes of ICMP message", packet.len()));
    }
    let mtu = match protocol {
        58 => u32::from_be_bytes([message[4], message[5], message[6], message[7]]),
        _ => u16::from_be_bytes([message[6], message[7]]).into(),
    };
    // The quoted packet ends early: its header alone is whole.
    let quoted = &message[8..];
    let ports = if protocol == 58 { 40 } else { 20 };
    if quoted.len() < ports + 4 {
        return Err("quotes less than the ports".into());
    }
    let mut whole = quoted.to_vec();
    let total = match protocol {
        58 => 40 + usize::from(u16::from_be_bytes([quoted[4], quoted[5]])),
        _ => usize::from(u16::from_be_bytes([quoted[2], quoted[3]])),
    };
    whole.resize(total, 0);
    let (mut tuple, transport, _) = parse_ip(&whole)?;
    if (outer.src, outer.dst) != (tuple.dst, tuple.src) {
        return Err(format!("from {} to {} about {tuple:?}", outer.src, outer.dst));
    }
    if total <= mtu as usize {
        return Err(format!("a packet of {total} bytes is too large for {mtu}"));
    }
    tuple.src_port = u16::from_be_bytes([quoted[ports], quoted[ports + 1]]);
    tuple.dst_port = u16::from_be_bytes([quoted[ports + 2], quoted[ports + 3]]);
    Ok(Some(TooBig { mtu, tuple, protocol: transport }))
}

fn parse_ip(packet: &[u8]) -> Result<(Tuple, u8, usize), String> {
    let version = packet.first().ok_or("empty packet")? >> 4;
    let (total, header_len, protocol, ecn, src, dst): (usize, usize, u8, u8, IpAddr, IpAddr) = match version {
        4 if packet.len() >= 20 => {
            let header_len = usize::from(packet[0] & 15) * 4;
            if header_len != 20 || fold(sum_words(&packet[..20], 0)) != 0xffff {
                return Err("IPv4 header with options or a wrong checksum".into());
            }
            let address = |at: usize| -> IpAddr {
                Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]).into()
            };
            let total = u16::from_be_bytes([packet[2], packet[3]]);
            (total.into(), header_len, packet[9], packet[1], address(12), address(16))
        }
        6 if packet.len() >= 40 => {
            let address = |at: usize| -> IpAddr {
                let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen bytes");
                Ipv6Addr::from(octets).into()
            };
            let body = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            (body + 40, 40, packet[6], packet[1] >> 4, address(8), address(24))
        }
        _ => return Err("not an IP packet".into()),
    };
    if total != packet.len() {
        return Err(format!("the IP header says {total} bytes, there are {}", packet.len()));
    }
    let tuple = Tuple { src, dst, src_port: 0, dst_port: 0, ecn: Ecn::from_bits(ecn) };
    Ok((tuple, protocol, header_len))
}

fn check_checksum(
    vnet: &VnetHeader,
    tuple: &Tuple,
    protocol: u8,
    ip_len: usize,
    body: &[u8],
) -> Result<(), String> {
    let at = checksum_offset(protocol);
    let pseudo = sum_words(&pseudo_header(tuple, protocol, body.len()), 0);
    if vnet.needs_checksum {
        if usize::from(vnet.csum_start) != ip_len || usize::from(vnet.csum_offset) != at {
            return Err(format!("checksum at {}+{}, not {ip_len}+{at}", vnet.csum_start, vnet.csum_offset));
        }
        let found = u16::from_be_bytes([body[at], body[at + 1]]);
        if found != fold(pseudo) {
            return Err(format!("partial checksum {found:04x}, not {:04x}", fold(pseudo)));
        }
    } else if fold(sum_words(body, pseudo)) != 0xffff {
        return Err("wrong transport checksum".into());
    }
    Ok(())
}

fn checksum_offset(protocol: u8) -> usize {
    if protocol == UDP { 6 } else { 16 }
}

fn pseudo_header(tuple: &Tuple, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (src, dst) => [six(src).octets(), six(dst).octets()].concat(),
    };
    bytes.extend_from_slice(&[0, protocol]);
    bytes.extend_from_slice(&(len as u32).to_be_bytes());
    bytes
}

fn sum_words(bytes: &[u8], initial: u32) -> u32 {
    let mut sum = u64::from(initial);
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff_ffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u32
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuples() -> [Tuple; 2] {
        ["10.0.0.1 10.0.0.2", "fd00::1 fd00::2"].map(|pair| {
            let (src, dst) = pair.split_once(' ').unwrap();
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            Tuple { src, dst, src_port: 4_000, dst_port: 5_000, ecn: Ecn::Ect0 }
        })
    }

    #[test]
    fn what_is_built_is_read_back() {
        for tuple in tuples() {
            let segments = parse(&udp(&tuple, b"an odd one!")).unwrap();
            assert_eq!(segments.len(), 1);
            assert_eq!((segments[0].tuple, &segments[0].payload[..]), (tuple, &b"an odd one!"[..]));
            assert!(parse(&udp(&tuple, b"")).unwrap()[0].payload.is_empty());
        }
    }

    #[test]
    fn a_super_packet_is_cut_as_the_kernel_would() {
        for tuple in tuples() {
            let payload: Vec<u8> = (0..250).collect();
            let tcp = tcp(&tuple, u32::MAX - 50, flags::ACK | flags::PSH, &payload, 100);
            assert_eq!(segment_count(&tcp), 3);
            let segments = parse(&tcp).unwrap();
            assert_eq!(segments.iter().map(|s| s.payload.len()).collect::<Vec<_>>(), [100, 100, 50]);
            assert_eq!(segments.iter().map(|s| s.seq).collect::<Vec<_>>(), [u32::MAX - 50, 49, 149]);
            assert_eq!(
                segments.iter().map(|s| s.flags & flags::PSH != 0).collect::<Vec<_>>(),
                [false, false, true]
            );
            let udp = parse(&udp_super(&tuple, &payload, 200)).unwrap();
            assert_eq!(udp.iter().map(|s| s.payload.len()).collect::<Vec<_>>(), [200, 50]);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_wherever_a_checksum_reaches() {
        for tuple in tuples() {
            let good = udp(&tuple, b"hello");
            let ip_len = if tuple.src.is_ipv4() { 20 } else { 40 };
            for at in VnetHeader::LEN + ip_len..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 4;
                assert!(parse(&bad).is_err(), "byte {at}");
            }
        }
    }
}
