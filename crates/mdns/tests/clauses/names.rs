//! Items 29 to 38: names, from the first probe to the last conflict.

use mdns::wire::RecordType;
use mdns::{Config, Event, PublishedName};

use crate::script::{ETH, OTHER, PEER, Script, Sent, a, query, response, srv, txt, web};

fn probes(sent: &[Sent]) -> Vec<&Sent> {
    sent.iter().filter(|sent| sent.is_probe()).collect()
}

fn announcements<'s>(sent: &'s [Sent], start: &str) -> Vec<&'s Sent> {
    sent.iter().filter(|sent| sent.header.response && sent.answers(start)).collect()
}

/// The names that the host was told are its own.
fn names(script: &Script) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Published { name: PublishedName::Host(name), .. } => Some(name.to_string()),
        Event::Published { name: PublishedName::Service(name, _), .. } => Some(name.to_string()),
        _ => None,
    };
    script.events.iter().filter_map(name).collect()
}

#[test]
fn item_29_names_are_probed_and_announced_at_start_wake_and_link_up() {
    let mut script = Script::host();
    let again = |script: &mut Script| {
        script.pass(5_000);
        let sent = script.sent();
        assert_eq!(probes(&sent).len(), 3, "{sent:#?}");
        assert_eq!(announcements(&sent, "nas.local 120 IN A").len(), 2);
    };
    again(&mut script);
    script.engine.handle_wake(script.now);
    again(&mut script);
    script.down(ETH);
    script.pass(5_000);
    assert!(script.sent().is_empty());
    script.up(ETH, &["192.168.1.10/24"]);
    again(&mut script);
}

#[test]
fn item_30_three_probes_250_ms_apart_propose_all_unique_records() {
    let mut script = Script::host();
    script.publish("site");
    script.to(2_000);
    let sent = script.sent();
    let probes = probes(&sent);
    assert_eq!(probes.len(), 3);
    assert!(probes[0].ms <= 250);
    assert!(probes.windows(2).all(|pair| pair[1].ms - pair[0].ms == 250));
    for probe in probes {
        assert!(probe.asks("nas.local IN ANY QU") && probe.asks("site._http._tcp.local IN ANY QU"));
        let mut proposed = probe.authorities.clone();
        proposed.sort();
        assert_eq!(
            proposed,
            [
                "nas.local 120 IN A 192.168.1.10",
                "site._http._tcp.local 120 IN SRV 0 0 80 nas.local",
                "site._http._tcp.local 4500 IN TXT \"\"",
            ]
        );
    }
    let first = sent.iter().find(|sent| sent.header.response).unwrap();
    assert!(first.ms >= 750, "nothing is said before the name is ours");
}

#[test]
fn item_30_a_name_that_is_probed_for_is_not_answered_for() {
    let mut script = Script::host();
    script.to(400);
    script.sent();
    script.hear(PEER, &query().ask("nas.local", RecordType::A));
    assert!(!script.sent().iter().any(|sent| sent.header.response));
}

#[test]
fn item_31_what_is_heard_before_the_first_probe_is_no_conflict() {
    let mut script = Script::host();
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.20")));
    script.to(10_000);
    assert_eq!(names(&script), ["nas.local"]);
}

#[test]
fn item_32_after_15_conflicts_in_10_seconds_each_attempt_waits_5() {
    let mut script = Script::host();
    let mut attempts = Vec::new();
    // Somebody claims every name that is probed for.
    while script.ms() < 60_000 {
        script.pass(10);
        for sent in script.sent().into_iter().filter(Sent::is_probe) {
            attempts.push(sent.ms);
            let name = sent.questions[0].split(' ').next().unwrap();
            script.hear(PEER, &response().unique(name, 120, a("192.168.1.20")));
        }
    }
    assert!(attempts.len() > 15 && attempts.len() <= 15 + 12, "{attempts:?}");
    let slow = &attempts[15..];
    assert!(slow.windows(2).all(|pair| pair[1] - pair[0] >= 5_000), "{attempts:?}");
    assert!(slow[0] - attempts[14] >= 5_000, "{attempts:?}");
}

#[test]
fn item_33_the_loser_of_a_tie_waits_a_second_and_probes_again() {
    let mut script = Script::host();
    script.to(300);
    script.sent();
    // 192.168.1.20 is greater than 192.168.1.10.
    let lost = script.ms();
    script.hear(PEER, &query().ask("nas.local", RecordType::ANY).propose("nas.local", a("192.168.1.20")));
    script.pass(10_000);
    let sent = script.sent();
    let probes = probes(&sent);
    assert_eq!(probes.len(), 3);
    assert!(probes[0].ms >= lost + 1_000, "{}", probes[0].ms - lost);
    assert_eq!(names(&script), ["nas.local"], "the other host did not go on");
}

