//! Items 52 to 56: DNS-SD (RFC 6763).

use mdns::wire::RecordType;
use mdns::{Browse, Event, NameError, ServiceType, Txt};

use crate::script::{ETH, PEER, Script, a, ptr, query, response, srv, txt, web, web_server};

const TYPE: &str = "_http._tcp.local";

#[test]
fn item_52_instances_have_any_name_dots_included() {
    let name = "Dr. Müller's 3.5\" drive \\ ☃";
    let mut publisher = Script::established();
    publisher.publish(name);
    publisher.pass(5_000);
    let mut browser = Script::settled_asker();
    browser.browse("_http._tcp");
    for sent in publisher.sent() {
        browser.receive("192.168.1.20:5353", "224.0.0.251", &sent.bytes);
    }
    assert_eq!(browser.changes(), [format!("?{name}"), format!("+{name}")]);
    assert_eq!("".parse::<mdns::InstanceName>(), Err(NameError::LabelLength));
    assert_eq!("a\nb".parse::<mdns::InstanceName>(), Err(NameError::ControlCharacter));
    assert_eq!("é".repeat(32).parse::<mdns::InstanceName>(), Err(NameError::LabelLength));
}

#[test]
fn item_53_a_service_without_attributes_has_one_empty_string() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(5_000);
    assert!(script.sent().iter().any(|sent| sent.answers("site._http._tcp.local 4500 IN TXT \"\" flush")));
}

#[test]
fn item_53_keys_have_no_case_and_the_first_counts() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    let name = "site._http._tcp.local";
    let strings = ["Path=/a", "PATH=/b", "flag", "empty=", "=ignored", ""];
    script.hear(
        PEER,
        &response()
            .shared(TYPE, 4_500, ptr(name))
            .unique(name, 120, srv(80, "peer.local"))
            .unique(name, 4_500, txt(&strings))
            .additional("peer.local", 120, a("192.168.1.20")),
    );
    let found = script.last_service().txt;
    assert_eq!(found.value("path"), Some(Some(&b"/a"[..])));
    assert_eq!(found.value("FLAG"), Some(None));
    assert_eq!(found.value("empty"), Some(Some(&b""[..])));
    assert_eq!(found.value("other"), None);
    // RFC 6763 §6.4: all but the first of a key MUST be ignored.
    let keys: Vec<&[u8]> = found.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [&b"Path"[..], b"flag", b"empty"]);

    let twice = Txt::new([("a", "1"), ("A", "2")]);
    assert_eq!(twice, Err(NameError::TxtKeyTwice));
    assert_eq!(Txt::new([("a=b", "1")]), Err(NameError::TxtKey));
    assert_eq!(Txt::new([("", "1")]), Err(NameError::TxtKey));
    assert_eq!(Txt::new([("k", "v".repeat(254))]), Err(NameError::TxtEntryLength));
    assert_eq!(Txt::new((0..50).map(|n| (format!("{n}"), "v".repeat(200)))), Err(NameError::TxtLength));
}

#[test]
fn item_53_a_service_whose_host_has_no_txt_record_is_found_all_the_same() {
    let mut script = Script::settled_asker();
    script.browse("_http._tcp");
    let name = "site._http._tcp.local";
    script.hear(
        PEER,
        &response().shared(TYPE, 4_500, ptr(name)).unique(name, 120, srv(80, "peer.local")).additional(
            "peer.local",
            120,
            a("192.168.1.20"),
        ),
    );
    assert_eq!(script.changes(), ["?site"]);
    script.pass(2_000);
    assert_eq!(script.last_service().txt, Txt::default());
    assert_eq!(script.changes(), ["+site"]);
}

#[test]
fn item_54_a_service_is_found_by_its_subtypes() {
    let mut publisher = Script::established();
    publisher.publish_service(mdns::ServiceRegistration {
        subtypes: vec!["_printer".parse().unwrap()],
        ..web("site")
    });
    publisher.publish("other");
    publisher.pass(5_000);
    publisher.sent();
    publisher.hear(PEER, &query().ask("_printer._sub._http._tcp.local", RecordType::PTR));
    publisher.pass(500);
    let answer = publisher.only();
    assert_eq!(answer.answers, ["_printer._sub._http._tcp.local 4500 IN PTR site._http._tcp.local"]);

    let mut browser = Script::settled_asker();
    let browse = Browse {
        service_type: "_http._tcp".parse().unwrap(),
        subtype: Some("_printer".parse().unwrap()),
        resolve: true,
    };
    browser.engine.browse(browse, browser.now).unwrap();
    browser.pass(200);
    assert!(browser.only().asks("_printer._sub._http._tcp.local IN PTR"));
    browser.receive(PEER, "224.0.0.251", &answer.bytes);
    assert_eq!(browser.changes(), ["?site", "+site"]);
}

