//! Everything ShadowMesh asks of Linux, behind safe types.
//!
//! - [`tun`]: TUN queues with a virtio-net header, super-packets and their start-up self-test.
//! - [`udp`]: batched UDP with GSO and GRO, one socket a worker, steered by lane.
//! - [`poll`]: `epoll` and a waker; [`signal`]: signals as a descriptor.
//! - [`netlink`]: links, addresses and routes.
//! - [`netns`]: anonymous network namespaces, for `demo` and for tests.
//! - [`files`]: key files, atomic writes, `sd_notify`, limits.
//!
//! This is the only crate with `unsafe`: system calls, each block a single call with the reason why it is sound.

#[cfg(not(target_os = "linux"))]
compile_error!("ShadowMesh runs on Linux only");

pub mod alloc;
mod cmsg;
pub mod files;
pub mod netlink;
pub mod netns;
pub mod poll;
pub mod signal;
mod sys;
pub mod tun;
pub mod udp;
