//! What is measured, and how.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mdns::wire::{Message, RecordType};
use mdns_bench::codec;
use mdns_bench::lan::{DEVICE, Lan, Program};
use mdns_bench::packets::{SERVICES, foreign, instance, question, response};
use os::netns::{die_with_parent, terminate};
use packet::Ip;

/// All that was measured: by what and who, a figure a round.
pub(crate) type Figures = BTreeMap<(&'static str, &'static str), Vec<f64>>;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Ours, as it is called in the table.
pub(crate) const OURS: &str = "beacon";
/// The other library that finds and publishes services.
pub(crate) const PEER: &str = "mdns-sd";

/// Packets whose cost is counted.
const COUNTED: u32 = 400;
/// Packets that are sent at once, and how long a pause then is: slow enough for whoever limits what one source may send.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// Questions of one round whose answers are timed, and how far they are apart.
const QUESTIONS: usize = 500;
const QUESTION_GAP: Duration = Duration::from_millis(4);
/// After this long everything that was announced may be multicast again (RFC 6762 §6, §8.3).
const SETTLED: Duration = Duration::from_millis(2_500);

/// Packets a second of the flood.
const FLOOD_RATE: u32 = 10_000;
/// Hosts that it comes from: more than one, because what a single one sends is limited.
const FLOOD_SOURCES: u8 = 64;
/// Packets of the flood that leave together.
const FLOOD_BURST: u32 = 50;
/// How far the questions are apart that are asked meanwhile.
const FLOOD_QUESTION_GAP: Duration = Duration::from_millis(60);
/// The flood on the peer is shorter.
const FLOOD_PEER_MAX: Duration = Duration::from_secs(15);

/// How long the peer's flood lasts when ours lasts `flood_time`.
pub(crate) fn flood_time_of_peer(flood_time: Duration) -> Duration {
    flood_time.min(FLOOD_PEER_MAX)
}

/// Measures everything.
pub(crate) fn all(rounds: usize, flood_time: Duration) -> Outcome<Figures> {
    let mut figures = Figures::new();
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        codecs(&mut figures, round);
        allocations(&mut figures)?;
        // Whoever is first finds another machine than whoever is last.
        let order = if round % 2 == 0 { [OURS, PEER] } else { [PEER, OURS] };
        for who in order {
            services(&mut figures, who)?;
        }
    }
    for who in [OURS, PEER] {
        println!("flood on {who}");
        flooded(&mut figures, who, if who == OURS { flood_time } else { flood_time_of_peer(flood_time) })?;
    }
    Ok(figures)
}

fn note(figures: &mut Figures, what: &'static str, who: &'static str, figure: f64) {
    figures.entry((what, who)).or_default().push(figure);
}

fn codecs(figures: &mut Figures, round: usize) {
    let mut who = [OURS, "domain", "simple-dns", "hickory-proto"];
    who.rotate_left(round % 4);
    for who in who {
        note(figures, "parse_ns", who, codec::parse(who));
    }
    for who in who {
        note(figures, "build_ns", who, codec::build(who));
    }
    note(figures, "engine_answer_ns", OURS, codec::engine_answer());
    note(figures, "engine_publish_ms", OURS, codec::publish_ms());
    let (take, clear) = codec::pool();
    note(figures, "pool_take_ns", OURS, take);
    note(figures, "pool_clear_ns", OURS, clear);
}

/// This program, or the one beside it.
fn program(name: Option<&str>) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(name.map_or_else(|| own.clone(), |name| own.with_file_name(name)))
}

fn allocations(figures: &mut Figures) -> Outcome<()> {
    let counting = program(Some("counting"))?;
    let output = Command::new(&counting).arg("answer").output()?;
    let numbers: Vec<f64> =
        String::from_utf8(output.stdout)?.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [message, message_bytes, engine, engine_bytes] = numbers[..] else { return Err("no counts".into()) };
    note(figures, "build_allocations", OURS, message);
    note(figures, "build_bytes", OURS, message_bytes);
    note(figures, "engine_answer_allocations", OURS, engine);
    note(figures, "engine_answer_bytes", OURS, engine_bytes);
    for who in [OURS, PEER] {
        let [allocations, bytes] = allocations_of_receiving(&counting, who)?;
        note(figures, "receive_allocations", who, allocations);
        note(figures, "receive_bytes", who, bytes);
    }
    Ok(())
}

