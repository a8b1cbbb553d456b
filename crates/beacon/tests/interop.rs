//! Beacon beside those that nobody here wrote: Debian's Avahi and python-zeroconf, on virtual networks, with tcpdump and
//! tshark as witnesses.
//!
//! Where namespaces cannot be made, or one of those programs is missing, the tests are reported as ignored with the
//! reason; with `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "interop/avahi.rs"]
mod avahi;
#[path = "interop/capture.rs"]
mod capture;
mod lan;
#[path = "interop/program.rs"]
mod program;

use std::net::{IpAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use avahi::Avahi;
use beacon::{Beacon, Events, ResolvedService, Service, ServiceEvent};
use capture::{Capture, Captured};
use lan::{Host, SOON, lan, soon};
use mdns::wire::{Class, Header, Message, Mode, NameBuf, Question, RData, RecordType, Writer};
use program::Program;

fn main() -> ExitCode {
    let tests = lan::tests![
        avahi_finds_and_resolves_our_service_and_hears_our_goodbye,
        we_find_and_resolve_what_avahi_publishes_and_hear_its_goodbye,
        python_finds_and_resolves_our_service_and_hears_our_goodbye,
        we_find_and_resolve_what_python_publishes_and_hear_its_goodbye,
        avahi_renames_its_service_when_the_name_is_ours,
        we_rename_our_service_when_the_name_is_avahis,
        python_renames_its_service_when_the_name_is_ours,
        we_rename_our_service_when_the_name_is_pythons,
        we_rename_our_host_when_the_name_is_avahis,
        avahi_renames_its_host_when_the_name_is_ours,
        names_claimed_at_once_end_with_different_owners,
        avahi_and_we_share_a_host_and_its_name,
        the_hosts_name_is_avahis_whatever_addresses_we_know_beside_its_own,
        what_a_killed_avahi_published_is_dropped_after_reconfirmation,
        our_known_answers_keep_avahi_silent_and_only_our_first_question_is_qu,
        known_answers_of_avahi_keep_us_silent,
        we_answer_a_qu_question_of_python_by_unicast,
        avahi_and_we_find_each_other_over_ipv6_alone,
        a_resolver_that_knows_only_plain_dns_is_answered,
    ];
    lan::main_needing(tests, 4, missing)
}

const IPP: &str = "_ipp._tcp";
/// A goodbye ends a record after one second (RFC 6762 §10.1); a busy machine may need another to tell.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(2);
/// Answers of shared records come after 120 ms at most, and may wait for others up to 500 ms (RFC 6762 §6, §6.4).
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
/// Debian's, whatever else is in the path: its modules come from packages.
const PYTHON: &str = "/usr/bin/python3";
const PEER: &str = include_str!("interop/zeroconf_peer.py");

/// What these tests need and this machine has not.
fn missing() -> Option<String> {
    let programs =
        ["avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon", "tcpdump", "tshark", "unshare"];
    let paths: Vec<_> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let absent = |program: &&str| {
        !paths.iter().any(|path| path.join(program).exists())
            && !["/usr/sbin", "/sbin"].iter().any(|path| std::path::Path::new(path).join(program).exists())
    };
    let module = Command::new(PYTHON).args(["-c", "import zeroconf"]).output();
    let no_module = module.map_or(true, |output| !output.status.success()).then_some("python3-zeroconf");
    let missing: Vec<&str> = programs.into_iter().filter(absent).chain(no_module).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

fn printer() -> Service {
    Service::new("Dr. Müller's printer", IPP, 631).txt("rp", "ipp/print").flag("color")
}

/// Waits for an event that is looked for; others may come before it.
#[track_caller]
fn event<T>(
    host: &Host,
    found: &mut Events<ServiceEvent>,
    look: impl Fn(ServiceEvent) -> Option<T> + Sync + Send,
) -> T
where
    T: Send,
{
    soon(host, "an event", async {
        loop {
            let event = found.next().await.expect("the stream goes on");
            if let Some(value) = look(event) {
                return value;
            }
        }
    })
}

/// The service of that name, as soon as it has an IPv4 address.
#[track_caller]
fn resolved(host: &Host, found: &mut Events<ServiceEvent>, name: &str) -> ResolvedService {
    event(host, found, |event| match event {
        ServiceEvent::Added(service) | ServiceEvent::Changed(service)
            if service.instance.as_str() == name && addresses(&service).iter().any(IpAddr::is_ipv4) =>
        {
            Some(service)
        }
        _ => None,
    })
}

#[track_caller]
fn removed(host: &Host, found: &mut Events<ServiceEvent>, name: &str) {
    event(host, found, |event| match event {
        ServiceEvent::Removed(instance) if instance.name.as_str() == name => Some(()),
        _ => None,
    });
}

fn addresses(service: &ResolvedService) -> Vec<IpAddr> {
    service.addresses.iter().map(|address| address.ip).collect()
}

#[track_caller]
fn within(limit: Duration, action: impl FnOnce()) {
    let begun = Instant::now();
    action();
    let needed = begun.elapsed();
    assert!(needed < limit, "{needed:?}");
}

fn python(host: &Host, arguments: &[&str]) -> Program {
    let mut command = host.netns.command(PYTHON);
    Program::start(command.args(["-c", PEER]).args(arguments))
}

/// Has python-zeroconf publish on the host with that address; returns it with the name that it got.
fn python_publishes(host: &Host, name: &str) -> (Program, String) {
    let mut program = python(host, &["publish", "192.0.2.2", IPP, name, "8631"]);
    let published =
        program.wait("the publication", |line| Some(line.strip_prefix("published\t")?.to_owned()));
    let name = published.strip_suffix("._ipp._tcp.local.").expect("a name of that type").to_owned();
    (program, name)
}

fn avahi_finds_and_resolves_our_service_and_hears_our_goodbye() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let mut browse = avahi.browse(IPP);
    let beacon = left.beacon();
    let publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let service = avahi::resolved(&mut browse, "Dr. Müller's printer");
    assert_eq!((&*service.host, &*service.address, &*service.port), ("left.local", "192.0.2.1", "631"));
    let mut attributes: Vec<&str> = service.txt.split(' ').collect();
    attributes.sort_unstable();
    assert_eq!(attributes, [r#""color""#, r#""rp=ipp/print""#]);
    within(GOODBYE_TIME_MAX, || {
        drop(publication);
        avahi::gone(&mut browse, "Dr. Müller's printer");
    });
    capture.finish();
}

fn we_find_and_resolve_what_avahi_publishes_and_hear_its_goodbye() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let beacon = left.beacon();
    let mut found = beacon.browse(IPP).unwrap();
    let (publish, name) = avahi.publish("Fax. No. 1", IPP, "515", &["rp=fax", "color"]);
    assert_eq!(name, "Fax. No. 1");
    let service = resolved(&left, &mut found, &name);
    assert_eq!((&*service.host, service.port), ("right.local", 515));
    assert!(addresses(&service).contains(&"192.0.2.2".parse().unwrap()), "{service:?}");
    assert_eq!(service.txt.value("rp"), Some(Some(&b"fax"[..])));
    assert_eq!(service.txt.value("color"), Some(None));
    within(GOODBYE_TIME_MAX, || {
        publish.terminate();
        removed(&left, &mut found, &name);
    });
    capture.finish();
}

fn python_finds_and_resolves_our_service_and_hears_our_goodbye() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let mut browse = python(&right, &["browse", "192.0.2.2", IPP]);
    let beacon = left.beacon();
    let publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let line = browse.wait("the service", |line| line.starts_with("added\t").then(|| line.to_owned()));
    let fields: Vec<&str> = line.split('\t').collect();
    let [_, name, host, port, addresses, attributes] = fields[..] else { panic!("{line}") };
    assert_eq!(name, "Dr. Müller's printer._ipp._tcp.local.");
    assert_eq!((host, port, attributes), ("left.local.", "631", "color,rp=ipp/print"));
    assert!(addresses.split(',').any(|address| address == "192.0.2.1"), "{addresses}");
    within(GOODBYE_TIME_MAX, || {
        drop(publication);
        browse.wait("the goodbye", |line| line.starts_with("removed\tDr. Müller's printer").then_some(()));
    });
    capture.finish();
}

fn we_find_and_resolve_what_python_publishes_and_hear_its_goodbye() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let beacon = left.beacon();
    let mut found = beacon.browse(IPP).unwrap();
    let (publish, name) = python_publishes(&right, "Snake");
    assert_eq!(name, "Snake");
    let service = resolved(&left, &mut found, "Snake");
    assert_eq!((&*service.host, service.port), ("snake.local", 8_631));
    assert_eq!(addresses(&service), ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(service.txt.value("rp"), Some(Some(&b"python"[..])));
    assert_eq!(service.txt.value("color"), Some(None));
    within(GOODBYE_TIME_MAX, || {
        publish.end_input();
        removed(&left, &mut found, "Snake");
    });
    capture.finish();
}

fn avahi_renames_its_service_when_the_name_is_ours() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let beacon = left.beacon();
    let publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let (_publish, name) = avahi.publish("Dr. Müller's printer", IPP, "515", &[]);
    assert_eq!(name, "Dr. Müller's printer #2");
    assert_eq!(publication.name().as_str(), "Dr. Müller's printer");
    let mut found = beacon.browse(IPP).unwrap();
    assert_eq!(resolved(&left, &mut found, &name).port, 515);
    capture.finish();
}

