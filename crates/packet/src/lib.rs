//! Packet memory and packet arithmetic: everything ShadowMesh does to bytes before and after it seals them.
//!
//! - [`Pool`] and [`Buf`]: a fixed set of buffers, taken and returned without the allocator.
//! - [`VnetHeader`]: the `virtio_net_hdr` that the kernel puts before each TUN packet, and what it means.
//! - [`ip`]: borrowed views of IPv4, IPv6, TCP and UDP headers.
//! - [`checksum`]: the Internet checksum (RFC 1071), whole and partial.
//! - [`segment`]: a TSO/USO super-packet cut into a *train* of segments.
//! - [`coalesce`]: consecutive segments of one flow put together again into a super-packet.
//! - [`Tun`] and [`Link`]: the two traits behind which the kernel, or the simulator, stands.
//!
//! The crate does no I/O, reads no clock and holds no `unsafe` code.

pub mod checksum;
pub mod coalesce;
mod io;
pub mod ip;
mod pool;
pub mod segment;
mod vnet;

pub use coalesce::{CoalesceLimits, Group};
pub use io::{Ecn, Link, RecvSlot, Transmit, Tun};
pub use ip::{InvalidPacket, Ip};
pub use pool::{Buf, Class, ClassUse, Pool, PoolConfig};
pub use segment::{InvalidSuperPacket, SuperPacket};
pub use vnet::{GsoType, InvalidVnetHeader, VnetHeader};

/// The largest IP packet, and the largest super-packet the kernel hands over: 65,535 bytes.
pub const MAX_PACKET: usize = 65_535;

/// The most payload bytes one UDP datagram, or one UDP GSO send, can carry over IPv4: 65,507 bytes.
pub const MAX_DATAGRAM: usize = 65_507;
