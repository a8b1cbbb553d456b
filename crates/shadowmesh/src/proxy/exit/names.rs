//! Names and what they were found to be, remembered for a short while: a page is a hundred connections to ten names.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::proxy::request::Refusal;
use crate::proxy::target::Target;

/// Names looked up at a time: each is a thread, which a dead name server can hold for half a minute.
const LOOKUPS_MAX: usize = 64;
/// How long a name server may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long addresses are remembered. The resolver does not tell their TTL; a minute is less than most have.
const KNOWN_FOR: Duration = Duration::from_mins(1);
/// The same of a name that has none, or whose look-up failed.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Names remembered.
const NAMES_MAX: usize = 1_024;
/// Addresses remembered of each.
const ADDRESSES_MAX: usize = 16;

/// What a name was found to be, and until when that holds. No addresses: there is no such name, as far as is known.
#[derive(Debug)]
struct Known {
    /// With their scope, where they have one, and any port.
    addresses: Box<[SocketAddr]>,
    until: Instant,
}

/// Looks names up.
#[derive(Debug)]
pub(super) struct Names {
    turns: Semaphore,
    known: RefCell<HashMap<Box<str>, Known>>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { turns: Semaphore::new(LOOKUPS_MAX), known: RefCell::default() }
    }

    /// The addresses of a target, at least one.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
        let (host, port) = match target {
            Target::Address(address) => return Ok(vec![*address]),
            Target::Name { host, port } => (&**host, *port),
        };
        if let Some(known) = self.recall(host, port, Instant::now()) {
            return known;
        }
        let looked_up = timeout(LOOKUP_TIMEOUT, async {
            let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
            lookup_host((host, port)).await.map(Iterator::collect::<Vec<_>>)
        });
        match looked_up.await {
            Ok(Ok(addresses)) => {
                self.remember(host, &addresses, Instant::now());
                if addresses.is_empty() { Err(Refusal::NameNotFound) } else { Ok(addresses) }
            }
            Ok(Err(_)) => {
                self.remember(host, &[], Instant::now());
                Err(Refusal::NameNotFound)
            }
            // Says nothing about the name.
            Err(_) => Err(Refusal::TimedOut),
        }
    }

    fn recall(&self, host: &str, port: u16, now: Instant) -> Option<Result<Vec<SocketAddr>, Refusal>> {
        let known = self.known.borrow();
        let known = known.get(host).filter(|known| now < known.until)?;
        let addresses = known.addresses.iter().map(|&(mut address)| {
            address.set_port(port);
            address
        });
        Some(if known.addresses.is_empty() { Err(Refusal::NameNotFound) } else { Ok(addresses.collect()) })
    }

    fn remember(&self, host: &str, addresses: &[SocketAddr], now: Instant) {
        let mut known = self.known.borrow_mut();
        if addresses.is_empty() && known.get(host).is_some_and(|known| now < known.until) {
            // One of several look-ups has failed: that makes what another one has found no worse.
            return;
        }
        if known.len() >= NAMES_MAX && !known.contains_key(host) {
            known.retain(|_, known| now < known.until);
            if known.len() >= NAMES_MAX {
                // Whichever would be forgotten first.
                let first = known.iter().min_by_key(|(_, known)| known.until).map(|(name, _)| name.clone());
                first.and_then(|name| known.remove(&name));
            }
        }
        let until = now + if addresses.is_empty() { UNKNOWN_FOR } else { KNOWN_FOR };
        let addresses = addresses.iter().take(ADDRESSES_MAX).copied().collect();
        known.insert(host.into(), Known { addresses, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_remembered_for_a_minute_with_any_port() {
        let (names, start) = (Names::new(), Instant::now());
        names.remember(
            "a.invalid",
            &["192.0.2.1:80".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap()],
            start,
        );
        let found = names.recall("a.invalid", 443, start + Duration::from_secs(59)).unwrap().unwrap();
        assert_eq!(found, ["192.0.2.1:443".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()]);
        assert!(names.recall("a.invalid", 443, start + Duration::from_mins(1)).is_none());
    }

    #[test]
    fn a_scope_is_remembered_and_a_look_up_that_fails_meanwhile_changes_nothing() {
        let (names, start) = (Names::new(), Instant::now());
        names.remember("c.invalid", &["[fe80::1%3]:80".parse().unwrap()], start);
        names.remember("c.invalid", &[], start);
        let found = names.recall("c.invalid", 443, start).unwrap().unwrap();
        assert_eq!(found, ["[fe80::1%3]:443".parse().unwrap()]);
    }

    #[test]
    fn that_there_is_no_such_name_is_remembered_for_five_seconds() {
        let (names, start) = (Names::new(), Instant::now());
        names.remember("b.invalid", &[], start);
        let found = names.recall("b.invalid", 1, start + Duration::from_millis(4_999));
        assert_eq!(found, Some(Err(Refusal::NameNotFound)));
        assert!(names.recall("b.invalid", 1, start + Duration::from_secs(5)).is_none());
    }

    #[test]
    fn so_many_names_are_remembered_and_no_more() {
        let (names, start) = (Names::new(), Instant::now());
        for number in 0..3 * NAMES_MAX {
            let now = start + Duration::from_micros(number as u64);
            names.remember(&format!("{number}.invalid"), &["192.0.2.1:80".parse().unwrap()], now);
        }
        assert_eq!(names.known.borrow().len(), NAMES_MAX);
        assert!(names.recall(&format!("{}.invalid", 3 * NAMES_MAX - 1), 1, start).is_some());
        assert!(names.recall("0.invalid", 1, start).is_none());
    }
}
