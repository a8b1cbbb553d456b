//! Items 46 to 51: links, packets and their bytes.

use mdns::wire::{Message, NameBuf, RData, RecordType};
use mdns::{Config, Destination, Event, Family};

use crate::script::{ETH, PEER, Script, Sent, a, aaaa, ptr, query, response, web, web_server};

const TYPE: &str = "_http._tcp.local";

#[test]
fn item_46_what_was_sent_to_the_group_is_taken_from_any_source() {
    let mut script = Script::established();
    script.browse("_http._tcp");
    script.hear("203.0.113.9:5353", &web_server("far"));
    assert_eq!(script.changes(), ["?far", "+far"]);
    script.hear("203.0.113.9:5353", &query().ask("nas.local", RecordType::A));
    assert!(script.sent().iter().any(|sent| sent.is_multicast() && sent.answers("nas.local 120 IN A")));
}

#[test]
fn item_46_what_was_sent_to_us_alone_is_taken_from_the_link_only() {
    let mut script = Script::established();
    script.hear_directly("203.0.113.9:5353", &query().ask("nas.local", RecordType::A));
    script.pass(1_000);
    assert!(script.sent().is_empty());
    assert_eq!(script.dropped("off_link"), 1);
    script.hear_directly(PEER, &query().ask("nas.local", RecordType::A));
    assert!(!script.only().is_multicast());
}

#[test]
fn item_46_a_unicast_question_from_beyond_the_link_is_answered_to_the_group() {
    let mut script = Script::established();
    script.hear("203.0.113.9:5353", &query().ask_unicast("nas.local", RecordType::A));
    assert!(script.only().is_multicast());
}

