//! Many streams between two ends over datagrams: smux in KCP, with forward error correction around it and compression
//! within, as configured.
//!
//! ```text
//!  streams → smux → (Snappy) → KCP → (FEC) → datagrams         and back
//! ```
//!
//! Hand in what arrives with [`Session::handle_datagram`] and use the streams through [`Session::streams`]. After
//! either, and after [`Session::handle_timeout`], take all datagrams from [`Session::poll_transmit`]: it is also what
//! carries bytes from one layer to the next. Then wait until [`Session::poll_timeout`]. Several datagrams that
//! arrived together are best handed in together.

use std::time::Instant;

use thiserror::Error;

use crate::fec::{self, Decoder, DecoderStats, Encoder, FecConfig, FecError};
use crate::kcp::segment::{Command, Header};
use crate::kcp::{self, Kcp, KcpConfig};
use crate::smux::{Role, Smux, SmuxConfig, SmuxError};
use crate::snappy::{Compressor, Decompressor, SnappyError};

/// Bytes that wait for KCP's window: with more than this a flow is bulk, and left to retransmission by adaptive FEC.
const BULK_BYTES: usize = 8 << 10;
/// Segments that KCP may have in flight, however little memory there is.
const SEGMENTS_MIN: usize = 128;
/// Most plain bytes compressed at once.
const COMPRESS_MAX: usize = 32 << 10;
/// Loss is measured over about so many segments.
const LOSS_SEGMENTS: f64 = 1_000.0;
/// How many segments must have been sent before loss can be told.
const LOSS_SEGMENTS_MIN: f64 = 16.0;
/// What is assumed before anything is known: so many lost, of so many. Thin flows are protected from the start, and not only
/// after the first of their datagrams was lost; some hundred segments without loss end it.
const LOSS_ASSUMED: (f64, f64) = (2.0, 66.0);

