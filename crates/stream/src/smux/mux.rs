//! The session: its streams, what arrives for them, and what the application does with them.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::time::Instant;

use super::buffer::Chunks;
use super::frame::{HEADER_LEN, UPDATE_LEN, Update};
use super::state::{SendState, Stream, Turn};
use super::{
    CAPABILITIES_ID, CUT_OFF, Changes, Command, Event, HalfClose, Header, OpenError, ReadError, Role,
    SmuxConfig, SmuxError, SmuxStats, StreamId, WhenFull, WriteError,
};

/// The least window that is ever granted: below it a stream would stutter.
const WINDOW_MIN: usize = 32 << 10;
/// What a stream may have waiting to be sent however much the others have.
const SEND_MIN: usize = 16 << 10;
/// Cutting a stream off that holds less than this would free too little.
const CUT_OFF_MIN: usize = 16 << 10;
/// Streams that wait to be told that there was no room for them.
const REFUSALS_MAX: usize = 1024;

/// Where in a frame the next byte belongs.
#[derive(Clone, Copy, Debug)]
enum Parse {
    /// Within a header or an update: `have` bytes are in `partial`.
    Header {
        have: usize,
    },
    Update {
        stream: u32,
        have: usize,
    },
    /// Within the payload of a PSH.
    Payload {
        stream: u32,
        left: usize,
    },
}

/// One end of a smux session. See the [module](super).
#[derive(Debug)]
pub struct Smux {
    pub(super) config: SmuxConfig,
    role: Role,
    next_id: Option<u32>,
    /// The slab: a stream keeps its slot until it is over.
    pub(super) streams: Vec<Option<Stream>>,
    free: Vec<usize>,
    by_id: BTreeMap<u32, usize>,
    parse: Parse,
    partial: [u8; HEADER_LEN],
    receive_chunks: Chunks,
    pub(super) send_chunks: Chunks,
    /// Bytes set aside for the windows of all streams, the first ones excepted.
    pub(super) reserved: usize,
    /// How often anything was read: tells which stream was read the longest ago.
    reads: u64,
    /// Slots with changes to tell.
    events: VecDeque<usize>,
    /// Streams that have just got something to send, and those that have had a turn already.
    pub(super) new_turns: VecDeque<usize>,
    pub(super) old_turns: VecDeque<usize>,
    /// Refused streams that are to be told so.
    pub(super) refusals: VecDeque<u32>,
    pub(super) nop_pending: bool,
    pub(super) capabilities_pending: bool,
    /// Both ends end one direction with a first FIN.
    pub(super) half_closes: bool,
    /// When to look at a stream whose FIN waits for an answer; in order.
    lingering: VecDeque<(Instant, StreamId)>,
    last_received: Instant,
    next_nop: Instant,
    dead: bool,
    pub(super) stats: SmuxStats,
}

impl Smux {
    /// A session whose transport has just been made.
    pub fn new(role: Role, config: SmuxConfig, now: Instant) -> Self {
        let half_closes = config.half_close == HalfClose::Always;
        Self {
            role,
            next_id: Some(if role == Role::Client { 3 } else { 2 }),
            streams: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            parse: Parse::Header { have: 0 },
            partial: [0; HEADER_LEN],
            receive_chunks: Chunks::default(),
            send_chunks: Chunks::default(),
            reserved: 0,
            reads: 0,
            events: VecDeque::new(),
            new_turns: VecDeque::new(),
            old_turns: VecDeque::new(),
            refusals: VecDeque::new(),
            nop_pending: false,
            capabilities_pending: !half_closes && role == Role::Client,
            half_closes,
            lingering: VecDeque::new(),
            last_received: now,
            next_nop: now + config.keepalive_interval,
            dead: false,
            stats: SmuxStats::default(),
            config,
        }
    }

    /// Opens a stream. The other end learns of it with the next output.
    ///
    /// # Errors
    /// [`OpenError`]: there are too many already, or there have been too many.
    pub fn open(&mut self, now: Instant) -> Result<StreamId, OpenError> {
        if self.by_id.len() >= self.config.streams_max {
            return Err(OpenError::TooMany { limit: self.config.streams_max });
        }
        let id = loop {
            let id = self.next_id.ok_or(OpenError::IdsExhausted)?;
            self.next_id = id.checked_add(2);
            if !self.by_id.contains_key(&id) {
                break StreamId(id);
            }
        };
        let slot = self.insert(Stream::new(id, self.config.stream_first_window, now));
        if let Some(stream) = self.streams[slot].as_mut() {
            stream.syn_pending = true;
        }
        self.schedule(slot);
        Ok(id)
    }

