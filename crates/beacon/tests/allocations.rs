//! Neither the receive path nor an answer allocates anything: counted on the thread that runs them, while real packets come and go
//! by a real socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lan;

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use beacon::{Beacon, Builder, Service, ServiceEvent, Statistics};
use lan::{Host, SOON, lan, soon, until};
use mdns::wire::{
    Class, Header, Mode, NameBuf, Question, RData, Record, RecordType, Section, Srv, Txt, Writer,
};
use os::alloc::{Counting, thread_allocations};
use os::multicast::{Departure, MulticastSocket};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Packets of each kind: few enough for what one source may send, time and again (`mdns/src/limits.rs`).
const PACKETS: u64 = 400;
const BURST: u64 = 20;
const PAUSE: Duration = Duration::from_millis(25);

fn main() -> ExitCode {
    lan::main(
        lan::tests![
            a_packet_that_is_of_no_interest_allocates_nothing,
            a_refresh_of_what_is_known_allocates_nothing,
            garbage_allocates_nothing,
            an_answer_allocates_nothing,
        ],
        1,
    )
}

/// The announcement of a service: PTR, SRV, TXT, A and AAAA.
fn announcement(service_type: &str) -> Vec<u8> {
    let service_type: NameBuf = format!("{service_type}.local").parse().unwrap();
    let instance = service_type.with_first_label("Dr. Müller's printer").unwrap();
    let host: NameBuf = "left.local".parse().unwrap();
    let record = |name: &NameBuf, cache_flush, ttl, rdata: RData<'_>| {
        (name.clone(), cache_flush, ttl, mdns::wire::RecordData::new(&rdata))
    };
    let srv = Srv { priority: 0, weight: 0, port: 631, target: host.as_name() };
    let records = [
        record(&service_type, false, 4_500, RData::Ptr(instance.as_name())),
        record(&instance, true, 120, RData::Srv(srv)),
        record(&instance, true, 4_500, RData::Txt(Txt::parse(b"\x0crp=ipp/print").unwrap())),
        record(&host, true, 120, RData::A([192, 0, 2, 1].into())),
        record(&host, true, 120, RData::Aaaa([0xfe80, 0, 0, 0, 0, 0, 0, 1].into())),
    ];
    let mut buf = [0; 1_440];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
    for (name, cache_flush, ttl, data) in &records {
        let record = Record {
            name: name.as_name(),
            class: Class::IN,
            cache_flush: *cache_flush,
            ttl: *ttl,
            rdata: data.as_rdata(),
        };
        assert!(writer.push(Section::Answer, &record));
    }
    writer.finish().to_vec()
}

struct Bench {
    left: Host,
    right: Host,
    _hub: os::netns::Netns,
    beacon: Beacon,
    socket: MulticastSocket,
    /// How often statistics were asked for.
    asked: Cell<u64>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Builder::search_only)
    }

    fn with(set_up: impl FnOnce(Builder) -> Builder) -> Self {
        let (hub, [left, right]) = lan(["left", "right"]);
        let beacon = right.beacon_with(set_up);
        // What is sent before the interface is in use is sent in vain.
        let used = || async { beacon.statistics().await.ok().filter(|now| !now.interfaces.is_empty()) };
        soon(&right, "the interface is used", until(used));
        let group = "224.0.0.251:5353".parse().unwrap();
        let socket = left.netns.run(|| MulticastSocket::bind(group).unwrap()).unwrap();
        Self { left, right, _hub: hub, beacon, socket, asked: Cell::new(0) }
    }

    fn statistics(&self) -> Statistics {
        self.asked.set(self.asked.get() + 1);
        self.right.run(self.beacon.statistics()).unwrap()
    }

    /// Sends packets and waits until all have been received.
    fn send(&mut self, packet: &[u8], count: u64) {
        let departure = Departure {
            interface: self.left.index("wire0"),
            source: None,
            to: "224.0.0.251:5353".parse().unwrap(),
        };
        let wanted = self.statistics().engine.packets_received + count;
        for number in 1..=count {
            self.socket.send(packet, &departure).unwrap();
            if number % BURST == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        let deadline = Instant::now() + SOON;
        while self.statistics().engine.packets_received < wanted {
            assert!(Instant::now() < deadline, "not all packets have arrived");
            std::thread::sleep(PAUSE);
        }
    }

    /// Allocations so far on the one thread that runs the driver.
    fn allocations(&self) -> u64 {
        self.right.run(async { tokio::spawn(async { thread_allocations() }).await.unwrap() })
    }

    /// Asking for statistics allocates, on the driver's thread: what that costs, to be taken off.
    fn allocations_of_asking(&self) -> u64 {
        let before = self.allocations();
        self.statistics();
        self.allocations() - before
    }
}

