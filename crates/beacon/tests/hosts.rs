//! Hosts on a LAN that find each other, with real sockets on real, if virtual, networks.
//!
//! Where namespaces cannot be made, the tests are reported as ignored with the reason; with `SHADOWMESH_REQUIRE_PRIVILEGED=1` they
//! fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lan;

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use beacon::{
    Error, Events, Instance, Interfaces, NameEvent, RecordEvent, RecordType, ResolvedService, Service,
    ServiceEvent, TypeEvent,
};
use lan::{Host, SOON, lan, soon, until};
use mdns::wire::{Class, Header, Message, Mode, NameBuf, Question, RData, Record, Section, Srv, Txt, Writer};
use os::multicast::MulticastSocket;
use os::netns::{Netns, veth_pair};

fn main() -> ExitCode {
    lan::main(
        lan::tests![
            a_service_is_found_resolved_changed_and_gone_with_its_guard,
            a_host_is_found_by_name_with_addresses_of_both_families,
            nobody_answers_for_a_name_that_nobody_has,
            of_two_services_of_one_name_the_second_is_renamed,
            of_two_hosts_of_one_name_the_second_is_renamed,
            names_won_in_a_conflict_are_asked_for_first_next_time,
            a_machine_that_has_slept_probes_again_and_verifies_what_it_knows,
            a_subtype_finds_only_its_own,
            types_names_and_records_are_listed,
            shutting_down_says_goodbye_and_ends_all_streams,
            a_runtime_that_ends_says_goodbye,
            a_program_that_dies_is_forgotten_when_it_is_asked_for_in_vain,
            two_networks_that_become_one_leave_a_name_to_one_host,
            an_old_resolver_is_answered_from_an_address_of_its_subnet,
            an_interface_that_loses_its_last_address_is_not_used,
            an_interface_that_goes_down_and_comes_up_is_used_again,
            a_cable_that_is_pulled_for_an_instant_may_lead_elsewhere_so_names_are_probed_again,
            a_network_that_comes_later_is_used,
            addresses_that_change_are_told,
            hosts_with_ipv6_alone_find_each_other,
            each_network_is_told_the_addresses_on_it_alone,
            interfaces_of_containers_and_those_left_out_are_not_used,
            another_program_on_the_port_does_not_disturb,
            a_monitor_sees_every_packet,
            what_is_no_name_is_refused_with_the_reason,
            a_searcher_is_silent_about_its_host,
            a_thousand_queries_at_once_wait_for_none,
            a_service_is_resolved_with_both_families_though_its_device_tells_one_later,
            a_flood_costs_no_memory_and_all_is_well_after_it,
            a_host_that_is_renamed_while_it_runs_is_told,
        ],
        6,
    )
}

const IPP: &str = "_ipp._tcp";

fn printer() -> Service {
    Service::new("Dr. Müller's printer", IPP, 631).txt("rp", "ipp/print").flag("color")
}

/// The next event about a service.
#[track_caller]
fn next(host: &Host, found: &mut Events<ServiceEvent>) -> ServiceEvent {
    soon(host, "an event", found.next()).expect("the stream goes on")
}

