//! Items 25 to 28: saying no more than is needed.

use mdns::wire::RecordType;

use crate::script::{OTHER, PEER, Script, a, ptr, query, response};

const TYPE: &str = "_http._tcp.local";

/// A host that publishes `site`.
fn server() -> Script {
    let mut script = Script::established();
    script.publish("site");
    script.pass(10_000);
    script.sent();
    script
}

#[test]
fn item_25_what_the_asker_knows_for_half_its_time_is_not_said() {
    for (ttl, answered) in [(4_500, false), (2_250, false), (2_249, true)] {
        let mut script = server();
        let ask = query().ask(TYPE, RecordType::PTR).shared(TYPE, ttl, ptr("site._http._tcp.local"));
        script.hear(PEER, &ask);
        script.pass(1_000);
        assert_eq!(script.sent().len(), usize::from(answered), "known for {ttl} s");
    }
}

#[test]
fn item_26_known_answers_are_those_with_half_their_time_left() {
    let mut script = Script::settled_asker();
    let browse = mdns::Browse { service_type: "_http._tcp".parse().unwrap(), subtype: None, resolve: false };
    script.engine.browse(browse, script.now).unwrap();
    script.pass(200);
    script.sent();
    script.hear(PEER, &response().shared(TYPE, 100, ptr("short._http._tcp.local")));
    script.hear(PEER, &response().shared(TYPE, 4_500, ptr("long._http._tcp.local")));
    let learnt = script.ms();
    script.pass(1_000);
    let sent = script.only();
    assert_eq!(sent.answers.len(), 2);
    assert!(sent.answers.iter().all(|line| !line.ends_with("flush")), "{sent:#?}");
    script.pass(70_000);
    let sent = script.sent();
    let last = sent.last().unwrap();
    // The one that has less than half of its time left is missing; the other's time is what is left of it.
    let left = 4_500 - (last.ms - learnt).div_ceil(1_000);
    let expected = [left, left + 1].map(|ttl| format!("_http._tcp.local {ttl} IN PTR long._http._tcp.local"));
    assert!(last.answers.len() == 1 && expected.contains(&last.answers[0]), "{expected:?}: {last:#?}");
}

#[test]
fn item_26_known_answers_of_others_are_not_believed() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script
        .hear(OTHER, &query().ask(TYPE, RecordType::PTR).shared(TYPE, 4_500, ptr("rumour._http._tcp.local")));
    script.pass(1_000);
    assert!(script.changes().is_empty());
    assert_eq!(script.engine.statistics().cache_entries, 0);
}

#[test]
fn item_27_known_answers_in_a_second_packet_of_the_same_source_count() {
    let mut script = server();
    script.hear(PEER, &query().truncated().ask(TYPE, RecordType::PTR));
    script.pass(100);
    // Another host's answers are another host's.
    script.hear(OTHER, &query().shared(TYPE, 4_500, ptr("site._http._tcp.local")));
    script.pass(100);
    script.hear(PEER, &query().shared(TYPE, 4_500, ptr("site._http._tcp.local")));
    script.pass(2_000);
    assert!(script.sent().is_empty());

    script.hear(PEER, &query().truncated().ask(TYPE, RecordType::PTR));
    script.hear(OTHER, &query().shared(TYPE, 4_500, ptr("site._http._tcp.local")));
    script.pass(2_000);
    assert!(script.only().answers("_http._tcp.local 4500 IN PTR site"));
}

#[test]
fn item_27_known_answers_that_do_not_fit_follow_in_further_packets() {
    let mut script = Script::settled_asker();
    let browse = mdns::Browse { service_type: "_http._tcp".parse().unwrap(), subtype: None, resolve: false };
    script.engine.browse(browse, script.now).unwrap();
    script.pass(200);
    script.sent();
    for n in 0..100 {
        let name = format!("a service with a rather long name, number {n}._http._tcp.local");
        script.hear(PEER, &response().shared(TYPE, 4_500, ptr(&name)));
    }
    script.pass(1_000);
    let sent = script.sent();
    assert!(sent.len() > 2);
    assert_eq!(sent.iter().map(|sent| sent.answers.len()).sum::<usize>(), 100);
    let (last, before) = sent.split_last().unwrap();
    assert!(before.iter().all(|sent| sent.header.truncated) && !last.header.truncated);
    assert!(sent.iter().all(|sent| sent.bytes.len() <= 1_472 && sent.ms == last.ms));
    assert_eq!(sent.iter().map(|sent| sent.questions.len()).sum::<usize>(), 1);
}

#[test]
fn item_28_what_another_host_has_just_said_is_not_said_again() {
    let mut script = server();
    script.hear(PEER, &query().ask(TYPE, RecordType::PTR));
    script.hear(OTHER, &response().shared(TYPE, 4_500, ptr("site._http._tcp.local")));
    script.pass(1_000);
    assert!(script.sent().is_empty());

    // Said with a shorter life it does not count.
    script.hear(PEER, &query().ask(TYPE, RecordType::PTR));
    script.hear(OTHER, &response().shared(TYPE, 4_000, ptr("site._http._tcp.local")));
    script.pass(1_000);
    assert_eq!(script.sent().len(), 1);
}

#[test]
fn item_25_a_set_is_said_in_full_unless_all_of_it_is_known() {
    let mut script = Script::established();
    script.addresses(crate::script::ETH, &["192.168.1.10/24", "192.168.1.11/24"]);
    script.pass(10_000);
    script.sent();
    script.hear(PEER, &query().ask("nas.local", RecordType::A).shared("nas.local", 120, a("192.168.1.10")));
    let sent = script.only();
    // RFC 6762 §10.2: the cache-flush bit speaks for the whole set.
    assert_eq!(sent.answers.iter().filter(|line| line.contains(" IN A ")).count(), 2, "{sent:#?}");
}
