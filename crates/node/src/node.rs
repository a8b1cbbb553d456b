//! The slow path. (Interface first; the body is being written.)

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::{Config, ConfigError, PeerId};
use crate::event::{Action, Datagram, Event};
use crate::status::NodeStatus;
use crate::worker::Worker;

/// No peer has that name or key.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no peer is called `{0}`")]
pub struct NotFound(pub String);

/// The slow path: peers, handshakes, timers, probes.
#[derive(Debug)]
pub struct Node {}

#[allow(clippy::todo, clippy::unused_self, clippy::missing_errors_doc, clippy::needless_pass_by_value)]
impl Node {
    /// A node and its workers. `seed` must be fresh and secret; it feeds every random choice.
    pub fn new(_config: Config, _seed: [u8; 32], _now: Instant) -> Result<(Self, Vec<Worker>), ConfigError> {
        todo!()
    }
    /// Takes what a worker has to tell.
    pub fn handle_event(&mut self, _now: Instant, _event: Event) {
        todo!()
    }
    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }
    /// When [`handle_timeout`](Self::handle_timeout) must be called next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        todo!()
    }
    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        todo!()
    }
    /// The next thing for the program to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        todo!()
    }
    /// Sends a probe to a peer, after a handshake if there must be one, and returns its number: an
    /// [`Action::Pong`] with that number follows, at the latest after `timeout`.
    pub fn ping(&mut self, _now: Instant, _peer: PeerId, _timeout: Duration) -> u64 {
        todo!()
    }
    /// Starts a fresh handshake with a peer now.
    pub fn rekey(&mut self, _now: Instant, _peer: PeerId) {
        todo!()
    }
    /// Sets a peer's endpoint, as after a look-up of its host name.
    pub fn set_endpoint(&mut self, _now: Instant, _peer: PeerId, _endpoint: SocketAddr) {
        todo!()
    }
    /// The peer with that name or base64 public key.
    pub fn find(&self, _name: &str) -> Result<PeerId, NotFound> {
        todo!()
    }
    /// Whether a new table was published since the last call: wake the workers then.
    pub fn take_published(&mut self) -> bool {
        todo!()
    }
    /// A snapshot for people and programs.
    pub fn status(&self, _now: Instant) -> NodeStatus {
        todo!()
    }
}