#[track_caller]
fn added(host: &Host, found: &mut Events<ServiceEvent>) -> ResolvedService {
    match next(host, found) {
        ServiceEvent::Added(service) => service,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn removed(host: &Host, found: &mut Events<ServiceEvent>) -> Instance {
    loop {
        match next(host, found) {
            ServiceEvent::Removed(instance) => return instance,
            ServiceEvent::Changed(_) => {}
            ServiceEvent::Added(service) => panic!("{service:?}"),
        }
    }
}

fn ips(service: &ResolvedService) -> BTreeSet<IpAddr> {
    service.addresses.iter().map(|address| address.ip).collect()
}

fn contains(addresses: &BTreeSet<IpAddr>, ip: &str) -> bool {
    addresses.contains(&ip.parse().unwrap())
}

fn a_service_is_found_resolved_changed_and_gone_with_its_guard() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let mut found = there.browse(IPP).unwrap();
    let publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    assert_eq!(publication.name().as_str(), "Dr. Müller's printer");

    let service = added(&right, &mut found);
    assert_eq!(service.instance, publication.name());
    assert_eq!(service.service_type.to_string(), IPP);
    assert_eq!(service.host, "left.local");
    assert_eq!(service.port, 631);
    assert_eq!(service.interface, right.index("wire0"));
    assert_eq!(service.txt.value("RP"), Some(Some(&b"ipp/print"[..])));
    assert_eq!(service.txt.value("color"), Some(None));
    let addresses = ips(&service);
    assert!(contains(&addresses, "192.0.2.1") && contains(&addresses, "fe80::1"), "{addresses:?}");

    soon(&left, "the attributes change", publication.update_txt([("rp", "other")])).unwrap();
    loop {
        let ServiceEvent::Changed(service) = next(&right, &mut found) else { panic!("not gone") };
        if service.txt.value("rp") == Some(Some(&b"other"[..])) {
            assert_eq!(service.txt.value("color"), None);
            break;
        }
    }

    let told = Instant::now();
    drop(publication);
    assert_eq!(removed(&right, &mut found).name, service.instance);
    assert!(told.elapsed() < Duration::from_secs(5), "a goodbye is obeyed after one second (RFC 6762 §10.1)");
}

fn a_host_is_found_by_name_with_addresses_of_both_families() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (_here, there) = (left.beacon(), right.beacon());
    let addresses = right.run(until(|| async { there.resolve_host("left").await.ok() }));
    let found: BTreeSet<IpAddr> = addresses.iter().map(|address| address.ip).collect();
    assert!(contains(&found, "192.0.2.1") && contains(&found, "fe80::1"), "{found:?}");
    for address in &addresses {
        assert_eq!(address.interface, right.index("wire0"));
    }
    let link_local = addresses.iter().find(|address| address.ip.is_ipv6()).unwrap().with_port(80);
    assert!(matches!(link_local, std::net::SocketAddr::V6(v6) if v6.scope_id() == right.index("wire0")));

    let mut followed = there.watch_host("LEFT.local").unwrap();
    let told = soon(&right, "what is known already", followed.next()).unwrap();
    assert_eq!(told.iter().map(|address| address.ip).collect::<BTreeSet<_>>(), found);
}

fn nobody_answers_for_a_name_that_nobody_has() {
    let (_hub, [left]) = lan(["left"]);
    let beacon = left.beacon();
    let error = left.run(beacon.resolve_host("nobody")).unwrap_err();
    assert_eq!(error.to_string(), "nobody on the local network answers for `nobody`");
    let error = left.run(beacon.resolve("Nothing", IPP)).unwrap_err();
    assert_eq!(error, Error::NotFound("Nothing._ipp._tcp.local".into()));
}

fn of_two_services_of_one_name_the_second_is_renamed() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let first = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let second = soon(&right, "a name is ours", there.publish(printer())).unwrap();
    assert_eq!(first.name().as_str(), "Dr. Müller's printer");
    assert_ne!(second.name(), first.name());
    let mut found = there.browse(IPP).unwrap();
    let hosts: BTreeSet<_> = [added(&right, &mut found), added(&right, &mut found)]
        .into_iter()
        .map(|s| (s.instance, s.host))
        .collect();
    let expected = [(first.name(), "left.local".to_owned()), (second.name(), "right.local".to_owned())];
    assert_eq!(hosts, BTreeSet::from(expected));
}

fn of_two_hosts_of_one_name_the_second_is_renamed() {
    let (_hub, [left, right]) = lan(["twin", "twin"]);
    let here = left.beacon();
    let _service = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let there = right.beacon();
    let renamed = soon(
        &right,
        "another name",
        until(|| async { there.host_name().await.ok().filter(|name| name.to_string() != "twin.local") }),
    );
    assert_eq!(left.run(here.host_name()).unwrap().to_string(), "twin.local");
    let addresses =
        soon(&left, "both are found", until(|| async { here.resolve_host(&renamed.to_string()).await.ok() }));
    assert!(addresses.iter().any(|address| address.ip == "192.0.2.2".parse::<IpAddr>().unwrap()));
}

