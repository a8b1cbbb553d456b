//! Names and what they were found to be, remembered for a short while: a page is a hundred connections to ten names.
//!
//! A look-up is a thread in which the system's resolver runs, and it may hang as long as a name server does. So a name is
//! looked up once however many ask for it, a peer has no more look-ups under way than are free for the others, and a look-up
//! keeps its place until its thread has ended, whether anybody still waits for it or not.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use node::PeerId;
use os::resolve::{Family, resolve};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use crate::proxy::request::Refusal;
use crate::proxy::shared::SlotsBy;
use crate::proxy::target::Target;

/// Names looked up at a time: each is two threads, of which the runtime has 512.
const LOOKUPS_MAX: usize = 250;
/// How long the addresses of one family wait for those of the other one (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// How long a name server may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long addresses are remembered. The resolver does not tell their TTL; a minute is less than most have.
const KNOWN_FOR: Duration = Duration::from_mins(1);
/// The same of a name that has none, or whose look-up failed or took too long.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Names remembered.
const NAMES_MAX: usize = 1_024;
/// Addresses remembered of each.
const ADDRESSES_MAX: usize = 16;

/// What a name was found to be, and until when that holds.
#[derive(Debug)]
struct Known {
    /// With their scope, where they have one, and any port; or why there are none.
    found: Result<Box<[SocketAddr]>, Refusal>,
    until: Instant,
}