/// Allocations and bytes for each packet that refreshes what is known.
fn allocations_of_receiving(counting: &Path, who: &str) -> Outcome<[f64; 2]> {
    let lan = Lan::new(2)?;
    let mut receiver = Program::start(&lan.hosts[1], counting, &["receive", who])?;
    receiver.numbers()?;
    let (mut socket, departure) = lan.speaker(0)?;
    let packet = response();
    let mut send = |count: u32| -> io::Result<()> {
        for number in 1..=count {
            socket.send(&packet, &departure)?;
            if number % BURST == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        std::thread::sleep(2 * PAUSE);
        Ok(())
    };
    // Its first questions, and whatever is made once.
    std::thread::sleep(Duration::from_millis(200));
    send(2 * BURST)?;
    std::thread::sleep(SETTLED);
    let mut counters = || -> Outcome<[f64; 5]> {
        receiver.go_on()?;
        receiver.numbers()?.try_into().map_err(|_| "no counters".into())
    };
    counters()?;
    let [_, _, allocations, bytes, packets] = counters()?;
    send(COUNTED)?;
    let [allocations_after, bytes_after, _, _, packets_after] = counters()?;
    if packets_after - packets < f64::from(COUNTED) {
        return Err("not all packets have arrived".into());
    }
    Ok([allocations_after - allocations, bytes_after - bytes].map(|count| count / f64::from(COUNTED)))
}

/// A thousand services: found, looked up, asked for one by one.
fn services(figures: &mut Figures, who: &'static str) -> Outcome<()> {
    let lan = Lan::new(2)?;
    let own = program(None)?;
    let mut publisher = Program::start(&lan.hosts[0], &own, &["publish", who])?;
    let [took, published] = publisher.numbers()?[..] else { return Err("nothing was published".into()) };
    note(figures, "publish_s", who, took);
    note(figures, "published", who, published);
    std::thread::sleep(SETTLED);
    latencies(figures, who, &lan)?;
    let mut browser = Program::start(&lan.hosts[1], &own, &["browse", who])?;
    let [took, found, told] = browser.numbers()?[..] else { return Err("nothing was found".into()) };
    note(figures, "browse_s", who, took);
    note(figures, "found", who, found);
    note(figures, "told", who, told);
    note(figures, "publisher_mb", who, publisher.resident_mb_max()?);
    note(figures, "browser_mb", who, browser.resident_mb_max()?);
    drop(browser);
    if who == OURS {
        std::thread::sleep(SETTLED);
        let mut asker = Program::start(&lan.hosts[1], &own, &["look-up"])?;
        let [one, all, median, found] = asker.numbers()?[..] else { return Err("no look-ups".into()) };
        note(figures, "look_up_one_s", who, one);
        note(figures, "look_up_all_s", who, all);
        note(figures, "look_up_median_s", who, median);
        note(figures, "looked_up", who, found);
    }
    Ok(())
}

fn latencies(figures: &mut Figures, who: &'static str, lan: &Lan) -> Outcome<()> {
    let capture = Capture::start(lan, 0)?;
    let (mut socket, departure) = lan.speaker(1)?;
    for number in 0..QUESTIONS {
        socket.send(&question(&instance(number), RecordType::SRV), &departure)?;
        std::thread::sleep(QUESTION_GAP);
    }
    std::thread::sleep(Duration::from_millis(500));
    let mut took = capture.finish()?;
    note(figures, "answered", who, took.len() as f64);
    took.sort_unstable();
    let ms = |index: usize| took.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
    note(figures, "answer_median_ms", who, ms(took.len() / 2));
    note(figures, "answer_p99_ms", who, ms(took.len() * 99 / 100));
    Ok(())
}

/// tcpdump on a host: the kernel's time stamps, taken where a packet enters and leaves it.
struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    fn start(lan: &Lan, host: usize) -> Outcome<Self> {
        let file = std::env::temp_dir().join(format!("mdns-bench-{}.pcap", std::process::id()));
        let mut command = lan.hosts[host].command("tcpdump");
        command
            .args(["-i", DEVICE, "-n", "-p", "-U", "--immediate-mode", "-Z", "root", "-B", "4096", "-w"])
            .arg(&file)
            // Who asks and who answers: a flood is not to keep tcpdump busy.
            .args(["udp port 5353 and (src host 192.0.2.1 or src host 192.0.2.2 or src host 192.0.2.3)"])
            .stderr(Stdio::piped());
        let mut tcpdump = die_with_parent(&mut command).spawn()?;
        // It says when it listens.
        let mut stderr = io::BufReader::new(tcpdump.stderr.take().ok_or("no output of tcpdump")?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            if io::BufRead::read_line(&mut stderr, &mut line)? == 0 {
                return Err("tcpdump has failed".into());
            }
        }
        std::thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        Ok(Self { tcpdump, file })
    }

    /// From each question for an SRV record to the packet with the answer.
    fn finish(mut self) -> Outcome<Vec<Duration>> {
        terminate(&mut self.tcpdump)?;
        self.tcpdump.wait()?;
        let bytes = std::fs::read(&self.file)?;
        std::fs::remove_file(&self.file)?;
        let mut asked: BTreeMap<String, Duration> = BTreeMap::new();
        let mut took = Vec::new();
        // A header of 24 bytes, then for each packet: seconds, microseconds, length, original length, bytes.
        let mut rest = bytes.get(24..).unwrap_or_default();
        while let Some((head, after)) = rest.split_first_chunk::<16>() {
            let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let Some((frame, after)) = after.split_at_checked(number(8) as usize) else { break };
            rest = after;
            let time = Duration::new(number(0).into(), number(4) * 1_000);
            let ip_bytes = frame.get(14..).unwrap_or_default();
            let Ok(ip) = Ip::parse(ip_bytes) else { continue };
            let Some(contents) = ip_bytes.get(ip.header_len + 8..ip.total_len) else { continue };
            let Ok(message) = Message::parse(contents) else { continue };
            if message.header().response {
                for record in message.answers().filter(|record| record.record_type() == RecordType::SRV) {
                    took.extend(
                        asked.remove(&record.name.to_string()).map(|asked| time.saturating_sub(asked)),
                    );
                }
            } else {
                for question in message.questions().filter(|question| question.record_type == RecordType::SRV)
                {
                    asked.entry(question.name.to_string()).or_insert(time);
                }
            }
        }
        Ok(took)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// A flood of foreign announcements and garbage, while somebody asks for one service after the other.
fn flooded(figures: &mut Figures, who: &'static str, time: Duration) -> Outcome<()> {
    let lan = Lan::new(3)?;
    for number in 0..FLOOD_SOURCES {
        lan.add_address(1, &format!("192.0.2.{}/24", 100 + number))?;
    }
    let mut publisher = Program::start(&lan.hosts[0], &program(None)?, &["publish", who])?;
    publisher.numbers()?;
    std::thread::sleep(SETTLED);
    note(figures, "flood_mb_before", who, publisher.resident_mb_max()?);
    let capture = Capture::start(&lan, 0)?;
    let begin = Instant::now();
    let until = begin + time;
    let sent = std::thread::scope(|scope| -> Outcome<u64> {
        let flood = scope.spawn(|| flood(&lan, until).map_err(|error| error.to_string()));
        let asking = scope.spawn(|| ask(&lan, until).map_err(|error| error.to_string()));
        // A figure for each third of the time.
        for third in 1..=3 {
            let (before, from) = (publisher.cpu_seconds()?, Instant::now());
            std::thread::sleep((begin + time * third / 3).saturating_duration_since(Instant::now()));
            let share = (publisher.cpu_seconds()? - before) / from.elapsed().as_secs_f64();
            note(figures, "flood_core_percent", who, share * 100.0);
        }
        let asked = asking.join().map_err(|_| "the asker has failed")??;
        note(figures, "flood_asked", who, asked as f64);
        Ok(flood.join().map_err(|_| "the flood has failed")??)
    })?;
    std::thread::sleep(Duration::from_millis(500));
    note(figures, "flood_packets_per_s", who, sent as f64 / time.as_secs_f64());
    note(figures, "flood_mb_after", who, publisher.resident_mb_max()?);
    note(figures, "flood_kernel_drops", who, kernel_drops(&lan)?);
    let mut took = capture.finish()?;
    took.sort_unstable();
    let ms = |index: usize| took.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
    note(figures, "flood_answered", who, took.len() as f64);
    note(figures, "flood_answer_median_ms", who, ms(took.len() / 2));
    note(figures, "flood_answer_p99_ms", who, ms(took.len() * 99 / 100));
    Ok(())
}

/// Packets that the kernel of the publisher has dropped, because nobody took them out of a full socket: the last column.
fn kernel_drops(lan: &Lan) -> io::Result<f64> {
    let sockets = lan.hosts[0].run(|| std::fs::read_to_string("/proc/thread-self/net/udp"))??;
    let drops =
        sockets.lines().skip(1).filter_map(|line| line.split_whitespace().last()?.parse::<f64>().ok());
    Ok(drops.sum())
}

fn flood(lan: &Lan, until: Instant) -> io::Result<u64> {
    let (mut socket, mut departure) = lan.speaker(1)?;
    let mut sent = 0;
    let mut next = Instant::now();
    while next < until {
        for _ in 0..FLOOD_BURST {
            let packet = if sent % 2 == 0 { foreign(sent) } else { vec![(sent >> 3) as u8; 300] };
            departure.source = Some([192, 0, 2, 100 + (sent % u64::from(FLOOD_SOURCES)) as u8].into());
            socket.send(&packet, &departure)?;
            sent += 1;
        }
        next += Duration::from_secs(1) / (FLOOD_RATE / FLOOD_BURST);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(sent)
}

/// Asks for one service after the other, for each once; returns how often.
fn ask(lan: &Lan, until: Instant) -> io::Result<usize> {
    let (mut socket, departure) = lan.speaker(2)?;
    for number in 0..SERVICES {
        // The last ones are to have their answers.
        if Instant::now() + Duration::from_secs(1) >= until {
            return Ok(number);
        }
        socket.send(&question(&instance(number), RecordType::SRV), &departure)?;
        std::thread::sleep(FLOOD_QUESTION_GAP);
    }
    Ok(SERVICES)
}