/// RFC 6762 §9: so that others find the service under the name that they know.
fn names_won_in_a_conflict_are_asked_for_first_next_time() {
    let (_hub, [left, right]) = lan(["twin", "twin"]);
    let file = std::env::temp_dir().join(format!("beacon-hosts-{}-names", std::process::id()));
    let here = left.beacon();
    let first = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let lost = {
        let there = right.beacon_with(|builder| builder.names_file(&file));
        let second = soon(&right, "a name is ours", there.publish(printer())).unwrap();
        let renamed = async || there.host_name().await.ok().filter(|name| name.to_string() != "twin.local");
        let host = soon(&right, "another name", until(renamed));
        // It is kept when it is ours.
        soon(&left, "both are found", until(|| async { here.resolve_host(&host.to_string()).await.ok() }));
        let name = second.name();
        soon(&right, "the end", there.shutdown());
        (name, host)
    };
    // Now that nobody has the old names, they could be had.
    drop(first);
    soon(&left, "the end", here.shutdown());
    let there = right.beacon_with(|builder| builder.names_file(&file));
    let again = soon(&right, "the name is ours", there.publish(printer())).unwrap();
    assert_ne!(lost.0.as_str(), "Dr. Müller's printer");
    assert_eq!((again.name(), right.run(there.host_name()).unwrap()), lost);
    assert_eq!(right.run(there.statistics()).unwrap().unsaved_names, 0);
    std::fs::remove_file(file).unwrap();
}

/// RFC 6762 §8, §10.3: while the machine was asleep anything may have happened.
fn a_machine_that_has_slept_probes_again_and_verifies_what_it_knows() {
    static SUSPENDED_S: AtomicU64 = AtomicU64::new(7);
    let (_hub, [left, middle, right]) = lan(["left", "middle", "right"]);
    let sleeper = left
        .beacon_with(|builder| builder.suspension_clock(|| Duration::from_secs(SUSPENDED_S.load(Relaxed))));
    let (stays, goes) = (middle.beacon(), right.beacon());
    let _publication = soon(&left, "the name is ours", sleeper.publish(printer())).unwrap();
    let _stays = soon(&middle, "the name is ours", stays.publish(Service::new("stays", IPP, 1))).unwrap();
    let _goes = soon(&right, "the name is ours", goes.publish(Service::new("goes", IPP, 2))).unwrap();
    let mut found = sleeper.browse(IPP).unwrap();
    let names: BTreeSet<_> = (0..3).map(|_| added(&left, &mut found).instance.to_string()).collect();
    assert_eq!(names.len(), 3);
    // A second after the first announcement comes the last one: what is said after it is said anew.
    let mut monitor = stays.monitor();
    let from_left = async |monitor: &mut beacon::Monitor| loop {
        let packet = monitor.next().await.unwrap();
        if packet.from.ip() == "192.0.2.1".parse::<IpAddr>().unwrap() {
            return packet;
        }
    };
    let quiet = async {
        while tokio::time::timeout(Duration::from_millis(2_500), from_left(&mut monitor)).await.is_ok() {}
    };
    soon(&middle, "silence", quiet);

    // An hour goes by, in which a machine is taken away without a word.
    right.set_up("wire0", false);
    SUSPENDED_S.fetch_add(3_600, Relaxed);
    // Whatever happens first after that wakes the driver up; the look at all interfaces does within 20 s.
    left.run(sleeper.statistics()).unwrap();
    let (mut probes, mut announced) = (0, false);
    soon(&middle, "probes and an announcement", async {
        while !announced {
            let packet = from_left(&mut monitor).await;
            let message = Message::parse(&packet.contents).unwrap();
            probes += usize::from(message.authorities().len() > 0);
            announced = message.header().response
                && message.answers().any(|record| record.rdata.to_string() == "0 0 631 left.local");
        }
    });
    assert_eq!(probes, 3);
    // Who answers stays, without a flicker; who does not, goes (RFC 6762 §10.4).
    let ServiceEvent::Removed(gone) = next(&left, &mut found) else { panic!("nothing else has changed") };
    assert_eq!(gone.name.as_str(), "goes");
    assert_eq!(left.run(sleeper.statistics()).unwrap().wakes, 1);
}

fn a_subtype_finds_only_its_own() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let plain = Service::new("plain", IPP, 631);
    let special = Service::new("special", IPP, 632).subtype("_printer");
    let publications = soon(&left, "both are ours", async {
        (here.publish(plain).await.unwrap(), here.publish(special).await.unwrap())
    });
    let mut found = there.browse("_printer._sub._ipp._tcp").unwrap();
    let service = added(&right, &mut found);
    assert_eq!((service.instance.as_str(), service.port), ("special", 632));
    let mut all = there.browse(IPP).unwrap();
    let names: BTreeSet<_> = [added(&right, &mut all), added(&right, &mut all)].map(|s| s.port).into();
    assert_eq!(names, BTreeSet::from([631, 632]));
    drop(publications);
    assert_eq!(removed(&right, &mut found).name.as_str(), "special");
}

