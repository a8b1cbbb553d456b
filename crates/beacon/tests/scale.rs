//! A thousand services, published by one process and browsed by another: each is found, once, and neither needs much memory.
//! And a flood of what concerns nobody: it costs little, and whoever asks is answered.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::print_stdout,
    reason = "the processes of the test tell each other, and whoever looks, how it went"
)]

mod lan;

use std::collections::HashMap;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use beacon::{Beacon, Service, ServiceEvent};
use lan::{Host, lan};
use mdns::wire::{
    Class, Header, Message, Mode, NameBuf, Question, RData, Record, RecordType, Section, Writer,
};
use os::multicast::{Departure, MulticastSocket, Received};
use os::netns::die_with_parent;
use os::poll::{Events as PollEvents, Interest, Poller};
use packet::{Pool, PoolConfig};
use tokio::time::timeout;

const SERVICES: usize = 1_000;
/// Bytes that each of the two processes may keep in memory at most.
const RESIDENT_BYTES_MAX: u64 = 40 << 20;
/// As long as nothing is lost it takes two seconds; on a machine that is busy with other tests it may take longer.
const FOUND_WITHIN: Duration = Duration::from_secs(30);
/// Long enough for whatever would be told a second time.
const QUIET: Duration = Duration::from_secs(2);

/// Tells this program, started again, what it is.
const ROLE: &str = "BEACON_SCALE_ROLE";

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("publisher") => publisher(),
        Ok("browser") => browser(),
        _ => lan::main(
            lan::tests![
                a_thousand_services_are_found_once_each_in_little_memory_and_all_say_goodbye,
                in_a_flood_of_foreign_packets_and_garbage_all_are_answered_and_memory_is_bounded,
            ],
            1,
        ),
    }
}

fn block_on(future: impl Future<Output = ()>) -> ExitCode {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    ExitCode::SUCCESS
}

/// Publishes all, says so, and goes on until its input ends.
fn publisher() -> ExitCode {
    block_on(async {
        let beacon = Beacon::builder().host_name("publisher").start().await.unwrap();
        let tasks: Vec<_> = (0..SERVICES as u16)
            .map(|number| {
                let service = Service::new(format!("Service number {number}"), "_http._tcp", number)
                    .txt("path", "/index.html");
                let beacon = beacon.clone();
                tokio::spawn(async move { beacon.publish(service).await.unwrap() })
            })
            .collect();
        let mut publications = Vec::new();
        for task in tasks {
            publications.push(task.await.unwrap());
        }
        println!("published {}", publications.len());
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        beacon.shutdown().await;
    })
}

/// Browses until it has found all, and a little longer; then prints how long that took and how often it was told of a service.
fn browser() -> ExitCode {
    block_on(async {
        let beacon = Beacon::builder().host_name("browser").search_only().start().await.unwrap();
        let begin = Instant::now();
        let mut found = beacon.browse("_http._tcp").unwrap();
        let mut times: HashMap<String, u32> = HashMap::new();
        let mut took = None;
        loop {
            let limit = if took.is_none() { FOUND_WITHIN } else { QUIET };
            let Ok(event) = timeout(limit, found.next()).await else { break };
            if let Some(ServiceEvent::Added(service)) = event {
                assert_eq!(service.instance.as_str(), format!("Service number {}", service.port));
                *times.entry(service.instance.to_string()).or_default() += 1;
            }
            if times.len() == SERVICES && took.is_none() {
                took = Some(begin.elapsed());
            }
        }
        let took = took.map_or(0, |took| took.as_millis());
        println!("found {} told {} took {took}", times.len(), times.values().sum::<u32>());
        let mut removed = 0;
        while removed < SERVICES
            && let Ok(Some(event)) = timeout(FOUND_WITHIN, found.next()).await
        {
            removed += usize::from(matches!(event, ServiceEvent::Removed(_)));
        }
        println!("removed {removed}");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    })
}

fn start(host: &Host, role: &str) -> Child {
    let mut command: Command = host.netns.command(std::env::current_exe().unwrap());
    command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
    die_with_parent(&mut command).spawn().unwrap()
}

