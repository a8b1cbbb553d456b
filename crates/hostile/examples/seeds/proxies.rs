//! What clients and peers say to a proxy.

use shadowmesh::proxy::request::{ListenerId, Request, Transport};
use shadowmesh::proxy::{Frame, Target};

use crate::Seeds;

fn encoded(target: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    target.parse::<Target>().expect("a target").encode(&mut bytes);
    bytes
}

pub(crate) fn socks5() -> Seeds {
    let request = |command: u8, target: &str| [&[5, command, 0], encoded(target).as_slice()].concat();
    vec![
        ("greeting", vec![5, 1, 0]),
        ("greeting-with-password", vec![5, 3, 0, 1, 2]),
        ("login", b"\x01\x05alice\x06s3cret".to_vec()),
        ("login-longest", [&[1, 255], [b'u'; 255].as_slice(), &[255], &[b'p'; 255]].concat()),
        ("connect-ipv4", request(1, "192.0.2.1:80")),
        ("connect-ipv6", request(1, "[2001:db8::1]:443")),
        ("connect-name", request(1, "www.example.org:443")),
        ("connect-address-as-name", b"\x05\x01\x00\x03\x09127.0.0.1\x00\x50".to_vec()),
        ("bind", request(2, "192.0.2.1:80")),
        ("udp-associate", request(3, "0.0.0.0:0")),
        ("datagram", [&[0, 0, 0], encoded("192.0.2.1:53").as_slice(), b"query"].concat()),
        ("datagram-fragment", [&[0, 0, 1], encoded("dns.example:53").as_slice(), b"query"].concat()),
        ("socks4", vec![4, 1, 0, 80, 192, 0, 2, 1, 0]),
    ]
}

pub(crate) fn http() -> Seeds {
    let head = |lines: &str| format!("{lines}\r\n\r\n").into_bytes();
    vec![
        ("connect", head("CONNECT www.example.org:443 HTTP/1.1\r\nHost: www.example.org:443")),
        ("connect-ipv6", head("CONNECT [2001:db8::1]:443 HTTP/1.0")),
        ("credentials", head("CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Basic YWxpY2U6czNjcmV0")),
        ("credentials-of-another-kind", head("CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Bearer x")),
        ("early-data", [head("CONNECT a:1 HTTP/1.1"), vec![0x16, 3, 1]].concat()),
        ("get", head("GET http://www.example.org/ HTTP/1.1\r\nHost: www.example.org")),
        ("without-port", head("CONNECT www.example.org HTTP/1.1")),
        ("too-long", format!("CONNECT a:1 HTTP/1.1\r\nX: {}", "x".repeat(9_000)).into_bytes()),
        ("cut-off", b"CONNECT a:1 HTTP/1.1\r\nHo".to_vec()),
    ]
}

pub(crate) fn requests() -> Seeds {
    let of = |request: Request| {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        bytes
    };
    let connect = |target: &str| of(Request::Connect(target.parse().expect("a target")));
    let listen = |transport| {
        of(Request::Listen { listener: ListenerId(7), transport, address: ([127, 0, 0, 1], 8080).into() })
    };
    let frame = |target: &str, data: &[u8]| {
        let mut bytes = Vec::new();
        assert!(Frame { target: &encoded(target), data }.encode(&mut bytes), "it is short enough");
        bytes
    };
    vec![
        ("connect-ipv4", connect("192.0.2.1:80")),
        ("connect-ipv6", connect("[2001:db8::1]:443")),
        ("connect-name-and-early-data", [connect("www.example.org:443"), vec![0x16, 3, 1]].concat()),
        ("datagrams", of(Request::Datagrams)),
        ("listen-tcp", listen(Transport::Tcp)),
        ("listen-udp", listen(Transport::Udp)),
        ("listen-on-a-name", b"\x01\x03\0\0\0\x07\x03\x01a\0\x50".to_vec()),
        ("incoming", of(Request::Incoming(ListenerId(7)))),
        ("frames", [frame("192.0.2.1:53", b"query"), frame("dns.example:53", b"")].concat()),
        ("frame-cut-off", frame("192.0.2.1:53", b"query")[..9].to_vec()),
        ("frame-shorter-than-its-target", vec![0, 2, 1, 192]),
        ("unknown-version", vec![2, 1]),
    ]
}
