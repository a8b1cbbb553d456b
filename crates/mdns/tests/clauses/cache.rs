//! Items 39 to 45: remembering and forgetting.

use mdns::wire::RecordType;
use mdns::{Browse, Event, QueryLifetime};

use crate::script::{ETH, OTHER, PEER, Script, a, ptr, query, response, srv, txt, web_server};

const TYPE: &str = "_http._tcp.local";

/// Somebody who browses, and found `site`.
fn browser() -> Script {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"]);
    script.sent();
    script
}

#[test]
fn item_39_records_that_name_a_host_hold_120_seconds_others_4500() {
    let mut script = Script::host();
    script.publish("site");
    script.to(10_000);
    let lines: Vec<String> = script.sent().into_iter().flat_map(|sent| sent.answers).collect();
    for line in lines {
        let ttl = if line.contains(" IN A ") || line.contains(" IN SRV ") { " 120 " } else { " 4500 " };
        assert!(line.contains(ttl), "{line}");
    }
}

#[test]
fn item_40_a_goodbye_takes_effect_in_a_second() {
    let mut script = browser();
    script.hear(PEER, &response().shared(TYPE, 0, ptr("site._http._tcp.local")));
    script.pass(900);
    assert!(script.changes().is_empty());
    script.pass(200);
    assert_eq!(script.changes(), ["-site"]);
}

#[test]
fn item_40_what_comes_back_within_the_second_was_never_away() {
    let mut script = browser();
    script.hear(PEER, &response().shared(TYPE, 0, ptr("site._http._tcp.local")));
    script.pass(500);
    script.hear(OTHER, &response().shared(TYPE, 4_500, ptr("site._http._tcp.local")));
    script.pass(5_000);
    assert!(script.changes().is_empty());
}

#[test]
fn item_41_a_unique_record_replaces_those_older_than_a_second() {
    let mut script = browser();
    script.pass(5_000);
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.21")));
    script.pass(1_500);
    let addresses: Vec<String> =
        script.last_service().addresses.iter().map(|address| address.ip.to_string()).collect();
    assert_eq!(addresses, ["192.168.1.21"]);
}

#[test]
fn item_41_unique_records_of_one_moment_stand_beside_each_other() {
    let mut script = browser();
    script.pass(5_000);
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.21")));
    script.pass(500);
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.22")));
    script.pass(5_000);
    assert_eq!(script.last_service().addresses.len(), 2);
}

#[test]
fn item_42_the_cache_flush_bit_is_on_unique_records_and_whole_sets_only() {
    let mut script = Script::host();
    script.addresses(ETH, &["192.168.1.10/24", "192.168.1.11/24"]);
    script.publish("site");
    script.to(10_000);
    for sent in script.sent() {
        for line in &sent.answers {
            assert_eq!(line.ends_with(" flush"), !line.contains(" IN PTR "), "{line}");
        }
        assert!(sent.authorities.iter().all(|line| !line.ends_with(" flush")));
        let addresses = sent.answers.iter().filter(|line| line.contains(" IN A ")).count();
        assert!(addresses == 0 || addresses == 2, "{sent:#?}");
    }
}

#[test]
fn item_43_what_was_learnt_on_an_interface_goes_with_it() {
    let mut script = browser();
    script.down(ETH);
    assert_eq!(script.changes(), ["-site"]);
    assert_eq!(script.engine.statistics().cache_entries, 0);
}

#[test]
fn item_43_another_network_on_the_same_interface_is_another_network() {
    let mut script = browser();
    script.addresses(ETH, &["10.0.0.5/8"]);
    assert_eq!(script.changes(), ["-site"]);
    script.pass(500);
    assert!(script.sent().iter().any(|sent| sent.asks("_http._tcp.local IN PTR QU")));
}

#[test]
fn item_43_one_more_address_is_no_other_network() {
    let mut script = browser();
    script.addresses(ETH, &["192.168.1.10/24", "fe80::10/64"]);
    assert!(script.changes().is_empty());
}

