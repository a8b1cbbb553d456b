//! Items 1 to 9: asking.

use std::time::Duration;

use mdns::wire::RecordType;
use mdns::{Destination, Family, QueryLifetime};

use crate::script::{ETH, OTHER, PEER, Script, a, ptr, query, response, web_server};

#[test]
fn item_01_queries_go_to_the_group_from_the_port_that_all_share() {
    // The engine has one socket a family, bound to port 5353: a packet that names no port leaves from there.
    let mut script = Script::asker();
    script.browse("_http._tcp");
    script.to(200);
    let sent = script.only();
    assert_eq!(sent.transmit.to, Destination::Multicast(Family::V4));
    assert_eq!(sent.transmit.interface, ETH);
    assert_eq!(mdns::PORT, 5353);
}

#[test]
fn item_02_intervals_double_from_a_second_to_an_hour() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(4 * 3_600_000);
    let times: Vec<u64> = script.sent().iter().map(|sent| sent.ms).collect();
    let intervals: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).div_ceil(1_000)).collect();
    assert_eq!(intervals, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 3_600, 3_600]);
}

#[test]
fn item_03_the_first_query_waits_20_to_120_ms_and_not_always_equally_long() {
    let mut delays = Vec::new();
    for seed in 0..20 {
        let config = mdns::Config { publish_host: false, ..mdns::Config::new("asker".parse().unwrap()) };
        let mut script = Script::without_interface(config, seed);
        script.up(ETH, &["192.168.1.10/24"]);
        script.browse("_http._tcp");
        script.to(500);
        delays.push(script.only().ms);
    }
    assert!(delays.iter().all(|delay| (20..=120).contains(delay)), "{delays:?}");
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 10, "{delays:?}");
}

#[test]
fn item_04_a_record_is_refreshed_at_80_85_90_and_95_percent_while_somebody_wants_it() {
    let mut script = Script::settled_asker();
    let host = script.engine.resolve_host(&"peer".parse().unwrap(), script.now).unwrap();
    script.pass(200);
    script.sent();
    let learnt = script.ms();
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.20")));
    script.pass(119_000);
    let refreshes: Vec<u64> = script
        .sent()
        .iter()
        .filter(|sent| sent.asks("peer.local IN A"))
        .map(|sent| sent.ms - learnt)
        .collect();
    let expected = [96_000, 102_000, 108_000, 114_000];
    let refreshes: Vec<u64> = refreshes.into_iter().filter(|ms| *ms > 90_000).collect();
    assert_eq!(refreshes.len(), 4, "{refreshes:?}");
    for (refresh, expected) in refreshes.iter().zip(expected) {
        assert!((expected..=expected + 2_400).contains(refresh), "{refreshes:?}");
    }

    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.20")));
    script.engine.cancel(host);
    script.pass(125_000);
    assert!(script.sent().is_empty(), "nobody wants it any more");
}

#[test]
fn item_05_a_unique_answer_ends_the_asking_a_shared_one_does_not() {
    let mut script = Script::settled_asker();
    script.engine.query("peer.local", RecordType::A, QueryLifetime::Continuous, script.now).unwrap();
    script.browse("_ftp._tcp");
    script.pass(200);
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.20")));
    script.hear(PEER, &response().shared("_ftp._tcp.local", 4_500, ptr("x._ftp._tcp.local")));
    script.sent();
    script.pass(60_000);
    let sent = script.sent();
    assert!(!sent.iter().any(|sent| sent.asks("peer.local")), "{sent:#?}");
    assert!(sent.iter().filter(|sent| sent.asks("_ftp._tcp.local")).count() >= 5);
}

#[test]
fn item_05_what_expires_is_asked_for_again() {
    let mut script = Script::settled_asker();
    script.engine.query("peer.local", RecordType::A, QueryLifetime::Continuous, script.now).unwrap();
    script.pass(200);
    script.hear(PEER, &response().unique("peer.local", 120, a("192.168.1.20")));
    script.pass(121_000);
    script.sent();
    script.pass(5_000);
    assert!(script.sent().iter().filter(|sent| sent.asks("peer.local IN A")).count() >= 2);
}

#[test]
fn item_06_unicast_responses_are_asked_for_once_after_start_and_wake_only() {
    let mut script = Script::asker();
    script.browse("_http._tcp");
    script.to(2_000);
    let asked: Vec<bool> = script.sent().iter().map(|sent| sent.asks("_http._tcp.local IN PTR QU")).collect();
    assert_eq!(asked, [true, false]);

    script.to(60_000);
    script.sent();
    script.browse("_ftp._tcp");
    script.pass(500);
    assert!(!script.only().asks("_ftp._tcp.local IN PTR QU"), "the link is not new any more");

    script.engine.handle_wake(script.now);
    script.pass(500);
    let sent = script.sent();
    assert!(sent[0].asks("_ftp._tcp.local IN PTR QU") && sent[0].asks("_http._tcp.local IN PTR QU"));
}

#[test]
fn item_06_unicast_responses_are_not_asked_for_when_another_program_may_get_them() {
    let mut script = Script::asker();
    script.engine.handle_port_sharing(false);
    script.browse("_http._tcp");
    script.to(500);
    assert_eq!(script.only().questions, ["_http._tcp.local IN PTR"]);
}

#[test]
fn item_07_unicast_responses_are_taken_for_two_seconds_after_they_were_asked_for() {
    let mut script = Script::asker();
    script.browse("_http._tcp");
    script.to(500);
    script.hear_directly(PEER, &web_server("early"));
    assert_eq!(script.changes(), ["?early", "+early"]);
    script.to(5_000);
    script.hear_directly(PEER, &web_server("late"));
    assert!(script.changes().is_empty());
    assert_eq!(script.dropped("unicast_response"), 1);
}

#[test]
fn item_08_a_query_of_limited_time_is_asked_like_any_other_and_then_ends() {
    // RFC 6762 §5.1 forbids queries from port 5353 to those that do not play by the rules of §5.2. Ours always do.
    let mut script = Script::settled_asker();
    let begun = script.ms();
    let lifetime = QueryLifetime::Once(Duration::from_millis(2_500));
    let id = script.engine.query("peer.local", RecordType::A, lifetime, script.now).unwrap();
    script.pass(10_000);
    let sent = script.sent();
    assert_eq!(sent.len(), 2, "{sent:#?}");
    assert!((20..=120).contains(&(sent[0].ms - begun)) && sent[1].ms - sent[0].ms >= 1_000);
    assert_eq!(script.events, [mdns::Event::Finished { id }]);
    assert_eq!(script.engine.statistics().queries, 0);
}

#[test]
fn item_09_the_same_question_of_another_host_counts_as_ours() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    assert_eq!(script.sent().len(), 1);
    // Ours would follow a second after the first.
    script.pass(500);
    script.hear(PEER, &query().ask("_http._tcp.local", RecordType::PTR));
    script.pass(1_000);
    assert!(script.sent().is_empty());
    script.pass(2_000);
    assert_eq!(script.sent().len(), 1);
}

#[test]
fn item_09_a_question_with_known_answers_that_we_do_not_know_does_not_count_as_ours() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    script.pass(200);
    script.sent();
    script.pass(500);
    let known = query().ask("_http._tcp.local", RecordType::PTR).shared(
        "_http._tcp.local",
        4_000,
        ptr("unknown to us._http._tcp.local"),
    );
    script.hear(OTHER, &known);
    script.pass(800);
    assert_eq!(script.sent().len(), 1);
}
