//! Items 10 to 24: answering.

use mdns::wire::{Class, Header, Mode, NameBuf, Question, RecordType, Writer};
use mdns::{Destination, Event};

use crate::script::{ETH, OTHER, PEER, Script, Sent, a, ptr, query, response, web, web_server};

const TYPE: &str = "_http._tcp.local";

/// A host that publishes `site`, and said so long ago.
fn server() -> Script {
    let mut script = Script::established();
    script.publish("site");
    script.pass(2_000_000);
    script.sent();
    script
}

#[test]
fn item_10_records_of_others_are_not_repeated() {
    let mut script = server();
    script.browse("_http._tcp");
    script.pass(200);
    script.hear(PEER, &web_server("theirs"));
    script.pass(10_000);
    script.sent();
    script.hear(
        OTHER,
        &query().ask("theirs._http._tcp.local", RecordType::SRV).ask("peer.local", RecordType::A),
    );
    script.pass(1_000);
    assert!(!script.sent().iter().any(|sent| sent.header.response));
}

#[test]
fn item_11_responses_have_no_questions() {
    let mut script = server();
    script.hear(PEER, &query().ask(TYPE, RecordType::PTR).ask_unicast("nas.local", RecordType::A));
    script.pass(200);
    let sent = script.sent();
    assert!(!sent.is_empty() && sent.iter().all(|sent| sent.header.response && sent.questions.is_empty()));
}

#[test]
fn item_12_unique_records_are_answered_at_once_shared_ones_after_20_to_120_ms() {
    let mut script = server();
    let asked = script.ms();
    script.hear(PEER, &query().ask("nas.local", RecordType::A));
    assert_eq!(script.only().ms, asked);
    let mut delays = Vec::new();
    for _ in 0..20 {
        script.pass(10_000);
        let asked = script.ms();
        script.hear(PEER, &query().ask(TYPE, RecordType::PTR));
        script.pass(500);
        delays.push(script.only().ms - asked);
    }
    assert!(delays.iter().all(|delay| (20..=120).contains(delay)), "{delays:?}");
    assert!(delays.iter().max() > delays.iter().min());
}

#[test]
fn item_12_truncated_queries_are_answered_after_400_to_500_ms() {
    let mut script = server();
    let asked = script.ms();
    script.hear(PEER, &query().truncated().ask("nas.local", RecordType::A).ask(TYPE, RecordType::PTR));
    script.pass(2_000);
    let sent = script.only();
    assert!((400..=500).contains(&(sent.ms - asked)), "{}", sent.ms - asked);
    assert!(sent.has("nas.local 120 IN A") && sent.answers("_http._tcp.local 4500 IN PTR site"));
}