#[test]
fn item_44_an_unreachable_service_is_verified_by_two_queries_and_goes_within_10_seconds() {
    let mut script = browser();
    let (instance, service_type) = ("site".parse().unwrap(), "_http._tcp".parse().unwrap());
    let begun = script.ms();
    script.engine.reconfirm(&instance, &service_type, ETH, script.now);
    script.pass(9_900);
    let sent = script.sent();
    for question in [TYPE, "site._http._tcp.local IN SRV", "peer.local IN A"] {
        assert!(sent.iter().filter(|sent| sent.asks(question)).count() >= 2, "{question}: {sent:#?}");
    }
    assert!(script.changes().is_empty());
    script.to(begun + 10_100);
    assert_eq!(script.changes(), ["-site"]);
}

#[test]
fn item_44_a_service_that_answers_stays() {
    let mut script = browser();
    let (instance, service_type) = ("site".parse().unwrap(), "_http._tcp".parse().unwrap());
    script.engine.reconfirm(&instance, &service_type, ETH, script.now);
    script.pass(200);
    script.hear(PEER, &web_server("site"));
    script.pass(20_000);
    assert!(script.changes().is_empty());
}

#[test]
fn item_45_what_others_ask_for_in_vain_is_doubted() {
    let mut script = browser();
    let ask = query().ask("site._http._tcp.local", RecordType::SRV);
    script.hear(OTHER, &ask);
    script.pass(1_000);
    script.hear(OTHER, &ask);
    script.pass(8_800);
    assert!(script.changes().is_empty());
    script.pass(500);
    assert_eq!(script.changes(), ["-site"]);
}

#[test]
fn item_45_what_others_ask_for_and_get_is_not_doubted() {
    let mut script = browser();
    let ask = query().ask("site._http._tcp.local", RecordType::SRV);
    for _ in 0..5 {
        script.hear(OTHER, &ask);
        script.pass(50);
        script.hear(PEER, &response().unique("site._http._tcp.local", 120, srv(80, "peer.local")));
        script.pass(1_950);
    }
    script.pass(10_000);
    assert!(script.changes().is_empty());
}

#[test]
fn item_45_what_others_know_they_do_not_ask_in_vain() {
    let mut script = browser();
    let ask = query().ask(TYPE, RecordType::PTR).shared(TYPE, 4_000, ptr("site._http._tcp.local"));
    for _ in 0..5 {
        script.hear(OTHER, &ask);
        script.pass(2_000);
    }
    script.pass(10_000);
    assert!(script.changes().is_empty());
}

#[test]
fn a_changed_attribute_is_a_change_a_repeated_one_is_not() {
    let mut script = browser();
    script.pass(3_000);
    script.hear(PEER, &web_server("site"));
    assert!(script.changes().is_empty());
    script.pass(3_000);
    script.hear(PEER, &response().unique("site._http._tcp.local", 4_500, txt(&["path=/new"])));
    assert_eq!(script.last_service().txt.value("path"), Some(Some(&b"/new"[..])));
    assert_eq!(script.changes(), ["~site"]);
    script.pass(5_000);
    assert!(script.changes().is_empty());
}

#[test]
fn records_are_told_as_they_come_and_go() {
    let mut script = Script::settled_asker();
    let id =
        script.engine.query("peer.local", RecordType::ANY, QueryLifetime::Continuous, script.now).unwrap();
    script.pass(200);
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.20")));
    script.hear(PEER, &response().unique("peer.local", 0, a("192.168.1.20")));
    script.pass(2_000);
    let told: Vec<(bool, String)> = script
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Answer { id: of, answer, present } if *of == id => {
                Some((*present, answer.data.to_string()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(told, [(true, "192.168.1.20".to_owned()), (false, "192.168.1.20".to_owned())]);
}

#[test]
fn a_second_browse_is_told_at_once_what_the_first_has_found() {
    let mut script = browser();
    let browse = Browse { service_type: "_http._tcp".parse().unwrap(), subtype: None, resolve: true };
    script.engine.browse(browse, script.now).unwrap();
    assert_eq!(script.changes(), ["?site", "+site"]);
}