#[test]
fn item_33_the_loser_of_a_tie_gives_way_when_the_winner_goes_on() {
    let mut script = Script::host();
    script.to(300);
    script.hear(PEER, &query().ask("nas.local", RecordType::ANY).propose("nas.local", a("192.168.1.20")));
    script.pass(1_050);
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.20")));
    script.pass(10_000);
    assert_eq!(names(&script), ["nas-2.local"]);
}

/// Both have the same seed, and so begin to probe in the same microsecond.
#[test]
fn item_33_of_two_that_probe_at_the_same_instant_the_greater_address_has_the_name() {
    let [mut left, mut right] = [("192.168.1.10", 4), ("192.168.1.20", 4)].map(|(ip, seed)| {
        let mut script = Script::without_interface(Config::new("nas".parse().unwrap()), seed);
        script.up(ETH, &[&format!("{ip}/24")]);
        script
    });
    let mut first = Vec::new();
    while left.ms() < 20_000 {
        left.pass(1);
        right.pass(1);
        let (by_left, by_right) = (left.sent(), right.sent());
        first.extend(by_left.first().into_iter().chain(by_right.first()).map(|sent| sent.ms));
        for sent in by_left {
            right.receive("192.168.1.10:5353", "224.0.0.251", &sent.bytes);
        }
        for sent in by_right {
            left.receive("192.168.1.20:5353", "224.0.0.251", &sent.bytes);
        }
    }
    assert_eq!(first[0], first[1], "the same instant");
    assert_eq!((names(&left), names(&right)), (vec!["nas-2.local".to_owned()], vec!["nas.local".to_owned()]));
}

#[test]
fn item_33_the_winner_of_a_tie_and_equals_go_on() {
    for proposal in ["192.168.1.9", "192.168.1.10"] {
        let mut script = Script::host();
        script.to(300);
        script.hear(PEER, &query().ask("nas.local", RecordType::ANY).propose("nas.local", a(proposal)));
        script.to(1_100);
        assert_eq!(names(&script), ["nas.local"], "against {proposal}");
    }
}

#[test]
fn item_33_ties_compare_type_before_data_uncompressed_and_the_longer_list_wins() {
    // Ours: TXT (16) "", SRV (33) 0 0 80 nas.local.
    let name = "site._http._tcp.local";
    let ask = || query().ask(name, RecordType::ANY);
    for (proposal, wins) in [
        (ask().propose(name, srv(80, "zzz.local")), false),
        (ask().propose(name, a("255.255.255.255")), true),
        (ask().propose(name, txt(&[""])).propose(name, srv(80, "nas.local")), true),
        (ask().propose(name, srv(80, "nas.local")).propose(name, txt(&[""])), true),
        (ask().propose(name, srv(80, "nas.local")).propose(name, txt(&[])), true),
        (ask().propose(name, txt(&[""])), true),
        (
            ask()
                .propose(name, txt(&[""]))
                .propose(name, srv(80, "nas.local"))
                .propose(name, srv(81, "a.local")),
            false,
        ),
        (ask().propose(name, txt(&[""])).propose(name, srv(80, "nat.local")), false),
        (ask().propose(name, txt(&[""])).propose(name, srv(80, "na.local")), true),
    ] {
        let mut script = Script::established();
        script.publish("site");
        script.pass(300);
        let count = proposal.bytes().len();
        script.hear(PEER, &proposal);
        script.pass(1_000);
        assert_eq!(names(&script) == ["site"], wins, "against {count} bytes: {:?}", proposal.bytes());
    }
}

#[test]
fn item_34_records_are_announced_twice_a_second_apart_and_never_again() {
    let mut script = Script::host();
    script.publish("site");
    script.to(3_600_000);
    let sent = script.sent();
    for start in [
        "nas.local 120 IN A",
        "site._http._tcp.local 120 IN SRV",
        "site._http._tcp.local 4500 IN TXT",
        "_http._tcp.local 4500 IN PTR site",
        "_services._dns-sd._udp.local 4500 IN PTR _http._tcp.local",
    ] {
        let times: Vec<u64> = announcements(&sent, start).iter().map(|sent| sent.ms).collect();
        assert_eq!(times.len(), 2, "{start}");
        assert_eq!(times[1] - times[0], 1_000, "{start}");
    }
}

#[test]
fn item_35_changed_data_are_announced_again_at_most_ten_times_a_minute() {
    let mut script = Script::established();
    let id = script.publish("site");
    script.pass(10_000);
    script.sent();
    for n in 0..100 {
        let txt = mdns::Txt::new([("n", n.to_string())]).unwrap();
        script.engine.update_txt(id, txt, script.now).unwrap();
        script.drain();
        script.pass(100);
    }
    let begun = script.ms();
    script.pass(120_000);
    let sent = script.sent();
    let texts: std::collections::BTreeSet<String> =
        sent.iter().flat_map(|sent| &sent.answers).filter(|line| line.contains(" TXT ")).cloned().collect();
    assert!(texts.len() <= 11, "{texts:?}");
    assert!(texts.iter().any(|line| line.ends_with("\"n=99\" flush")), "the last one counts: {texts:?}");
    let late = sent.iter().filter(|sent| sent.has("site._http._tcp.local 4500 IN TXT \"n=99\"")).count();
    assert_eq!(late, 2);
    let last = sent.iter().map(|sent| sent.ms).max().unwrap();
    assert!(last < begun + 62_000);
}

