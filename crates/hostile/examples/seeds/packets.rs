//! Packets to start from, built byte by byte.

use packet::{GsoType, VnetHeader, checksum};
use std::net::IpAddr;

/// A TCP or UDP packet in the making.
#[derive(Clone)]
pub(crate) struct Draft {
    version: u8,
    protocol: u8,
    flags: u8,
    ecn: u8,
    id: u16,
    fragment: u16,
    sequence: u32,
    tcp_options: usize,
    payload: usize,
    gso_type: GsoType,
    gso_size: u16,
}

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

impl Draft {
    fn new(version: u8, protocol: u8) -> Self {
        Self {
            version,
            protocol,
            flags: 0x10, // ACK
            ecn: 0,
            id: 7,
            fragment: DONT_FRAGMENT,
            sequence: 0xffff_ff00, // wraps within a train
            tcp_options: 0,
            payload: 0,
            gso_type: GsoType::None,
            gso_size: 0,
        }
    }

    pub(crate) fn tcp(version: u8) -> Self {
        Self::new(version, packet::ip::TCP)
    }

    pub(crate) fn udp(version: u8) -> Self {
        Self::new(version, packet::ip::UDP)
    }

    pub(crate) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    pub(crate) fn ecn(self, ecn: u8) -> Self {
        Self { ecn, ..self }
    }

    pub(crate) fn may_fragment(self, id: u16) -> Self {
        Self { id, fragment: 0, ..self }
    }

    pub(crate) fn fragment(self) -> Self {
        Self { fragment: MORE_FRAGMENTS, ..self }
    }

    /// A multiple of 4 bytes of NOPs.
    pub(crate) fn tcp_options(self, tcp_options: usize) -> Self {
        Self { tcp_options, ..self }
    }

    pub(crate) fn payload(self, payload: usize) -> Self {
        Self { payload, ..self }
    }

    pub(crate) fn gso(self, gso_type: GsoType, gso_size: u16) -> Self {
        Self { gso_type, gso_size, ..self }
    }

    /// The segment `index` of a train of segments with `size` bytes of payload.
    pub(crate) fn nth(self, index: u32, size: u32) -> Self {
        Self {
            sequence: self.sequence.wrapping_add(index * size),
            id: self.id.wrapping_add(index as u16),
            ..self
        }
    }

    fn transport(&self) -> usize {
        if self.version == 4 { 20 } else { 40 }
    }

    fn checksum_offset(&self) -> usize {
        if self.protocol == packet::ip::TCP { 16 } else { 6 }
    }

    /// With a virtio-net header before it that asks for the checksum, and for segmentation if there is any.
    pub(crate) fn with_vnet(self) -> Vec<u8> {
        let vnet = VnetHeader {
            needs_checksum: true,
            gso_type: self.gso_type,
            gso_size: self.gso_size,
            csum_start: self.transport() as u16,
            csum_offset: self.checksum_offset() as u16,
            ..VnetHeader::default()
        };
        [&vnet.to_bytes()[..], &self.partial()].concat()
    }

    /// With a partial transport checksum.
    pub(crate) fn partial(self) -> Vec<u8> {
        let at = self.transport() + self.checksum_offset();
        let (mut packet, pseudo) = self.headers_and_payload();
        packet[at..at + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        packet
    }

    /// With a full transport checksum.
    pub(crate) fn full(self) -> Vec<u8> {
        let transport = self.transport();
        let at = transport + self.checksum_offset();
        let (mut packet, pseudo) = self.headers_and_payload();
        let full = !checksum::fold(checksum::sum(&packet[transport..], pseudo));
        packet[at..at + 2].copy_from_slice(&full.to_be_bytes());
        packet
    }

    /// The packet without a transport checksum, and the sum of its pseudo-header.
    fn headers_and_payload(&self) -> (Vec<u8>, u64) {
        let mut transport = vec![0x30, 0x39, 0x14, 0x51]; // ports 12345 and 5201
        let data: Vec<u8> = (0..self.payload).map(|at| (at * 7 + 1) as u8).collect();
        if self.protocol == packet::ip::TCP {
            transport.extend_from_slice(&self.sequence.to_be_bytes());
            transport.extend_from_slice(&[0, 0, 0, 9]);
            transport.extend_from_slice(&[
                ((20 + self.tcp_options) << 2) as u8,
                self.flags,
                0xff,
                0xff,
                0,
                0,
                0,
                0,
            ]);
            transport.resize(transport.len() + self.tcp_options, 1);
        } else {
            transport.extend_from_slice(&(8 + self.payload as u16).to_be_bytes());
            transport.extend_from_slice(&[0, 0]);
        }
        transport.extend_from_slice(&data);
        let len = transport.len();
        let (mut ip, src, dst): (_, IpAddr, IpAddr) = if self.version == 4 {
            (self.ipv4(len), [10, 77, 0, 1].into(), [10, 77, 0, 2].into())
        } else {
            let end = |last: u16| [0xfd77, 0, 0, 0, 0, 0, 0, last].into();
            (self.ipv6(len, end(1), end(2)), end(1), end(2))
        };
        ip.extend_from_slice(&transport);
        (ip, checksum::pseudo_header(src, dst, self.protocol, len as u32))
    }

    fn ipv4(&self, len: usize) -> Vec<u8> {
        let mut header = vec![0x45, self.ecn];
        header.extend_from_slice(&(20 + len as u16).to_be_bytes());
        header.extend_from_slice(&self.id.to_be_bytes());
        header.extend_from_slice(&self.fragment.to_be_bytes());
        header.extend_from_slice(&[64, self.protocol, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
        let sum = !checksum::fold(checksum::sum(&header, 0));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6(&self, len: usize, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let mut header = vec![0x60, self.ecn << 4, 0, 0];
        header.extend_from_slice(&(len as u16).to_be_bytes());
        header.extend_from_slice(&[self.protocol, 64]);
        for address in [src, dst] {
            if let IpAddr::V6(address) = address {
                header.extend_from_slice(&address.octets());
            }
        }
        header
    }
}
