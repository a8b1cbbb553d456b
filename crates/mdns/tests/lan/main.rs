//! Several engines on a small LAN: do they find each other, and agree who is called what?

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::disallowed_methods, reason = "an origin for the clock that the tests move by hand")]

mod world;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mdns::Config;
use mdns::wire::{Class, Header, Mode, RData, Record, Section, Writer};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use world::{Faults, Lan};

const SEEDS: u64 = 20;

fn all_different(names: &[String]) -> bool {
    names.iter().collect::<BTreeSet<_>>().len() == names.len()
}

#[test]
fn hosts_that_want_one_name_get_different_ones() {
    for seed in 0..SEEDS {
        for faults in [Faults::NONE, Faults::WIRELESS] {
            let mut lan = Lan::new(seed, faults);
            for _ in 0..5 {
                lan.host("nas");
            }
            lan.pass(60_000);
            let names = lan.names();
            assert!(all_different(&names), "seed {seed}: {names:?}");
            assert!(names.contains(&"nas.local".to_owned()), "seed {seed}: somebody keeps it: {names:?}");
        }
    }
}

#[test]
fn every_service_is_found_by_every_host_once_and_goes_with_its_goodbye() {
    for seed in 0..SEEDS {
        let mut lan = Lan::new(seed, if seed % 2 == 0 { Faults::NONE } else { Faults::WIRELESS });
        for number in 0..4 {
            let host = lan.host("pc");
            lan.publish(host, &format!("service {number}"));
            lan.browse(host);
        }
        lan.pass(20_000);
        for host in 0..4 {
            let found = lan.found(host);
            assert!(
                found.len() == 4 && found.values().all(|times| *times == 1),
                "seed {seed}, host {host}: {found:?}"
            );
        }
        lan.faults = Faults::NONE;
        lan.goodbye(2);
        lan.hosts[2].alive = false;
        lan.pass(2_000);
        for host in [0, 1, 3] {
            let found = lan.found(host);
            assert!(
                found.len() == 3 && !found.contains_key("service 2"),
                "seed {seed}, host {host}: {found:?}"
            );
        }
    }
}

#[test]
fn two_halves_of_a_network_that_join_agree_on_names() {
    for seed in 0..SEEDS {
        let mut lan = Lan::new(seed, Faults::NONE);
        let (left, right) =
            (lan.host("nas"), lan.host_without_interface(Config::new("nas".parse().unwrap())));
        lan.plug(right, 1, 1, [192, 168, 1, 99].into());
        lan.publish(left, "site");
        lan.publish(right, "site");
        lan.pass(20_000);
        assert_eq!(lan.names(), ["nas.local", "nas.local"]);
        lan.bridges.insert((0, 1));
        // The cable tells both sides that something is new.
        for host in [left, right] {
            let now = lan.now;
            lan.hosts[host].engine.handle_wake(now);
        }
        lan.pass(20_000);
        let mut names = lan.names();
        names.sort();
        assert_eq!(names, ["nas-2.local", "nas.local"], "seed {seed}");
        lan.browse(left);
        lan.pass(5_000);
        let found: Vec<String> = lan.found(left).into_keys().collect();
        assert_eq!(found, ["site", "site (2)"], "seed {seed}");
    }
}

#[test]
fn a_host_whose_packets_are_bridged_back_keeps_its_name() {
    for seed in 0..SEEDS {
        let mut lan = Lan::new(seed, Faults { delay_ms: 30, ..Faults::WIRELESS });
        let host = lan.host("nas");
        lan.plug(host, 2, 1, [192, 168, 1, 11].into());
        lan.bridges.insert((0, 1));
        lan.publish(host, "site");
        lan.pass(60_000);
        assert_eq!(lan.renamed(host), 0, "seed {seed}");
        assert_eq!(lan.names(), ["nas.local"]);
        assert!(lan.packets < 60, "seed {seed}: {} packets to publish one service", lan.packets);
    }
}

