//! A DNS message off the link, from whoever can send a datagram to it.
//!
//! What is read must be safe to look at in every way there is; and written again by our writer, it must say the same.

use mdns::wire::{
    Header, MESSAGE_LEN_MAX, Message, Mode, Name, NameBuf, ParseError, RData, Record, RecordData, Section,
    Writer,
};

/// Room for any message that was read, written without compression: each of its names grows to 255 bytes at most.
const WRITTEN_LEN_MAX: usize = 1 << 19;

/// # Panics
/// When what was read cannot be looked at, or is something else once it was written.
pub fn run(input: &[u8]) {
    let Ok(message) = Message::parse(input) else { return };
    assert!(input.starts_with(message.as_bytes()));
    message.questions().for_each(|question| look_at_name(question.name));
    message.records().for_each(|record| look_at_record(&record));
    assert_eq!(
        message.questions().count(),
        message.questions().len(),
        "questions that were counted but are not"
    );
    assert_eq!(message.records().count(), message.records().len(), "records that were counted but are not");
    write_again(&message);
}

fn look_at_name(name: Name<'_>) {
    let owned = name.to_owned();
    assert_eq!(owned, name, "a copy that is another name");
    assert_eq!(
        owned.to_string().parse(),
        Ok(owned.clone()),
        "a name that is read otherwise than it is shown"
    );
    assert_eq!(owned.as_wire().len(), name.wire_len(), "a name of another length");
    assert!(name.is_within(NameBuf::default().as_name()), "a name outside of the root");
}

fn look_at_record(record: &Record<'_>) {
    look_at_name(record.name);
    match record.rdata {
        RData::Ptr(name) | RData::Cname(name) => look_at_name(name),
        RData::Srv(srv) => look_at_name(srv.target),
        RData::Nsec(nsec) => {
            look_at_name(nsec.next);
            assert!(nsec.types.types().all(|record_type| nsec.types.contains(record_type)));
        }
        RData::Txt(txt) => txt.attributes().for_each(|attribute| {
            let key = std::str::from_utf8(attribute.key);
            assert!(
                key.is_err() || key.is_ok_and(|key| txt.get(key).is_some()),
                "a key without an attribute"
            );
        }),
        RData::A(_) | RData::Aaaa(_) | RData::Other(_) => {}
    }
    let data = RecordData::new(&record.rdata);
    assert_eq!(data, record.rdata, "a copy that is other data");
    assert!(record.rdata.cmp_uncompressed(data.as_bytes()).is_eq(), "data that differs from itself");
    assert!(!record.to_string().is_empty());
}

fn write_again(message: &Message<'_>) {
    let mut buf = vec![0; WRITTEN_LEN_MAX];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, message.header());
    assert!(message.questions().all(|question| writer.push_question(&question)));
    for section in [Section::Answer, Section::Authority, Section::Additional] {
        assert!(message.section(section).all(|record| writer.push(section, &record)));
    }
    let written = writer.finish();
    assert_eq!(Header::read(written), Some(message.header()));
    match Message::parse(written) {
        Ok(again) => assert_eq!(again, *message, "a message that says something else once it is written"),
        // The writer knows fewer suffixes than a message can have.
        Err(error) => assert_eq!((error, written.len() > MESSAGE_LEN_MAX), (ParseError::TooLong, true)),
    }
}