#[test]
fn item_13_a_record_is_multicast_once_a_second_at_most() {
    let mut script = server();
    for _ in 0..50 {
        script.hear(PEER, &query().ask("nas.local", RecordType::A));
        script.pass(100);
    }
    let times: Vec<u64> = script.sent().iter().map(|sent| sent.ms).collect();
    assert!((5..=6).contains(&times.len()), "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 1_000), "{times:?}");
}

#[test]
fn item_13_a_name_is_defended_against_probes_every_250_ms() {
    let mut script = server();
    let probe = query().ask("nas.local", RecordType::ANY).propose("nas.local", a("192.168.1.20"));
    for _ in 0..10 {
        script.hear(PEER, &probe);
        script.pass(100);
    }
    let times: Vec<u64> = script.sent().iter().map(|sent| sent.ms).collect();
    assert!((4..=5).contains(&times.len()), "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 250), "{times:?}");
}

#[test]
fn item_14_responses_from_other_ports_are_ignored() {
    let mut script = server();
    script.browse("_http._tcp");
    script.hear("192.168.1.20:4000", &web_server("theirs"));
    script.hear("192.168.1.20:4000", &response().unique("nas.local", 120, a("192.168.1.20")));
    assert!(!script.changes().contains(&"?theirs".to_owned()));
    assert_eq!(script.dropped("response_port"), 2);
    script.pass(1_000);
    assert!(!script.sent().iter().any(Sent::is_probe), "no conflict either");
}

#[test]
fn item_15_answers_are_multicast_except_to_qu_legacy_and_direct_questions() {
    let mut script = server();
    let everybody = Destination::Multicast(mdns::Family::V4);
    let peer = Destination::Unicast(PEER.parse().unwrap());
    let legacy = Destination::Unicast("192.168.1.20:40000".parse().unwrap());
    let ask = query().ask("nas.local", RecordType::A);

    script.hear(PEER, &ask);
    assert_eq!(script.only().transmit.to, everybody);
    script.pass(1_500);
    script.hear(PEER, &query().ask_unicast("nas.local", RecordType::A));
    assert_eq!(script.only().transmit.to, peer);
    script.hear_directly(PEER, &ask);
    assert_eq!(script.only().transmit.to, peer);
    script.hear("192.168.1.20:40000", &ask);
    assert_eq!(script.only().transmit.to, legacy);
}

#[test]
fn item_16_a_unicast_question_is_answered_to_all_when_they_have_not_heard_for_a_quarter_of_the_ttl() {
    let mut script = server();
    let ask = query().ask_unicast("nas.local", RecordType::A);
    script.hear(PEER, &ask);
    assert!(script.only().is_multicast());
    script.pass(29_000);
    script.hear(PEER, &ask);
    assert!(!script.only().is_multicast());
    script.pass(1_000);
    script.hear(PEER, &ask);
    assert!(script.only().is_multicast());
}

#[test]
fn item_17_what_a_name_of_ours_does_not_have_is_denied() {
    let mut script = server();
    for (name, record_type, types) in [
        ("nas.local", RecordType::AAAA, "A"),
        ("site._http._tcp.local", RecordType::A, "TXT SRV"),
        ("nas.local", RecordType::TXT, "A"),
    ] {
        script.hear(PEER, &query().ask(name, record_type));
        let sent = script.only();
        // Restricted form: the next name is the name itself, and NSEC is not among the types.
        assert_eq!(sent.answers, [format!("{name} 120 IN NSEC {name} {types} flush")]);
        script.pass(2_000);
    }
    script.hear(PEER, &query().ask("nobody.local", RecordType::A));
    script.pass(1_000);
    assert!(script.sent().is_empty(), "of other names we know nothing");
}

#[test]
fn item_17_an_nsec_record_that_is_wrong_does_not_spoil_its_message() {
    let mut script = Script::settled_asker();
    let id = script.engine.resolve_host(&"peer".parse().unwrap(), script.now).unwrap();
    let mut bytes = response().unique("peer.local", 120, a("192.168.1.20")).bytes();
    // A second answer: NSEC, whose bitmap says that it goes on for 200 bytes.
    bytes[7] = 2;
    bytes.extend(b"\xc0\x0c\x00\x2f\x80\x01\x00\x00\x00\x78\x00\x05\xc0\x0c\x00\xc8\x40");
    script.receive(PEER, "224.0.0.251", &bytes);
    let told = |event: &Event| matches!(event, Event::Host { id: of, addresses } if *of == id && addresses.len() == 1);
    assert!(script.events.iter().any(told), "{:?}", script.engine.statistics());
}

#[test]
fn item_18_all_and_only_the_addresses_of_the_interface_are_told() {
    let mut script = Script::host();
    script.addresses(ETH, &["192.168.1.10/24", "192.168.1.11/24"]);
    script.up(2, &["10.9.8.7/8"]);
    script.to(30_000);
    script.sent();
    script.hear_on(ETH, PEER, &query().ask("nas.local", RecordType::A));
    let sent = script.only();
    assert_eq!(sent.transmit.interface, ETH);
    assert!(
        sent.answers("nas.local 120 IN A 192.168.1.10") && sent.answers("nas.local 120 IN A 192.168.1.11")
    );
    assert!(!sent.has("nas.local 120 IN A 10."));
    script.hear_on(2, "10.0.0.1:5353", &query().ask("nas.local", RecordType::A));
    let sent = script.only();
    assert_eq!(sent.transmit.interface, 2);
    assert_eq!(sent.answers, ["nas.local 120 IN A 10.9.8.7 flush"]);
}

#[test]
fn item_19_addresses_of_both_families_travel_together() {
    let mut script = Script::host();
    script.addresses(ETH, &["192.168.1.10/24", "fe80::10/64"]);
    script.to(30_000);
    script.sent();
    script.hear(PEER, &query().ask("nas.local", RecordType::A));
    let sent = script.only();
    assert_eq!(sent.answers, ["nas.local 120 IN A 192.168.1.10 flush"]);
    assert_eq!(sent.additionals, ["nas.local 120 IN AAAA fe80::10 flush"]);
    script.pass(5_000);
    script.hear(PEER, &query().ask("nas.local", RecordType::AAAA));
    let sent = script.only();
    assert_eq!(sent.answers, ["nas.local 120 IN AAAA fe80::10 flush"]);
    assert_eq!(sent.additionals, ["nas.local 120 IN A 192.168.1.10 flush"]);
}

#[test]
fn item_20_all_questions_of_a_message_are_answered() {
    let mut script = server();
    let ask = query()
        .ask("nas.local", RecordType::A)
        .ask("site._http._tcp.local", RecordType::TXT)
        .ask("site._http._tcp.local", RecordType::SRV)
        .ask("nobody.local", RecordType::A);
    script.hear(PEER, &ask);
    let sent = script.only();
    for start in
        ["nas.local 120 IN A", "site._http._tcp.local 4500 IN TXT", "site._http._tcp.local 120 IN SRV"]
    {
        assert!(sent.answers(start), "{start}: {sent:#?}");
    }
}

#[test]
fn item_21_answers_to_several_queries_share_a_packet() {
    let mut script = server();
    script.publish_service(mdns::ServiceRegistration {
        service_type: "_ftp._tcp".parse().unwrap(),
        ..web("files")
    });
    script.pass(2_000_000);
    script.sent();
    let mut shared = 0;
    for _ in 0..50 {
        script.pass(2_000);
        script.hear(PEER, &query().ask(TYPE, RecordType::PTR));
        script.pass(15);
        let second = script.ms();
        script.hear(OTHER, &query().ask("_ftp._tcp.local", RecordType::PTR));
        script.pass(500);
        let sent = script.sent();
        assert_eq!(sent.iter().map(|sent| sent.answers.len()).sum::<usize>(), 2, "{sent:#?}");
        // The second one comes along as soon as it may be said: 20 ms after it was asked for.
        assert_eq!(sent.len(), if sent[0].ms >= second + 20 { 1 } else { 2 }, "{sent:#?}");
        shared += usize::from(sent.len() == 1);
    }
    assert!(shared > 25, "{shared} of 50");

    // Two that are delayed for the same reason always do.
    script.pass(10_000);
    script.hear(PEER, &query().truncated().ask(TYPE, RecordType::PTR));
    script.hear(PEER, &query().truncated().ask("_ftp._tcp.local", RecordType::PTR));
    script.pass(1_000);
    assert_eq!(script.only().answers.len(), 2);
}

#[test]
fn item_22_a_question_for_any_type_is_answered_with_all() {
    let mut script = server();
    script.hear(PEER, &query().ask("site._http._tcp.local", RecordType::ANY));
    let sent = script.only();
    assert_eq!(sent.answers.len(), 2, "{sent:#?}");
    assert!(sent.answers("site._http._tcp.local 120 IN SRV 0 0 80 nas.local"));
    assert!(sent.answers("site._http._tcp.local 4500 IN TXT"));
}

#[test]
fn item_23_a_shorter_life_for_our_record_is_corrected() {
    for (ttl, corrected) in [(2_300, false), (2_249, true), (0, true)] {
        let mut script = server();
        script.hear(PEER, &response().shared(TYPE, ttl, ptr("site._http._tcp.local")));
        script.pass(1_000);
        let sent = script.sent();
        assert_eq!(
            sent.iter().any(|sent| sent.answers("_http._tcp.local 4500 IN PTR site")),
            corrected,
            "{ttl} s"
        );
    }
}

#[test]
fn item_24_a_legacy_querier_is_answered_as_by_a_dns_server() {
    let mut script = server();
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header { id: 0x1234, ..Header::QUERY });
    let name: NameBuf = "site._http._tcp.local".parse().unwrap();
    let question = Question {
        name: name.as_name(),
        record_type: RecordType::SRV,
        class: Class::IN,
        unicast_response: false,
    };
    assert!(writer.push_question(&question));
    let bytes = writer.finish().to_vec();
    script.receive("192.168.1.20:40000", "224.0.0.251", &bytes);
    let sent = script.only();
    assert_eq!(sent.header.id, 0x1234);
    assert!(sent.header.response && sent.header.authoritative);
    assert_eq!(sent.questions, ["site._http._tcp.local IN SRV"]);
    assert_eq!(sent.answers, ["site._http._tcp.local 10 IN SRV 0 0 80 nas.local"]);
    assert_eq!(sent.additionals.first().map(String::as_str), Some("nas.local 10 IN A 192.168.1.10"));
    // RFC 6762 §18.14: the target is written in full, or a plain resolver would not understand it.
    assert!(sent.bytes.windows(11).any(|bytes| bytes == b"\x03nas\x05local\0"));
}

#[test]
fn item_24_a_legacy_querier_beyond_the_link_is_not_answered() {
    let mut script = server();
    script.hear("203.0.113.9:40000", &query().ask("nas.local", RecordType::A));
    script.pass(1_000);
    assert!(script.sent().is_empty());
    assert_eq!(script.dropped("off_link"), 1);
}

#[test]
fn answers_carry_what_was_published() {
    let mut script = Script::established();
    let service = mdns::ServiceRegistration {
        txt: mdns::Txt::new([("path", "/index"), ("v", "2")]).unwrap(),
        port: 8_080,
        ..web("a.b c")
    };
    script.publish_service(service);
    script.pass(10_000);
    script.sent();
    script.hear(PEER, &query().ask(r"a\.b c._http._tcp.local", RecordType::ANY));
    let sent = script.only();
    assert!(sent.answers(r"a\.b c._http._tcp.local 120 IN SRV 0 0 8080 nas.local flush"), "{sent:#?}");
    assert!(sent.answers(r#"a\.b c._http._tcp.local 4500 IN TXT "path=/index" "v=2" flush"#), "{sent:#?}");
}

/// A query as a plain resolver sends it, with an OPT record that says how much it can take.
fn plain(name: &str, record_type: RecordType, payload_max: Option<u16>) -> Vec<u8> {
    let mut bytes = query().ask(name, record_type).bytes();
    if let Some(payload_max) = payload_max {
        bytes[11] = 1;
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&payload_max.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
    }
    bytes
}

#[test]
fn item_24_a_legacy_querier_is_told_everything_or_that_something_is_missing() {
    let legacy = "192.168.1.20:40000";
    for services in [1, 8, 10, 20, 60] {
        let mut script = Script::established();
        for number in 0..services {
            script.publish(&format!("site number {number} with a name of some length"));
        }
        script.pass(20_000);
        script.sent();
        for payload_max in [None, Some(512), Some(1_232), Some(4_096), Some(8_192)] {
            script.receive(legacy, "224.0.0.251", &plain("_http._tcp.local", RecordType::PTR, payload_max));
            let sent = script.only();
            let complete = sent.answers.len() == services;
            assert_eq!(sent.header.truncated, !complete, "{services} {payload_max:?}");
            assert!(complete || sent.answers.len() > 4, "{services} {payload_max:?}");
            assert!(sent.bytes.len() <= usize::from(payload_max.unwrap_or(1_472)));
            script.pass(1_000);
        }
    }
}

#[test]
fn item_24_a_legacy_querier_is_told_all_addresses() {
    let mut script = Script::without_interface(mdns::Config::new("nas".parse().unwrap()), 1);
    let addresses: Vec<String> = (1..=30).map(|number| format!("2001:db8::{number}/64")).collect();
    let mut addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    addresses.push("192.168.1.10/24");
    script.up(ETH, &addresses);
    script.to(10_000);
    script.sent();
    script.receive("192.168.1.20:40000", "224.0.0.251", &plain("nas.local", RecordType::AAAA, None));
    let sent = script.only();
    assert_eq!((sent.answers.len(), sent.header.truncated), (30, false));
}