#[test]
fn two_copies_of_one_responder_live_side_by_side() {
    for seed in 0..SEEDS {
        let mut lan = Lan::new(seed, Faults::NONE);
        let browser = lan.host("browser");
        let copies: Vec<usize> = (0..2)
            .map(|_| {
                let copy = lan.host_without_interface(Config::new("nas".parse().unwrap()));
                lan.plug(copy, 1, 0, [192, 168, 1, 77].into());
                copy
            })
            .collect();
        for copy in &copies {
            let service =
                mdns::ServiceRegistration::new("site".parse().unwrap(), "_http._tcp".parse().unwrap(), 80);
            let now = lan.now;
            lan.hosts[*copy].engine.publish(service, now).unwrap();
        }
        lan.browse(browser);
        lan.pass(60_000);
        assert!(copies.iter().all(|copy| lan.renamed(*copy) == 0), "seed {seed}");
        assert_eq!(lan.found(browser).into_iter().collect::<Vec<_>>(), [("site".to_owned(), 1)]);
        assert!(lan.packets < 200, "seed {seed}: {} packets", lan.packets);
        // When one says goodbye, the other speaks up.
        lan.goodbye(copies[0]);
        lan.hosts[copies[0]].alive = false;
        lan.pass(300_000);
        assert_eq!(
            lan.found(browser).into_iter().collect::<Vec<_>>(),
            [("site".to_owned(), 1)],
            "seed {seed}"
        );
    }
}

/// The sender of hostile packets.
fn villain() -> SocketAddr {
    "192.168.1.66:5353".parse().unwrap()
}

#[test]
fn a_host_that_claims_every_name_hinders_only_those_who_want_a_new_one() {
    let mut lan = Lan::new(1, Faults::NONE);
    let (a, b) = (lan.host("a"), lan.host("b"));
    lan.publish(a, "site");
    lan.browse(b);
    lan.pass(5_000);
    assert_eq!(lan.found(b).len(), 1);
    // It answers every name in every question, as its own, every 50 ms.
    let names = ["a.local", "b.local", "site._http._tcp.local"];
    let begun = lan.packets;
    for _ in 0..1_200 {
        let mut buf = [0; 1_472];
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
        for name in names {
            let name: mdns::wire::NameBuf = name.parse().unwrap();
            let rdata = RData::A([192, 168, 1, 66].into());
            let record =
                Record { name: name.as_name(), class: Class::IN, cache_flush: true, ttl: 120, rdata };
            assert!(writer.push(Section::Answer, &record));
        }
        let bytes = writer.finish().to_vec();
        lan.send(0, villain(), None, &bytes);
        lan.pass(50);
    }
    // The hosts lost their names to it, took others, and the service is found under the other name.
    let traffic = lan.packets - begun - 1_200;
    assert!(traffic < 400, "{traffic} packets of ours in a minute");
    assert!(lan.names().iter().all(|name| !names.contains(&name.as_str())), "{:?}", lan.names());
    assert_eq!(lan.found(b).len(), 1, "{:?}", lan.found(b));
}

#[test]
fn floods_of_garbage_and_of_services_leave_the_others_working() {
    let mut lan = Lan::new(2, Faults::NONE);
    let (a, b) = (lan.host("a"), lan.host("b"));
    lan.browse(b);
    lan.pass(2_000);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for n in 0..20_000u32 {
        let mut junk = vec![0; (rng.next_u32() % 300) as usize];
        rng.fill_bytes(&mut junk);
        lan.send(0, villain(), None, &junk);
        let mut buf = [0; 1_472];
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
        let name: mdns::wire::NameBuf = "_http._tcp.local".parse().unwrap();
        let target = name.with_first_label(format!("invented {n}")).unwrap();
        let rdata = RData::Ptr(target.as_name());
        let record = Record { name: name.as_name(), class: Class::IN, cache_flush: false, ttl: 4_500, rdata };
        assert!(writer.push(Section::Answer, &record));
        let bytes = writer.finish().to_vec();
        lan.send(0, villain(), None, &bytes);
        if n % 20 == 0 {
            lan.pass(1);
        }
    }
    let statistics = lan.hosts[b].engine.statistics();
    assert!(statistics.cache_entries < 2_000, "{statistics:?}");
    lan.publish(a, "site");
    lan.pass(5_000);
    assert!(lan.found(b).contains_key("site"), "{:?}", lan.hosts[b].engine.statistics());
}