fn types_names_and_records_are_listed() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let _publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let interface = right.index("wire0");

    let mut types = there.browse_types();
    let kind = soon(&right, "a type", types.next()).unwrap();
    assert_eq!(kind, TypeEvent::Added(IPP.parse().unwrap(), interface));

    let mut names = there.browse_names(IPP).unwrap();
    let name = soon(&right, "a name", names.next()).unwrap();
    assert!(
        matches!(&name, NameEvent::Added(found) if found.name.as_str() == "Dr. Müller's printer"),
        "{name:?}"
    );

    let mut records = soon(&right, "a search", there.query("left.local", RecordType::A)).unwrap();
    let record = soon(&right, "an address", records.next()).unwrap();
    let RecordEvent::Added(answer) = record else { panic!("{record:?}") };
    assert_eq!(answer.data.to_string(), "192.0.2.1");
    assert!(answer.unique);

    let once = there.query_once("left.local", RecordType::AAAA, Duration::from_secs(2));
    let answers = soon(&right, "the time is over", once).unwrap();
    assert!(
        answers.iter().all(|answer| answer.record_type() == RecordType::AAAA) && !answers.is_empty(),
        "{answers:?}"
    );
}

fn shutting_down_says_goodbye_and_ends_all_streams() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let mut found = there.browse(IPP).unwrap();
    let publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    added(&right, &mut found);

    let mut own = here.browse(IPP).unwrap();
    added(&left, &mut own);
    soon(&left, "the end", here.clone().shutdown());
    assert!(soon(&left, "the end of a stream", own.next()).is_none());
    assert_eq!(left.run(publication.update_txt([])).unwrap_err(), Error::Closed);
    assert_eq!(left.run(here.statistics()).unwrap_err(), Error::Closed);
    removed(&right, &mut found);
}

fn a_runtime_that_ends_says_goodbye() {
    let (_hub, [mut left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let mut found = there.browse(IPP).unwrap();
    let publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    added(&right, &mut found);
    left.runtime.take().unwrap().shutdown_timeout(SOON);
    removed(&right, &mut found);
    drop(publication);
}

fn a_program_that_dies_is_forgotten_when_it_is_asked_for_in_vain() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let mut found = there.browse(IPP).unwrap();
    let _publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let service = added(&right, &mut found);
    // As when it was killed: no goodbye, and no answer.
    left.set_up("wire0", false);
    there.reconfirm(&service);
    assert_eq!(removed(&right, &mut found).name, service.instance);
}

fn an_interface_that_goes_down_and_comes_up_is_used_again() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let _publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let mut found = there.browse(IPP).unwrap();
    added(&right, &mut found);

    // What was learnt on a network is forgotten with it (RFC 6762 §10.3).
    right.set_up("wire0", false);
    removed(&right, &mut found);
    right.set_up("wire0", true);
    added(&right, &mut found);

    // The one who answers comes back, too.
    left.set_up("wire0", false);
    let gone = || async { here.statistics().await.unwrap().interfaces.is_empty().then_some(()) };
    soon(&left, "the interface is noticed to be gone", until(gone));
    left.set_up("wire0", true);
    let mut later = right.beacon_with(beacon::Builder::search_only).browse(IPP).unwrap();
    added(&right, &mut later);
}

