//! SOCKS5: what RFC 1928 and RFC 1929 promise a client.

use shadowmesh::proxy::exit::Rules;
use shadowmesh::proxy::{Settings, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{World, curl, echo, loopback_allowed, page, page_on, run, socks5, soon, stdout};

#[test]
fn curl_gets_a_page_by_name_which_the_exit_looks_up() {
    run(async {
        let world = World::new().await;
        let page = page("through the mesh").await;
        let proxy = format!("socks5h://{}", world.proxy);
        let output = curl(&["--proxy", &proxy, &format!("http://localhost:{}/", page.port())]).await;
        assert_eq!(stdout(&output), "through the mesh", "{output:?}");
        assert_eq!(world.exit.shared.counters.exit_requests.value(), 1);
    });
}

#[test]
fn curl_gets_a_page_by_ipv4_and_ipv6_address() {
    run(async {
        let world = World::new().await;
        let proxy = format!("socks5://{}", world.proxy);
        for page in [page("page").await, page_on("[::1]:0", "page").await] {
            let output = curl(&["--proxy", &proxy, &format!("http://{page}/")]).await;
            assert_eq!(stdout(&output), "page", "{output:?}");
        }
    });
}

#[test]
fn username_and_password_are_required_where_they_are_set() {
    run(async {
        let world = World::with(Settings::default(), loopback_allowed(), Some(("alice", "s3cret"))).await;
        let url = format!("http://{}/", page("for alice").await);
        let attempt = async |login: &str| {
            let proxy = format!("socks5h://{login}{}", world.proxy);
            curl(&["--proxy", &proxy, &url]).await
        };
        assert_eq!(stdout(&attempt("alice:s3cret@").await), "for alice");
        for login in ["alice:wrong@", "bob:s3cret@", "alice:@", ""] {
            let output = attempt(login).await;
            assert_eq!(output.status.code(), Some(97), "CURLE_PROXY with `{login}`: {output:?}");
        }
        assert_eq!(world.shared.counters.refused_login.value(), 4);
    });
}

#[test]
fn a_client_learns_why_it_is_not_connected() {
    run(async {
        let world = World::new().await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        // A label of more than 63 characters cannot exist, so that no name server has to be asked.
        let no_name: Target = format!("{}.example:80", "a".repeat(64)).parse().unwrap();
        let private: Target = "10.1.2.3:80".parse().unwrap();
        for (command, target, reply) in [
            (1, nobody.into(), 5),
            (1, no_name, 4),
            (1, private, 2),
            (2, nobody.into(), 7),
            (9, nobody.into(), 7),
        ] {
            let (mut client, got) = world.socks5(command, &target).await;
            assert_eq!(got, reply, "command {command} to {target}");
            assert_eq!(soon(client.read(&mut [0])).await.unwrap(), 0, "and the connection is closed");
        }
    });
}

#[test]
fn by_default_an_exit_connects_to_nothing_of_its_own_whatever_it_is_called() {
    run(async {
        let world = World::with(Settings::default(), Rules::default(), None).await;
        let port = page("secret").await.port();
        for host in ["127.0.0.1", "localhost", "::1", "::ffff:127.0.0.1", "0.0.0.0", "127.1.2.3"] {
            let (_, reply) = world.socks5(1, &Target::new(host, port).unwrap()).await;
            assert_eq!(reply, 2, "{host}");
        }
        assert_eq!(world.exit.shared.counters.exit_denied.value(), 6);
    });
}

#[test]
fn a_node_that_is_no_exit_connects_nobody() {
    run(async {
        let world = World::with(Settings::default(), None, None).await;
        let target: Target = "192.0.2.1:80".parse().unwrap();
        assert_eq!(world.socks5(1, &target).await.1, 2);
        assert_eq!(world.socks5(3, &target).await.1, 2);
    });
}

#[test]
fn what_is_sent_before_it_is_asked_for_is_not_lost() {
    run(async {
        let world = World::new().await;
        let mut message = vec![5, 1, 0, 5, 1, 0];
        Target::Address(echo().await).encode(&mut message);
        message.extend_from_slice(b"early");
        let mut client = TcpStream::connect(world.proxy).await.unwrap();
        client.write_all(&message).await.unwrap();
        let mut answer = [0; 17];
        soon(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer[12..], b"early");
    });
}

#[test]
fn a_message_may_arrive_byte_by_byte() {
    run(async {
        let world = World::new().await;
        let mut message = vec![5, 2, 2, 0, 5, 1, 0];
        Target::Address(echo().await).encode(&mut message);
        let mut client = TcpStream::connect(world.proxy).await.unwrap();
        client.set_nodelay(true).unwrap();
        for byte in message {
            client.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 12];
        soon(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer[..4], [5, 0, 5, 0]);
    });
}

#[test]
fn what_is_not_understood_is_turned_away() {
    run(async {
        let world = World::new().await;
        for (message, answer) in [
            // SOCKS4, TLS, no method that is offered here, an unknown address type, a name that no host has.
            (&[4, 1, 0, 80, 127, 0, 0, 1, 0][..], &[0, 91, 0, 0, 0, 0, 0, 0][..]),
            (&[0x16, 3, 1, 2], &[]),
            (&[5, 1, 1], &[5, 0xff]),
            (&[5, 1, 0, 5, 1, 0, 7], &[5, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0]),
            (b"\x05\x01\0\x05\x01\0\x03\x03a/b\0\x50", &[5, 0, 5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
        ] {
            let mut client = TcpStream::connect(world.proxy).await.unwrap();
            client.write_all(message).await.unwrap();
            let mut got = Vec::new();
            // Bytes of the client that were not read end the connection with a reset, after the answer.
            let _ = soon(client.read_to_end(&mut got)).await;
            assert_eq!(got, answer, "to {message:?}");
        }
    });
}

#[test]
fn one_client_too_many_is_told_so() {
    run(async {
        let settings = Settings { clients_max: 2, ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let target = echo().await;
        let first = world.connect(target).await;
        let _second = world.connect(target).await;
        assert_eq!(world.socks5(1, &target.into()).await.1, 1, "general failure");
        assert_eq!(world.shared.counters.refused_limit.value(), 1);
        drop(first);
        crate::world::eventually("a place is free again", || world.exit.shared.streams() == 1).await;
        world.connect(target).await;
    });
}

#[test]
fn one_stream_too_many_is_refused_on_either_side() {
    run(async {
        let settings = Settings { streams_max: 1, ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let target = echo().await;
        let _first = world.connect(target).await;
        assert_eq!(socks5(world.proxy, 1, &target.into()).await.1[1], 1);
        assert_eq!(world.shared.counters.refused_limit.value(), 1, "the entry knows without asking the exit");

        let mut direct = TcpStream::connect(world.exit.address).await.unwrap();
        assert_eq!(soon(direct.read_u8()).await.unwrap(), 7, "the exit counts for itself");
    });
}
