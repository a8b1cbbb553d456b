//! The packets that are read, built and sent.

use mdns::wire::{
    Class, Header, Mode, NameBuf, Question, RData, Record, RecordData, RecordType, Section, Srv, Txt, Writer,
};

/// What all services here are of.
pub const TYPE: &str = "_http._tcp";
/// Services that the publisher publishes.
pub const SERVICES: usize = 1_000;

/// The announcement of a printer: PTR, SRV, TXT, A, AAAA in 166 bytes.
#[must_use]
pub fn response() -> Vec<u8> {
    let parts: [&[u8]; 6] = [
        b"\0\0\x84\0\0\0\0\x01\0\0\0\x04",
        b"\x04_ipp\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x0c\x09My.Print!\xc0\x0c",
        b"\xc0\x27\0\x21\x80\x01\0\0\0\x78\0\x14\0\0\0\0\x02\x77\x0bcellar-nas1\xc0\x16",
        b"\xc0\x27\0\x10\x80\x01\0\0\x11\x94\0\x1b\x09txtvers=1\x08qtotal=1\x07rp=fast",
        b"\xc0\x45\0\x01\x80\x01\0\0\0\x78\0\x04\xc0\x00\x02\x01",
        b"\xc0\x45\0\x1c\x80\x01\0\0\0\x78\0\x10\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
    ];
    let bytes = parts.concat();
    assert_eq!(bytes.len(), 166);
    bytes
}

/// A record that somebody owns, to be written time and again.
pub struct Own {
    /// Where it goes.
    pub section: Section,
    /// Its owner name.
    pub name: NameBuf,
    /// Whether the set is unique.
    pub cache_flush: bool,
    /// Seconds.
    pub ttl: u32,
    /// Its data.
    pub data: RecordData,
}

fn parsed(text: &str) -> NameBuf {
    text.parse().expect("a name")
}

/// The records of [`response`].
#[must_use]
pub fn own_records() -> Vec<Own> {
    let (service, instance) = (parsed("_ipp._tcp.local"), parsed(r"My\.Print!._ipp._tcp.local"));
    let host = parsed("cellar-nas1.local");
    let srv = RData::Srv(Srv { priority: 0, weight: 0, port: 631, target: host.as_name() });
    let txt = Txt::parse(b"\x09txtvers=1\x08qtotal=1\x07rp=fast").expect("well-formed");
    let own = |section, name: &NameBuf, cache_flush, ttl, data: RData<'_>| Own {
        section,
        name: name.clone(),
        cache_flush,
        ttl,
        data: RecordData::new(&data),
    };
    let (answer, more) = (Section::Answer, Section::Additional);
    vec![
        own(answer, &service, false, 4_500, RData::Ptr(instance.as_name())),
        own(more, &instance, true, 120, srv),
        own(more, &instance, true, 4_500, RData::Txt(txt)),
        own(more, &host, true, 120, RData::A([192, 0, 2, 1].into())),
        own(more, &host, true, 120, RData::Aaaa([0xfe80, 0, 0, 0, 0, 0, 0, 1].into())),
    ]
}

/// Writes the records into `buf` and returns the length of the message.
pub fn write(own: &[Own], buf: &mut [u8]) -> usize {
    let mut writer = Writer::new(buf, Mode::Mdns, Header::RESPONSE);
    for Own { section, name, cache_flush, ttl, data } in own {
        let (name, class, rdata) = (name.as_name(), Class::IN, data.as_rdata());
        assert!(
            writer.push(*section, &Record { name, class, cache_flush: *cache_flush, ttl: *ttl, rdata }),
            "there is room"
        );
    }
    writer.finish().len()
}

/// A question by multicast.
#[must_use]
pub fn question(name: &NameBuf, record_type: RecordType) -> Vec<u8> {
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
    let question = Question { name: name.as_name(), record_type, class: Class::IN, unicast_response: false };
    assert!(writer.push_question(&question), "there is room");
    writer.finish().to_vec()
}

/// What service `number` is called.
#[must_use]
pub fn service_name(number: usize) -> String {
    format!("Service number {number}")
}

/// The name of its SRV record.
#[must_use]
pub fn instance(number: usize) -> NameBuf {
    parsed(&format!("{TYPE}.local")).with_first_label(service_name(number)).expect("a label")
}

/// The announcement of one of many services that nobody looks for.
#[must_use]
pub fn foreign(number: u64) -> Vec<u8> {
    let service = parsed("_other._tcp.local");
    let instance = service.with_first_label(format!("Other {number}")).expect("a label");
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
    let rdata = RData::Ptr(instance.as_name());
    let record = Record { name: service.as_name(), class: Class::IN, cache_flush: false, ttl: 4_500, rdata };
    assert!(writer.push(Section::Answer, &record), "there is room");
    writer.finish().to_vec()
}