impl Bench {
    /// Sends packets that are taken without a single allocation, and are not taken by being dropped unread.
    fn takes_without_allocating(&mut self, packet: &[u8]) {
        // Whatever is made once, is made now: the source's account, room in tables.
        self.send(packet, 2 * BURST);
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let asking = self.allocations_of_asking();
            let before = self.statistics().engine;
            let (asked, allocated) = (self.asked.get(), self.allocations());
            self.send(packet, PACKETS);
            let allocated = self.allocations() - allocated - asking * (self.asked.get() - asked);
            let after = self.statistics().engine;
            // A question is asked now and then, ever more rarely, and that may allocate.
            if after.packets_sent > before.packets_sent {
                continue;
            }
            assert_eq!(allocated, 0, "for {PACKETS} packets");
            assert_eq!(after.packets_received - before.packets_received, PACKETS);
            let limited = mdns::DropReason::RateLimited;
            assert!(!after.drops.iter().any(|(reason, _)| *reason == limited), "{:?}", after.drops);
            return;
        }
    }
}

fn a_packet_that_is_of_no_interest_allocates_nothing() {
    let mut bench = Bench::new();
    let _searching = bench.beacon.browse("_ipp._tcp").unwrap();
    bench.takes_without_allocating(&announcement("_other._tcp"));
}

fn a_refresh_of_what_is_known_allocates_nothing() {
    let mut bench = Bench::new();
    let mut found = bench.beacon.browse("_ipp._tcp").unwrap();
    let packet = announcement("_ipp._tcp");
    bench.send(&packet, 1);
    let event = soon(&bench.right, "the service", found.next()).unwrap();
    assert!(matches!(event, ServiceEvent::Added(_)), "{event:?}");
    bench.takes_without_allocating(&packet);
}

fn garbage_allocates_nothing() {
    let mut bench = Bench::new();
    bench.takes_without_allocating(&[0xff; 700]);
}

fn question(name: &str, record_type: RecordType, unicast_response: bool) -> Vec<u8> {
    let name: NameBuf = name.parse().unwrap();
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
    let question = Question { name: name.as_name(), record_type, class: Class::IN, unicast_response };
    assert!(writer.push_question(&question));
    writer.finish().to_vec()
}

/// What is multicast once a second at most (RFC 6762 §6) is asked for so often.
const MULTICAST_GAP: Duration = Duration::from_millis(1_300);
/// Questions that are answered by unicast, and those that are answered by multicast.
const UNICAST_QUESTIONS: u64 = 200;
const MULTICAST_QUESTIONS: u64 = 4;

impl Bench {
    /// Asks for what is published, and waits for the answers.
    fn ask(&mut self) {
        let wanted = self.statistics().engine.packets_sent + UNICAST_QUESTIONS + MULTICAST_QUESTIONS;
        // It was announced a moment ago: whoever asks for a unicast response gets one (RFC 6762 §5.4).
        self.send(&question("mine._ssh._tcp.local", RecordType::SRV, true), UNICAST_QUESTIONS);
        for _ in 0..MULTICAST_QUESTIONS {
            std::thread::sleep(MULTICAST_GAP);
            self.send(&question("_ssh._tcp.local", RecordType::PTR, false), 1);
        }
        let deadline = Instant::now() + SOON;
        while self.statistics().engine.packets_sent < wanted {
            assert!(Instant::now() < deadline, "not all questions were answered");
            std::thread::sleep(PAUSE);
        }
    }
}

fn an_answer_allocates_nothing() {
    let mut bench = Bench::with(|builder| builder);
    let _publication =
        soon(&bench.right, "the name is ours", bench.beacon.publish(Service::new("mine", "_ssh._tcp", 22)));
    bench.ask();
    let mut measured = Vec::new();
    // The look at all interfaces that comes every 20 s allocates; it cannot come twice in a row.
    for _ in 0..3 {
        let asking = bench.allocations_of_asking();
        let (asked, before) = (bench.asked.get(), bench.allocations());
        bench.ask();
        measured.push(bench.allocations() - before - asking * (bench.asked.get() - asked));
        if measured.last() == Some(&0) {
            return;
        }
    }
    panic!("allocations for {UNICAST_QUESTIONS} and {MULTICAST_QUESTIONS} answers: {measured:?}");
}
