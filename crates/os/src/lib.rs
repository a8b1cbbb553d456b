//! Everything ShadowMesh asks of Linux, behind safe types.
//!
//! - [`tun`]: TUN queues with a virtio-net header, super-packets and their start-up self-test.
//! - [`udp`]: batched UDP with GSO and GRO, one socket a worker, steered by lane.
//! - [`multicast`]: a UDP socket of a multicast group on many interfaces; [`clock`]: when the machine was suspended.
//! - [`fake_tcp`]: the same in crafted TCP segments, past the kernel's TCP.
//! - [`tcp`]: the same over ordinary TCP connections.
//! - [`poll`]: `epoll` and a waker; [`signal`]: signals as a descriptor.
//! - [`capture`]: seeing packets pass; [`offloads`]: what devices do for us.
//! - [`netlink`]: links, addresses and routes.
//! - [`netns`]: anonymous network namespaces, for `demo` and for tests.
//! - [`alloc`]: an allocator that counts.
//! - [`files`]: key files, atomic writes, `sd_notify`, limits.
//!
//! ```
//! use os::udp::{UdpConfig, bind};
//! use packet::{Ecn, Link, RecvSlot, Transmit};
//!
//! let listen = "127.0.0.1:0".parse()?;
//! let config = UdpConfig { listen, workers: 1, send_buffer_bytes: 1 << 20, receive_buffer_bytes: 1 << 20, offload: true };
//! let mut here = bind(&config)?.remove(0);
//! let mut there = bind(&config)?.remove(0);
//!
//! // Three datagrams leave in one system call.
//! let train = [7; 2500];
//! here.send(&Transmit { to: there.local_addr()?, ecn: Ecn::Ect0, segment_size: 1000, contents: &train })?;
//!
//! let poller = os::poll::Poller::new()?;
//! poller.add(&there, 0, os::poll::Interest::READ)?;
//! poller.wait(&mut os::poll::Events::with_capacity(1), None)?;
//! let mut slots = [RecvSlot::new(65_535)];
//! assert_eq!(there.recv(&mut slots)?, 1);
//! assert_eq!((slots[0].segment_size, slots[0].ecn), (1000, Ecn::Ect0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This is the only crate with `unsafe`: system calls, each block a single call with the reason why it is sound.

#[cfg(not(target_os = "linux"))]
compile_error!("ShadowMesh runs on Linux only");

pub mod alloc;
mod bpf;
pub mod capture;
pub mod clock;
mod cmsg;
pub mod fake_tcp;
pub mod files;
pub mod multicast;
pub mod netlink;
pub mod netns;
pub mod offloads;
pub mod poll;
pub mod resolve;
pub mod signal;
mod sys;
pub mod tcp;
pub mod tun;
pub mod udp;