    /// Takes as many of `bytes` as there is room for and returns how many; offer it the rest once something was
    /// read.
    ///
    /// # Errors
    /// [`SmuxError`]: what the other end says makes no sense. The session is over.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<usize, SmuxError> {
        let mut rest = bytes;
        if !bytes.is_empty() {
            self.last_received = now;
        }
        while !rest.is_empty() {
            match self.parse {
                Parse::Header { have } => {
                    let have = self.collect(have, HEADER_LEN, &mut rest);
                    self.parse = Parse::Header { have };
                    if have == HEADER_LEN {
                        self.parse = Parse::Header { have: 0 };
                        self.handle_header(Header::decode(self.partial, self.config.version)?, now);
                    }
                }
                Parse::Update { stream, have } => {
                    let have = self.collect(have, UPDATE_LEN, &mut rest);
                    self.parse = Parse::Update { stream, have };
                    if have == UPDATE_LEN {
                        self.parse = Parse::Header { have: 0 };
                        self.handle_update(stream, Update::decode(self.partial))?;
                    }
                }
                Parse::Payload { stream, left } => {
                    let piece = &rest[..left.min(rest.len())];
                    let taken = self.handle_payload(stream, piece, now)?;
                    if taken == 0 {
                        break;
                    }
                    rest = &rest[taken..];
                    self.parse = match left - taken {
                        0 => Parse::Header { have: 0 },
                        left => Parse::Payload { stream, left },
                    };
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Moves bytes from `rest` to `partial` until that has `want`, and returns how many it has.
    fn collect(&mut self, have: usize, want: usize, rest: &mut &[u8]) -> usize {
        let (front, behind) = rest.split_at(rest.len().min(want - have));
        self.partial[have..have + front.len()].copy_from_slice(front);
        *rest = behind;
        have + front.len()
    }

    fn handle_header(&mut self, header: Header, now: Instant) {
        self.stats.frames_received += 1;
        let id = header.stream;
        match header.command {
            Command::Syn => self.handle_syn(id, now),
            Command::Fin => self.handle_fin(id, header.length),
            Command::Push if header.payload_len() > 0 => {
                self.parse = Parse::Payload { stream: id, left: header.payload_len() };
            }
            Command::Update => self.parse = Parse::Update { stream: id, have: 0 },
            Command::Nop if id == CAPABILITIES_ID && !self.half_closes => {
                self.half_closes = true;
                self.capabilities_pending |= self.role == Role::Server;
                // What lingers need not linger any more.
                while let Some((_, id)) = self.lingering.pop_front() {
                    self.schedule_id(id.0);
                }
            }
            Command::Push | Command::Nop => {}
        }
    }

    fn handle_syn(&mut self, id: u32, now: Instant) {
        if self.by_id.contains_key(&id) {
            return;
        }
        if self.by_id.len() >= self.config.streams_max {
            self.stats.streams_refused += 1;
            if self.refusals.len() < REFUSALS_MAX {
                self.refusals.push_back(id);
            }
            return;
        }
        let slot = self.insert(Stream::new(StreamId(id), self.config.stream_first_window, now));
        self.tell(slot, Changes { opened: true, ..Changes::default() });
    }

    fn handle_fin(&mut self, id: u32, length: u16) {
        let Some(&slot) = self.by_id.get(&id) else { return };
        let Some(stream) = self.streams[slot].as_mut() else { return };
        // The first ends one direction; so does the second, of the other one. See the module's documentation.
        let stops = stream.received_fin || !self.half_closes;
        let mut changes = Changes { readable: !stream.received_fin, ..Changes::default() };
        stream.cut_off |= self.half_closes && !stream.received_fin && length == CUT_OFF;
        stream.received_fin = true;
        stream.update_pending = false;
        self.reserved -= std::mem::take(&mut stream.reserved);
        if stops && !stream.stopped {
            stream.stopped = true;
            stream.send.clear(&mut self.send_chunks);
            changes.writable = true;
        }
        self.tell(slot, changes);
        self.schedule(slot);
    }

    fn handle_update(&mut self, id: u32, update: Update) -> Result<(), SmuxError> {
        let Some(&slot) = self.by_id.get(&id) else { return Ok(()) };
        let Some(stream) = self.streams[slot].as_mut() else { return Ok(()) };
        let in_flight = stream.sent.wrapping_sub(stream.peer_consumed);
        if update.consumed.wrapping_sub(stream.peer_consumed) > in_flight {
            return Err(SmuxError::ConsumedTooMuch { stream: id });
        }
        stream.peer_consumed = update.consumed;
        stream.peer_window = update.window;
        self.schedule(slot);
        Ok(())
    }

    /// Takes payload of a stream and returns how many bytes: none when there is no room.
    fn handle_payload(&mut self, id: u32, bytes: &[u8], now: Instant) -> Result<usize, SmuxError> {
        let stream =
            self.by_id.get(&id).and_then(|slot| self.streams[*slot].as_mut().map(|stream| (*slot, stream)));
        let Some((slot, stream)) = stream.filter(|(_, stream)| stream.takes_payload()) else {
            self.stats.bytes_discarded += bytes.len() as u64;
            return Ok(bytes.len());
        };
        let room = self.config.receive_bytes_max.saturating_sub(self.receive_chunks.held());
        let taken = bytes.len().min(room + stream.receive.slack());
        if taken == 0 {
            if self.config.when_full == WhenFull::Wait {
                return Ok(0);
            }
            if self.config.version >= 2 && bytes.len() > stream.granted.wrapping_sub(stream.received) as usize
            {
                return Err(SmuxError::WindowExceeded { stream: id });
            }
            return Ok(self.handle_overrun(slot, bytes, now));
        }
        if self.config.version >= 2 && taken > stream.granted.wrapping_sub(stream.received) as usize {
            return Err(SmuxError::WindowExceeded { stream: id });
        }
        stream.receive.push(&mut self.receive_chunks, &bytes[..taken]);
        stream.received = stream.received.wrapping_add(taken as u32);
        stream.last_moved = now;
        self.tell(slot, Changes { readable: true, ..Changes::default() });
        Ok(taken)
    }

    /// There is no room for what arrives: the stream that was read the longest ago, of those that hold much, is cut off.
    fn handle_overrun(&mut self, slot: usize, bytes: &[u8], now: Instant) -> usize {
        let holders = self.streams.iter().enumerate().filter_map(|(slot, stream)| {
            let stream = stream.as_ref().filter(|stream| stream.receive.len() >= CUT_OFF_MIN)?;
            Some((stream.last_read, slot))
        });
        if let Some((_, victim)) = holders.min() {
            self.cut_off(victim);
        }
        let Some(stream) = self.streams[slot].as_mut().filter(|stream| stream.takes_payload()) else {
            self.stats.bytes_discarded += bytes.len() as u64;
            return bytes.len();
        };
        stream.receive.push(&mut self.receive_chunks, bytes);
        stream.received = stream.received.wrapping_add(bytes.len() as u32);
        stream.last_moved = now;
        self.tell(slot, Changes { readable: true, ..Changes::default() });
        bytes.len()
    }

    /// As if the other end had cut a stream off: who reads it learns of that and closes, which stops the other end. What we send
    /// is not concerned, nor is the other end's FIN, which is still to come.
    fn cut_off(&mut self, slot: usize) {
        let Some(stream) = self.streams[slot].as_mut() else { return };
        self.stats.streams_cut_off += 1;
        self.stats.bytes_discarded += stream.receive.len() as u64;
        self.reserved -= std::mem::take(&mut stream.reserved);
        stream.cut_off = true;
        stream.update_pending = false;
        stream.receive.clear(&mut self.receive_chunks);
        self.tell(slot, Changes { readable: true, ..Changes::default() });
    }

    /// From now on, the most bytes to hold that were received, and that wait to be sent: for whoever shares out memory among
    /// sessions. What was granted before is still taken.
    pub fn set_memory(&mut self, receive_bytes_max: usize, send_bytes_max: usize) {
        self.config.receive_bytes_max = receive_bytes_max;
        self.config.send_bytes_max = send_bytes_max;
    }

    /// What one stream may have waiting to be sent.
    pub(super) fn send_limit(&self) -> usize {
        let room = self.config.send_bytes_max.saturating_sub(self.send_chunks.held()) / 4;
        self.config.stream_send_bytes_max.min(room.max(SEND_MIN))
    }

    /// The received bytes of a stream, in as many pieces as `slices` has room for; returns the number of pieces. None
    /// is the end: nothing will follow.
    ///
    /// # Errors
    /// [`ReadError`]: nothing has arrived, the stream was cut off, or there is no such stream.
    pub fn peek<'a>(&'a self, id: StreamId, slices: &mut [IoSlice<'a>]) -> Result<usize, ReadError> {
        let stream = self.get(id).ok_or(ReadError::UnknownStream)?;
        match stream.receive.slices(slices) {
            0 if stream.cut_off => Err(ReadError::CutOff),
            0 if !stream.received_fin => Err(ReadError::Blocked),
            filled => Ok(filled),
        }
    }

    /// Frees the first `count` bytes that [`peek`](Self::peek) has shown.
    pub fn consume(&mut self, id: StreamId, count: usize) {
        let Some(&slot) = self.by_id.get(&id.0) else { return };
        let Some(stream) = self.streams[slot].as_mut() else { return };
        let count = count.min(stream.receive.len());
        stream.receive.consume(&mut self.receive_chunks, count);
        self.reads += 1;
        stream.last_read = self.reads;
        stream.consumed = stream.consumed.wrapping_add(count as u32);
        let untold = stream.consumed.wrapping_sub(stream.consumed_told);
        // A quarter of the window that the other end goes by: it may have shrunk to far less than was granted before. The first
        // one widens it from the initial guess.
        let due = untold >= stream.window_told / 4 || stream.consumed_told == 0;
        if self.config.version >= 2 && untold > 0 && due && stream.takes_payload() {
            stream.update_pending = true;
            self.schedule(slot);
        }
    }

    /// Reads into `buf` and returns how many bytes; 0 is the end.
    ///
    /// # Errors
    /// [`ReadError`]: nothing has arrived, the stream was cut off, or there is no such stream.
    pub fn read(&mut self, id: StreamId, buf: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while filled < buf.len() {
            let mut slices = [IoSlice::new(&[])];
            match self.peek(id, &mut slices) {
                Err(error) if filled == 0 => return Err(error),
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            let count = slices[0].len().min(buf.len() - filled);
            buf[filled..filled + count].copy_from_slice(&slices[0][..count]);
            filled += count;
            self.consume(id, count);
        }
        Ok(filled)
    }

    /// Appends to what waits to be sent and returns how many bytes were taken; [`Changes::writable`] follows when that
    /// was not all.
    ///
    /// # Errors
    /// [`WriteError`]: nothing could be taken.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, WriteError> {
        let &slot = self.by_id.get(&id.0).ok_or(WriteError::UnknownStream)?;
        let limit = self.send_limit();
        let stream = self.streams[slot].as_mut().filter(|stream| !stream.closed);
        let stream = stream.ok_or(WriteError::UnknownStream)?;
        if stream.send_state != SendState::Open {
            return Err(WriteError::Finished);
        }
        if stream.stopped {
            return Err(WriteError::Closed);
        }
        let taken = bytes.len().min(limit.saturating_sub(stream.send.len()));
        stream.write_blocked = taken < bytes.len();
        if taken == 0 && !bytes.is_empty() {
            return Err(WriteError::Blocked);
        }
        stream.send.push(&mut self.send_chunks, &bytes[..taken]);
        self.schedule(slot);
        Ok(taken)
    }

    /// How many bytes [`write`](Self::write) would take now, or none while they are too few to be worth it;
    /// [`Changes::writable`] will follow then.
    pub fn writable(&mut self, id: StreamId) -> usize {
        let Some(&slot) = self.by_id.get(&id.0) else { return 0 };
        let limit = self.send_limit();
        let Some(stream) = self.streams[slot].as_mut() else { return 0 };
        if stream.stopped || stream.closed || stream.send_state != SendState::Open {
            return 0;
        }
        let room = limit.saturating_sub(stream.send.len());
        stream.write_blocked = room < limit / 4;
        if stream.write_blocked { 0 } else { room }
    }

    /// Whether the other end reads this stream no more, so that writing is pointless.
    pub fn is_stopped(&self, id: StreamId) -> bool {
        self.get(id).is_none_or(|stream| stream.stopped)
    }

    /// Ends the sending direction behind what was written. What the other end sends still arrives.
    pub fn finish(&mut self, id: StreamId, now: Instant) {
        let Some(&slot) = self.by_id.get(&id.0) else { return };
        let Some(stream) = self.streams[slot].as_mut() else { return };
        if stream.send_state == SendState::Open {
            stream.send_state = SendState::Finishing;
            stream.last_moved = now;
            if !self.half_closes && !stream.received_fin {
                self.lingering.push_back((now + self.config.linger, id));
            }
            self.schedule(slot);
        }
    }

    /// Lets go of a stream: what was written is still sent, what arrives is discarded, and the other end is told.
    pub fn close(&mut self, id: StreamId, now: Instant) {
        let Some(&slot) = self.by_id.get(&id.0) else { return };
        self.finish(id, now);
        let Some(stream) = self.streams[slot].as_mut() else { return };
        if !stream.closed {
            stream.closed = true;
            self.reserved -= std::mem::take(&mut stream.reserved);
            stream.stop_pending = self.half_closes && !stream.received_fin;
            stream.update_pending = false;
            stream.receive.clear(&mut self.receive_chunks);
        }
        self.remove_if_over(slot);
        self.schedule(slot);
    }

    /// As [`close`](Self::close), but what was written and not sent yet is discarded, and the other end learns that it has not
    /// got all.
    pub fn reset(&mut self, id: StreamId, now: Instant) {
        if let Some(stream) = self.by_id.get(&id.0).and_then(|slot| self.streams[*slot].as_mut()) {
            stream.aborted = match stream.send_state {
                SendState::Open => true,
                SendState::Finishing => !stream.send.is_empty(),
                SendState::Finished => false,
            };
            stream.send.clear(&mut self.send_chunks);
        }
        self.close(id, now);
    }

    /// As [`close`](Self::close), but the other end learns, behind all that was written, that more would have come: what this end
    /// does when it stops.
    pub fn cut_off_behind(&mut self, id: StreamId, now: Instant) {
        if let Some(stream) = self.by_id.get(&id.0).and_then(|slot| self.streams[*slot].as_mut()) {
            stream.aborted |= stream.send_state == SendState::Open;
        }
        self.close(id, now);
    }

    /// Lets go of all streams, as [`cut_off_behind`](Self::cut_off_behind) does.
    pub fn cut_off_all_behind(&mut self, now: Instant) {
        for slot in 0..self.streams.len() {
            if let Some(id) = self.streams[slot].as_ref().map(|stream| stream.id) {
                self.cut_off_behind(id, now);
            }
        }
    }

    /// Lets go of all streams, as [`close`](Self::close) does.
    pub fn close_all(&mut self, now: Instant) {
        for slot in 0..self.streams.len() {
            if let Some(id) = self.streams[slot].as_ref().map(|stream| stream.id) {
                self.close(id, now);
            }
        }
    }

    /// What has happened to a stream, each stream at most once.
    pub fn poll_event(&mut self) -> Option<Event> {
        while let Some(slot) = self.events.pop_front() {
            // The stream may be over since, and another one in its slot.
            if let Some(stream) = self.streams[slot].as_mut().filter(|stream| stream.changes.any()) {
                return Some(Event { stream: stream.id, changes: std::mem::take(&mut stream.changes) });
            }
        }
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let keepalive = (!self.config.keepalive_interval.is_zero()).then_some((self.next_nop, "keepalive"));
        let dead = (!self.config.keepalive_timeout.is_zero() && !self.dead)
            .then(|| (self.last_received + self.config.keepalive_timeout, "dead path"));
        let linger = self.lingering.front().map(|(at, _)| (*at, "FIN without answer"));
        [keepalive, dead, linger].into_iter().flatten().min()
    }

    /// Does what time has brought.
    pub fn handle_timeout(&mut self, now: Instant) {
        let SmuxConfig { keepalive_interval, keepalive_timeout, linger, .. } = self.config;
        if !keepalive_interval.is_zero() && now >= self.next_nop {
            self.next_nop = now + keepalive_interval;
            self.nop_pending = true;
        }
        // While there is no room nothing is taken from the transport, if it is to wait, and its silence says nothing.
        let full = self.config.when_full == WhenFull::Wait
            && self.receive_chunks.held() >= self.config.receive_bytes_max;
        if !keepalive_timeout.is_zero() && !self.dead && now >= self.last_received + keepalive_timeout {
            self.dead = !full;
            self.last_received = if full { now } else { self.last_received };
        }
        while self.lingering.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = self.lingering.pop_front() else { break };
            let Some(&slot) = self.by_id.get(&id.0) else { continue };
            match self.streams[slot].as_ref().map(|stream| stream.last_moved + linger) {
                // Looked at again after a whole `linger`: that keeps the queue in order.
                Some(at) if at > now => self.lingering.push_back((now + linger, id)),
                _ => self.schedule_unlingered(slot),
            }
        }
    }

    /// Something has arrived from the other end's transport, if not for a stream: the path lives.
    pub fn handle_sign_of_life(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Nothing has arrived for [`SmuxConfig::keepalive_timeout`].
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Streams open now, by either end.
    pub fn streams(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes that wait to be sent or to be read, as memory.
    pub fn memory(&self) -> usize {
        self.receive_chunks.memory() + self.send_chunks.memory()
    }

    /// What has passed.
    pub fn stats(&self) -> SmuxStats {
        self.stats
    }

    /// The window to grant a stream that has `reserved` set aside: a large one while memory is plentiful.
    pub(super) fn window(&self, reserved: usize) -> u32 {
        let SmuxConfig { receive_bytes_max, stream_receive_bytes_max, stream_first_window, .. } = self.config;
        let window = match self.config.when_full {
            WhenFull::Wait => {
                let room = receive_bytes_max.saturating_sub(self.receive_chunks.held());
                (room / 2).max(WINDOW_MIN)
            }
            // Memory that is promised is not there for others, whether it is used or not.
            WhenFull::CutOff => {
                let room = (receive_bytes_max / 2).saturating_sub(self.reserved - reserved);
                stream_first_window as usize + room / 2
            }
        };
        stream_receive_bytes_max.min(u32::try_from(window).unwrap_or(u32::MAX))
    }

    fn get(&self, id: StreamId) -> Option<&Stream> {
        let slot = self.by_id.get(&id.0)?;
        self.streams[*slot].as_ref().filter(|stream| !stream.closed)
    }

    fn insert(&mut self, stream: Stream) -> usize {
        self.stats.streams_opened += 1;
        let id = stream.id.0;
        let slot = self.free.pop().unwrap_or(self.streams.len());
        if slot == self.streams.len() {
            self.streams.push(Some(stream));
        } else {
            self.streams[slot] = Some(stream);
        }
        self.by_id.insert(id, slot);
        slot
    }

    /// Forgets a stream that is over, unless it waits in a queue of the scheduler, which then calls this again.
    pub(super) fn remove_if_over(&mut self, slot: usize) {
        let Some(stream) = self.streams[slot].as_mut() else { return };
        if stream.is_over() && stream.turn == Turn::None {
            stream.send.clear(&mut self.send_chunks);
            stream.receive.clear(&mut self.receive_chunks);
            self.by_id.remove(&stream.id.0);
            self.streams[slot] = None;
            self.free.push(slot);
        }
    }

    pub(super) fn tell(&mut self, slot: usize, changes: Changes) {
        let Some(stream) = self.streams[slot].as_mut().filter(|stream| !stream.closed) else { return };
        if changes.any() && !stream.changes.any() {
            self.events.push_back(slot);
        }
        stream.changes.opened |= changes.opened;
        stream.changes.readable |= changes.readable;
        stream.changes.writable |= changes.writable;
    }

    fn schedule_id(&mut self, id: u32) {
        if let Some(&slot) = self.by_id.get(&id) {
            self.schedule(slot);
        }
    }

    /// The FIN has waited long enough.
    fn schedule_unlingered(&mut self, slot: usize) {
        if let Some(stream) = self.streams[slot].as_mut() {
            stream.lingered = true;
        }
        self.schedule(slot);
    }
}