#[test]
fn item_47_a_record_is_one_of_the_interface_it_came_on() {
    let mut script = Script::settled_asker();
    script.up(2, &["10.0.0.5/8"]);
    script.browse("_http._tcp");
    script.pass(200);
    script.hear_on(2, PEER, &web_server("site"));
    assert_eq!(script.last_service().interface, 2);
    assert_eq!(script.last_service().addresses[0].interface, 2);
    assert_eq!(script.changes(), ["?site", "+site"]);
    script.hear_on(ETH, PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"], "the same name on another link is another service");
    script.down(2);
    assert_eq!(script.changes(), ["-site"]);
}

#[test]
fn item_47_one_service_over_both_families_of_an_interface_is_one_service() {
    let mut script = Script::without_interface(Config::new("nas".parse().unwrap()), 3);
    script.up_with(ETH, &["192.168.1.10/24", "fe80::10/64"], true, true);
    script.browse("_http._tcp");
    script.to(10_000);
    let sent = script.sent();
    let over = |family| sent.iter().filter(move |sent| sent.transmit.to == Destination::Multicast(family));
    for family in [Family::V4, Family::V6] {
        // Each link hears of all addresses of the interface, of both families.
        assert!(over(family).any(|sent| sent.answers("nas.local 120 IN A 192.168.1.10")));
        assert!(over(family).any(|sent| sent.answers("nas.local 120 IN AAAA fe80::10")));
        assert!(over(family).any(|sent| sent.asks("_http._tcp.local IN PTR")));
    }
    let found = web_server("site").additional("peer.local", 120, aaaa("fe80::20"));
    script.hear(PEER, &found);
    script.receive("[fe80::20]:5353", "ff02::fb", &found.bytes());
    let addresses: Vec<String> =
        script.last_service().addresses.iter().map(|address| address.with_port(80).to_string()).collect();
    assert_eq!(addresses, ["192.168.1.20:80", "[fe80::20%1]:80"]);
    assert_eq!(script.changes(), ["?site", "+site"]);
    // Goodbye over one of them is goodbye over this one.
    script.receive(
        "[fe80::20]:5353",
        "ff02::fb",
        &response().shared(TYPE, 0, ptr("site._http._tcp.local")).bytes(),
    );
    script.pass(2_000);
    assert!(script.changes().is_empty());
    script.hear(PEER, &response().shared(TYPE, 0, ptr("site._http._tcp.local")));
    script.pass(2_000);
    assert_eq!(script.changes(), ["-site"]);
}

#[test]
fn item_50_packets_over_ipv6_leave_room_for_the_longer_header() {
    let mut script = Script::without_interface(Config::new("nas".parse().unwrap()), 3);
    script.up_with(ETH, &["fe80::10/64"], false, true);
    for n in 0..100 {
        script.publish(&format!("service number {n}"));
    }
    script.to(10_000);
    let sent = script.sent();
    assert!(sent.len() > 20 && sent.iter().all(|sent| sent.bytes.len() <= 1_452));
    assert!(sent.iter().all(|sent| sent.transmit.to == Destination::Multicast(Family::V6)));
    script.receive("[fe80::20]:5353", "ff02::fb", &query().ask("nas.local", RecordType::A).bytes());
    assert_eq!(
        script.only().answers,
        ["nas.local 120 IN NSEC nas.local AAAA flush"],
        "there is no IPv4 here"
    );
}

#[test]
fn item_47_our_own_packets_bridged_to_another_link_are_no_conflict() {
    let mut script = Script::with(Config::new("nas".parse().unwrap()));
    script.up(2, &["10.0.0.5/8"]);
    script.publish("site");
    while script.ms() < 20_000 {
        script.pass(10);
        for sent in script.sent() {
            // A bridge carries each packet to the other interface.
            let (other, from) =
                if sent.transmit.interface == ETH { (2, "192.168.1.10") } else { (ETH, "10.0.0.5") };
            script.receive_on(other, &format!("{from}:5353"), "224.0.0.251", &sent.bytes);
            script.receive_on(sent.transmit.interface, &format!("{from}:5353"), "224.0.0.251", &sent.bytes);
        }
    }
    assert!(!script.events.iter().any(|event| matches!(event, Event::Renamed { .. })));
    assert_eq!(script.engine.host_name().to_string(), "nas.local");
    assert!(script.dropped("echo") > 10);
}

#[test]
fn item_47_our_own_records_through_a_reflector_are_no_conflict() {
    let mut script = Script::with(Config::new("nas".parse().unwrap()));
    script.up(2, &["10.0.0.5/8"]);
    script.to(20_000);
    script.sent();
    // A reflector writes packets anew: neither hash nor source are ours.
    script.hear_on(ETH, PEER, &response().unique("nas.local", 120, a("10.0.0.5")));
    script.hear_on(2, "10.0.0.9:5353", &response().unique("nas.local", 120, a("192.168.1.10")));
    script.pass(10_000);
    assert!(!script.sent().iter().any(Sent::is_probe));
}

#[test]
fn item_48_id_is_zero_aa_is_set_and_other_operations_are_ignored() {
    let mut script = Script::established();
    script.browse("_http._tcp");
    script.pass(200);
    let sent = script.only();
    assert!(sent.header.id == 0 && !sent.header.authoritative);
    let ask = query().ask("nas.local", RecordType::A);
    script.hear(PEER, &ask.clone().header(|header| header.id = 0x4242));
    let sent = script.only();
    assert!(
        sent.header.id == 0 && sent.header.authoritative && sent.header.opcode == 0 && sent.header.rcode == 0
    );
    script.pass(2_000);
    script.sent();
    script.hear(PEER, &ask.clone().header(|header| header.opcode = 5));
    script.hear(PEER, &ask.header(|header| header.rcode = 3));
    script.hear(PEER, &web_server("site").header(|header| header.rcode = 3));
    assert!(script.sent().iter().all(|sent| !sent.header.response));
    assert!(script.changes().is_empty());
    assert_eq!((script.dropped("opcode"), script.dropped("response_code")), (1, 2));
}

#[test]
fn item_49_names_are_utf_8_and_only_ascii_letters_have_case() {
    let mut script = Script::established();
    script.publish("Café ÉÈ");
    script.pass(10_000);
    script.sent();
    script.hear(PEER, &query().ask("CAFé ÉÈ._HTTP._tcp.LOCAL", RecordType::SRV));
    assert!(script.only().answers("Café ÉÈ._http._tcp.local 120 IN SRV"));
    script.pass(2_000);
    script.hear(PEER, &query().ask("Café éè._http._tcp.local", RecordType::SRV));
    script.pass(1_000);
    assert!(script.sent().is_empty());
}

#[test]
fn item_50_packets_stay_under_1500_bytes_unless_one_record_needs_more() {
    let mut script = Script::established();
    for n in 0..100 {
        script.publish(&format!("service number {n}"));
    }
    let long = vec![b'x'; 200];
    let txt =
        (0..20).try_fold(mdns::Txt::default(), |txt, n| txt.with(&format!("key{n}"), Some(&long))).unwrap();
    script.publish_service(mdns::ServiceRegistration { txt, ..web("large") });
    script.pass(20_000);
    script.hear(PEER, &query().ask(TYPE, RecordType::PTR));
    script.pass(1_000);
    let sent = script.sent();
    let (large, usual): (Vec<_>, Vec<_>) =
        sent.iter().partition(|sent| sent.has("large._http._tcp.local 4500 IN TXT"));
    assert!(usual.iter().all(|sent| sent.bytes.len() <= 1_472));
    assert!(
        !large.is_empty() && large.iter().all(|sent| sent.bytes.len() > 4_000 && sent.bytes.len() <= 8_972)
    );
    assert!(usual.len() > 20);
}

#[test]
fn item_50_longer_packets_are_dropped() {
    let mut script = Script::established();
    script.receive(PEER, "224.0.0.251", &vec![0; 9_001]);
    assert_eq!(script.dropped("too_long"), 1);
}

#[test]
fn item_51_names_are_compressed_in_srv_and_nsec_data_too() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(10_000);
    script.sent();
    script.hear(PEER, &query().ask("site._http._tcp.local", RecordType::SRV));
    let sent = script.only();
    let occurrences = |label: &[u8]| sent.bytes.windows(label.len()).filter(|bytes| *bytes == label).count();
    assert_eq!((occurrences(b"\x05local"), occurrences(b"\x03nas")), (1, 1), "{:?}", sent.bytes);
    assert!(sent.has("nas.local 120 IN NSEC") && sent.has("nas.local 120 IN A"));
    let message = Message::parse(&sent.bytes).unwrap();
    let target = message.answers().find_map(|record| match record.rdata {
        RData::Srv(srv) => Some(srv.target.to_owned()),
        _ => None,
    });
    assert_eq!(target, Some("nas.local".parse::<NameBuf>().unwrap()));
}