fn two_networks_that_become_one_leave_a_name_to_one_host() {
    let (here_hub, [left]) = lan(["left"]);
    let (there_hub, [right, other]) = lan(["right", "other"]);
    right.add_address("wire0", "192.0.2.77/24");
    right.del_address("wire0", "192.0.2.1/24");
    let (here, there) = (left.beacon(), right.beacon());
    let first = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let second = soon(&right, "the name is ours", there.publish(printer())).unwrap();
    assert_eq!(first.name(), second.name());

    // A cable between the two bridges.
    let mut netlink = here_hub.netlink().unwrap();
    netlink.create_veth("up", "up", there_hub.as_fd()).unwrap();
    for hub in [&here_hub, &there_hub] {
        let mut netlink = hub.netlink().unwrap();
        let (up, bridge) = (netlink.link_index("up").unwrap(), netlink.link_index("bridge").unwrap());
        netlink.set_master(up, bridge).unwrap();
        netlink.set_up(up, true).unwrap();
    }
    // Somebody asks, both answer, and each hears the other.
    let renamed = || async { (first.name() != second.name()).then_some(()) };
    let asking = other.beacon();
    let asked = async {
        loop {
            let _ = asking.resolve("Dr. Müller's printer", IPP).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    soon(&other, "one of them gives way", async {
        tokio::select! { () = asked => {}, () = until(renamed) => {} }
    });
}

fn an_old_resolver_is_answered_from_an_address_of_its_subnet() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    left.add_address("wire0", "198.51.100.1/24");
    right.add_address("wire0", "198.51.100.2/24");
    right.del_address("wire0", "192.0.2.2/24");
    let here = left.beacon();
    let _publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    // As `dig -p 5353 @224.0.0.251`: from a port of its own.
    let socket = right.netns.run(|| UdpSocket::bind("198.51.100.2:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let name: NameBuf = "left.local".parse().unwrap();
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Legacy, Header { id: 0x1234, ..Header::QUERY });
    let (record_type, class) = (RecordType::A, Class::IN);
    assert!(writer.push_question(&Question {
        name: name.as_name(),
        record_type,
        class,
        unicast_response: false
    }));
    right.netns.run(|| socket.send_to(writer.finish(), "224.0.0.251:5353")).unwrap().unwrap();
    let mut answer = [0; 1_500];
    let (len, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(from, "198.51.100.1:5353".parse().unwrap());
    let message = Message::parse(&answer[..len]).unwrap();
    assert_eq!((message.header().id, message.questions().count()), (0x1234, 1));
    let addresses: BTreeSet<_> = message.answers().map(|record| record.rdata.to_string()).collect();
    assert!(addresses.contains("198.51.100.1"), "{addresses:?}");
    assert!(message.records().all(|record| record.ttl <= 10 && !record.cache_flush));
}

fn an_interface_that_loses_its_last_address_is_not_used() {
    let (left, right) = (Host::new("left"), Host::new("right"));
    left.netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    veth_pair(&left.netns, "wire0", &right.netns, "wire0").unwrap();
    left.add_address("wire0", "192.0.2.1/24");
    let here = left.beacon();
    let used =
        || async { here.statistics().await.unwrap().interfaces.into_iter().map(|i| (i.ipv4, i.ipv6)).next() };
    assert_eq!(left.run(used()), Some((true, false)));
    left.del_address("wire0", "192.0.2.1/24");
    soon(&left, "it is left", until(|| async { used().await.is_none().then_some(()) }));
    left.add_address("wire0", "192.0.2.9/24");
    assert_eq!(soon(&left, "it is used again", until(used)), (true, false));
}

fn a_cable_that_is_pulled_for_an_instant_may_lead_elsewhere_so_names_are_probed_again() {
    let (hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon_with(beacon::Builder::search_only));
    let _publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let mut monitor = there.monitor();
    let mut netlink = hub.netlink().unwrap();
    // The other end of left's cable.
    let port = netlink.link_index("port0").unwrap();
    netlink.set_up(port, false).unwrap();
    netlink.set_up(port, true).unwrap();
    let probes = async {
        loop {
            let packet = monitor.next().await.unwrap();
            let message = Message::parse(&packet.contents).unwrap();
            if !message.header().response && message.authorities().len() > 0 {
                return;
            }
        }
    };
    soon(&right, "a probe", probes);
}

fn a_network_that_comes_later_is_used() {
    let (left, right) = (Host::new("left"), Host::new("right"));
    let (here, there) = (left.beacon(), right.beacon());
    let mut found = there.browse(IPP).unwrap();
    let publishing = left.runtime.as_ref().unwrap().spawn({
        let here = here.clone();
        async move { here.publish(printer()).await.unwrap() }
    });
    assert!(left.run(here.statistics()).unwrap().interfaces.is_empty());
    veth_pair(&left.netns, "wire0", &right.netns, "wire0").unwrap();
    left.add_address("wire0", "192.0.2.1/24");
    right.add_address("wire0", "192.0.2.2/24");
    let service = added(&right, &mut found);
    assert_eq!(service.instance, soon(&left, "it is published", publishing).unwrap().name());
}

fn addresses_that_change_are_told() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (here, there) = (left.beacon(), right.beacon());
    let mut found = there.browse(IPP).unwrap();
    let _publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    assert!(contains(&ips(&added(&right, &mut found)), "192.0.2.1"));
    left.add_address("wire0", "192.0.2.77/24");
    left.del_address("wire0", "192.0.2.1/24");
    loop {
        let event = next(&right, &mut found);
        let (ServiceEvent::Changed(service) | ServiceEvent::Added(service)) = event else { continue };
        let addresses = ips(&service);
        if contains(&addresses, "192.0.2.77") && !contains(&addresses, "192.0.2.1") {
            break;
        }
    }
}

fn hosts_with_ipv6_alone_find_each_other() {
    let (left, right) = (Host::new("left"), Host::new("right"));
    veth_pair(&left.netns, "wire0", &right.netns, "wire0").unwrap();
    left.add_address("wire0", "fe80::1/64");
    right.add_address("wire0", "fe80::2/64");
    let (here, there) = (left.beacon(), right.beacon());
    let mut found = there.browse(IPP).unwrap();
    let publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let addresses = ips(&added(&right, &mut found));
    assert!(contains(&addresses, "fe80::1") && addresses.iter().all(IpAddr::is_ipv6), "{addresses:?}");
    drop(publication);
    removed(&right, &mut found);
}

fn each_network_is_told_the_addresses_on_it_alone() {
    let [middle, left, right] = ["middle", "left", "right"].map(Host::new);
    veth_pair(&middle.netns, "wire0", &left.netns, "wire0").unwrap();
    veth_pair(&middle.netns, "wire1", &right.netns, "wire0").unwrap();
    middle.add_address("wire0", "192.0.2.1/24");
    left.add_address("wire0", "192.0.2.2/24");
    middle.add_address("wire1", "198.51.100.1/24");
    right.add_address("wire0", "198.51.100.2/24");
    let beacon = middle.beacon();
    let _publication = soon(&middle, "the name is ours", beacon.publish(printer())).unwrap();
    for (host, here, elsewhere) in
        [(&left, "192.0.2.1", "198.51.100.1"), (&right, "198.51.100.1", "192.0.2.1")]
    {
        let mut found = host.beacon().browse(IPP).unwrap();
        let addresses = ips(&added(host, &mut found));
        assert!(contains(&addresses, here) && !contains(&addresses, elsewhere), "{addresses:?}");
    }
    // Seen from both networks, it is told for both.
    let mut own = beacon.browse(IPP).unwrap();
    let interfaces = [added(&middle, &mut own), added(&middle, &mut own)].map(|service| service.interface);
    let expected = [middle.index("wire0"), middle.index("wire1")];
    assert_eq!(BTreeSet::from(interfaces), BTreeSet::from(expected));
}

fn interfaces_of_containers_and_those_left_out_are_not_used() {
    let host = Host::new("host");
    let other = Netns::new().unwrap();
    for (number, device) in ["wire0", "veth12", "docker0", "wire1"].into_iter().enumerate() {
        veth_pair(&host.netns, device, &other, device).unwrap();
        host.add_address(device, &format!("192.0.{number}.1/24"));
    }
    let used = |interfaces: Interfaces| {
        let beacon = host.beacon_with(|builder| builder.interfaces(interfaces));
        let statistics = host.run(beacon.statistics()).unwrap();
        statistics.interfaces.into_iter().map(|interface| interface.name).collect::<BTreeSet<_>>()
    };
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(used(Interfaces::suitable()), names(&["wire0", "wire1"]));
    assert_eq!(used(Interfaces::suitable().except(["wire1"]).loopback(true)), names(&["lo", "wire0"]));
    assert_eq!(used(Interfaces::only(["docker*"])), names(&["docker0"]));
    assert_eq!(
        used(Interfaces::suitable().virtual_networks(true)),
        names(&["wire0", "veth12", "docker0", "wire1"])
    );
}

fn another_program_on_the_port_does_not_disturb() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let group = "224.0.0.251:5353".parse().unwrap();
    let _other = left.netns.run(|| MulticastSocket::bind(group).unwrap()).unwrap();
    let (here, there) = (left.beacon(), right.beacon());
    assert!(left.run(here.statistics()).unwrap().shares_port);
    assert!(!right.run(there.statistics()).unwrap().shares_port);
    let _latecomer = right.netns.run(|| MulticastSocket::bind(group).unwrap()).unwrap();
    // Whatever happens on the network makes it look again.
    right.add_address("wire0", "192.0.2.99/24");
    let shared = || async { there.statistics().await.unwrap().shares_port.then_some(()) };
    soon(&right, "it is noticed", until(shared));
    let mut found = there.browse(IPP).unwrap();
    let publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    assert_eq!(added(&right, &mut found).instance, publication.name());
    let mut own = here.browse(IPP).unwrap();
    assert_eq!(added(&left, &mut own).instance, publication.name());
}

fn a_monitor_sees_every_packet() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let there = right.beacon_with(beacon::Builder::search_only);
    let mut monitor = there.monitor();
    let here = left.beacon();
    let _publication = soon(&left, "the name is ours", here.publish(printer())).unwrap();
    let packet = soon(&right, "a packet", monitor.next()).unwrap();
    assert_eq!(packet.interface, right.index("wire0"));
    assert_eq!((packet.from.port(), packet.hop_limit, packet.truncated), (5353, Some(255), false));
    assert!(packet.to.is_multicast());
    assert!(Message::parse(&packet.contents).is_ok());
}

