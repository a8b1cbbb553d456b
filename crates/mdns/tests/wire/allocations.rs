//! Reading and writing allocate nothing.

use allocation_counter::measure;
use mdns::wire::{Header, Message, Mode, RData, RecordData, Section, Writer};

use super::reading::printer;

#[test]
fn a_message_is_read_walked_looked_up_and_written_without_an_allocation() {
    let bytes = printer();
    let owned: Vec<_> = Message::parse(&bytes)
        .expect("well-formed")
        .records()
        .map(|record| (record.name.to_owned(), RecordData::new(&record.rdata)))
        .collect();
    let mut buf = [0; 1_440];
    let (mut known, mut len) = (0, 0);
    let allocations = measure(|| {
        let message = Message::parse(&bytes).expect("well-formed");
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
        for record in message.records() {
            known +=
                owned.iter().filter(|(name, data)| *name == record.name && *data == record.rdata).count();
            if let RData::Txt(txt) = record.rdata {
                assert!(txt.get("RP").is_some());
            }
            assert!(writer.push(Section::Answer, &record));
        }
        len = writer.finish().len();
    });
    assert_eq!((known, len), (5, bytes.len()));
    assert_eq!((allocations.count_total, allocations.bytes_total), (0, 0));
}
