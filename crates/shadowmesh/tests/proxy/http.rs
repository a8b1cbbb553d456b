//! HTTP CONNECT, on the port that speaks SOCKS5 too.

use shadowmesh::proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{World, curl, echo, loopback_allowed, page, run, silent, soon, stdout};

/// The status line and the rest of the answer to a request, as a client sees them.
async fn answer(world: &World, request: &str) -> String {
    let mut client = TcpStream::connect(world.proxy).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let _ = soon(client.read_to_end(&mut got)).await;
    String::from_utf8(got).unwrap()
}

#[test]
fn curl_tunnels_through_connect() {
    run(async {
        let world = World::new().await;
        let url = format!("http://localhost:{}/", page("by CONNECT").await.port());
        let proxy = format!("http://{}", world.proxy);
        let output = curl(&["--proxytunnel", "--proxy", &proxy, &url]).await;
        assert_eq!(stdout(&output), "by CONNECT", "{output:?}");
    });
}

#[test]
fn credentials_are_asked_for_and_then_taken() {
    run(async {
        let world = World::with(Settings::default(), loopback_allowed(), Some(("alice", "s3:cret"))).await;
        let url = format!("http://{}/", page("for alice").await);
        let proxy = format!("http://{}", world.proxy);
        let attempt = async |args: &[&str]| {
            let always = ["--proxytunnel", "--proxy", &proxy, "--write-out", " %{http_connect}", &url];
            stdout(&curl(&[&always, args].concat()).await)
        };
        assert_eq!(attempt(&["--proxy-user", "alice:s3:cret"]).await, "for alice 200");
        assert_eq!(attempt(&["--proxy-user", "alice:wrong"]).await, " 407");
        assert_eq!(attempt(&[]).await, " 407");
        // curl asks first which way to authenticate, and comes again.
        assert_eq!(attempt(&["--proxy-user", "alice:s3:cret", "--proxy-anyauth"]).await, "for alice 200");
    });
}

#[test]
fn the_status_says_why_there_is_no_tunnel() {
    run(async {
        let settings =
            Settings { connect_timeout: std::time::Duration::from_millis(200), ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (silent, _sockets) = silent().await;
        for (target, status) in [
            (nobody.to_string(), "502 Bad Gateway"),
            (format!("{}.example:80", "a".repeat(64)), "502 Bad Gateway"),
            ("10.0.0.1:80".into(), "403 Forbidden"),
            (silent.to_string(), "504 Gateway Timeout"),
            ("nothing".into(), "400 Bad Request"),
        ] {
            let got = answer(&world, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
            assert!(got.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{target}: {got}");
        }
    });
}

#[test]
fn a_plain_proxy_request_is_told_what_is_offered() {
    run(async {
        let world = World::new().await;
        let got = answer(&world, "GET http://192.0.2.1/ HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\n"), "{got}");
        assert!(got.ends_with("this proxy offers CONNECT only\n"), "{got}");
    });
}

#[test]
fn a_head_without_end_is_cut_off_at_its_limit() {
    run(async {
        let world = World::new().await;
        let endless = format!("CONNECT 192.0.2.1:80 HTTP/1.1\r\nX: {}", "x".repeat(64 * 1024));
        let got = answer(&world, &endless).await;
        assert!(got.starts_with("HTTP/1.1 431 "), "{got}");
    });
}

#[test]
fn what_follows_the_head_at_once_is_not_lost() {
    run(async {
        let world = World::new().await;
        let target = echo().await;
        let mut client = TcpStream::connect(world.proxy).await.unwrap();
        client.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\nearly").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = String::new();
        soon(client.read_to_string(&mut got)).await.unwrap();
        assert_eq!(got, "HTTP/1.1 200 Connection established\r\n\r\nearly");
    });
}