fn what_is_no_name_is_refused_with_the_reason() {
    let host = Host::new("host");
    let beacon = host.beacon();
    let text = |error: Error| error.to_string();
    assert_eq!(
        text(beacon.browse("ipp").unwrap_err()),
        "service type `ipp`: a service type is written _name._tcp or _name._udp"
    );
    assert_eq!(
        text(beacon.watch_host("www.example.org").unwrap_err()),
        "host name `www.example.org`: a host name of several labels ends in .local"
    );
    let refusal = |service: Service| text(host.run(beacon.publish(service)).unwrap_err());
    assert_eq!(
        refusal(Service::new("x".repeat(64), IPP, 1)),
        format!("service name `{}`: a label has 1 to 63 bytes of UTF-8", "x".repeat(64))
    );
    assert_eq!(refusal(printer().txt("rp", "again")), "attribute `rp=again`: a TXT key stands twice");
    assert_eq!(
        refusal(printer().txt("k", "v".repeat(254))),
        format!(
            "attribute `k={}`: a TXT entry, key and value together, has at most 255 bytes",
            "v".repeat(254)
        )
    );
}

fn a_searcher_is_silent_about_its_host() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let searcher = left.beacon_with(beacon::Builder::search_only);
    let error = left.run(searcher.publish(printer())).unwrap_err();
    assert_eq!(error, Error::NoHost);
    let there = right.beacon();
    assert!(right.run(there.resolve_host("left")).is_err());
    soon(&left, "others are found", until(|| async { searcher.resolve_host("right").await.ok() }));
}