fn we_rename_our_service_when_the_name_is_avahis() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let (_publish, name) = avahi.publish("Dr. Müller's printer", IPP, "515", &[]);
    let beacon = left.beacon();
    let publication = soon(&left, "a name is ours", beacon.publish(printer())).unwrap();
    assert_ne!(publication.name().as_str(), name);
    let mut browse = avahi.browse(IPP);
    assert_eq!(avahi::resolved(&mut browse, publication.name().as_str()).port, "631");
    capture.finish();
}

fn python_renames_its_service_when_the_name_is_ours() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let beacon = left.beacon();
    let publication =
        soon(&left, "the name is ours", beacon.publish(Service::new("Snake", IPP, 631))).unwrap();
    let (_publish, name) = python_publishes(&right, "Snake");
    assert_eq!((publication.name().as_str(), &*name), ("Snake", "Snake-2"));
    let mut found = beacon.browse(IPP).unwrap();
    assert_eq!(resolved(&left, &mut found, "Snake-2").port, 8_631);
    capture.finish();
}

fn we_rename_our_service_when_the_name_is_pythons() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let (_publish, name) = python_publishes(&right, "Snake");
    let beacon = left.beacon();
    let publication = soon(&left, "a name is ours", beacon.publish(Service::new("Snake", IPP, 631))).unwrap();
    assert_eq!(name, "Snake");
    assert_ne!(publication.name().as_str(), "Snake");
    capture.finish();
}