/// Looks names up.
#[derive(Debug)]
pub(super) struct Names {
    lookup_timeout: Duration,
    known: RefCell<HashMap<Box<str>, Known>>,
    /// Look-ups whose threads have not ended, by name: each channel closes when there is a result.
    under_way: RefCell<HashMap<Box<str>, watch::Receiver<()>>>,
    count: Cell<usize>,
    by_peer: SlotsBy<PeerId>,
    /// One has ended: another one may begin.
    ended: Notify,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            lookup_timeout: LOOKUP_TIMEOUT,
            known: RefCell::default(),
            under_way: RefCell::default(),
            count: Cell::new(0),
            by_peer: SlotsBy::default(),
            ended: Notify::new(),
        }
    }

    /// The addresses of a target that `peer` asks for, at least one.
    pub(super) async fn resolve(
        self: &Rc<Self>,
        peer: PeerId,
        target: &Target,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let (host, port) = match target {
            Target::Address(address) => return Ok(vec![*address]),
            Target::Name { host, port } => (&**host, *port),
        };
        let lookup = async |host: String, family: Family| {
            let found = spawn_blocking(move || resolve(&host, family)).await;
            found.map_or_else(|_| Vec::new(), Result::unwrap_or_default)
        };
        self.resolve_with(peer, host, port, &lookup).await
    }

    async fn resolve_with<L>(
        self: &Rc<Self>,
        peer: PeerId,
        host: &str,
        port: u16,
        lookup: &L,
    ) -> Result<Vec<SocketAddr>, Refusal>
    where
        L: AsyncFn(String, Family) -> Vec<SocketAddr> + Clone + 'static,
    {
        let found = async {
            loop {
                if let Some(known) = self.recall(host, port, Instant::now()) {
                    return known;
                }
                // One that has told its result already, and is only not over yet, is none to wait for.
                let waiting = self.under_way.borrow().get(host).cloned();
                let waiting = waiting.filter(|waiting| waiting.has_changed().is_ok());
                let ended = self.ended.notified();
                match waiting.or_else(|| self.begin(peer, host, lookup.clone())) {
                    Some(mut waiting) => while waiting.changed().await.is_ok() {},
                    None => ended.await,
                }
            }
        };
        timeout(self.lookup_timeout, found).await.unwrap_or_else(|_| {
            // Who asks again at once need not wait as long again.
            if self.under_way.borrow().contains_key(host) {
                self.remember(host, Err(Refusal::TimedOut), Instant::now());
            }
            Err(Refusal::TimedOut)
        })
    }

    /// Begins to look a name up, unless the peer, or all together, have too many look-ups under way.
    fn begin<L>(self: &Rc<Self>, peer: PeerId, host: &str, lookup: L) -> Option<watch::Receiver<()>>
    where
        L: AsyncFn(String, Family) -> Vec<SocketAddr> + Clone + 'static,
    {
        let free = LOOKUPS_MAX.saturating_sub(self.count.get());
        let slot = self.by_peer.take(peer, free)?;
        let (done, waiting) = watch::channel(());
        self.under_way.borrow_mut().insert(host.into(), waiting.clone());
        self.count.set(self.count.get() + 1);
        let (names, host) = (Rc::clone(self), String::from(host));
        spawn_local(async move {
            names.look_up(&host, &lookup, done).await;
            names.under_way.borrow_mut().remove(&*host);
            names.count.set(names.count.get() - 1);
            drop(slot);
            names.ended.notify_waiters();
        });
        Some(waiting)
    }

    /// Asks for both families, each by itself. Those who wait are told, by dropping `done`, when both have answered or one has
    /// brought addresses and the other one has had a moment more (RFC 8305 §3). Ends when both have answered.
    async fn look_up<L>(&self, host: &str, lookup: &L, done: watch::Sender<()>)
    where
        L: AsyncFn(String, Family) -> Vec<SocketAddr> + Clone + 'static,
    {
        let mut asked = JoinSet::new();
        for family in [Family::V6, Family::V4] {
            let (lookup, host) = (lookup.clone(), String::from(host));
            asked.spawn_local(async move { lookup(host, family).await });
        }
        let mut addresses = Vec::new();
        let mut done = Some(done);
        while !asked.is_empty() {
            tokio::select! {
                Some(found) = asked.join_next() => {
                    // IPv6 first, where it came in time (RFC 8305 §4).
                    addresses.extend(found.unwrap_or_default());
                    addresses.sort_by_key(|address: &SocketAddr| address.is_ipv4());
                }
                () = sleep(RESOLUTION_DELAY), if done.is_some() && !addresses.is_empty() => {
                    self.remember(host, Ok(&addresses), Instant::now());
                    done = None;
                }
            }
        }
        let found = if addresses.is_empty() { Err(Refusal::NameNotFound) } else { Ok(&*addresses) };
        self.remember(host, found, Instant::now());
    }

    fn recall(&self, host: &str, port: u16, now: Instant) -> Option<Result<Vec<SocketAddr>, Refusal>> {
        let known = self.known.borrow();
        let known = known.get(host).filter(|known| now < known.until)?;
        let with_port = |address: &SocketAddr| {
            let mut address = *address;
            address.set_port(port);
            address
        };
        Some(match &known.found {
            Ok(addresses) => Ok(addresses.iter().map(with_port).collect()),
            Err(refusal) => Err(*refusal),
        })
    }

    fn remember(&self, host: &str, found: Result<&[SocketAddr], Refusal>, now: Instant) {
        let mut known = self.known.borrow_mut();
        if found.is_err() && known.get(host).is_some_and(|known| known.found.is_ok() && now < known.until) {
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
        let until = now + if found.is_err() { UNKNOWN_FOR } else { KNOWN_FOR };
        let found = found.map(|addresses| addresses.iter().take(ADDRESSES_MAX).copied().collect());
        known.insert(host.into(), Known { found, until });
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
            Ok(&["192.0.2.1:80".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap()]),
            start,
        );
        let found = names.recall("a.invalid", 443, start + Duration::from_secs(59)).unwrap().unwrap();
        assert_eq!(found, ["192.0.2.1:443".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()]);
        assert!(names.recall("a.invalid", 443, start + Duration::from_mins(1)).is_none());
    }

    #[test]
    fn a_scope_is_remembered_and_a_look_up_that_fails_meanwhile_changes_nothing() {
        let (names, start) = (Names::new(), Instant::now());
        names.remember("c.invalid", Ok(&["[fe80::1%3]:80".parse().unwrap()]), start);
        names.remember("c.invalid", Err(Refusal::NameNotFound), start);
        let found = names.recall("c.invalid", 443, start).unwrap().unwrap();
        assert_eq!(found, ["[fe80::1%3]:443".parse().unwrap()]);
    }

    #[test]
    fn that_there_is_no_such_name_is_remembered_for_five_seconds() {
        let (names, start) = (Names::new(), Instant::now());
        names.remember("b.invalid", Err(Refusal::NameNotFound), start);
        let found = names.recall("b.invalid", 1, start + Duration::from_millis(4_999));
        assert_eq!(found, Some(Err(Refusal::NameNotFound)));
        assert!(names.recall("b.invalid", 1, start + Duration::from_secs(5)).is_none());
    }

    #[test]
    fn so_many_names_are_remembered_and_no_more() {
        let (names, start) = (Names::new(), Instant::now());
        for number in 0..3 * NAMES_MAX {
            let now = start + Duration::from_micros(number as u64);
            names.remember(&format!("{number}.invalid"), Ok(&["192.0.2.1:80".parse().unwrap()]), now);
        }
        assert_eq!(names.known.borrow().len(), NAMES_MAX);
        assert!(names.recall(&format!("{}.invalid", 3 * NAMES_MAX - 1), 1, start).is_some());
        assert!(names.recall("0.invalid", 1, start).is_none());
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    /// Lets all tasks that there are have their turn.
    async fn all_have_asked() {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }

    /// A name server that never answers for names that begin with `dead`, and at once for others.
    async fn lookup(host: String, family: Family) -> Vec<SocketAddr> {
        if host.starts_with("dead") || (host.starts_with("slow6") && family == Family::V6) {
            std::future::pending::<()>().await;
        }
        match family {
            Family::V4 => vec!["192.0.2.1:0".parse().unwrap()],
            Family::V6 => Vec::new(),
        }
    }

    #[test]
    fn many_who_ask_for_a_dead_name_keep_no_other_name_waiting() {
        run(async {
            let names = Rc::new(Names::new());
            for number in 0..1_000 {
                let names = Rc::clone(&names);
                // All of the one name, and a hundred others like it.
                let host = format!("dead{}.invalid", number.max(900) - 900);
                spawn_local(async move { names.resolve_with(PeerId(0), &host, 80, &lookup).await });
            }
            all_have_asked().await;
            assert_eq!(names.count.get(), 100, "one look-up for each name");
            let found = names.resolve_with(PeerId(0), "good.invalid", 80, &lookup);
            let found = timeout(Duration::from_secs(1), found).await.expect("nobody is waited for");
            assert_eq!(found, Ok(vec!["192.0.2.1:80".parse().unwrap()]));
        });
    }

    #[test]
    fn an_answer_for_ipv6_that_never_comes_does_not_hide_the_ipv4_address() {
        run(async {
            let names = Rc::new(Names::new());
            let found = names.resolve_with(PeerId(0), "slow6.invalid", 80, &lookup);
            let found = timeout(Duration::from_secs(1), found).await.expect("nobody waits for IPv6");
            assert_eq!(found, Ok(vec!["192.0.2.1:80".parse().unwrap()]));
        });
    }

    #[test]
    fn a_peer_with_a_thousand_dead_names_leaves_look_ups_to_the_others() {
        run(async {
            let names = Rc::new(Names::new());
            for number in 0..1_000 {
                let names = Rc::clone(&names);
                let host = format!("dead{number}.invalid");
                spawn_local(async move { names.resolve_with(PeerId(0), &host, 80, &lookup).await });
            }
            all_have_asked().await;
            assert_eq!(names.count.get(), LOOKUPS_MAX / 2);
            let found = names.resolve_with(PeerId(1), "good.invalid", 80, &lookup);
            assert!(timeout(Duration::from_secs(1), found).await.expect("nobody is waited for").is_ok());
        });
    }

    #[test]
    fn a_look_up_that_took_too_long_is_not_waited_for_again_at_once() {
        run(async {
            let names = Rc::new(Names { lookup_timeout: Duration::from_millis(10), ..Names::new() });
            let first = names.resolve_with(PeerId(0), "dead.invalid", 80, &lookup).await;
            assert_eq!(first, Err(Refusal::TimedOut));
            let again = names.recall("dead.invalid", 80, Instant::now());
            assert_eq!(again, Some(Err(Refusal::TimedOut)));
            assert_eq!(names.count.get(), 1, "its thread still runs");
        });
    }
}