#[test]
fn item_35_a_shared_record_that_changes_says_goodbye_first() {
    let mut script = Script::established();
    let service = mdns::ServiceRegistration { subtypes: vec!["_old".parse().unwrap()], ..web("site") };
    let id = script.publish_service(service);
    script.pass(10_000);
    script.sent();
    script.engine.update_subtypes(id, vec!["_new".parse().unwrap()], script.now).unwrap();
    script.pass(5_000);
    let sent = script.sent();
    let goodbye = sent.iter().position(|sent| sent.answers("_old._sub._http._tcp.local 0 IN PTR site"));
    let new = sent.iter().position(|sent| sent.answers("_new._sub._http._tcp.local 4500 IN PTR site"));
    assert!(goodbye.is_some() && goodbye <= new, "{sent:#?}");
}

#[test]
fn item_36_a_later_conflict_goes_back_to_probing() {
    let mut script = Script::established();
    let heard = script.ms();
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.20")));
    script.hear(OTHER, &query().ask("nas.local", RecordType::A));
    script.pass(900);
    let sent = script.sent();
    assert!(
        !sent.iter().any(|sent| sent.header.response && sent.ms < heard + 750),
        "it is not answered for now"
    );
    assert_eq!(probes(&sent).len(), 3);
    script.pass(10_000);
    assert_eq!(script.engine.host_name().to_string(), "nas.local", "nobody defends it");
}

#[test]
fn item_36_who_finds_the_name_defended_takes_another() {
    let mut script = Script::established();
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.20")));
    script.pass(300);
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.20")));
    script.pass(10_000);
    assert_eq!(script.engine.host_name().to_string(), "nas-2.local");
    assert_eq!(names(&script), ["nas-2.local"]);
}

#[test]
fn item_37_the_same_data_are_no_conflict() {
    let mut script = Script::host();
    script.to(300);
    script.hear(PEER, &response().unique("NAS.local", 120, a("192.168.1.10")));
    script.to(10_000);
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.10")));
    script.to(20_000);
    assert_eq!(names(&script), ["nas.local"]);
    assert_eq!(probes(&script.sent()).len(), 3);
}

#[test]
fn item_38_the_name_that_was_won_is_told_and_asked_for_first_next_time() {
    let mut script = Script::host();
    script.publish("My printer");
    script.to(300);
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.20")));
    let theirs = r"My printer._http._tcp.local";
    script.hear(PEER, &response().unique(theirs, 120, srv(80, "peer.local")));
    script.to(10_000);
    let renamed: Vec<PublishedName> = script
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Renamed { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect();
    let host = "nas-2".parse().unwrap();
    let instance: mdns::InstanceName = "My printer (2)".parse().unwrap();
    assert_eq!(
        renamed,
        [PublishedName::Host(host), PublishedName::Service(instance.clone(), "_http._tcp".parse().unwrap())]
    );
    assert_eq!(names(&script).len(), 2);

    let mut script = Script::with(Config::new("nas-2".parse().unwrap()));
    script.publish_service(mdns::ServiceRegistration { instance, ..web("x") });
    script.to(300);
    let sent = script.sent();
    assert!(sent[0].asks("nas-2.local") && sent[0].asks("My printer (2)._http._tcp.local"), "{sent:#?}");
    // The next conflict counts on.
    script.hear(PEER, &response().unique("nas-2.local", 120, a("192.168.1.20")));
    script.hear(PEER, &response().unique(r"My printer (2)._http._tcp.local", 120, srv(80, "peer.local")));
    script.to(10_000);
    assert_eq!(names(&script), ["nas-3.local", "My printer (3)"]);
}

#[test]
fn a_service_follows_the_new_name_of_its_host() {
    let mut script = Script::host();
    script.publish("site");
    script.to(300);
    script.hear(PEER, &response().unique("nas.local", 120, a("192.168.1.20")));
    script.to(20_000);
    script.sent();
    script.hear(PEER, &query().ask("site._http._tcp.local", RecordType::SRV));
    let sent = script.only();
    assert_eq!(sent.answers, ["site._http._tcp.local 120 IN SRV 0 0 80 nas-2.local flush"]);
    assert!(sent.additionals.iter().any(|line| line == "nas-2.local 120 IN A 192.168.1.10 flush"));
}

#[test]
fn two_services_of_one_name_in_one_engine_get_two_names() {
    let mut script = Script::established();
    script.publish("site");
    script.publish("Site");
    script.pass(10_000);
    assert_eq!(names(&script), ["site", "Site (2)"]);
}
