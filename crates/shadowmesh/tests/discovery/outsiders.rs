//! What somebody on the network sees and can do who is nobody's peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use beacon::{Beacon, Interfaces, Service, ServiceEvent};
use handshake::{Identity, PeerKeys, PresharedKey, Protocol};
use mdns::wire::{Message, Name, RData};
use node::PeerId;
use os::netns::Netns;
use shadowmesh::discovery::{self, Acquaintance, Change, SERVICE, Setup, Surroundings};
use shadowmesh::proxy::StopHandle;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{channel, unbounded_channel};
use tokio::sync::oneshot;

use super::daemons::is_mdns;
use crate::lab::{Capture, Host, Node, SOON, Scratch, Spec, WIRE, ping, secret, wait_for};
use crate::{FIND, found, start_pair, wait_until_connected};

/// Machines `192.0.2.1`, `.2`, … on a switch.
fn switch<const N: usize>() -> (Netns, [Host; N]) {
    let hosts = std::array::from_fn(|_| Host::new());
    let ends = hosts.each_ref().map(|host| (&host.netns, WIRE));
    let hub = Netns::bridge(&ends).unwrap();
    for (number, host) in (1..).zip(&hosts) {
        host.add_address(WIRE, &format!("192.0.2.{number}/24"));
    }
    (hub, hosts)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn a_forged_advertisement_costs_a_handshake_attempt_and_moves_no_traffic() {
    let (_hub, [left, right, eve]) = switch::<3>();
    let scratch = Scratch::new();
    let [left_node, right_node] = start_pair([&left, &right], &scratch, |_| {});
    let nodes = [&left_node, &right_node];
    wait_until_connected(&nodes);

    // Eve repeats what she hears of both, with her own address.
    let trap = eve.netns.run(|| UdpSocket::bind("0.0.0.0:9443").unwrap()).unwrap();
    trap.set_nonblocking(true).unwrap();
    let forger = eve.netns.run(forge).unwrap();
    let eves = |address: &str| address.starts_with("192.0.2.3:");
    for node in nodes {
        wait_for("the forgery is seen", FIND, || {
            found(node).iter().any(|(_, address)| eves(address)).then_some(())
        });
    }
    assert_eq!(ping(&left, "10.77.0.2", 500), 500);
    assert_eq!(ping(&right, "10.77.0.1", 500), 500);
    for node in nodes {
        assert!(node.status().connected());
        assert!(!eves(&node.status().endpoint().unwrap()), "{:?}", node.status().endpoint());
    }
    let mut buffer = vec![0; 65_536];
    let got = std::iter::from_fn(|| trap.recv(&mut buffer).ok()).count();
    assert!(got < 50, "{got} datagrams went to where nobody has proven to be a peer");

    // Nor does the forgery keep the true one from being found again.
    right_node.stop();
    let right_node = Node::start(&Spec::of_pair(2, None), &right, &scratch);
    wait_until_connected(&[&right_node]);
    assert_eq!(ping(&left, "10.77.0.2", 20), 20);
    forger.stop();
}

/// Somebody who repeats the first two advertisements that it hears, with its own address, until it is stopped.
struct Forger {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Starts one in the namespace of the calling thread.
fn forge() -> Forger {
    let (end, ended) = oneshot::channel();
    let forging = async {
        let beacon = Beacon::builder().host_name("eve").start().await.unwrap();
        let mut heard = beacon.browse(SERVICE).unwrap();
        let mut copies = Vec::new();
        while copies.len() < 2 {
            let Some(ServiceEvent::Added(service)) = heard.next().await else { continue };
            let mut copy = Service::new(format!("copy {}", copies.len()), SERVICE, 9443);
            for (key, value) in service.txt.iter() {
                copy = copy.txt(std::str::from_utf8(key).unwrap(), value.unwrap());
            }
            copies.push(beacon.publish(copy).await.unwrap());
        }
        let _ = ended.await;
    };
    let thread = thread::spawn(move || runtime().block_on(forging));
    Forger { end, thread }
}

impl Forger {
    fn stop(self) {
        let _ = self.end.send(());
        self.thread.join().unwrap();
    }
}

/// From the beginning of the test to midnight.
const BEFORE_MIDNIGHT: Duration = Duration::from_secs(8);

/// When the test begins, in time since 1970.
const BEGIN: Duration = Duration::from_secs(20_000 * 86_400 - BEFORE_MIDNIGHT.as_secs());

/// How long both days' advertisements are there, instead of ten minutes.
const OVERLAP: Duration = Duration::from_secs(4);

/// Node `own` of two, with a clock by which it is soon midnight.
fn setup(own: u64, begin: Instant) -> Setup {
    let other = 3 - own;
    let identity = Identity::new(secret(own));
    let public_key = secret(other).public_key();
    let keys = PeerKeys::new(&identity, public_key, PresharedKey::default(), Protocol::ShadowMesh).unwrap();
    Setup {
        own: identity.public_key(),
        peers: vec![Acquaintance { peer: PeerId(0), public_key, key: keys.discovery_key() }],
        port: 9443,
        ipv4: true,
        ipv6: true,
        interfaces: Interfaces::suitable(),
        unix_time: Box::new(move || BEGIN + begin.elapsed()),
        overlap: OVERLAP,
    }
}

/// What one day's advertisement of one node is known by.
#[derive(Debug, Default)]
struct Edition {
    hosts: BTreeSet<String>,
    tags: BTreeSet<Vec<u8>>,
    /// It said goodbye (RFC 6762 §10.1).
    ended: bool,
}

/// All advertisements in a capture, by the name of their instance.
fn editions(packets: &[Vec<u8>]) -> BTreeMap<String, Edition> {
    let mut editions: BTreeMap<String, Edition> = BTreeMap::new();
    for packet in packets {
        let ip = packet::Ip::parse(packet).unwrap();
        let message = Message::parse(&packet[ip.header_len + 8..ip.total_len]).unwrap();
        for record in message.records() {
            let name = || record.name.to_string();
            match record.rdata {
                RData::Txt(txt) => {
                    let values = txt.attributes().filter_map(|attribute| attribute.value);
                    let tags = values.flat_map(|value| value.chunks(8)).map(<[u8]>::to_vec);
                    editions.entry(name()).or_default().tags.extend(tags);
                }
                RData::Srv(srv) => {
                    let edition = editions.entry(name()).or_default();
                    edition.hosts.insert(srv.target.to_string());
                    edition.ended |= record.ttl == 0;
                }
                _ => {}
            }
        }
    }
    editions
}

/// All labels of names of records, questions, hosts and instances in a capture, but for names that are addresses (RFC 1035 §3.5).
fn labels(packets: &[Vec<u8>]) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let mut note = |name: Name<'_>| {
        let all: Vec<_> = name.labels().map(|label| String::from_utf8(label.to_vec()).unwrap()).collect();
        if all.last().is_none_or(|last| last != "arpa") {
            labels.extend(all);
        }
    };
    for packet in packets {
        let ip = packet::Ip::parse(packet).unwrap();
        let message = Message::parse(&packet[ip.header_len + 8..ip.total_len]).unwrap();
        message.questions().for_each(|question| note(question.name));
        for record in message.records() {
            note(record.name);
            match record.rdata {
                RData::Ptr(name) => note(name),
                RData::Srv(srv) => note(srv.target),
                _ => {}
            }
        }
    }
    labels
}

