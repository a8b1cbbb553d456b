//! What strangers, accidents and numbers may do.

use mdns::wire::RecordType;
use mdns::{Config, Destination, Error, Event, HostName, NameError, QueryLifetime, Received};

use crate::script::{ETH, OTHER, PEER, Script, Sent, a, ptr, query, response, srv, web_server};

const TYPE: &str = "_http._tcp.local";

#[test]
fn malformed_packets_are_counted_and_nothing_else() {
    let mut script = Script::established();
    let good = query().ask("nas.local", RecordType::A).bytes();
    for cut in 0..good.len() {
        script.receive(PEER, "224.0.0.251", &good[..cut]);
    }
    assert!(script.sent().is_empty());
    assert_eq!(script.dropped("malformed"), good.len() as u64);
}

#[test]
fn a_packet_that_did_not_fit_its_buffer_is_dropped() {
    let mut script = Script::established();
    let bytes = query().ask("nas.local", RecordType::A).bytes();
    let meta = Received {
        interface: ETH,
        from: PEER.parse().unwrap(),
        to: "224.0.0.251".parse().unwrap(),
        hop_limit: None,
        truncated: true,
    };
    script.engine.handle_packet(&bytes, &meta, script.now);
    assert!(script.sent().is_empty());
    assert_eq!(script.dropped("truncated"), 1);
}

#[test]
fn packets_of_unknown_interfaces_and_families_are_dropped() {
    let mut script = Script::established();
    let bytes = query().ask("nas.local", RecordType::A).bytes();
    script.receive_on(7, PEER, "224.0.0.251", &bytes);
    script.receive_on(ETH, "[fe80::20]:5353", "ff02::fb", &bytes);
    assert!(script.sent().is_empty());
    assert_eq!(script.dropped("unknown_interface"), 2);
}

#[test]
fn the_cache_stays_within_its_bounds() {
    let config = Config {
        publish_host: false,
        cache_entries_max: 100,
        cache_entries_per_interface_max: 60,
        ..Config::new("asker".parse().unwrap())
    };
    let mut script = Script::with(config);
    script.up(2, &["10.0.0.5/8"]);
    script.browse("_http._tcp");
    for n in 0..500 {
        let packet = response().shared(TYPE, 4_500, ptr(&format!("{n}._http._tcp.local")));
        for source in 20..28 {
            script.hear_on(ETH, &format!("192.168.1.{source}:5353"), &packet);
            script.hear_on(2, &format!("10.0.0.{source}:5353"), &packet);
        }
    }
    let statistics = script.engine.statistics();
    assert_eq!(statistics.cache_entries, 100);
    assert!(script.dropped("cache_full") > 0);
    assert_eq!(script.changes().len(), 100);
    // Those that go make room.
    script.pass(4_600_000);
    script.changes();
    script.hear(PEER, &web_server("later"));
    assert_eq!(script.changes(), ["?later", "+later"]);
}

#[test]
fn one_source_alone_does_not_fill_the_cache() {
    let config = Config {
        publish_host: false,
        cache_entries_per_interface_max: 100,
        ..Config::new("asker".parse().unwrap())
    };
    let mut script = Script::with(config);
    script.browse("_http._tcp");
    for n in 0..500 {
        script.hear(OTHER, &response().shared(TYPE, 4_500, ptr(&format!("{n}._http._tcp.local"))));
    }
    assert_eq!(script.engine.statistics().cache_entries, 25);
    script.changes();
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"]);
}

#[test]
fn a_change_that_concerns_thousands_is_told_in_portions() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    for n in 0..1_000 {
        let name = format!("{n}._http._tcp.local");
        let packet =
            response().shared(TYPE, 4_500, ptr(&name)).unique(&name, 120, srv(80, "peer.local")).unique(
                &name,
                4_500,
                mdns::wire::RecordData::new(&mdns::wire::RData::Txt(mdns::wire::Txt::EMPTY)),
            );
        script.hear(PEER, &packet);
        script.pass(1);
    }
    script.changes();
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.20")));
    assert_eq!(script.changes().len(), 256);
    script.pass(20);
    assert_eq!(script.changes().len(), 1_000 - 256);
}