fn we_rename_our_host_when_the_name_is_avahis() {
    let (_hub, [left, right]) = lan(["twin", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "twin");
    let beacon = left.beacon();
    let publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let mut browse = avahi.browse(IPP);
    let host = browse.wait("another host name", |line| {
        let host = line.split(';').nth(6)?;
        (host != "twin.local").then(|| host.to_owned())
    });
    assert_eq!(soon(&left, "our name", beacon.host_name()).unwrap().to_string(), host);
    drop(publication);
    capture.finish();
}

fn avahi_renames_its_host_when_the_name_is_ours() {
    let (_hub, [left, right]) = lan(["twin", "right"]);
    let capture = Capture::start(&left);
    let beacon = left.beacon();
    let _publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let avahi = Avahi::start(&right, "twin");
    assert_eq!(avahi.host_name, "twin-2.local");
    assert_eq!(soon(&left, "our name", beacon.host_name()).unwrap().to_string(), "twin.local");
    capture.finish();
}

/// RFC 6762 §8.2: whoever loses the comparison of what both propose gives way.
fn names_claimed_at_once_end_with_different_owners() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let beacon = left.beacon();
    let (publication, (_publish, theirs)) = std::thread::scope(|scope| {
        let fax = Service::new("Fax", IPP, 631);
        let ours = scope.spawn(|| soon(&left, "a name is ours", beacon.publish(fax)).unwrap());
        let theirs = avahi.publish("Fax", IPP, "515", &[]);
        (ours.join().unwrap(), theirs)
    });
    let mut found = beacon.browse(IPP).unwrap();
    assert_eq!(resolved(&left, &mut found, &theirs).port, 515);
    let ours = publication.name();
    assert_ne!(ours.as_str(), theirs);
    assert!([ours.as_str(), &theirs].contains(&"Fax"), "nobody is left with the name: {ours} {theirs}");
    let mut browse = avahi.browse(IPP);
    assert_eq!(avahi::resolved(&mut browse, ours.as_str()).port, "631");
    capture.finish();
}

