//! Packet memory and packet arithmetic: everything ShadowMesh does to bytes before and after it seals them.
//!
//! - [`Pool`] and [`Buf`]: a fixed set of buffers, taken and returned without the allocator.
//! - [`VnetHeader`]: the `virtio_net_hdr` that the kernel puts before each TUN packet, and what it means.
//! - [`icmp`]: the answer to a packet that is too large.
//! - [`ip`]: borrowed views of IPv4, IPv6, TCP and UDP headers.
//! - [`checksum`]: the Internet checksum (RFC 1071), whole and partial.
//! - [`segment`]: a TSO/USO super-packet cut into a *train* of segments.
//! - [`coalesce`]: consecutive segments of one flow put together again into a super-packet.
//! - [`Tun`] and [`Link`]: the two traits behind which the kernel, or the simulator, stands.
//!
//! A super-packet on its way out, and its segments on their way in at the other end:
//!
//! ```
//! use packet::{CoalesceLimits, GsoType, Group, SuperPacket, VnetHeader};
//!
//! // A UDP super-packet of 2,000 bytes of payload over IPv4, to be cut into datagrams of 800.
//! let mut packet = vec![0x5a; 2_028];
//! packet[..20].copy_from_slice(&[0x45, 0, 0x07, 0xec, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
//! packet[20..28].copy_from_slice(&[0x9c, 0x40, 0, 9, 0x07, 0xd8, 0, 0]);
//! let (gso_type, gso_size) = (GsoType::UdpL4, 800);
//! let vnet =
//!     VnetHeader { needs_checksum: true, gso_type, gso_size, csum_start: 20, csum_offset: 6, ..Default::default() };
//!
//! let plan = SuperPacket::parse(&vnet, &packet, packet.len())?;
//! let train: Vec<Vec<u8>> = (0..plan.segment_count())
//!     .map(|index| {
//!         let mut segment = packet[..plan.header_len()].to_vec();
//!         plan.patch_header(index, &mut segment);
//!         segment.extend(&packet[plan.payload_range(index)]);
//!         segment
//!     })
//!     .collect();
//! assert_eq!(train.iter().map(Vec::len).collect::<Vec<_>>(), [828, 828, 428]);
//!
//! let partial = plan.is_partial();
//! let mut group = Group::start(&train[0], partial, CoalesceLimits::ALL)?;
//! assert!(group.try_push(&train[1], partial) && group.try_push(&train[2], partial));
//! let (again, header) = group.finish();
//! assert_eq!((again.gso_type, again.gso_size), (gso_type, gso_size));
//! assert_eq!(header[..10], packet[..10]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate does no I/O, reads no clock and holds no `unsafe` code.

mod carrier;
pub mod checksum;
pub mod coalesce;
pub mod icmp;
mod io;
pub mod ip;
mod pool;
pub mod segment;
mod vnet;

pub use carrier::{Carrier, Endpoint, UnknownCarrier};
pub use coalesce::{CoalesceLimits, Group};
pub use io::{Ecn, Link, RecvSlot, Transmit, Tun, Via};
pub use ip::{InvalidPacket, Ip};
pub use pool::{Buf, Class, ClassUse, Pool, PoolConfig};
pub use segment::{InvalidSuperPacket, SuperPacket};
pub use vnet::{GsoType, InvalidVnetHeader, VnetHeader};

/// The largest IP packet, and the largest super-packet the kernel hands over: 65,535 bytes.
pub const MAX_PACKET: usize = 65_535;

/// The most payload bytes one UDP datagram, or one UDP GSO send, can carry over IPv4: 65,507 bytes.
pub const MAX_DATAGRAM: usize = 65_507;