#[test]
fn item_55_the_types_of_services_are_enumerated() {
    let mut publisher = Script::established();
    publisher.publish("one");
    publisher.publish("two");
    publisher.pass(5_000);
    publisher.sent();
    publisher.hear(PEER, &query().ask("_services._dns-sd._udp.local", RecordType::PTR));
    publisher.pass(500);
    let answer = publisher.only();
    assert_eq!(
        answer.answers,
        ["_services._dns-sd._udp.local 4500 IN PTR _http._tcp.local"],
        "each type once"
    );

    let mut script = Script::settled_asker();
    let id = script.engine.browse_types(script.now).unwrap();
    script.pass(200);
    assert!(script.only().asks("_services._dns-sd._udp.local IN PTR"));
    script.receive(PEER, "224.0.0.251", &answer.bytes);
    let service_type: ServiceType = "_http._tcp".parse().unwrap();
    assert_eq!(
        std::mem::take(&mut script.events),
        [Event::Type { id, service_type: service_type.clone(), interface: ETH, present: true }]
    );
    script.hear(PEER, &response().shared("_services._dns-sd._udp.local", 0, ptr(TYPE)));
    script.pass(2_000);
    assert_eq!(script.events, [Event::Type { id, service_type, interface: ETH, present: false }]);
}

#[test]
fn item_55_the_type_goes_with_its_last_service() {
    let mut script = Script::established();
    let (one, two) = (script.publish("one"), script.publish("two"));
    script.pass(5_000);
    script.sent();
    script.engine.unpublish(one, script.now);
    let sent = script.only();
    assert!(sent.answers("_http._tcp.local 0 IN PTR one") && !sent.answers("_services"), "{sent:#?}");
    script.engine.unpublish(two, script.now);
    let sent = script.sent();
    assert!(sent.iter().any(|sent| sent.answers("_services._dns-sd._udp.local 0 IN PTR _http._tcp.local")));
}

#[test]
fn item_56_what_is_needed_next_goes_along() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(5_000);
    script.sent();
    script.hear(PEER, &query().ask(TYPE, RecordType::PTR));
    script.pass(500);
    let sent = script.only();
    assert_eq!(sent.answers, ["_http._tcp.local 4500 IN PTR site._http._tcp.local"]);
    let types: Vec<&str> = sent.additionals.iter().map(|line| line.split(' ').nth(3).unwrap()).collect();
    assert_eq!(types, ["SRV", "TXT", "A", "NSEC"], "{sent:#?}");
}

#[test]
fn types_are_checked_where_they_are_written() {
    for (text, error) in [
        ("http", NameError::NotAServiceType),
        ("_http._sctp", NameError::NotAServiceType),
        ("http._tcp", NameError::NotAServiceType),
        ("_a._b._tcp", NameError::NotAServiceType),
        ("_._tcp", NameError::ServiceLength),
    ] {
        assert_eq!(text.parse::<ServiceType>(), Err(error), "{text}");
    }
    for (text, error) in [
        ("_sixteen-letters-._tcp", NameError::ServiceLength),
        ("_-http._tcp", NameError::ServiceCharacters),
        ("_ht--tp._tcp", NameError::ServiceCharacters),
        ("_123._udp", NameError::ServiceCharacters),
        ("_ht_tp._tcp", NameError::ServiceCharacters),
        ("__http._tcp", NameError::ServiceCharacters),
    ] {
        let service_type: ServiceType = text.parse().unwrap();
        assert_eq!(service_type.check(), Err(error), "{text}");
        let mut script = Script::established();
        let published = script
            .engine
            .publish(mdns::ServiceRegistration::new("site".parse().unwrap(), service_type, 80), script.now);
        assert_eq!(published, Err(mdns::Error::Unfit(error)), "strict in what is sent");
    }
    for text in ["_http._tcp", "_HTTP._TCP.local", "_http._tcp.local.", "_http._tcp."] {
        assert_eq!(text.parse::<ServiceType>().unwrap().to_string(), "_http._tcp", "{text}");
    }
}

