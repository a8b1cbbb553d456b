//! Where a peer is, and what carries datagrams there.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use thiserror::Error;

/// What carries a peer's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// One UDP datagram each.
    #[default]
    Udp,
    /// One crafted TCP segment each, past the kernel's TCP.
    FakeTcp,
    /// A frame each on a connection of the kernel's TCP.
    Tcp,
}

/// A carrier that there is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no carrier `{0}`: udp, faketcp and tcp are possible")]
pub struct UnknownCarrier(String);

impl Carrier {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Udp, Self::FakeTcp, Self::Tcp];

    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::FakeTcp => "faketcp",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Carrier {
    type Err = UnknownCarrier;

    fn from_str(name: &str) -> Result<Self, UnknownCarrier> {
        Self::ALL
            .into_iter()
            .find(|carrier| carrier.name() == name)
            .ok_or_else(|| UnknownCarrier(name.to_owned()))
    }
}

/// One end of a path: an address, and the carrier that it is reached by.
///
/// ```
/// use packet::{Carrier, Endpoint};
///
/// let address = "192.0.2.1:9443".parse().expect("an address");
/// assert_eq!(Endpoint::udp(address).to_string(), "192.0.2.1:9443");
/// assert_eq!(Endpoint { carrier: Carrier::FakeTcp, address }.to_string(), "192.0.2.1:9443 over faketcp");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// What datagrams for it travel in.
    pub carrier: Carrier,
    /// Where it is.
    pub address: SocketAddr,
}

impl Endpoint {
    /// One that is reached by UDP.
    pub const fn udp(address: SocketAddr) -> Self {
        Self { carrier: Carrier::Udp, address }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.carrier {
            Carrier::Udp => write!(f, "{}", self.address),
            carrier => write!(f, "{} over {carrier}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriers_are_known_by_their_names() {
        for carrier in Carrier::ALL {
            assert_eq!(carrier.name().parse(), Ok(carrier));
        }
        let error = "icmp".parse::<Carrier>().unwrap_err();
        assert_eq!(error.to_string(), "there is no carrier `icmp`: udp, faketcp and tcp are possible");
    }
}
