//! What the packet path costs the allocator: nothing.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use allocation_counter::measure;
use handshake::{DataHeader, HEADER_LEN, TAG_LEN};
use support::Pair;

#[test]
fn sealing_and_opening_allocate_nothing() {
    const PACKETS: u64 = 1_000;
    const PLAINTEXT: [u8; 1_400] = [7; 1_400];
    for (form, mut pair) in Pair::every_form() {
        let (alice, bob) = pair.sessions();
        let mut packet = [0; HEADER_LEN + PLAINTEXT.len() + TAG_LEN];
        let mut opened_bytes = 0;
        let mut exchange = |packets: u64| {
            let sealer = alice.sealer(0);
            let first = sealer.reserve(packets).unwrap();
            for counter in first..first + packets {
                packet[HEADER_LEN..][..PLAINTEXT.len()].copy_from_slice(&PLAINTEXT);
                sealer.seal(counter, &mut packet);
                assert_ne!(packet[HEADER_LEN..][..PLAINTEXT.len()], PLAINTEXT);
                let lane = DataHeader::parse(&packet).unwrap().lane;
                bob.opener(lane).unwrap().open(&mut packet).unwrap();
                assert_eq!(packet[HEADER_LEN..][..PLAINTEXT.len()], PLAINTEXT);
                opened_bytes += PLAINTEXT.len();
            }
        };
        // The keys of a lane are derived, and put on the heap, when it is first used.
        assert!(measure(|| exchange(1)).count_total > 0, "{form}: the measurement measures");
        let steady = measure(|| exchange(PACKETS));
        assert_eq!((steady.count_total, steady.bytes_total), (0, 0), "{form}");
        assert_eq!(opened_bytes, PLAINTEXT.len() * (PACKETS as usize + 1), "{form}: the work was done");
    }
}