#[test]
fn the_cache_is_bounded_by_bytes() {
    let config =
        Config { publish_host: false, cache_bytes_max: 20_000, ..Config::new("asker".parse().unwrap()) };
    let mut script = Script::with(config);
    script.browse("_http._tcp");
    for n in 0..500 {
        script.hear(PEER, &response().shared(TYPE, 4_500, ptr(&format!("{n:060}._http._tcp.local"))));
    }
    let statistics = script.engine.statistics();
    assert!(statistics.cache_bytes <= 20_000 && statistics.cache_entries > 30, "{statistics:?}");
}

#[test]
fn ttls_are_held_between_15_seconds_and_75_minutes() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.hear(PEER, &response().shared(TYPE, 1, ptr("short._http._tcp.local")));
    script.hear(PEER, &response().shared(TYPE, 1 << 31, ptr("long._http._tcp.local")));
    script.changes();
    script.pass(14_000);
    assert!(script.changes().is_empty());
    script.pass(2_000);
    assert_eq!(script.changes(), ["-short"]);
    script.pass(4_500_000);
    assert_eq!(script.changes(), ["-long"]);
}

#[test]
fn a_tiny_ttl_costs_few_queries() {
    let mut script = Script::settled_asker();
    script.engine.query("peer.local", RecordType::A, QueryLifetime::Continuous, script.now).unwrap();
    script.pass(200);
    script.sent();
    let mut queries = 0;
    for _ in 0..60 {
        script.hear(PEER, &response().unique("peer.local", 1, a("192.168.1.20")));
        script.pass(1_000);
        queries += script.sent().len();
    }
    assert!(queries <= 2, "{queries} queries in a minute");
}

#[test]
fn a_flood_of_one_source_leaves_the_others_heard() {
    let mut script = Script::established();
    script.browse("_http._tcp");
    let junk = response().shared("junk.local", 120, a("192.168.1.66")).bytes();
    for n in 0..50_000u64 {
        script.receive("192.168.1.66:5353", "224.0.0.251", &junk);
        if n % 100 == 0 {
            script.pass(10);
        }
    }
    assert!(script.dropped("rate_limited") > 45_000);
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"]);
    script.sent();
    script.hear(OTHER, &query().ask("nas.local", RecordType::A));
    assert_eq!(script.only().answers.len(), 1);
    script.pass(100);
    script.hear("192.168.1.66:5353", &web_server("reformed"));
    assert_eq!(script.changes(), ["?reformed", "+reformed"], "there is no ban");
}

#[test]
fn truncated_queries_without_end_are_bounded() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(20_000);
    script.sent();
    let begun = script.ms();
    for n in 0..1_000u32 {
        let from = format!("192.168.1.{}:5353", n % 200 + 20);
        script.hear(&from, &query().truncated().ask(TYPE, RecordType::PTR));
        script.hear(&from, &query().truncated());
        script.pass(2);
    }
    assert!(script.dropped("replies_full") > 0);
    let first = script.sent()[0].ms;
    assert!(first - begun <= 2_100, "nobody can put an answer off for ever");
}

#[test]
fn questions_that_repeat_themselves_cost_no_more_than_one() {
    let mut script = Script::established();
    for n in 0..200 {
        script.publish(&format!("service {n}"));
    }
    script.pass(20_000);
    script.sent();
    let mut ask = query();
    for _ in 0..700 {
        ask = ask.ask(TYPE, RecordType::PTR);
    }
    script.hear(PEER, &ask);
    script.pass(2_000);
    let answers: usize = script.sent().iter().map(|sent| sent.answers.len()).sum();
    assert_eq!(answers, 200);
}

#[test]
fn a_reply_never_goes_to_more_than_the_asker_and_unicast_replies_are_bounded() {
    let mut script = Script::established();
    let bytes = query().ask("nas.local", RecordType::A).bytes();
    // All arrive before any answer can leave.
    for n in 0..900u16 {
        let meta = Received {
            interface: ETH,
            from: ([192, 168, 1, 20], 10_000 + n).into(),
            to: [224, 0, 0, 251].into(),
            hop_limit: Some(255),
            truncated: false,
        };
        script.engine.handle_packet(&bytes, &meta, script.now);
    }
    let sent = script.sent();
    let to: Vec<Destination> = sent.iter().map(|sent| sent.transmit.to).collect();
    let askers = (10_000..10_256).map(|port| Destination::Unicast(([192, 168, 1, 20], port).into()));
    assert_eq!(to, askers.collect::<Vec<_>>());
    assert_eq!(script.dropped("replies_full"), 900 - 256);
}