#[test]
fn a_browse_that_does_not_resolve_asks_for_nothing_more() {
    let mut script = Script::settled_asker();
    let browse = Browse { service_type: "_http._tcp".parse().unwrap(), subtype: None, resolve: false };
    script.engine.browse(browse, script.now).unwrap();
    script.pass(200);
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site"]);
    assert_eq!(script.engine.statistics().cache_entries, 1);
    script.pass(60_000);
    assert!(script.sent().iter().all(|sent| sent.questions.len() == 1));
    script.hear(PEER, &response().shared(TYPE, 0, ptr("site._http._tcp.local")));
    script.pass(1_100);
    assert_eq!(script.changes(), ["-site"]);
}

#[test]
fn one_instance_is_resolved_by_name() {
    let mut script = Script::settled_asker();
    let (instance, service_type) = ("site".parse().unwrap(), "_http._tcp".parse().unwrap());
    script.engine.resolve_service(&instance, &service_type, script.now).unwrap();
    script.pass(200);
    assert!(script.only().asks("site._http._tcp.local IN SRV"));
    script.hear(PEER, &web_server("site"));
    assert_eq!(script.changes(), ["?site", "+site"]);
}

#[test]
fn its_own_services_are_found_by_a_host_too() {
    let mut script = Script::established();
    script.publish("site");
    script.pass(5_000);
    script.browse("_http._tcp");
    script.pass(2_000);
    assert_eq!(script.changes(), ["?site", "+site"]);
    script.pass(200_000);
    assert!(script.changes().is_empty(), "it is refreshed as any other");
}

#[test]
fn a_host_of_its_own_is_published_with_its_addresses() {
    let mut script = Script::established();
    let host = mdns::HostRegistration {
        name: "virtual".parse().unwrap(),
        addresses: vec!["192.168.1.99".parse().unwrap()],
        interfaces: mdns::Interfaces::All,
    };
    let id = script.engine.publish_host(host, script.now).unwrap();
    script.pass(5_000);
    script.sent();
    script.hear(PEER, &query().ask("virtual.local", RecordType::A));
    assert_eq!(script.only().answers, ["virtual.local 120 IN A 192.168.1.99 flush"]);
    script.engine.unpublish(id, script.now);
    assert!(script.only().answers("virtual.local 0 IN A 192.168.1.99"));
}

#[test]
fn types_that_break_the_rules_for_types_are_found_because_televisions_have_them() {
    let types = ["_androidtvremote2._tcp", "_tivo-videostream._tcp", "_lg_dtv_wifirc._tcp"];
    let mut script = Script::settled_asker();
    script.engine.browse_types(script.now).unwrap();
    for service_type in types {
        script.browse(service_type);
        let all = ptr(&format!("{service_type}.local"));
        script.hear(PEER, &response().shared("_services._dns-sd._udp.local", 4_500, all));
        let name = format!("TV.{service_type}.local");
        script.hear(
            PEER,
            &response()
                .shared(&format!("{service_type}.local"), 4_500, ptr(&name))
                .unique(&name, 120, srv(6_466, "tv.local"))
                .unique(&name, 4_500, txt(&["a=1"]))
                .additional("tv.local", 120, a("192.168.1.20")),
        );
    }
    let found = |event: &Event| match event {
        Event::Type { service_type, present: true, .. } => Some(service_type.to_string()),
        _ => None,
    };
    assert_eq!(script.events.iter().filter_map(found).collect::<Vec<_>>(), types);
    assert_eq!(script.changes(), ["?TV", "+TV", "?TV", "+TV", "?TV", "+TV"]);
}

#[test]
fn a_gateway_with_control_characters_in_its_name_is_found_and_controls_no_terminal() {
    // Not UTF-8, and an escape sequence: whatever it is, it can be asked for what it offers.
    for label in [r"Gateway_00:1e\013\010", r"B\252ro", r"\027[31m"] {
        let mut script = Script::settled_asker();
        script.browse("_http._tcp");
        script.pass(200);
        script.hear(PEER, &response().shared(TYPE, 4_500, ptr(&format!("{label}._http._tcp.local"))));
        script.sent();
        script.pass(200);
        assert!(script.only().asks(&format!("{label}._http._tcp.local IN SRV")));
        script.hear(PEER, &web_server(label));
        assert_eq!(script.changes(), [format!("?{label}"), format!("+{label}")]);
    }
}
