//! What users of other stacks suffer from, and ours shall not.

use mdns::wire::RecordType;
use mdns::{Config, Event};

use crate::script::{ETH, OTHER, PEER, Script, Sent, a, ptr, query, response, srv, web_server};

/// avahi#117: the host hears itself and renames without end.
#[test]
fn a_host_does_not_conflict_with_itself() {
    let mut script = Script::with(Config::new("nas".parse().unwrap()));
    script.up(2, &["192.168.1.11/24"]);
    while script.ms() < 60_000 {
        script.pass(50);
        for sent in script.sent() {
            // Two interfaces on one link: each hears what the other says.
            let from = if sent.transmit.interface == ETH { "192.168.1.10:5353" } else { "192.168.1.11:5353" };
            script.receive_on(ETH, from, "224.0.0.251", &sent.bytes);
            script.receive_on(2, from, "224.0.0.251", &sent.bytes);
        }
    }
    assert_eq!(script.engine.host_name().to_string(), "nas.local");
    assert!(!script.events.iter().any(|event| matches!(event, Event::Renamed { .. })));
}

/// mdns-sd#370: nothing works after the interface was down.
#[test]
fn browsing_goes_on_when_the_interface_comes_back() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    script.hear(PEER, &web_server("site"));
    script.down(ETH);
    assert_eq!(script.changes(), ["?site", "+site", "-site"]);
    script.pass(60_000);
    script.sent();
    script.up(ETH, &["192.168.1.10/24"]);
    script.pass(200);
    assert!(script.only().asks("_http._tcp.local IN PTR"));
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"]);
}

/// The same after suspend: what is still there stays without a flicker, what is gone goes in ten seconds.
#[test]
fn after_suspend_the_world_is_looked_at_again() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    script.hear(PEER, &web_server("stays"));
    script.hear(PEER, &web_server("gone"));
    script.changes();
    script.sent();
    script.engine.handle_wake(script.now);
    script.pass(200);
    assert!(script.sent().iter().any(|sent| sent.asks("_http._tcp.local IN PTR QU")));
    script.hear(PEER, &web_server("stays"));
    script.pass(10_000);
    assert_eq!(script.changes(), ["-gone"]);
}

/// librespot#486: addresses of Docker or a VPN are told to the LAN.
#[test]
fn addresses_of_other_interfaces_are_not_told() {
    let mut script = Script::with(Config::new("nas".parse().unwrap()));
    script.up(2, &["172.17.0.1/16"]);
    script.publish("site");
    script.to(20_000);
    let eth: Vec<_> = script.sent().into_iter().filter(|sent| sent.transmit.interface == ETH).collect();
    assert!(!eth.is_empty() && !eth.iter().any(|sent| sent.has("nas.local 120 IN A 172.")));
}

/// systemd#5530: two stacks on one host fight. The other one has the same host name and the same addresses.
#[test]
fn another_stack_on_the_same_host_is_no_rival() {
    let mut script = Script::host();
    while script.ms() < 20_000 {
        script.pass(100);
        // From our own address, but not a packet of ours.
        script.hear("192.168.1.10:5353", &response().unique("nas.local", 120, a("192.168.1.10")));
        script.hear(
            "192.168.1.10:5353",
            &query().ask_unicast("nas.local", RecordType::ANY).propose("nas.local", a("192.168.1.10")),
        );
    }
    assert!(!script.events.iter().any(|event| matches!(event, Event::Renamed { .. })));
    assert!(script.events.iter().any(|event| matches!(event, Event::Published { .. })));
}

/// It may know other addresses of the host than we were told of; a service of ours is still ours alone.
#[test]
fn another_stack_on_the_same_host_may_speak_for_the_host_but_not_for_a_service() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(5_000);
    script.events.clear();
    script.sent();
    script.hear("192.168.1.10:5353", &response().unique("nas.local", 120, a("172.17.0.1")));
    script.pass(2_000);
    assert!(script.sent().is_empty());
    script.hear("192.168.1.10:5353", &response().unique("site._http._tcp.local", 120, srv(9, "nas.local")));
    script.pass(500);
    assert!(script.sent().iter().any(Sent::is_probe));
}

/// The other stack asks the very same question as we did: it gets its answer.
#[test]
fn the_same_query_of_another_program_of_this_host_is_answered() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(2_000_000);
    script.sent();
    script.browse("_http._tcp");
    script.pass(150);
    let asked = script.sent();
    let ours = asked.iter().find(|sent| !sent.header.response).unwrap().clone();
    script.pass(5_000);
    script.sent();
    let known = script.ms();
    assert!(known > 0);
    let ask = query().ask("_http._tcp.local", RecordType::PTR);
    script.receive("192.168.1.10:5353", "224.0.0.251", &ours.bytes);
    script.hear("192.168.1.10:5353", &ask);
    script.pass(500);
    assert!(script.sent().iter().any(|sent| sent.answers("_http._tcp.local 4500 IN PTR site")));
}