/// Both answer for `left.local`, with the same addresses: no conflict (RFC 6762 §9).
fn avahi_and_we_share_a_host_and_its_name() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&right);
    let avahi = Avahi::start(&left, "left");
    let beacon = left.beacon();
    let (_publish, fax) = avahi.publish("Fax", IPP, "515", &[]);
    let publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let other = right.beacon();
    for (host, beacon) in [(&right, &other), (&left, &beacon)] {
        for (name, port) in [(&*fax, 515), (publication.name().as_str(), 631)] {
            let mut found = beacon.browse(IPP).unwrap();
            let service = resolved(host, &mut found, name);
            assert_eq!((&*service.host, service.port), ("left.local", port));
        }
    }
    let mut browse = avahi.browse(IPP);
    assert_eq!(avahi::resolved(&mut browse, publication.name().as_str()).host, "left.local");
    // Long enough for both to have announced everything again, had there been a conflict.
    announced(&capture, "192.0.2.1", &fax, 3);
    assert_eq!(soon(&left, "our name", beacon.host_name()).unwrap().to_string(), "left.local");
    assert_eq!((publication.name().as_str(), &*avahi.host_name), ("Dr. Müller's printer", "left.local"));
    capture.finish();
}

/// Avahi leaves out link-local addresses where there are others, so our set is not its set, and it would give way.
fn the_hosts_name_is_avahis_whatever_addresses_we_know_beside_its_own() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    left.add_address("wire0", "2001:db8::1/64");
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let name = system.trim().split('.').next().unwrap();
    // A program that does not say what the host is called.
    let beacon = left.run(Beacon::builder().start()).unwrap();
    let publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let avahi = Avahi::start(&left, name);
    let (_publish, fax) = avahi.publish("Fax", IPP, "515", &[]);
    let mut found = right.beacon().browse(IPP).unwrap();
    assert_eq!(resolved(&right, &mut found, &fax).host, format!("{name}.local"));
    let own = soon(&left, "our name", beacon.host_name()).unwrap().to_string();
    let mut found = right.beacon().browse(IPP).unwrap();
    assert_eq!(resolved(&right, &mut found, publication.name().as_str()).host, own);
    assert_eq!((own, &*avahi.host_name), (format!("{name}-beacon.local"), &*format!("{name}.local")));
}

fn what_a_killed_avahi_published_is_dropped_after_reconfirmation() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let mut avahi = Avahi::start(&right, "right");
    let beacon = left.beacon();
    let mut found = beacon.browse(IPP).unwrap();
    let (_publish, name) = avahi.publish("Fax", IPP, "515", &[]);
    let service = resolved(&left, &mut found, &name);
    avahi.kill();
    beacon.reconfirm(&service);
    removed(&left, &mut found, &name);
    capture.finish();
}