#[test]
fn item_46_a_unicast_response_that_a_router_may_have_passed_on_is_not_believed_and_asked_for_by_multicast() {
    let mut script = Script::asker();
    script.browse("_http._tcp");
    script.pass(200);
    assert!(script.only().asks("_http._tcp.local IN PTR QU"));
    // From a host of this link by its address, but anybody may write that.
    let site = web_server("site");
    script.receive_with(ETH, PEER, "192.168.1.10", Some(254), &site.bytes());
    assert_eq!((script.changes().len(), script.dropped("hop_limit")), (0, 1));
    // Some that are here do not send 255 (python-zeroconf, by unicast). The next answer is for everybody, and is taken.
    script.pass(1_000);
    let again = script.only();
    assert!(again.asks("_http._tcp.local IN PTR") && !again.asks("_http._tcp.local IN PTR QU"));
    script.receive_with(ETH, PEER, "224.0.0.251", Some(64), &site.bytes());
    assert_eq!(script.changes(), ["?site", "+site"]);
}

#[test]
fn item_46_a_multicast_response_is_taken_whatever_its_hop_limit() {
    for hop_limit in [Some(1), Some(64), Some(255), None] {
        let mut script = Script::settled_asker();
        script.browse("_http._tcp");
        script.receive_with(ETH, PEER, "224.0.0.251", hop_limit, &web_server("site").bytes());
        assert_eq!(script.changes(), ["?site", "+site"], "{hop_limit:?}");
    }
}

#[test]
fn item_46_a_name_is_not_lost_for_a_defence_without_the_hop_limit() {
    let mut script = Script::host();
    script.to(300);
    assert!(script.sent().iter().all(|sent| sent.is_probe() && sent.asks("nas.local IN ANY QU")));
    let defence = response().unique("nas.local", 120, a("192.168.1.20"));
    script.receive_with(ETH, PEER, "192.168.1.10", Some(64), &defence.bytes());
    script.pass(260);
    // The next probe asks for multicast, so that the defence can be believed.
    let probe = script.sent().remove(0);
    assert!(probe.asks("nas.local IN ANY") && !probe.asks("nas.local IN ANY QU"));
    script.receive_with(ETH, PEER, "224.0.0.251", Some(64), &defence.bytes());
    assert_eq!(script.engine.host_name().to_string(), "nas-2.local");
}

#[test]
fn item_46_a_question_to_one_of_our_addresses_is_answered_from_that() {
    let mut script = Script::established();
    script.addresses(ETH, &["192.168.1.10/24", "192.168.1.110/24"]);
    script.pass(10_000);
    script.sent();
    let ask = query().ask("nas.local", RecordType::A).bytes();
    // A plain resolver has a hop limit of its own.
    script.receive_with(ETH, "192.168.1.20:40000", "192.168.1.110", Some(64), &ask);
    assert_eq!(script.only().transmit.source, Some("192.168.1.110".parse().unwrap()));
    script.receive(PEER, "192.168.1.10", &ask);
    assert_eq!(script.only().transmit.source, Some("192.168.1.10".parse().unwrap()));
    // To the group, or to the broadcast address, which is none of ours to answer from.
    script.receive("192.168.1.20:40000", "224.0.0.251", &ask);
    script.receive("192.168.1.20:40000", "192.168.1.255", &ask);
    assert!(script.sent().iter().all(|sent| sent.transmit.source.is_none()));
}

#[test]
fn item_46_questions_that_only_we_were_asked_cast_no_doubt_on_what_others_offer() {
    for (from, to) in [(PEER, "192.168.1.10"), ("192.168.1.20:40000", "224.0.0.251")] {
        let mut script = Script::settled_asker();
        script.browse("_http._tcp");
        script.pass(200);
        script.hear(PEER, &web_server("site"));
        assert_eq!(script.changes(), ["?site", "+site"]);
        for _ in 0..4 {
            script.receive(from, to, &query().ask("site._http._tcp.local", RecordType::SRV).bytes());
            script.pass(1_500);
        }
        script.pass(12_000);
        assert_eq!(script.changes(), [""; 0], "asked by {from} to {to}");
    }
}

#[test]
fn item_46_a_probe_from_beyond_the_link_does_not_hold_up_ours() {
    let mut script = Script::host();
    script.to(300);
    let probe = query().ask("nas.local", RecordType::ANY).propose("nas.local", a("255.255.255.255"));
    for _ in 0..6 {
        script.receive_with(ETH, PEER, "192.168.1.10", Some(60), &probe.bytes());
        script.pass(200);
    }
    assert!(script.sent().iter().any(|sent| sent.answers("nas.local 120 IN A 192.168.1.10")));
}