fn a_thousand_queries_at_once_wait_for_none() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let (_here, there) = (left.beacon(), right.beacon());
    soon(&right, "left is there", until(|| async { there.resolve_host("left").await.ok() }));
    let in_vain: Vec<_> = (0..1_000).map(|n| there.watch_host(&format!("nobody-{n}")).unwrap()).collect();
    let open = || async { there.statistics().await.unwrap().engine.queries };
    assert!(right.run(open()) >= 1_000);
    // None of them has an answer, and none keeps this one waiting.
    let addresses = soon(&right, "one that has an answer", there.resolve_host("left")).unwrap();
    assert!(!addresses.is_empty());
    drop(in_vain);
    soon(&right, "all are ended", until(|| async { (open().await == 0).then_some(()) }));
}

/// A device that speaks IPv4: a socket of its port, on the second machine of a [`lan`].
fn device(host: &Host) -> UdpSocket {
    let mut ip = host.netns.command("ip");
    assert!(ip.args(["route", "add", "224.0.0.0/4", "dev", "wire0"]).status().unwrap().success());
    let socket = host.netns.run(|| UdpSocket::bind("0.0.0.0:5353").unwrap()).unwrap();
    let own = [192, 0, 2, 2].into();
    socket.join_multicast_v4(&[224, 0, 0, 251].into(), &own).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}

