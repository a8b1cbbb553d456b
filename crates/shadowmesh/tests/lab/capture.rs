//! What is on the wire, and packets of our own making.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use os::netns::Netns;
use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL` of `linux/if_ether.h`, in network byte order.
const ETH_P_ALL: i32 = (3_u16.to_be()) as i32;

/// `IPPROTO_RAW`: the packet brings its own IP header.
const IPPROTO_RAW: i32 = 255;

/// Every IP packet that a host sends or receives, on whatever interface, while this lives.
pub(crate) struct Capture {
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Captures the packets that `wanted` wants.
    pub(crate) fn start(netns: &Netns, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(ETH_P_ALL))).unwrap();
        let mut socket = netns.run(open).unwrap();
        socket.set_recv_buffer_size(8 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let packets = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (sink, until) = (Arc::clone(&packets), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            let mut buf = vec![0; 1 << 16];
            while !until.load(Relaxed) {
                match socket.read(&mut buf) {
                    Ok(len) if wanted(&buf[..len]) => sink.lock().unwrap().push(buf[..len].to_vec()),
                    Ok(_) => {}
                    Err(error) => {
                        assert!(
                            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
                            "{error}"
                        );
                    }
                }
            }
        });
        Self { packets, ended, thread: Some(thread) }
    }

    /// What was captured so far.
    pub(crate) fn packets(&self) -> Vec<Vec<u8>> {
        self.packets.lock().unwrap().clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Sends whole IP packets from a host, as they are (but the kernel fills in the checksum of an IPv4 header).
pub(crate) fn send_raw<'a>(netns: &Netns, to: &str, packets: impl IntoIterator<Item = &'a [u8]>) {
    let to: IpAddr = to.parse().unwrap();
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let open = || Socket::new(domain, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
    let socket = netns.run(open).unwrap();
    for packet in packets {
        socket.send_to(packet, &SocketAddr::new(to, 0).into()).unwrap();
    }
}
