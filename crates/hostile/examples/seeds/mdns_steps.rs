//! Steps for a Multicast DNS engine: what its fuzz target begins with.

use mdns::wire::{
    Class, Header, Mode, NameBuf, Question, RData, Record, RecordType, Section, Srv, Txt, Writer,
};

use crate::Seeds;

pub(crate) fn all() -> Seeds {
    vec![
        (
            "publish-and-be-asked",
            [publish(), pass(3_000), packet(20, &question("_http._tcp.local", 12))].concat(),
        ),
        ("browse-and-find", [browse(), pass(200), packet(20, &announcement()), pass(60_000)].concat()),
        (
            "browse-find-and-doubt",
            [browse(), packet(20, &announcement()), vec![15, 0, 0], pass(11_000)].concat(),
        ),
        (
            "conflict-while-probing",
            [pass(300), packet(20, &claim("nas.local", Section::Answer)), pass(3_000)].concat(),
        ),
        (
            "conflict-later",
            [pass(5_000), packet(20, &claim("nas.local", Section::Answer)), pass(3_000)].concat(),
        ),
        ("tie", [pass(300), packet(20, &claim("nas.local", Section::Authority)), pass(3_000)].concat()),
        (
            "own-packets-come-back",
            [publish(), pass(300), echo(), pass(800), echo(), pass(2_000), echo()].concat(),
        ),
        ("truncated-query", [publish(), pass(3_000), packet(20, &truncated()), pass(700)].concat()),
        ("legacy-query", [pass(3_000), packet(25, &question("nas.local", 1)), pass(100)].concat()),
        (
            "interfaces-come-and-go",
            [publish(), vec![11, 1, 0], pass(400), vec![12, 0], pass(900), vec![11, 0, 1, 13]].concat(),
        ),
        (
            "updates",
            [publish(), pass(2_000), b"\x0eaaaaaaaa\x0ebbbbbbbb".to_vec(), pass(2_000), vec![8]].concat(),
        ),
        (
            "questions-of-all-kinds",
            vec![9, 0, 9, 1, 9, 2, 0, 100, 0, 255, 9, 3, 0, 0, 9, 4, 0, 0, 1, 4, 0x10, 0, 10, 10],
        ),
    ]
}

fn pass(ms: u16) -> Vec<u8> {
    [&[4][..], &ms.to_be_bytes()].concat()
}

fn publish() -> Vec<u8> {
    vec![7, 1, 1, 0, 0, 0, 80]
}

fn browse() -> Vec<u8> {
    vec![9, 4, 1, 0, 1]
}

fn echo() -> Vec<u8> {
    vec![6, 21, 1, 0, 40, 1]
}

fn packet(source: u8, bytes: &[u8]) -> Vec<u8> {
    [&[0, source][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn name(text: &str) -> NameBuf {
    text.parse().expect("a name")
}

fn question(text: &str, record_type: u16) -> Vec<u8> {
    query(text, record_type, Header::QUERY)
}

fn truncated() -> Vec<u8> {
    query("_http._tcp.local", 12, Header { truncated: true, ..Header::QUERY })
}

fn query(text: &str, record_type: u16, header: Header) -> Vec<u8> {
    let name = name(text);
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, header);
    let (record_type, class) = (RecordType(record_type), Class::IN);
    writer.push_question(&Question { name: name.as_name(), record_type, class, unicast_response: true });
    writer.finish().to_vec()
}

/// Somebody else says that the name is theirs.
fn claim(text: &str, section: Section) -> Vec<u8> {
    let name = name(text);
    let mut buf = [0; 512];
    let header = if section == Section::Answer { Header::RESPONSE } else { Header::QUERY };
    let mut writer = Writer::new(&mut buf, Mode::Mdns, header);
    let (record_type, class) = (RecordType::ANY, Class::IN);
    if section == Section::Authority {
        writer.push_question(&Question { name: name.as_name(), record_type, class, unicast_response: true });
    }
    let rdata = RData::A([192, 168, 1, 20].into());
    writer.push(section, &Record { name: name.as_name(), class, cache_flush: true, ttl: 120, rdata });
    writer.finish().to_vec()
}

fn announcement() -> Vec<u8> {
    let (service_type, instance, host) =
        (name("_http._tcp.local"), name("site._http._tcp.local"), name("peer.local"));
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
    let srv = Srv { priority: 0, weight: 0, port: 80, target: host.as_name() };
    for (name, cache_flush, rdata) in [
        (&service_type, false, RData::Ptr(instance.as_name())),
        (&instance, true, RData::Srv(srv)),
        (&instance, true, RData::Txt(Txt::EMPTY)),
        (&host, true, RData::A([192, 168, 1, 20].into())),
    ] {
        let record = Record { name: name.as_name(), class: Class::IN, cache_flush, ttl: 120, rdata };
        writer.push(Section::Answer, &record);
    }
    writer.finish().to_vec()
}