/// grandcat/zeroconf#65: removals are not told.
#[test]
fn every_way_to_go_is_told() {
    let found = || {
        let mut script = Script::settled_asker();
        script.browse("_http._tcp");
        script.pass(200);
        script.hear(PEER, &web_server("site"));
        script.changes();
        script
    };
    let mut goodbye = found();
    goodbye.hear(PEER, &response().shared("_http._tcp.local", 0, ptr("site._http._tcp.local")));
    goodbye.pass(1_100);
    assert_eq!(goodbye.changes(), ["-site"]);

    let mut silence = found();
    silence.pass(121_000);
    assert_eq!(silence.changes(), ["-site"], "its SRV record has run out");
    silence.hear(PEER, &web_server("site"));
    assert_eq!(silence.changes(), ["+site"]);
}

/// brutella/dnssd#63: a service that lives vanishes because nobody asks again.
#[test]
fn a_living_service_stays_for_a_day() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"]);
    let mut queries = 0;
    let end = script.ms() + 86_400_000;
    while script.ms() < end {
        script.pass(1_000);
        let sent = script.sent();
        queries += sent.len();
        // The other host answers what it is asked, and says nothing by itself.
        if !sent.is_empty() {
            script.hear(PEER, &web_server("site"));
        }
    }
    assert!(script.changes().is_empty());
    assert!(queries < 2_000, "{queries} queries in a day");
}

/// avahi#203: queries from beyond the link are answered, to whomever.
#[test]
fn nobody_beyond_the_link_is_sent_anything() {
    let mut script = Script::established();
    for from in ["203.0.113.9:5353", "203.0.113.9:53", "203.0.113.9:40000"] {
        script.hear_directly(from, &query().ask("nas.local", RecordType::ANY));
        script.hear_directly(from, &query().ask_unicast("nas.local", RecordType::ANY));
    }
    script.pass(2_000);
    assert!(script.sent().is_empty());
    assert_eq!(script.dropped("off_link"), 6);
}

/// systemd#17973: questions with the QU bit get no answer.
#[test]
fn qu_questions_are_answered() {
    let mut script = Script::established();
    script.hear(PEER, &query().ask_unicast("nas.local", RecordType::A));
    assert_eq!(script.only().answers.len(), 1);
}

/// mdns-sd#459: with several addresses on an interface, the link's own are told, all of them.
#[test]
fn a_new_address_is_announced_and_an_old_one_taken_back() {
    let mut script = Script::established();
    script.addresses(ETH, &["192.168.1.10/24", "192.168.1.11/24"]);
    script.pass(5_000);
    let sent = script.sent();
    assert!(
        sent.iter()
            .any(|s| s.answers("nas.local 120 IN A 192.168.1.11")
                && s.answers("nas.local 120 IN A 192.168.1.10")),
        "{sent:#?}"
    );
    script.addresses(ETH, &["192.168.1.11/24"]);
    script.pass(5_000);
    script.sent();
    script.hear(PEER, &query().ask("nas.local", RecordType::A));
    assert_eq!(script.only().answers, ["nas.local 120 IN A 192.168.1.11 flush"]);
}

#[test]
fn a_device_that_claims_a_shared_name_for_itself_does_not_make_the_others_vanish() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"]);
    script.pass(5_000);
    // RFC 6762 §10.2 forbids the cache-flush bit here, and devices set it.
    script.hear(OTHER, &response().unique("_http._tcp.local", 4_500, ptr("camera._http._tcp.local")));
    script.pass(5_000);
    assert_eq!(script.changes(), ["?camera"]);
}

#[test]
fn a_txt_record_that_is_cut_off_does_not_hide_the_service() {
    let mut packet = web_server("site").bytes();
    // The string says that it is longer than the record.
    let at = packet.windows(7).position(|bytes| bytes == b"\x06path=/").unwrap();
    packet[at] = 60;
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.receive(PEER, "224.0.0.251", &packet);
    assert_eq!(script.changes(), ["?site", "+site"]);
    assert_eq!(script.dropped("malformed"), 0);
}

#[test]
fn an_address_of_a_strange_length_is_looked_over_and_the_good_one_is_used() {
    let mut packet = web_server("site").bytes();
    packet[11] += 1;
    packet.extend_from_slice(b"\x04peer\x05local\0\0\x01\x80\x01\0\0\0\x78\0\x05\xc0\xa8\x01\x14\0");
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.receive(PEER, "224.0.0.251", &packet);
    let addresses = script.last_service().addresses;
    assert_eq!(addresses.iter().map(|address| address.ip.to_string()).collect::<Vec<_>>(), ["192.168.1.20"]);
}

#[test]
fn names_that_lead_nowhere_are_asked_for_nowhere() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    let types = response()
        .shared("_http._tcp.local", 4_500, ptr("."))
        .shared("_http._tcp.local", 4_500, ptr("_http._tcp.local"))
        .shared("_http._tcp.local", 4_500, ptr("x._ipp._tcp.local"))
        .shared("_http._tcp.local", 4_500, ptr("gone._http._tcp.local"))
        .unique("gone._http._tcp.local", 120, srv(0, "."));
    script.hear(PEER, &types);
    assert_eq!(script.changes(), ["?gone"]);
    script.sent();
    script.pass(10_000);
    let asked: Vec<String> = script.sent().into_iter().flat_map(|sent| sent.questions).collect();
    assert!(asked.iter().all(|question| question.contains("_http._tcp.local IN")), "{asked:?}");
}