pub(crate) fn two_days_have_nothing_in_common_and_no_key_is_told() {
    let (_hub, [left, right, outsider]) = switch::<3>();
    let capture = Capture::start(&outsider.netns, is_mdns);
    let begin = Instant::now();
    let start = |own: u64, host: &Host| {
        let (stop, stopped) = StopHandle::new();
        let (_ask, asked) = unbounded_channel();
        let (sender, changes) = channel(64);
        let surroundings = Surroundings { stop: stopped, asked, changes: sender };
        let setup = setup(own, begin);
        // Sockets belong to the namespace of the thread that opens them, which is that of the thread that starts it.
        let run = move || thread::spawn(move || runtime().block_on(discovery::run(setup, surroundings)));
        (host.netns.run(run).unwrap(), stop, changes)
    };
    let mut running = [start(1, &left), start(2, &right)];

    let published = |count| {
        wait_for("advertisements", 2 * SOON, || {
            let editions = editions(&capture.packets());
            let whole = |edition: &&Edition| !edition.hosts.is_empty() && !edition.tags.is_empty();
            (editions.values().filter(whole).count() >= count).then_some(())
        });
    };
    published(2);
    assert!(begin.elapsed() < BEFORE_MIDNIGHT, "the machine is too busy for this test");
    let yesterday: BTreeSet<String> = editions(&capture.packets()).into_keys().collect();
    published(4);
    let ended = || {
        let editions = editions(&capture.packets()).into_iter();
        editions.filter(|(_, edition)| edition.ended).map(|(name, _)| name).collect::<BTreeSet<String>>()
    };
    wait_for("the overlap is over", OVERLAP + SOON, || (ended().len() >= 2).then_some(()));
    assert!(begin.elapsed() > BEFORE_MIDNIGHT + OVERLAP, "it is over too soon");
    assert_eq!(ended(), yesterday);

    // Nobody was lost at midnight.
    for (_, _, changes) in &mut running {
        let first = wait_for("a peer is found", SOON, || changes.try_recv().ok());
        assert!(matches!(first, Change::Offer { peer: PeerId(0), .. }), "{first:?}");
        while let Ok(change) = changes.try_recv() {
            assert!(matches!(change, Change::Offer { .. }), "{change:?}");
        }
    }
    for (task, stop, changes) in running {
        stop.stop();
        drop(changes);
        task.join().unwrap();
    }

    let packets = capture.packets();
    let editions = editions(&packets);
    assert_eq!(editions.len(), 4, "two nodes, two days: {editions:?}");
    assert_eq!(yesterday.len(), 2);
    let mut seen = BTreeSet::new();
    for (instance, edition) in &editions {
        assert_eq!((edition.hosts.len(), edition.tags.len()), (1, 8), "{instance}: {edition:?}");
        let host = edition.hosts.first().unwrap().as_bytes().to_vec();
        for thing in edition.tags.iter().cloned().chain([host, instance.as_bytes().to_vec()]) {
            assert!(seen.insert(thing), "{instance} has something in common with another: {editions:?}");
        }
    }
    for label in labels(&packets) {
        let fixed = ["local", "_udp", "_shadowmesh", "_services", "_dns-sd"].contains(&label.as_str());
        let random = label.len() == 16 && label.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(fixed || random, "`{label}` may say who somebody is");
    }
    let mut secrets = Vec::new();
    for number in [1, 2] {
        let public_key = secret(number).public_key();
        let hex = format!("{:08x}", u32::from_be_bytes(*public_key.as_bytes().first_chunk().unwrap()));
        secrets.push(public_key.as_bytes()[..6].to_vec());
        secrets.push(public_key.to_string().as_bytes()[..6].to_vec());
        secrets.push(hex.into_bytes());
    }
    for packet in &packets {
        for secret in &secrets {
            let told = packet.windows(secret.len()).any(|window| window == secret);
            assert!(!told, "{:?} is told", String::from_utf8_lossy(secret));
        }
    }
}
