//! What goes out: whose turn it is, and the frames of one turn.
//!
//! Two queues, as in FQ-CoDel (RFC 8290 §4.2): a stream that has just got something to send goes into the first and is
//! served before those that have been sending all along, for one turn. So a keystroke does not wait behind downloads,
//! and the downloads share the rest, a frame each in turn. A stream that has had its turn in the first queue must pass
//! through the second before it may enter the first again: nobody starves.

use super::frame::{HEADER_LEN, UPDATE_LEN, Update};
use super::state::{SendState, Stream, Turn};
use super::{CAPABILITIES_ID, CUT_OFF, Changes, Command, Header, Smux};

/// A frame is not cut to less than this only because the transport has no more room just now.
const PIECE_MIN: usize = 512;

impl Smux {
    /// Gives `sink` frames for the transport, at most `room` bytes in all, and returns how many. A frame may come in
    /// several pieces, and what the session says about itself comes first.
    pub fn poll_output(&mut self, room: usize, mut sink: impl FnMut(&[u8])) -> usize {
        let mut out = Out { room, left: room, version: self.config.version, frames: 0, sink: &mut sink };
        if self.session_frames(&mut out) {
            while let Some((slot, turn)) = self.next_turn() {
                let done = self.frames_of(slot, &mut out);
                self.end_turn(slot, turn, done);
                if !done {
                    break;
                }
            }
        }
        let (written, frames) = (out.room - out.left, out.frames);
        self.stats.frames_sent += frames;
        written
    }

    /// Whether [`poll_output`](Self::poll_output) has something, given room.
    pub fn has_output(&self) -> bool {
        self.nop_pending
            || self.capabilities_pending
            || !self.refusals.is_empty()
            || !self.new_turns.is_empty()
            || !self.old_turns.is_empty()
    }

    /// Gives a stream a place in a queue if it has something to send and none yet.
    pub(super) fn schedule(&mut self, slot: usize) {
        let (half_closes, limited) = (self.half_closes, self.config.version >= 2);
        let Some(stream) = self.streams[slot].as_mut() else { return };
        if stream.turn == Turn::None && has_work(stream, half_closes, limited) {
            stream.turn = Turn::New;
            self.new_turns.push_back(slot);
        }
    }

    /// Frames that belong to no stream. False when there is no room for them.
    fn session_frames(&mut self, out: &mut Out<'_>) -> bool {
        if self.capabilities_pending {
            self.capabilities_pending = !out.header(Command::Nop, 0, CAPABILITIES_ID);
        }
        if self.nop_pending {
            self.nop_pending = !out.header(Command::Nop, 0, 0);
        }
        while let Some(&id) = self.refusals.front() {
            // Twice: neither direction exists.
            if out.left < 2 * HEADER_LEN {
                break;
            }
            out.header(Command::Fin, 0, id);
            out.header(Command::Fin, 0, id);
            self.refusals.pop_front();
        }
        !self.capabilities_pending && !self.nop_pending && self.refusals.is_empty()
    }

    fn next_turn(&mut self) -> Option<(usize, Turn)> {
        let new = self.new_turns.pop_front().map(|slot| (slot, Turn::New));
        new.or_else(|| self.old_turns.pop_front().map(|slot| (slot, Turn::Old)))
    }

    /// Puts a stream where it belongs after a turn: back to the front if the room did not suffice.
    fn end_turn(&mut self, slot: usize, turn: Turn, done: bool) {
        let (half_closes, limited) = (self.half_closes, self.config.version >= 2);
        let Some(stream) = self.streams[slot].as_mut() else { return };
        stream.turn = match (done, turn) {
            (false, turn) => turn,
            (true, Turn::New) => Turn::Old,
            (true, _) if has_work(stream, half_closes, limited) => Turn::Old,
            (true, _) => Turn::None,
        };
        match stream.turn {
            Turn::None => self.remove_if_over(slot),
            Turn::New => self.new_turns.push_front(slot),
            Turn::Old if done => self.old_turns.push_back(slot),
            Turn::Old => self.old_turns.push_front(slot),
        }
    }