/// How to make a [`Session`].
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// KCP. Its `mtu` is the longest datagram of the session, headers of FEC included.
    pub kcp: KcpConfig,
    /// smux.
    pub smux: SmuxConfig,
    /// Forward error correction of what is sent.
    pub fec: FecConfig,
    /// Compress with Snappy. Both ends must.
    pub compress: bool,
    /// Any datagram shows that the other end lives: so a dead path is found by the acknowledgements of our own
    /// keepalives, whatever the other end's interval is. Not where an end that was restarted could go on
    /// acknowledging what it does not understand: then only bytes of the stream show it.
    pub any_datagram_is_life: bool,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    /// Nothing comes back from the other end.
    #[error("the other end does not answer any more")]
    Dead,
    /// What was cut to the size of the path does not pass any more.
    #[error("the path has become too narrow for what was on its way")]
    TooNarrow,
    /// The other end does not speak smux as agreed.
    #[error(transparent)]
    Smux(#[from] SmuxError),
    /// The other end does not compress as agreed.
    #[error(transparent)]
    Snappy(#[from] SnappyError),
}

/// Why a datagram was dropped, or part of it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DropReason {
    /// The layer of forward error correction cannot read it.
    #[error(transparent)]
    Fec(#[from] FecError),
    /// KCP cannot read it.
    #[error(transparent)]
    Kcp(#[from] kcp::Reason),
}

/// One session. See the [module](self).
#[derive(Debug)]
pub struct Session {
    kcp: Kcp,
    smux: Smux,
    encoder: Option<Encoder>,
    decoder: Option<Decoder>,
    fec: FecConfig,
    compression: Option<(Compressor, Decompressor)>,
    /// Plain bytes on their way to the compressor; datagrams on their way from the decoder.
    scratch: Vec<u8>,
    loss: Loss,
    /// The windows of KCP that were configured, receiving and sending.
    windows: (u32, u32),
    any_datagram_is_life: bool,
    error: Option<SessionError>,
}

impl Session {
    /// A session numbered `conversation` at both ends.
    pub fn new(role: Role, conversation: u32, config: SessionConfig, now: Instant) -> Self {
        let SessionConfig { mut kcp, smux, fec, compress, any_datagram_is_life } = config;
        kcp.mtu = kcp_mtu(kcp.mtu, fec);
        let loss = Loss::default();
        let windows = (kcp.receive_window, kcp.send_window);
        Self {
            kcp: Kcp::new(conversation, kcp, now),
            smux: Smux::new(role, smux, now),
            encoder: Encoder::new(fec).map(|mut encoder| {
                encoder.set_loss(loss.share());
                encoder
            }),
            decoder: None,
            fec,
            compression: compress.then(Default::default),
            scratch: Vec::new(),
            loss,
            windows,
            any_datagram_is_life,
            error: None,
        }
    }

    /// The number of the session.
    pub fn conversation(&self) -> u32 {
        self.kcp.conversation()
    }

    /// From now on, the longest datagram, in bytes: the path passes less, or more again. What was sent already goes out again as
    /// it was cut then.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.kcp.set_mtu(kcp_mtu(mtu, self.fec));
    }

    /// The streams.
    pub fn streams(&mut self) -> &mut Smux {
        &mut self.smux
    }

    /// Hands in what has arrived.
    ///
    /// # Errors
    /// [`DropReason`]: it was dropped, or the rest of it. The session goes on.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        if fec::is_protected(datagram) {
            let decoder = self.decoder.get_or_insert_with(|| Decoder::new(self.fec));
            let payload = decoder.handle(datagram)?;
            let outcome = payload.map_or(Ok(()), |payload| self.kcp.handle_datagram(payload, now));
            while decoder.poll_recovered(&mut self.scratch) {
                // Computed from what a peer sent: as good or as bad as what it sends directly.
                let _ = self.kcp.handle_datagram(&self.scratch, now);
            }
            outcome?;
        } else {
            self.kcp.handle_datagram(datagram, now)?;
        }
        if self.any_datagram_is_life {
            self.smux.handle_sign_of_life(now);
        }
        self.receive(now);
        Ok(())
    }

    /// Writes the next datagram into `buf`, which must have room for the largest MTU that was ever set, and returns its length;
    /// `None` when nothing is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        if let Some(len) = self.encoder.as_mut().and_then(|encoder| encoder.poll_parity(buf)) {
            return Some(len);
        }
        self.receive(now);
        self.send();
        let Some(encoder) = &mut self.encoder else { return self.kcp.poll_transmit(now, buf) };
        let adaptive = self.fec == FecConfig::Adaptive;
        let queued = if adaptive { self.kcp.queued() } else { 0 };
        let header_len = self.fec.header_len();
        if adaptive && (!encoder.is_active() || queued > BULK_BYTES) {
            let room = buf.len() - header_len;
            let sent = self.kcp.poll_transmit(now, &mut buf[..room]);
            self.measure_loss(sent.is_some());
            return sent;
        }
        if let Some(len) = self.kcp.poll_transmit(now, &mut buf[header_len..]) {
            let datagram = &mut buf[..header_len + len];
            if adaptive && only_acknowledges(&datagram[header_len..]) {
                // Acknowledgements are cumulative: the next one replaces it.
                datagram.copy_within(header_len.., 0);
                return Some(len);
            }
            encoder.protect(datagram);
            let len = datagram.len();
            self.measure_loss(true);
            return Some(len);
        }
        if queued == 0 {
            encoder.flush();
        }
        encoder.poll_parity(buf)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [self.kcp.poll_timeout(), self.smux.poll_timeout()].into_iter().flatten().min()
    }

    /// Does what time has brought.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.kcp.handle_timeout(now);
        self.smux.handle_timeout(now);
        if self.kcp.is_dead() || self.smux.is_dead() {
            let why = if self.kcp.is_too_wide() { SessionError::TooNarrow } else { SessionError::Dead };
            self.error.get_or_insert(why);
        }
    }

    /// Why the session is over, if it is.
    pub fn error(&self) -> Option<SessionError> {
        self.error
    }

    /// Whether everything written, FINs included, has arrived at the other end.
    pub fn is_flushed(&self) -> bool {
        !self.smux.has_output() && self.kcp.unacknowledged() == 0
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.kcp.memory() + self.smux.memory()
    }

    /// From now on, hold at most about `bytes`, of everything: for whoever shares out memory among sessions. What was granted to
    /// the other end before is still taken.
    pub fn set_memory(&mut self, bytes: usize) {
        // A quarter for what streams have received and a client does not read, and an eighth each for what waits behind
        // a gap, what is on its way and what waits to be sent. The rest is for what is kept to be used again.
        let segments = (bytes / 8 / self.kcp.segment_payload()).max(SEGMENTS_MIN) as u32;
        self.kcp.set_receive_window(segments.min(self.windows.0));
        self.kcp.set_send_window(segments.min(self.windows.1));
        self.smux.set_memory(bytes / 4, bytes / 8);
    }

    /// Figures of the transport.
    pub fn kcp_statistics(&self) -> kcp::Statistics {
        self.kcp.statistics()
    }

    /// Figures of forward error correction on the receiving side.
    pub fn fec_statistics(&self) -> DecoderStats {
        self.decoder.as_ref().map(Decoder::stats).unwrap_or_default()
    }

    /// Carries what KCP has received to the streams, as far as they have room.
    fn receive(&mut self, now: Instant) {
        if self.error.is_none()
            && let Err(error) = self.try_receive(now)
        {
            self.error = Some(error);
        }
    }

    fn try_receive(&mut self, now: Instant) -> Result<(), SessionError> {
        let Some((_, decompressor)) = &mut self.compression else {
            loop {
                let bytes = self.kcp.peek();
                let taken = self.smux.handle_bytes(bytes, now)?;
                if taken == 0 {
                    return Ok(());
                }
                self.kcp.consume(taken);
            }
        };
        loop {
            let plain = decompressor.plain();
            if plain.is_empty() {
                let taken = decompressor.decompress(self.kcp.peek())?;
                if taken == 0 {
                    return Ok(());
                }
                self.kcp.consume(taken);
                continue;
            }
            let taken = self.smux.handle_bytes(plain, now)?;
            if taken == 0 {
                return Ok(());
            }
            decompressor.consume(taken);
        }
    }

    /// Carries what the streams want to send to KCP, as far as it has room.
    fn send(&mut self) {
        let (smux, kcp) = (&mut self.smux, &mut self.kcp);
        if !smux.has_output() || self.error.is_some() {
            return;
        }
        let room = kcp.writable();
        let Some((compressor, _)) = &mut self.compression else {
            smux.poll_output(room, |piece| {
                kcp.write(piece);
            });
            return;
        };
        let mut room = room;
        loop {
            let plain = room.saturating_sub(Compressor::overhead(COMPRESS_MAX)).min(COMPRESS_MAX);
            self.scratch.clear();
            if smux.poll_output(plain, |piece| self.scratch.extend_from_slice(piece)) == 0 {
                return;
            }
            compressor.compress(&self.scratch, |piece| {
                kcp.write(piece);
            });
            room = kcp.writable();
        }
    }

    /// Tells an adaptive encoder how much gets lost, once in a while.
    fn measure_loss(&mut self, sent: bool) {
        let Some(encoder) = self.encoder.as_mut().filter(|_| sent && self.loss.is_due()) else { return };
        let kcp = self.kcp.statistics();
        let lost = kcp.retransmissions.saturating_sub(kcp.spurious_retransmissions);
        self.loss.outgoing.add(kcp.segments_sent, lost);
        let fec = self.decoder.as_ref().map(Decoder::stats).unwrap_or_default();
        self.loss.incoming.add(fec.data + fec.recovered + fec.lost, fec.recovered + fec.lost);
        encoder.set_loss(self.loss.share());
    }
}

