//! WireGuard's constants (whitepaper §6), which both protocols observe.

#![expect(clippy::duration_suboptimal_units, reason = "the whitepaper gives them in seconds")]

use std::time::Duration;

/// After so many messages in one direction of a session, the next one is negotiated.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// No message with this counter or a greater one is sent or accepted.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// When a session is so old, its initiator negotiates the next one before it sends more.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// When a session is so old, nothing is sent or accepted in it.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// After trying for so long to negotiate a session, one gives up until there is traffic again.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long to wait for the response to an initiation before another is sent.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after receiving without having had anything to send a keepalive goes out.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a cookie is used, and how long one secret makes cookies.
pub const COOKIE_REFRESH_TIME: Duration = Duration::from_secs(120);
/// How much of the life of a secret WireGuard leaves for the way of the last cookie made with it. Here a
/// secret is accepted for a whole [`COOKIE_REFRESH_TIME`] after the last cookie instead; a caller may still
/// want to renew a cookie that early.
pub const COOKIE_SECRET_LATENCY: Duration = Duration::from_secs(5);
