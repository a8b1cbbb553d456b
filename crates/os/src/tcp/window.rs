//! Cutting what was read into datagrams, and laying them out in slots.

use std::net::SocketAddr;

use carrier::tcp_frame::FRAME_HEADER;
use packet::{Ecn, RecvSlot};

use super::DATAGRAM_MAX;

/// Bytes read in one call.
const READ_BYTES: usize = 128 << 10;
/// Datagrams in one slot, as many as in a train of UDP: receivers reckon with that.
const TRAIN_SEGMENTS_MAX: usize = 64;
/// The longest beginning of a frame that is not whole yet, plus one.
const FRAME_MAX: usize = FRAME_HEADER + DATAGRAM_MAX;

/// What was read from one connection and is not cut yet. Every link has one; what a connection's frame lacks is kept
/// with the connection between turns.
#[derive(Debug)]
pub(super) struct Window {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

/// Why cutting has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The slots are full.
    SlotsFull,
    /// There is no whole frame left.
    Incomplete,
    /// A length is 0 or too large: there is no way on.
    Malformed,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { buf: vec![0; FRAME_MAX + READ_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Begins with the beginning of a frame that came earlier.
    pub(super) fn begin(&mut self, partial: &[u8]) {
        let len = partial.len().min(FRAME_MAX);
        self.buf[..len].copy_from_slice(&partial[..len]);
        (self.start, self.end) = (0, len);
    }

    /// Where to read to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let to = self.buf.len().min(self.end + READ_BYTES);
        &mut self.buf[self.end..to]
    }

    /// `len` bytes were read into [`space`](Self::space).
    pub(super) fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.buf.len());
    }

    /// What is not cut: after [`Cut::Incomplete`] the beginning of a frame.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Moves whole datagrams to `slots`. Returns how many were `too_long` for theirs as well.
    pub(super) fn cut(&mut self, from: SocketAddr, slots: &mut Slots<'_>) -> (Cut, u64) {
        let mut too_long = 0;
        let why = loop {
            let Some((header, rest)) = self.rest().split_first_chunk::<FRAME_HEADER>() else {
                break Cut::Incomplete;
            };
            let len = usize::from(u16::from_be_bytes(*header));
            if len == 0 || len > DATAGRAM_MAX {
                break Cut::Malformed;
            }
            let Some(datagram) = rest.get(..len) else { break Cut::Incomplete };
            match slots.push(from, datagram) {
                Pushed::Done => {}
                Pushed::TooLong => too_long += 1,
                Pushed::Full => break Cut::SlotsFull,
            }
            self.start += FRAME_HEADER + len;
        };
        (why, too_long)
    }
}

/// Whether a datagram has found a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Done,
    Full,
    TooLong,
}

/// Slots that are filled from the front; datagrams of one size that follow each other share one.
pub(super) struct Slots<'a> {
    slots: &'a mut [RecvSlot],
    filled: usize,
    /// Datagrams in all slots.
    pub(super) datagrams: u64,
    /// Datagrams in the last filled one.
    in_last: usize,
    /// The last one takes more: none in it was shorter than the first.
    open: bool,
}

impl<'a> Slots<'a> {
    pub(super) fn new(slots: &'a mut [RecvSlot]) -> Self {
        Self { slots, filled: 0, datagrams: 0, in_last: 0, open: false }
    }

    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    pub(super) fn push(&mut self, from: SocketAddr, datagram: &[u8]) -> Pushed {
        if !self.join(from, datagram) {
            let Some(slot) = self.slots.get_mut(self.filled) else { return Pushed::Full };
            let Some(room) = slot.buf.get_mut(..datagram.len()) else { return Pushed::TooLong };
            room.copy_from_slice(datagram);
            slot.len = datagram.len();
            slot.segment_size = datagram.len();
            slot.from = from;
            slot.to = None;
            slot.ecn = Ecn::NotEct;
            self.filled += 1;
            self.in_last = 1;
            self.open = true;
        }
        self.datagrams += 1;
        Pushed::Done
    }

    /// Puts a datagram behind those of the last slot, if it belongs there.
    fn join(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        if !self.open || self.in_last >= TRAIN_SEGMENTS_MAX {
            return false;
        }
        let Some(slot) = self.filled.checked_sub(1).and_then(|last| self.slots.get_mut(last)) else {
            return false;
        };
        if slot.from != from || datagram.len() > slot.segment_size {
            return false;
        }
        let end = slot.len + datagram.len();
        let Some(room) = slot.buf.get_mut(slot.len..end) else { return false };
        room.copy_from_slice(datagram);
        slot.len = end;
        self.open = datagram.len() == slot.segment_size;
        self.in_last += 1;
        true
    }