#[test]
fn a_host_that_claims_every_name_slows_us_down_but_its_traffic_and_ours_are_bounded() {
    let mut script = Script::host();
    script.publish("site");
    let mut probes = 0;
    while script.ms() < 120_000 {
        script.pass(10);
        for sent in script.sent().into_iter().filter(Sent::is_probe) {
            probes += 1;
            for question in &sent.questions {
                let name = question.split(" IN ").next().unwrap();
                script.hear(PEER, &response().unique(name, 120, srv(9, "evil.local")));
            }
        }
    }
    assert!(probes < 15 * 2 + 2 * 30, "{probes} probes in two minutes");
    // As soon as it stops, there is a name again.
    script.events.clear();
    script.pass(20_000);
    let published = script.events.iter().filter(|event| matches!(event, Event::Published { .. })).count();
    assert_eq!(published, 2);
}

#[test]
fn an_interface_that_vanishes_while_its_names_are_probed_takes_everything_along() {
    for ms in [0, 100, 300, 600, 800, 1_200, 2_500] {
        let mut script = Script::host();
        script.publish("site");
        script.browse("_ftp._tcp");
        script.to(ms);
        script.hear(PEER, &query().ask("nas.local", RecordType::A));
        script.down(ETH);
        script.sent();
        assert_eq!(script.engine.poll_timeout(), None, "after {ms} ms");
        script.pass(10_000);
        assert!(script.sent().is_empty());
        script.up(ETH, &["192.168.1.10/24"]);
        script.pass(10_000);
        assert!(
            script.sent().iter().any(|sent| sent.answers("site._http._tcp.local 120 IN SRV")),
            "after {ms} ms"
        );
    }
}

#[test]
fn there_is_a_limit_to_queries_and_publications() {
    let mut script = Script::asker();
    let ids: Vec<_> = (0..16_384)
        .map(|_| {
            script.engine.query("x.local", RecordType::A, QueryLifetime::Continuous, script.now).unwrap()
        })
        .collect();
    let query = |script: &mut Script| {
        script.engine.query("x.local", RecordType::A, QueryLifetime::Continuous, script.now)
    };
    assert_eq!(query(&mut script), Err(Error::TooMany(16_384)));
    script.engine.cancel(ids[7]);
    assert!(query(&mut script).is_ok());
    // A number is never given out again: cancelling twice hits nobody else.
    script.engine.cancel(ids[7]);
    assert_eq!(script.engine.statistics().queries, 16_384);
}

#[test]
fn a_thousand_questions_come_up_together_and_are_asked_in_few_packets() {
    let mut script = Script::settled_asker();
    for n in 0..1_000 {
        let name = format!("host{n}.local");
        script.engine.query(&name, RecordType::A, QueryLifetime::Continuous, script.now).unwrap();
    }
    script.pass(200);
    let sent = script.sent();
    assert_eq!(sent.iter().map(|sent| sent.questions.len()).sum::<usize>(), 1_000);
    assert!(sent.len() < 20, "{} packets", sent.len());
}

#[test]
fn host_names_of_several_labels_get_no_local() {
    let script = Script::established();
    assert_eq!(script.engine.host_name().to_string(), "nas.local");
    for (text, name) in [
        ("printer", Ok("printer.local")),
        ("printer.local.", Ok("printer.local")),
        ("a.b.LOCAL", Ok("a.b.local")),
        ("printer.example.com", Err(NameError::NotLocal)),
        ("", Err(NameError::LabelLength)),
        ("a..local", Err(NameError::LabelLength)),
    ] {
        let parsed = text.parse::<HostName>().map(|name| name.to_string());
        assert_eq!(parsed.as_deref().map_err(|error| *error), name, "{text}");
    }
}

#[test]
fn after_goodbye_nothing_more_is_said() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(5_000);
    script.sent();
    script.engine.shutdown(script.now);
    let sent = script.sent();
    let answers: Vec<&String> = sent.iter().flat_map(|sent| &sent.answers).collect();
    assert!(answers.iter().all(|line| line.contains(" 0 IN ")), "{answers:?}");
    for start in ["nas.local", "site._http._tcp.local", "_http._tcp.local", "_services._dns-sd._udp.local"] {
        assert!(answers.iter().any(|line| line.starts_with(start)), "{start}: {answers:?}");
    }
    script.hear(PEER, &query().ask("nas.local", RecordType::A));
    script.pass(10_000);
    assert!(script.sent().is_empty());
    assert_eq!(script.engine.browse_types(script.now), Err(Error::ShuttingDown));
}
