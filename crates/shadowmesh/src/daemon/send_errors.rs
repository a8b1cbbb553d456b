//! Sends that the operating system refuses, told in the log: seldom, and with what can be done about it.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use packet::Endpoint;

/// The same error about the same place is told again after this time.
const AGAIN: Duration = Duration::from_mins(5);

/// Errors remembered. Places come from the configuration and from strangers that are answered, so there may be many.
const REMEMBERED_MAX: usize = 64;

/// What was told when.
#[derive(Debug, Default)]
pub(super) struct SendErrors {
    told: HashMap<(Endpoint, Option<i32>), Instant>,
}

impl SendErrors {
    /// What to tell the user of a send to `to` that failed, if that is news and more than a full queue.
    pub(super) fn tell(&mut self, now: Instant, to: Endpoint, error: &io::Error) -> Option<String> {
        if matches!(
            error.kind(),
            ErrorKind::WouldBlock
                | ErrorKind::OutOfMemory
                | ErrorKind::ResourceBusy
                | ErrorKind::NotConnected
        ) {
            return None;
        }
        let key = (to, error.raw_os_error());
        if self.told.get(&key).is_some_and(|told| now.saturating_duration_since(*told) < AGAIN) {
            return None;
        }
        if self.told.len() == REMEMBERED_MAX {
            self.told.retain(|_, told| now.saturating_duration_since(*told) < AGAIN);
        }
        if self.told.len() == REMEMBERED_MAX {
            return None;
        }
        self.told.insert(key, now);
        let error_text = error.to_string();
        let error_text = error_text.split(" (os error").next().unwrap_or_default();
        Some(match remedy(to.address, error) {
            Some(remedy) => format!("cannot send to {to}: {error_text}; {remedy}"),
            None => format!("cannot send to {to}: {error_text}"),
        })
    }
}

/// What a user can do about it.
fn remedy(to: SocketAddr, error: &io::Error) -> Option<String> {
    let unscoped = match to {
        SocketAddr::V6(v6) => v6.ip().is_unicast_link_local() && v6.scope_id() == 0,
        SocketAddr::V4(_) => false,
    };
    if unscoped {
        let port = to.port();
        return Some(format!("say by which interface: \"[{}%INTERFACE]:{port}\"", to.ip()));
    }
    let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
    Some(match error.raw_os_error() {
        Some(EAFNOSUPPORT) => format!("`listen` is not of {family}: use \"[::]:PORT\" for both"),
        Some(EINVAL) => "from the address of `listen` there is no way there".to_owned(),
        Some(EPERM) => "a firewall on this machine forbids it (see `nft list ruleset`)".to_owned(),
        _ => match (error.kind(), to.ip()) {
            (ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable, ip @ IpAddr::V4(_)) => {
                format!("see `ip route get {ip}`")
            }
            (ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable, ip) => {
                format!("see `ip -6 route get {ip}`")
            }
            _ => return None,
        },
    })
}

// Of every architecture that this runs on but MIPS, where the second one merely goes without its remedy.
const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const EAFNOSUPPORT: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    const ENETUNREACH: i32 = 101;

    fn tell(errors: &mut SendErrors, now: Instant, to: &str, errno: i32) -> Option<String> {
        let to = Endpoint::udp(to.parse().unwrap());
        errors.tell(now, to, &io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_send_error_names_the_place_and_the_remedy() {
        let (mut errors, now) = (SendErrors::default(), Instant::now());
        let mut told = |to, errno| tell(&mut errors, now, to, errno).unwrap();
        assert_eq!(
            told("192.0.2.1:9", ENETUNREACH),
            "cannot send to 192.0.2.1:9: Network is unreachable; see `ip route get 192.0.2.1`"
        );
        assert!(
            told("[2001:db8::1]:9", EAFNOSUPPORT)
                .ends_with("`listen` is not of IPv6: use \"[::]:PORT\" for both")
        );
        assert!(told("[fe80::1]:9", EINVAL).ends_with("say by which interface: \"[fe80::1%INTERFACE]:9\""));
        assert!(told("192.0.2.1:9", EPERM).contains("firewall"));
    }

    #[test]
    fn the_same_error_is_told_once_and_a_full_queue_never() {
        let (mut errors, now) = (SendErrors::default(), Instant::now());
        assert!(tell(&mut errors, now, "192.0.2.1:9", ENETUNREACH).is_some());
        assert!(tell(&mut errors, now, "192.0.2.1:9", ENETUNREACH).is_none());
        assert!(tell(&mut errors, now + AGAIN, "192.0.2.1:9", ENETUNREACH).is_some());
        let full = io::Error::from(ErrorKind::WouldBlock);
        assert!(errors.tell(now, Endpoint::udp("192.0.2.1:9".parse().unwrap()), &full).is_none());
        for port in 1..1_000 {
            tell(&mut errors, now, &format!("192.0.2.1:{port}"), ENETUNREACH);
        }
        assert_eq!(errors.told.len(), REMEMBERED_MAX, "however many places there are");
    }
}