/// The numbers in the next line that a process prints.
#[expect(clippy::unbuffered_bytes, reason = "a buffer would keep the line after it")]
fn numbers(child: &mut Child) -> Vec<u64> {
    let bytes = child.stdout.as_mut().unwrap().bytes().map(Result::unwrap);
    let line: Vec<u8> = bytes.take_while(|byte| *byte != b'\n').collect();
    String::from_utf8(line).unwrap().split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The most memory that a process has had, in bytes.
fn resident_bytes_max(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn a_thousand_services_are_found_once_each_in_little_memory_and_all_say_goodbye() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let mut publisher = start(&left, "publisher");
    assert_eq!(numbers(&mut publisher), [SERVICES as u64]);
    let mut browser = start(&right, "browser");
    let [found, told, took] = numbers(&mut browser)[..] else { panic!("the browser has failed") };
    assert_eq!((found, told), (SERVICES as u64, SERVICES as u64));
    let resident = [&publisher, &browser].map(resident_bytes_max);
    println!(
        "{SERVICES} services found in {took} ms; resident: {} and {} KiB",
        resident[0] >> 10,
        resident[1] >> 10
    );
    assert!(resident.iter().all(|bytes| *bytes <= RESIDENT_BYTES_MAX), "{resident:?}");
    drop(publisher.stdin.take());
    assert!(publisher.wait().unwrap().success());
    assert_eq!(numbers(&mut browser), [SERVICES as u64], "each goodbye has arrived");
    drop(browser.stdin.take());
    assert!(browser.wait().unwrap().success());
}

/// Packets a second of the flood, and for how long.
const FLOOD_RATE: u32 = 10_000;
const FLOOD_TIME: Duration = Duration::from_secs(5);
/// Hosts that it comes from: more than one, because what a single one sends is limited.
const FLOOD_SOURCES: u8 = 64;
/// Packets of the flood that leave together.
const FLOOD_BURST: u32 = 50;

/// What other services announce, each another one, and what is no message at all.
fn flood(host: &Host, until: Instant) -> u64 {
    let (mut socket, mut departure) = speaker(host);
    let mut sent = 0;
    let mut next = Instant::now();
    while next < until {
        for _ in 0..FLOOD_BURST {
            let packet = if sent % 2 == 0 { announcement(sent) } else { vec![(sent >> 3) as u8; 300] };
            departure.source = Some([192, 0, 2, 100 + (sent % u64::from(FLOOD_SOURCES)) as u8].into());
            socket.send(&packet, &departure).unwrap();
            sent += 1;
        }
        next += Duration::from_secs(1) / (FLOOD_RATE / FLOOD_BURST);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    sent
}

fn speaker(host: &Host) -> (MulticastSocket, Departure) {
    let to = "224.0.0.251:5353".parse().unwrap();
    let socket = host.netns.run(|| MulticastSocket::bind(to).unwrap()).unwrap();
    let interface = host.index("wire0");
    socket.join(interface).unwrap();
    (socket, Departure { interface, source: None, to })
}

fn announcement(number: u64) -> Vec<u8> {
    let service: NameBuf = "_other._tcp.local".parse().unwrap();
    let instance = service.with_first_label(format!("Other {number}")).unwrap();
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
    let rdata = RData::Ptr(instance.as_name());
    let record = Record { name: service.as_name(), class: Class::IN, cache_flush: false, ttl: 4_500, rdata };
    assert!(writer.push(Section::Answer, &record));
    writer.finish().to_vec()
}

/// Asks for the SRV record of one service after the other and returns how long each answer took, in order.
fn ask(host: &Host, until: Instant) -> Vec<Duration> {
    let (mut socket, departure) = speaker(host);
    let pool = Pool::new(PoolConfig { large: 0, small: 64 });
    let poller = Poller::new().unwrap();
    poller.add(&socket, 0, Interest::READ).unwrap();
    let mut took = Vec::new();
    let mut received = Vec::new();
    for number in 0..SERVICES {
        if Instant::now() >= until {
            break;
        }
        let name: NameBuf = "_http._tcp.local".parse().unwrap();
        let name = name.with_first_label(format!("Service number {number}")).unwrap();
        let mut buf = [0; 512];
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
        let (record_type, class) = (RecordType::SRV, Class::IN);
        assert!(writer.push_question(&Question {
            name: name.as_name(),
            record_type,
            class,
            unicast_response: false
        }));
        let question = writer.finish();
        let asked = Instant::now();
        let mut ask_again = asked;
        while took.len() == number {
            assert!(asked.elapsed() < lan::SOON, "no answer for number {number}");
            if Instant::now() >= ask_again {
                // Lost in the flood: once more.
                socket.send(question, &departure).unwrap();
                ask_again += Duration::from_secs(1);
            }
            poller.wait(&mut PollEvents::with_capacity(1), Some(Duration::from_millis(100))).unwrap();
            received.clear();
            let _ = socket.recv(&pool, &mut received);
            let answers = |packet: &Received| {
                let message = Message::parse(&packet.buf).ok()?;
                let srv =
                    |record: Record<'_>| record.name == name.as_name() && record.record_type() == record_type;
                (message.header().response && message.answers().any(srv)).then_some(())
            };
            if received.iter().any(|packet| answers(packet).is_some()) {
                took.push(asked.elapsed());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    took
}

/// Processor time that a process has used, in clock ticks of 10 ms (`proc_pid_stat(5)`).
fn ticks(child: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn in_a_flood_of_foreign_packets_and_garbage_all_are_answered_and_memory_is_bounded() {
    let (_hub, [left, middle, right]) = lan(["left", "middle", "right"]);
    for number in 0..FLOOD_SOURCES {
        middle.add_address("wire0", &format!("192.0.2.{}/24", 100 + number));
    }
    let mut publisher = start(&left, "publisher");
    assert_eq!(numbers(&mut publisher), [SERVICES as u64]);
    // All records have been multicast: for a second none is again (RFC 6762 §6).
    std::thread::sleep(Duration::from_secs(2));
    let (before, begin) = (ticks(&publisher), Instant::now());
    let until = begin + FLOOD_TIME;
    let (sent, mut took) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&middle, until));
        let took = ask(&right, until);
        (flood.join().unwrap(), took)
    });
    let share = (ticks(&publisher) - before) as f64 / 100.0 / begin.elapsed().as_secs_f64();
    took.sort_unstable();
    assert!(!took.is_empty());
    println!(
        "{sent} packets in {FLOOD_TIME:?}: {:.0} % of a core, {} KiB resident; {} answers, median {:?}, p99 {:?}",
        share * 100.0,
        resident_bytes_max(&publisher) >> 10,
        took.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
    );
    assert!(resident_bytes_max(&publisher) <= RESIDENT_BYTES_MAX);
    drop(publisher.stdin.take());
    assert!(publisher.wait().unwrap().success());
}
