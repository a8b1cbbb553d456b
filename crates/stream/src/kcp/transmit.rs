//! Datagrams out: acknowledgements, questions about windows, payload.

use std::time::Instant;

use super::segment::{Command, Header, OVERHEAD};
use super::send::Next;
use super::{Control, Kcp};
use crate::rate::MILLISECOND;

/// Acknowledgements that make a datagram worth sending before their time.
const ACKS_WORTH_SENDING: usize = 16;
/// The longest that they wait between two ends of ours, whatever the mode allows.
const ACK_DELAY: u64 = MILLISECOND;
/// Bytes in flight after a silence, in segments, until something comes back, when there is no model.
const SILENT_WINDOW: u64 = 16;

impl Kcp {
    /// Writes one datagram to `buf`, which must have room for the largest MTU that was ever set; gives its size, at most the MTU
    /// but for a segment that was cut when that was larger. `None` when nothing is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        if self.dead {
            return None;
        }
        let now = self.elapsed(now);
        let window = self.receiver.window();
        let (whole, room) = (buf, self.config.mtu);
        // A segment of an earlier, larger MTU has a datagram of its own.
        let again = self.sender.next(0).map_or(0, |(_, size)| size);
        let room = room.max(again).min(whole.len());
        let buf = &mut whole[..room];
        let mut header = Header {
            conversation: self.conversation,
            command: Command::Ack,
            fragment: 0,
            window: window as u16,
            timestamp: 0,
            sequence: 0,
            unacknowledged: self.receiver.next(),
            length: 0,
        };
        let mut size = 0;
        if self.acks_due_at().is_some_and(|at| at <= now) {
            size = self.put_acks(&mut header, buf, size);
        }
        for (command, wanted) in [(Command::WindowAsk, &mut self.ask), (Command::WindowTell, &mut self.tell)]
        {
            if *wanted && buf.len() - size >= OVERHEAD {
                *wanted = false;
                let header = Header { command, timestamp: 0, sequence: 0, ..header };
                size = put(buf, size, &header, &[]);
            }
        }
        size = self.put_data(&mut header, buf, size, now);
        if size == 0 {
            self.arm_trim(now);
            return None;
        }
        let waiting = self.receiver.acks_waiting().0;
        if waiting > 0 && waiting * OVERHEAD <= buf.len() - size {
            // They cost no datagram of their own here.
            size = self.put_acks(&mut header, buf, size);
        }
        self.receiver.told(window);
        self.counted.datagrams_sent += 1;
        self.counted.bytes_sent += size as u64;
        Some(size)
    }

    /// When the waiting acknowledgements must leave.
    pub(super) fn acks_due_at(&self) -> Option<u64> {
        let (waiting, since) = self.receiver.acks_waiting();
        let since = since?;
        if self.config.ack_no_delay || waiting >= ACKS_WORTH_SENDING {
            return Some(since);
        }
        Some(since + ACK_DELAY.min(self.config.mode.interval.as_nanos() as u64))
    }

    fn put_acks(&mut self, header: &mut Header, buf: &mut [u8], mut size: usize) -> usize {
        self.receiver.choose_acks();
        header.command = Command::Ack;
        header.length = 0;
        while buf.len() - size >= OVERHEAD
            && let Some((sequence, timestamp)) = self.receiver.pop_ack()
        {
            header.sequence = sequence;
            header.timestamp = timestamp;
            size = put(buf, size, header, &[]);
        }
        size
    }

    fn put_data(&mut self, header: &mut Header, buf: &mut [u8], mut size: usize, now: u64) -> usize {
        let begin = size;
        self.paced = false;
        let window = self.config.send_window.min(self.remote_window);
        let congestion_window = self.congestion_window().unwrap_or(u64::MAX);
        header.command = Command::Push;
        header.timestamp = self.timestamp(now);
        loop {
            let Some((next, needed)) = self.sender.next(window) else {
                self.note_nothing_to_send(now, congestion_window);
                break;
            };
            if needed > buf.len() - size {
                break;
            }
            let in_flight = self.sender.in_flight();
            if in_flight > 0 && in_flight + needed as u64 > congestion_window {
                break;
            }
            if size == begin && !self.may_leave(now) {
                self.paced = true;
                break;
            }
            size = self.put_segment(next, header, buf, size, now);
        }
        if size > begin {
            self.active = true;
            self.expecting_since.get_or_insert(now);
            if let Control::Bbr(_, pacer) = &mut self.control {
                pacer.spend(size - begin);
            }
        }
        size
    }

    #[inline]
    fn put_segment(
        &mut self,
        next: Next,
        header: &mut Header,
        buf: &mut [u8],
        size: usize,
        now: u64,
    ) -> usize {
        let Some((sequence, payload)) = self.sender.transmit(next, now, header.timestamp) else {
            return size;
        };
        header.sequence = sequence;
        header.length = payload.len() as u32;
        put(buf, size, header, payload)
    }

    fn may_leave(&mut self, now: u64) -> bool {
        match &mut self.control {
            Control::Bbr(_, pacer) => pacer.ready(now),
            _ => true,
        }
    }

    /// Nothing to send again, and either nothing new or no window for it.
    fn note_nothing_to_send(&mut self, now: u64, congestion_window: u64) {
        let in_flight = self.sender.in_flight();
        if self.sender.queued() == 0 {
            // A window that the far end closes is a limit of the path as well as any other; this is not.
            if in_flight < congestion_window {
                self.sender.delivery.mark_app_limited(in_flight);
            }
        } else if self.remote_window == 0 && self.ask_at.is_none() {
            self.ask_at = Some(now + self.ask_interval);
        }
    }

    pub(super) fn congestion_window(&self) -> Option<u64> {
        match &self.control {
            Control::Unlimited { silent: false } => None,
            Control::Unlimited { silent: true } => Some(SILENT_WINDOW * self.config.mtu as u64),
            Control::Classic(classic) => Some(classic.window()),
            Control::Bbr(model, _) => Some(model.window()),
        }
    }
}

/// Appends a segment to a datagram that has room for it.
#[inline]
fn put(buf: &mut [u8], size: usize, header: &Header, payload: &[u8]) -> usize {
    let end = size + OVERHEAD;
    buf[size..end].copy_from_slice(&header.encode());
    buf[end..end + payload.len()].copy_from_slice(payload);
    end + payload.len()
}