    /// Makes one slot an empty one, if none is filled: there may be more, but others shall have a turn.
    pub(super) fn or_empty(mut self) -> usize {
        if self.filled == 0
            && let Some(slot) = self.slots.first_mut()
        {
            slot.len = 0;
            slot.segment_size = 0;
            self.filled = 1;
        }
        self.filled
    }
}

#[cfg(test)]
mod tests {
    use carrier::tcp_frame::frame_header;

    use super::*;

    fn from(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn stream(lens: &[usize]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (number, &len) in lens.iter().enumerate() {
            let datagram = vec![number as u8; len];
            stream.extend_from_slice(&frame_header(&datagram).unwrap());
            stream.extend_from_slice(&datagram);
        }
        stream
    }

    fn window(bytes: &[u8]) -> Window {
        let mut window = Window::new();
        window.begin(&[]);
        window.space()[..bytes.len()].copy_from_slice(bytes);
        window.filled(bytes.len());
        window
    }

    fn slots(count: usize, capacity: usize) -> Vec<RecvSlot> {
        (0..count).map(|_| RecvSlot::new(capacity)).collect()
    }

    #[test]
    fn datagrams_of_one_size_share_a_slot_until_a_shorter_one_ends_the_train() {
        let mut room = slots(8, 10_000);
        let mut slots = Slots::new(&mut room);
        let mut window = window(&stream(&[100, 100, 100, 40, 40, 200, 200]));
        assert_eq!(window.cut(from(1), &mut slots), (Cut::Incomplete, 0));
        assert_eq!((slots.filled(), slots.datagrams), (3, 7));
        let shapes: Vec<_> = room[..3].iter().map(|slot| (slot.len, slot.segment_size)).collect();
        assert_eq!(shapes, [(340, 100), (40, 40), (400, 200)]);
        assert!(window.rest().is_empty());
    }

    #[test]
    fn a_train_ends_at_the_end_of_its_slot_and_at_sixty_four() {
        let mut room = slots(2, 250);
        let mut slots = Slots::new(&mut room);
        let mut window_of_six = window(&stream(&[100; 6]));
        assert_eq!(window_of_six.cut(from(1), &mut slots), (Cut::SlotsFull, 0));
        assert_eq!(window_of_six.rest().len(), 2 * 102, "what found no slot stays");
        assert_eq!(room.iter().map(|slot| slot.len).collect::<Vec<_>>(), [200, 200]);

        let mut room = self::slots(2, 10_000);
        let mut slots = Slots::new(&mut room);
        window(&stream(&[10; 70])).cut(from(1), &mut slots);
        assert_eq!(room.iter().map(|slot| slot.len).collect::<Vec<_>>(), [640, 60]);
    }

    #[test]
    fn two_connections_never_share_a_slot() {
        let mut room = slots(4, 1_000);
        let mut slots = Slots::new(&mut room);
        assert_eq!(slots.push(from(1), b"ab"), Pushed::Done);
        assert_eq!(slots.push(from(2), b"cd"), Pushed::Done);
        assert_eq!(slots.filled(), 2);
    }

    #[test]
    fn the_longest_frame_in_any_two_pieces_is_whole_again() {
        let whole = stream(&[DATAGRAM_MAX]);
        for cut in [1, 2, 3, 5_000, whole.len() - 1] {
            let mut room = slots(2, 10_000);
            let mut slots = Slots::new(&mut room);
            let mut first = window(&whole[..cut]);
            assert_eq!(first.cut(from(1), &mut slots), (Cut::Incomplete, 0));
            let kept = first.rest().to_vec();
            let mut second = Window::new();
            second.begin(&kept);
            second.space()[..whole.len() - cut].copy_from_slice(&whole[cut..]);
            second.filled(whole.len() - cut);
            assert_eq!(second.cut(from(1), &mut slots), (Cut::Incomplete, 0));
            assert_eq!(slots.datagrams, 1, "cut at {cut}");
        }
    }

    #[test]
    fn a_length_of_zero_or_too_much_stops_behind_what_was_whole() {
        for wrong in [0, DATAGRAM_MAX as u16 + 1, u16::MAX] {
            let mut room = slots(4, 10_000);
            let mut slots = Slots::new(&mut room);
            let bytes = [&stream(&[5])[..], &wrong.to_be_bytes()].concat();
            assert_eq!(window(&bytes).cut(from(1), &mut slots), (Cut::Malformed, 0));
            assert_eq!(slots.datagrams, 1);
        }
    }

    #[test]
    fn a_datagram_longer_than_its_slot_is_counted_and_the_next_is_not_lost() {
        let mut room = slots(4, 50);
        let mut slots = Slots::new(&mut room);
        assert_eq!(window(&stream(&[60, 20])).cut(from(1), &mut slots), (Cut::Incomplete, 1));
        assert_eq!((slots.filled(), slots.datagrams), (1, 1));
        assert_eq!(room[0].buf[..20], [1; 20]);
    }
}