/// Whether a message names that instance in a PTR record of its answers.
fn answers_with(message: &Message<'_>, instance: &str) -> bool {
    message.answers().any(|record| match record.rdata {
        RData::Ptr(target) => target.labels().next() == Some(instance.as_bytes()),
        _ => false,
    })
}

/// Packets from an address over IPv4, as they passed.
fn sent_by<'c>(packets: &'c [Captured], from: &str) -> impl Iterator<Item = &'c Captured> {
    let from: IpAddr = from.parse().unwrap();
    packets.iter().filter(move |packet| packet.from == from)
}

/// Waits until the host with that address has announced the instance that often, a second apart and then two (RFC 6762 §8.3):
/// what it says of it in the seconds that follow are answers.
#[track_caller]
fn announced(capture: &Capture, from: &str, instance: &str, times: usize) {
    capture.wait("announcements", |packets| {
        let announcements = sent_by(packets, from)
            .filter(|packet| packet.message().header().response && answers_with(&packet.message(), instance));
        (announcements.count() >= times).then_some(())
    });
}

/// To a query that holds the instance as a known answer the publisher does not answer with it (RFC 6762 §7.1).
#[track_caller]
fn known_answers_silence(capture: &Capture, querier: &str, publisher: &str, instance: &str) {
    capture.wait("two queries after a known answer", |packets| {
        let queries: Vec<&Captured> =
            sent_by(packets, querier).filter(|packet| asks_for_ipp(packet)).collect();
        let known = queries.iter().position(|query| answers_with(&query.message(), instance))?;
        // The next query comes so much later that the answer would be here.
        let (from, _) = (queries[known].time, queries.get(known + 1)?);
        let answered = sent_by(packets, publisher).any(|packet| {
            packet.message().header().response
                && answers_with(&packet.message(), instance)
                && (from..from + ANSWER_TIME_MAX).contains(&packet.time)
        });
        assert!(!answered, "an answer to a query that holds it already");
        Some(())
    });
}

fn asks_for_ipp(packet: &Captured) -> bool {
    !packet.message().header().response && !ipp_questions(packet).is_empty()
}

/// Of each question for our type: whether it is one that may be answered by unicast.
fn ipp_questions(packet: &Captured) -> Vec<bool> {
    let questions = packet.message().questions();
    let ours = questions.filter(|question| question.name.to_string() == "_ipp._tcp.local");
    ours.map(|question| question.unicast_response).collect()
}

fn our_known_answers_keep_avahi_silent_and_only_our_first_question_is_qu() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let (_publish, name) = avahi.publish("Fax", IPP, "515", &[]);
    announced(&capture, "192.0.2.2", &name, 3);
    let beacon = left.beacon();
    let mut found = beacon.browse(IPP).unwrap();
    resolved(&left, &mut found, &name);
    known_answers_silence(&capture, "192.0.2.1", "192.0.2.2", &name);
    // RFC 6762 §5.4.
    let packets = capture.packets();
    let queries = sent_by(&packets, "192.0.2.1").filter(|packet| asks_for_ipp(packet));
    let questions: Vec<bool> = queries.flat_map(ipp_questions).collect();
    assert!(questions.len() >= 3, "{questions:?}");
    assert!(questions[0] && questions[1..].iter().all(|unicast| !unicast), "{questions:?}");
    capture.finish();
}

fn known_answers_of_avahi_keep_us_silent() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let beacon = left.beacon();
    let _publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    announced(&capture, "192.0.2.1", "Dr. Müller's printer", 2);
    let mut browse = avahi.browse(IPP);
    avahi::resolved(&mut browse, "Dr. Müller's printer");
    known_answers_silence(&capture, "192.0.2.2", "192.0.2.1", "Dr. Müller's printer");
    capture.finish();
}