/// What is left for KCP of datagrams of `mtu` bytes.
fn kcp_mtu(mtu: usize, fec: FecConfig) -> usize {
    let mtu = if fec == FecConfig::Off { mtu } else { mtu.min(fec::DATAGRAM_MAX) };
    mtu.saturating_sub(fec.header_len())
}

/// Whether a datagram carries nothing but acknowledgements.
fn only_acknowledges(mut datagram: &[u8]) -> bool {
    while let Ok((header, _, rest)) = Header::parse(datagram) {
        if header.command != Command::Ack {
            return false;
        }
        datagram = rest;
    }
    true
}

/// How much gets lost, as far as an end can tell: of what it sends by what it must send again, which misses what the
/// other end could compute; of what it receives by what it must compute. Paths mostly lose alike in both directions.
#[derive(Debug)]
struct Loss {
    outgoing: Share,
    incoming: Share,
    datagrams: u32,
}

impl Default for Loss {
    fn default() -> Self {
        let (part, all) = LOSS_ASSUMED;
        Self { outgoing: Share { all, part, ..Share::default() }, incoming: Share::default(), datagrams: 0 }
    }
}

impl Loss {
    fn share(&self) -> f64 {
        self.outgoing.share().max(self.incoming.share())
    }

    /// Whether it is time to look again: not for every datagram.
    fn is_due(&mut self) -> bool {
        self.datagrams = self.datagrams.wrapping_add(1);
        self.datagrams.is_multiple_of(16)
    }
}

/// A share of a count that forgets what is long ago.
#[derive(Debug, Default)]
struct Share {
    /// The totals when last looked at.
    seen: (u64, u64),
    all: f64,
    part: f64,
}

impl Share {
    fn add(&mut self, all: u64, part: u64) {
        let (more_all, more_part) = (all.saturating_sub(self.seen.0), part.saturating_sub(self.seen.1));
        self.seen = (all, part);
        let keep = 1.0 - (more_all as f64 / LOSS_SEGMENTS).min(1.0);
        self.all = self.all * keep + more_all as f64;
        self.part = self.part * keep + more_part as f64;
    }

    fn share(&self) -> f64 {
        if self.all < LOSS_SEGMENTS_MIN { 0.0 } else { self.part / self.all }
    }
}
