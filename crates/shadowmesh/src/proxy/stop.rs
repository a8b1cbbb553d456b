//! Telling every task of the proxies, at once, to end.

use std::time::Duration;

use tokio::sync::watch;

/// How long what is under way may take to end in order once it is time to stop.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// Tells all [`Stop`]s made with it, when it is dropped or asked to.
#[derive(Debug)]
pub struct StopHandle(watch::Sender<bool>);

/// Knows when to end.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl StopHandle {
    /// Both ends.
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    /// Tells them.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Waits until every [`Stop`] made with it is gone.
    pub async fn stopped(&self) {
        self.0.closed().await;
    }
}

impl Stop {
    /// Waits until it is time to end.
    pub async fn requested(&self) {
        // An error means that the handle is gone, which says the same.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }
}
