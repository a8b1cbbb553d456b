//! Datagrams of streams, from the workers to whoever runs the streams.
//!
//! They are rare in a mesh and many in a tunnel, so they travel in batches: all that one receive call has brought from
//! one peer, in one buffer, each behind its length.

use std::collections::VecDeque;

use packet::{Buf, Class};

use super::Context;
use crate::config::PeerId;
use crate::drops::DropReason;

/// Batches that a worker holds for its driver.
const BATCHES_MAX: usize = 16;
/// Bytes before each datagram of a batch: its length, little-endian.
const LENGTH_LEN: usize = 2;

/// Datagrams of streams that have come from one peer, in order.
#[derive(Debug)]
pub struct StreamBatch {
    peer: PeerId,
    buf: Buf,
}

impl StreamBatch {
    /// Who sent them.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// What each datagram holds.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.buf;
        std::iter::from_fn(move || {
            let (&length, behind) = rest.split_first_chunk::<LENGTH_LEN>()?;
            let (datagram, behind) = behind.split_at_checked(u16::from_le_bytes(length).into())?;
            rest = behind;
            Some(datagram)
        })
    }
}

/// What a worker has received for streams and not handed over yet.
#[derive(Debug)]
pub(super) struct Streams {
    /// Somebody runs streams here.
    wanted: bool,
    batch: Option<StreamBatch>,
    done: VecDeque<StreamBatch>,
}

impl Streams {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, batch: None, done: VecDeque::with_capacity(if wanted { BATCHES_MAX } else { 0 }) }
    }

    /// Takes a datagram.
    ///
    /// # Errors
    /// Why it is dropped.
    pub(super) fn push(&mut self, cx: &Context<'_>, peer: PeerId, datagram: &[u8]) -> Result<(), DropReason> {
        if !self.wanted {
            return Err(DropReason::StreamsOff);
        }
        let needed = LENGTH_LEN + datagram.len();
        let fits =
            |batch: &StreamBatch| batch.peer == peer && batch.buf.len() + needed <= batch.buf.capacity();
        if !self.batch.as_ref().is_some_and(fits) {
            self.finish();
            if self.done.len() >= BATCHES_MAX {
                return Err(DropReason::StreamBacklog);
            }
            let buf = cx.pool.take(Class::Large).ok_or(DropReason::PoolExhausted)?;
            self.batch = Some(StreamBatch { peer, buf });
        }
        let Some(StreamBatch { buf, .. }) = &mut self.batch else { return Err(DropReason::PoolExhausted) };
        let at = buf.len();
        let length = u16::try_from(datagram.len()).map_err(|_| DropReason::InnerMalformed)?;
        let room = &mut buf.storage_mut()[at..at + needed];
        room[..LENGTH_LEN].copy_from_slice(&length.to_le_bytes());
        room[LENGTH_LEN..].copy_from_slice(datagram);
        buf.commit(0..at + needed);
        Ok(())
    }

    /// A receive call is done: nothing more comes to the batch.
    pub(super) fn finish(&mut self) {
        self.done.extend(self.batch.take());
    }

    pub(super) fn poll(&mut self) -> Option<StreamBatch> {
        self.done.pop_front()
    }
}