/// RFC 6762 §6.2 has both told together, which not all devices do.
fn a_service_is_resolved_with_both_families_though_its_device_tells_one_later() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let socket = device(&right);
    let name: NameBuf = "Fax._ipp._tcp.local".parse().unwrap();
    let host: NameBuf = "fax.local".parse().unwrap();
    let record = |name: &'static str, rdata: RData<'_>| {
        let (name, mut buf) = (name.parse::<NameBuf>().unwrap(), [0; 512]);
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
        let record = Record { name: name.as_name(), class: Class::IN, cache_flush: true, ttl: 120, rdata };
        assert!(writer.push(Section::Answer, &record));
        writer.finish().to_vec()
    };
    let srv = Srv { priority: 0, weight: 0, port: 631, target: host.as_name() };
    let first = [
        record("Fax._ipp._tcp.local", RData::Srv(srv)),
        record("Fax._ipp._tcp.local", RData::Txt(Txt::EMPTY)),
        record("fax.local", RData::A([192, 0, 2, 2].into())),
    ];
    let late = record("fax.local", RData::Aaaa("2001:db8::2".parse().unwrap()));
    let until = Instant::now() + SOON;
    let answering = std::thread::spawn(move || {
        let mut buf = [0; 9_000];
        while Instant::now() < until {
            let Ok((len, from)) = socket.recv_from(&mut buf) else { continue };
            let Ok(message) = Message::parse(&buf[..len]) else { continue };
            let asks = |asked: &NameBuf, record_type| {
                let mut questions = message.questions();
                questions.any(|question| question.name == *asked && question.record_type == record_type)
            };
            if from.ip() == IpAddr::from([192, 0, 2, 2]) || message.header().response {
                continue;
            }
            if asks(&name, RecordType::SRV) {
                for packet in &first {
                    let _ = socket.send_to(packet, "224.0.0.251:5353");
                }
            }
            if asks(&host, RecordType::AAAA) {
                // The address of the other family is in a question of its own, a moment later.
                let _ = socket.send_to(&late, "224.0.0.251:5353");
                return;
            }
        }
    });
    let beacon = left.beacon();
    let service = soon(&left, "an answer", beacon.resolve("Fax", IPP)).unwrap();
    answering.join().unwrap();
    let ips = ips(&service);
    assert!(contains(&ips, "192.0.2.2") && contains(&ips, "2001:db8::2"), "{ips:?}");
}

fn a_flood_costs_no_memory_and_all_is_well_after_it() {
    let (_hub, [left, right, third]) = lan(["left", "right", "third"]);
    let (here, there) = (left.beacon(), right.beacon());
    let _service = soon(&right, "the name is ours", there.publish(printer())).unwrap();
    let flooder = third.netns.run(|| UdpSocket::bind("192.0.2.3:5353").unwrap()).unwrap();
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
    let name: NameBuf = "_ipp._tcp.local".parse().unwrap();
    assert!(writer.push_question(&Question {
        name: name.as_name(),
        record_type: RecordType::PTR,
        class: Class::IN,
        unicast_response: false,
    }));
    let packet = writer.finish().to_vec();
    let sent: u64 =
        (0..100_000).map(|_| u64::from(flooder.send_to(&packet, "224.0.0.251:5353").is_ok())).sum();
    let mut found = here.browse(IPP).unwrap();
    assert_eq!(added(&left, &mut found).instance.as_str(), "Dr. Müller's printer");
    let statistics = left.run(here.statistics()).unwrap();
    // What is beyond the budget has been dropped by the kernel, which costs nothing here.
    assert!(sent > 50_000 && statistics.engine.packets_received < sent, "{sent} {statistics:?}");
    assert!(
        statistics.engine.drops.iter().any(|(reason, _)| reason.name() == "rate_limited"),
        "{statistics:?}"
    );
}

fn a_host_that_is_renamed_while_it_runs_is_told() {
    let (_hub, [left, right]) = lan(["left", "right"]);
    let beacon = left.beacon();
    let mut conditions = beacon.conditions();
    let named = |name: &'static str| {
        let mut conditions = beacon.conditions();
        async move {
            while conditions.now().host_name.is_none_or(|host| host.to_string() != name) {
                conditions.changed().await.unwrap();
            }
        }
    };
    soon(&left, "its own name", named("left.local"));
    let claim = {
        let (name, mut buf): (NameBuf, _) = ("left.local".parse().unwrap(), [0; 512]);
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
        let rdata = RData::A([192, 0, 2, 2].into());
        let record = Record { name: name.as_name(), class: Class::IN, cache_flush: true, ttl: 120, rdata };
        assert!(writer.push(Section::Answer, &record));
        writer.finish().to_vec()
    };
    let socket = device(&right);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let claiming = std::thread::spawn(move || {
        let mut buf = [0; 9_000];
        // It claims the name whenever somebody says anything.
        while !stopped.load(Relaxed) {
            let _ = socket.send_to(&claim, "224.0.0.251:5353");
            let _ = socket.recv_from(&mut buf);
        }
    });
    soon(&left, "another name", named("left-2.local"));
    stop.store(true, Relaxed);
    claiming.join().unwrap();
    let condition = conditions.now();
    assert_eq!(condition.wanted_host_name.map(|host| host.to_string()).as_deref(), Some("left.local"));
    assert!(condition.sends && condition.unsent.is_empty());
}
