//! What a machine has to allow, and how to make it, for a person who meets the demo first.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};

use os::netns::{self, Netns};

const TUN_DEVICE: &str = "/dev/net/tun";

/// Something the demo cannot do without.
#[derive(Debug)]
pub(super) struct Missing {
    what: String,
    /// In which case to do what.
    remedies: &'static [(&'static str, &'static str)],
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        let width = self.remedies.iter().map(|(case, _)| case.chars().count()).max().unwrap_or(0) + 1;
        for (case, remedy) in self.remedies {
            write!(formatter, "\n    {:width$}  {remedy}", format!("{case}:"))?;
        }
        Ok(())
    }
}

impl Missing {
    /// In one line.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    fn other(what: String) -> Self {
        Self { what, remedies: &[] }
    }
}

/// Makes an ordinary user root of a user namespace, so that network namespaces and TUN devices can be made in
/// it.
///
/// Call it while the process has one thread.
pub(super) fn gain() -> Result<(), Missing> {
    netns::enter_user_namespace().map_err(|error| Missing::other(error.to_string()))
}

/// Checks that network namespaces and TUN devices can be made.
pub(super) fn check() -> Result<(), Missing> {
    File::options().read(true).write(true).open(TUN_DEVICE).map_err(|error| without_tun(&error))?;
    Netns::new().map_err(|error| without_namespaces(&error))?;
    netns::privileged().map_err(Missing::other)
}

fn without_tun(error: &io::Error) -> Missing {
    if error.kind() == ErrorKind::PermissionDenied {
        return Missing {
            what: format!("{TUN_DEVICE} may not be opened ({error})"),
            remedies: &[
                (
                    "for every user",
                    "sudo chmod 666 /dev/net/tun (it gives no rights over the machine's network)",
                ),
                ("just this once", "sudo shadowmesh demo"),
            ],
        };
    }
    Missing {
        what: format!("there is no TUN driver: {TUN_DEVICE}: {error}"),
        remedies: &[
            ("load it", "sudo modprobe tun"),
            ("in a container", "start it with --device /dev/net/tun --cap-add NET_ADMIN --cap-add SYS_ADMIN"),
        ],
    }
}

fn without_namespaces(error: &io::Error) -> Missing {
    let remedies: &[_] = match error.kind() {
        // ENOSPC, network_namespaces(7).
        ErrorKind::StorageFull => &[("allow more", "sudo sysctl -w user.max_net_namespaces=10000")],
        ErrorKind::PermissionDenied => &[
            ("in a container", "start it with --cap-add SYS_ADMIN --cap-add NET_ADMIN --device /dev/net/tun"),
            ("elsewhere", "sudo shadowmesh demo"),
        ],
        _ => &[("the kernel", "it has to be built with CONFIG_NET_NS")],
    };
    Missing { what: format!("network namespaces cannot be made ({error})"), remedies }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_first_and_then_how_to_get_it() {
        let text = without_tun(&ErrorKind::NotFound.into()).to_string();
        assert!(text.starts_with("there is no TUN driver: /dev/net/tun: "), "{text}");
        assert!(
            text.contains("\n    load it:         sudo modprobe tun\n    in a container:  start it"),
            "{text}"
        );
    }

    #[test]
    fn each_cause_has_its_own_remedy() {
        let tun = |kind: ErrorKind| without_tun(&kind.into()).to_string();
        let namespaces = |kind: ErrorKind| without_namespaces(&kind.into()).to_string();
        assert!(tun(ErrorKind::PermissionDenied).contains("chmod 666 /dev/net/tun"));
        assert!(namespaces(ErrorKind::StorageFull).contains("user.max_net_namespaces"));
        assert!(namespaces(ErrorKind::PermissionDenied).contains("SYS_ADMIN"));
        assert!(namespaces(ErrorKind::InvalidInput).contains("CONFIG_NET_NS"));
    }
}
