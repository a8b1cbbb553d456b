//! What can go wrong.

use std::io;

use mdns::NameError;
use thiserror::Error;

/// Why a [`Beacon`](crate::Beacon) could not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Some program has port 5353 for itself alone.
    #[error("UDP port 5353 is in use by a program that shares it with nobody (see `ss -ulpn sport = :5353`)")]
    PortInUse,
    /// No socket for another reason.
    #[error("cannot open a socket for Multicast DNS")]
    Socket(#[source] io::Error),
    /// The network interfaces cannot be seen.
    #[error("cannot watch the network interfaces")]
    Interfaces(#[source] io::Error),
    /// The name for this host is none.
    #[error("host name `{given}`: {reason}")]
    HostName {
        /// The name.
        given: String,
        /// What is wrong with it.
        reason: NameError,
    },
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(String),
}

/// Why something that a [`Beacon`](crate::Beacon) was asked for cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A name, a type or an attribute is not valid.
    #[error("{what} `{given}`: {reason}")]
    Invalid {
        /// What it is, as "service type".
        what: &'static str,
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: NameError,
    },
    /// Nobody has answered in time.
    #[error("nobody on the local network answers for `{0}`")]
    NotFound(String),
    /// The engine refuses: a limit is reached.
    #[error(transparent)]
    Refused(#[from] mdns::Error),
    /// The [`Beacon`](crate::Beacon) only searches: its host has no name on the network, and cannot offer services.
    #[error("this Beacon only searches: it does not publish its host, nor services of it")]
    NoHost,
    /// The [`Beacon`](crate::Beacon) has been shut down.
    #[error("this Beacon has been shut down")]
    Closed,
}

/// Reads a name, a type or the like, and says what was given if it is not valid.
pub(crate) fn parse<T: std::str::FromStr<Err = NameError>>(
    what: &'static str,
    given: &str,
) -> Result<T, Error> {
    given.parse().map_err(|reason| Error::Invalid { what, given: given.into(), reason })
}