#[test]
fn an_interface_that_comes_and_goes_leaves_nothing_behind() {
    for seed in 0..SEEDS {
        let mut lan = Lan::new(seed, Faults::WIRELESS);
        let (a, b) = (lan.host("a"), lan.host("b"));
        lan.publish(a, "site");
        lan.browse(b);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..20 {
            lan.pass(u64::from(rng.next_u32() % 1_500));
            lan.unplug(a, 1);
            lan.pass(u64::from(rng.next_u32() % 500));
            lan.plug(a, 1, 0, [192, 168, 1, 10].into());
        }
        lan.pass(30_000);
        assert_eq!(lan.found(b).len(), 1, "seed {seed}");
        assert_eq!((lan.renamed(a), lan.renamed(b)), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_publisher_that_is_killed_is_forgotten_when_its_records_run_out_and_sooner_when_it_is_missed() {
    for reconfirm in [false, true] {
        let mut lan = Lan::new(5, Faults::NONE);
        let (a, b, c) = (lan.host("a"), lan.host("b"), lan.host("c"));
        lan.publish(a, "site");
        lan.browse(b);
        lan.browse(c);
        lan.pass(10_000);
        assert_eq!((lan.found(b).len(), lan.found(c).len()), (1, 1));
        lan.hosts[a].alive = false;
        let (wait, now) = if reconfirm { (11_000, lan.now) } else { (121_000, lan.now) };
        if reconfirm {
            let (instance, service_type) = ("site".parse().unwrap(), "_http._tcp".parse().unwrap());
            lan.hosts[b].engine.reconfirm(&instance, &service_type, 1, now);
            lan.drain(b);
        }
        lan.pass(wait);
        assert!(lan.found(b).is_empty());
        // RFC 6762 §10.5: the other browser saw the questions of the first remain unanswered.
        assert!(lan.found(c).is_empty(), "reconfirm: {reconfirm}");
    }
}

#[test]
fn a_thousand_services_of_one_host_are_found_within_five_seconds_each_once() {
    let mut lan = Lan::new(6, Faults::NONE);
    let (publisher, browser) = (lan.host("publisher"), lan.host("browser"));
    for n in 0..1_000 {
        lan.publish(publisher, &format!("service {n}"));
    }
    lan.pass(10_000);
    let announced = lan.packets;
    assert!(announced < 1_000, "{announced} packets to announce a thousand services");
    lan.browse(browser);
    let begun = lan.ms();
    while lan.found(browser).len() < 1_000 && lan.ms() < begun + 5_000 {
        lan.pass(50);
    }
    let found = lan.found(browser);
    assert_eq!(found.len(), 1_000, "after {} ms", lan.ms() - begun);
    lan.pass(20_000);
    assert!(lan.found(browser).values().all(|times| *times == 1));
    let used = lan.packets - announced;
    assert!(used < 600, "{used} packets to find a thousand services");
}

#[test]
fn one_seed_is_one_story() {
    let tell = |seed| {
        let mut lan = Lan::new(seed, Faults::WIRELESS);
        for number in 0..3 {
            let host = lan.host("nas");
            lan.publish(host, &format!("{}", number % 2));
            lan.browse(host);
        }
        lan.pass(30_000);
        lan.trace()
    };
    assert_eq!(tell(1), tell(1));
    assert_ne!(tell(1), tell(2));
}