/// RFC 6762 §5.4: what was multicast a moment ago may be told to one alone.
fn we_answer_a_qu_question_of_python_by_unicast() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let beacon = left.beacon();
    let _publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    announced(&capture, "192.0.2.1", "Dr. Müller's printer", 2);
    let mut browse = python(&right, &["browse", "192.0.2.2", IPP]);
    browse.wait("the service", |line| line.starts_with("added\t").then_some(()));
    let packets = capture.packets();
    let asked = sent_by(&packets, "192.0.2.2")
        .flat_map(|packet| packet.message().questions().collect::<Vec<_>>())
        .any(|question| question.unicast_response);
    assert!(asked, "python-zeroconf asks with the QU bit at first");
    let to_one: IpAddr = "192.0.2.2".parse().unwrap();
    let answered = sent_by(&packets, "192.0.2.1")
        .any(|packet| packet.to == to_one && answers_with(&packet.message(), "Dr. Müller's printer"));
    assert!(answered, "a unicast answer");
    capture.finish();
}

fn avahi_and_we_find_each_other_over_ipv6_alone() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    left.del_address("wire0", "192.0.2.1/24");
    right.del_address("wire0", "192.0.2.2/24");
    let capture = Capture::start(&left);
    let avahi = Avahi::start(&right, "right");
    let (_publish, name) = avahi.publish("Fax", IPP, "515", &[]);
    let beacon = left.beacon();
    let _publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let mut found = beacon.browse(IPP).unwrap();
    let service = event(&left, &mut found, |event| match event {
        ServiceEvent::Added(service) if service.instance.as_str() == "Fax" => Some(service),
        _ => None,
    });
    assert_eq!((&*service.host, service.port, &*name), ("right.local", 515, "Fax"));
    assert!(addresses(&service).iter().all(IpAddr::is_ipv6), "{service:?}");
    let mut browse = avahi.browse(IPP);
    let address = browse.wait("our service", |line| {
        let fields: Vec<&str> = line.split(';').collect();
        (fields[0] == "=" && fields.get(2) == Some(&"IPv6") && fields.get(6) == Some(&"left.local"))
            .then(|| fields[7].to_owned())
    });
    assert!(address.starts_with("fe80:"), "{address}");
    capture.finish();
}

/// RFC 6762 §6.7: a query from another port than 5353 comes from a resolver that does not know of Multicast DNS.
fn a_resolver_that_knows_only_plain_dns_is_answered() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let capture = Capture::start(&left);
    let beacon = left.beacon();
    let _publication = soon(&left, "the name is ours", beacon.publish(printer())).unwrap();
    let instance: NameBuf = r"Dr\. Müller's printer._ipp._tcp.local".parse().unwrap();
    let mut query = [0; 100];
    let mut writer = Writer::new(&mut query, Mode::Legacy, Header { id: 0x1234, ..Header::QUERY });
    let question = Question {
        name: instance.as_name(),
        record_type: RecordType::SRV,
        class: Class::IN,
        unicast_response: false,
    };
    assert!(writer.push_question(&question));
    let query = writer.finish();
    let response = right
        .netns
        .run(|| {
            let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket.send_to(query, "192.0.2.1:5353").unwrap();
            let mut response = vec![0; 9_000];
            let (len, from) = socket.recv_from(&mut response).unwrap();
            assert_eq!(from.to_string(), "192.0.2.1:5353");
            response.truncate(len);
            response
        })
        .unwrap();
    let message = Message::parse(&response).unwrap();
    assert_eq!((message.header().id, message.header().authoritative), (0x1234, true));
    assert!(message.questions().eq([question]));
    let answer = message.answers().next().expect("an answer");
    assert_eq!(answer.rdata.to_string(), "0 0 631 left.local");
    assert!(message.records().all(|record| record.ttl <= 10 && !record.cache_flush), "{message:?}");
    capture.finish();
}
