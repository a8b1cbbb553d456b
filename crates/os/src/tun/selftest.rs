//! Whether the driver truly takes the super-packets that it was told of.
//!
//! The write path of the driver (`tun_get_user`) first turns the virtio-net header into the kernel's own notes and
//! answers `EINVAL` to what it does not know. Only then does it look whether the interface is up, answer `EIO` and
//! throw the packet away. So on an interface that is still down, `EIO` means "would have been taken", and nothing
//! can reach the network stack.
//!
//! A header that no kernel takes serves as control: where it is answered by `EIO` as well, the driver looks at the
//! interface first, the test says nothing, and what `TUNSETOFFLOAD` took is believed.

use std::fs::File;
use std::io::Write;

use packet::{GsoType, VnetHeader};

use super::TunOffloads;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const SEGMENT: usize = 100;
const PAYLOAD: usize = 3 * SEGMENT;

/// The part of `announced` that the driver takes on a device that is down.
pub(super) fn run(file: &File, announced: TunOffloads) -> TunOffloads {
    let mut bogus = super_packet(false, GsoType::TcpV4);
    bogus[1] = 0x7f;
    if accepted(file, &bogus) {
        return announced;
    }
    let works = |on: bool, v6, gso_type| on && accepted(file, &super_packet(v6, gso_type));
    let csum = works(announced.csum, false, GsoType::None) && works(true, true, GsoType::None);
    TunOffloads {
        csum,
        tso4: csum && works(announced.tso4, false, GsoType::TcpV4),
        tso6: csum && works(announced.tso6, true, GsoType::TcpV6),
        uso4: csum && works(announced.uso4, false, GsoType::UdpL4),
        uso6: csum && works(announced.uso6, true, GsoType::UdpL4),
        ..announced
    }
}

/// Whether the driver finds nothing wrong with the header. Only a refusal (`EINVAL` and the like) counts as no.
fn accepted(mut file: &File, bytes: &[u8]) -> bool {
    match file.write(bytes) {
        Ok(written) => written == bytes.len(),
        Err(error) => error.raw_os_error() == Some(libc::EIO),
    }
}

/// A super-packet of three segments from and to the unspecified address, which no stack would deliver anyway.
/// [`GsoType::None`] makes a UDP datagram with a partial checksum.
fn super_packet(v6: bool, gso_type: GsoType) -> Vec<u8> {
    let tcp = matches!(gso_type, GsoType::TcpV4 | GsoType::TcpV6);
    let ip_header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
    let transport_header = if tcp { TCP_HEADER } else { UDP_HEADER };
    let header = VnetHeader {
        needs_checksum: true,
        gso_type,
        gso_ecn: false,
        hdr_len: (ip_header + transport_header) as u16,
        gso_size: if gso_type == GsoType::None { 0 } else { SEGMENT as u16 },
        csum_start: ip_header as u16,
        csum_offset: if tcp { 16 } else { 6 },
    };
    let transport = (transport_header + PAYLOAD) as u16;
    let mut ip = vec![0; ip_header + transport_header + PAYLOAD];
    let protocol = if tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP } as u8;
    if v6 {
        ip[0] = 6 << 4;
        ip[4..6].copy_from_slice(&transport.to_be_bytes());
        ip[6] = protocol;
        ip[7] = 1; // hop limit
    } else {
        ip[0] = 4 << 4 | 5;
        ip[2..4].copy_from_slice(&(IPV4_HEADER as u16 + transport).to_be_bytes());
        ip[8] = 1; // TTL
        ip[9] = protocol;
    }
    if tcp {
        ip[ip_header + 12] = 5 << 4; // data offset
        ip[ip_header + 13] = 0x10; // ACK
    } else {
        ip[ip_header + 4..ip_header + 6].copy_from_slice(&transport.to_be_bytes());
    }
    [&header.to_bytes()[..], &ip].concat()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const ANNOUNCED: TunOffloads =
        TunOffloads { csum: true, tso4: true, tso6: true, uso4: true, uso6: true, multi_queue: true };

    #[test]
    fn a_driver_that_refuses_super_packets_gets_none() {
        // Every write to a file opened for reading is refused.
        let file = File::open("/dev/null").unwrap();
        assert_eq!(run(&file, ANNOUNCED), TunOffloads { multi_queue: true, ..TunOffloads::default() });
    }

    #[test]
    fn a_driver_that_does_not_look_at_headers_is_believed() {
        let (ours, _drivers) = UnixDatagram::pair().unwrap();
        assert_eq!(run(&File::from(OwnedFd::from(ours)), ANNOUNCED), ANNOUNCED);
    }

    #[test]
    fn super_packets_have_lengths_that_agree() {
        for (v6, gso_type) in
            [(false, GsoType::TcpV4), (true, GsoType::TcpV6), (false, GsoType::UdpL4), (true, GsoType::UdpL4)]
        {
            let bytes = super_packet(v6, gso_type);
            let (header, ip) = bytes.split_at(VnetHeader::LEN);
            let header = VnetHeader::parse(header.try_into().unwrap()).unwrap();
            let length =
                if v6 { u16::from_be_bytes([ip[4], ip[5]]) + 40 } else { u16::from_be_bytes([ip[2], ip[3]]) };
            assert_eq!(usize::from(length), ip.len());
            assert_eq!(ip.len() - usize::from(header.hdr_len), 3 * usize::from(header.gso_size));
        }
    }
}