    /// The frames of one turn of one stream. False when the room did not suffice.
    fn frames_of(&mut self, slot: usize, out: &mut Out<'_>) -> bool {
        let reserved = self.streams[slot].as_ref().map_or(0, |stream| stream.reserved);
        let window = self.window(reserved);
        let send_limit = self.send_limit();
        let (half_closes, frame_bytes_max) = (self.half_closes, self.config.frame_bytes_max);
        let first_window = self.config.stream_first_window;
        let Some(stream) = self.streams[slot].as_mut() else { return true };
        let id = stream.id.0;
        if stream.syn_pending {
            stream.syn_pending = !out.header(Command::Syn, 0, id);
        }
        if stream.update_pending && !stream.syn_pending {
            stream.update_pending = !out.update(id, Update { consumed: stream.consumed, window });
            if !stream.update_pending {
                stream.consumed_told = stream.consumed;
                stream.window_told = window;
                stream.reserved = window.saturating_sub(first_window) as usize;
                self.reserved = self.reserved - reserved + stream.reserved;
                let edge = stream.consumed.wrapping_add(window);
                if edge.wrapping_sub(stream.granted) as i32 > 0 {
                    stream.granted = edge;
                }
            }
        }
        if stream.syn_pending || stream.update_pending {
            return false;
        }

        let allowed = if out.version >= 2 { stream.send_window() } else { usize::MAX };
        let wanted = stream.send.len().min(allowed).min(frame_bytes_max);
        let count = wanted.min(out.left.saturating_sub(HEADER_LEN)).min(usize::from(u16::MAX));
        if count < wanted.min(PIECE_MIN) {
            return false;
        }
        if count > 0 {
            out.header(Command::Push, count as u16, id);
            let mut left = count;
            while left > 0 {
                let piece = stream.send.front(left);
                out.bytes(piece);
                let len = piece.len();
                stream.send.consume(&mut self.send_chunks, len);
                left -= len;
            }
            stream.sent = stream.sent.wrapping_add(count as u32);
        }
        if fin_due(stream, half_closes) {
            let length = if stream.aborted && half_closes { CUT_OFF } else { 0 };
            if !out.header(Command::Fin, length, id) {
                return false;
            }
            stream.send_state = SendState::Finished;
        }
        if stream.stop_pending && stream.send_state == SendState::Finished {
            stream.stop_pending = !out.header(Command::Fin, 0, id);
            if stream.stop_pending {
                return false;
            }
        }
        // Half empty before the writer is woken: not for every frame.
        if stream.write_blocked && stream.send.len() <= send_limit / 2 {
            stream.write_blocked = false;
            self.tell(slot, Changes { writable: true, ..Changes::default() });
        }
        true
    }
}

/// Frames on their way to the sink.
struct Out<'a> {
    room: usize,
    left: usize,
    version: u8,
    frames: u64,
    sink: &'a mut dyn FnMut(&[u8]),
}

impl Out<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.left -= bytes.len();
        (self.sink)(bytes);
    }

    /// False when there is no room.
    fn header(&mut self, command: Command, length: u16, stream: u32) -> bool {
        let fits = self.left >= HEADER_LEN;
        if fits {
            self.frames += 1;
            self.bytes(&Header { version: self.version, command, length, stream }.encode());
        }
        fits
    }

    /// False when there is no room.
    fn update(&mut self, stream: u32, update: Update) -> bool {
        let fits = self.left >= HEADER_LEN + UPDATE_LEN;
        if fits {
            self.header(Command::Update, UPDATE_LEN as u16, stream);
            self.bytes(&update.encode());
        }
        fits
    }
}

fn has_work(stream: &Stream, half_closes: bool, limited: bool) -> bool {
    let can_send = !stream.send.is_empty() && (!limited || stream.send_window() > 0);
    stream.syn_pending
        || stream.update_pending
        || can_send
        || fin_due(stream, half_closes)
        || (stream.stop_pending && stream.send_state == SendState::Finished)
}

/// Whether the FIN is next, and would cut nothing off.
fn fin_due(stream: &Stream, half_closes: bool) -> bool {
    let harmless = half_closes || stream.received_fin || stream.closed || stream.lingered;
    stream.send_state == SendState::Finishing && stream.send.is_empty() && harmless
}
