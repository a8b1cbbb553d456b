//! What a program asks of an engine.

use std::net::IpAddr;
use std::time::Duration;

use crate::service::{HostName, InstanceName, NameError, ServiceType, Subtype, Txt};
use crate::wire::InvalidName;

/// How an [`Engine`](crate::Engine) is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name this host would like to have; the one it last had, if it was renamed.
    pub host_name: HostName,
    /// Whether the host's name and addresses are published. A pure querier need not.
    pub publish_host: bool,
    /// Whether no other program of this host has port 5353: only then do unicast responses reach us, so only then are
    /// they asked for (RFC 6762 §15.1).
    pub exclusive_port: bool,
    /// The most records in the cache.
    pub cache_entries_max: usize,
    /// The most bytes of names and data in the cache.
    pub cache_bytes_max: usize,
    /// The most records in the cache that came from one interface.
    pub cache_entries_per_interface_max: usize,
}

impl Config {
    /// The usual limits, for a host of that name.
    pub fn new(host_name: HostName) -> Self {
        Self {
            host_name,
            publish_host: true,
            exclusive_port: true,
            cache_entries_max: 32_768,
            cache_bytes_max: 8 << 20,
            cache_entries_per_interface_max: 16_384,
        }
    }
}

/// On which interfaces something is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interfaces {
    /// All that the engine was told of.
    #[default]
    All,
    /// Those with these indexes.
    Only(Vec<u32>),
}

/// A service to publish.
#[derive(Clone, Debug)]
pub struct ServiceRegistration {
    /// The name it would like to have.
    pub instance: InstanceName,
    /// Its type.
    pub service_type: ServiceType,
    /// Subtypes under which it can be found as well (RFC 6763 §7.1).
    pub subtypes: Vec<Subtype>,
    /// The host it runs on: this one when `None`.
    pub host: Option<HostName>,
    /// Its port.
    pub port: u16,
    /// Its attributes.
    pub txt: Txt,
    /// Where to publish it.
    pub interfaces: Interfaces,
}

impl ServiceRegistration {
    /// A service of this host, without attributes, on all interfaces.
    pub fn new(instance: InstanceName, service_type: ServiceType, port: u16) -> Self {
        Self {
            instance,
            service_type,
            subtypes: Vec::new(),
            host: None,
            port,
            txt: Txt::default(),
            interfaces: Interfaces::All,
        }
    }
}

/// A name and addresses to publish beside this host's own, for another host (a proxy) or a virtual one.
#[derive(Clone, Debug)]
pub struct HostRegistration {
    /// The name it would like to have.
    pub name: HostName,
    /// Its addresses, the same on every interface.
    pub addresses: Vec<IpAddr>,
    /// Where to publish it.
    pub interfaces: Interfaces,
}

/// A search for the services of one type.
#[derive(Clone, Debug)]
pub struct Browse {
    /// The type.
    pub service_type: ServiceType,
    /// Only those that are of this subtype as well.
    pub subtype: Option<Subtype>,
    /// Whether to find out host, port, attributes and addresses of each.
    pub resolve: bool,
}

/// How long a query stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryLifetime {
    /// Until it is cancelled; records that come and go are told.
    Continuous,
    /// For so long; then [`Event::Finished`](crate::Event::Finished).
    Once(Duration),
}

/// Why something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This engine has published, or asked for, as much as it may.
    #[error("no more publications or queries are possible: the limit of {0} is reached")]
    TooMany(usize),
    /// A name that was found on the network is not always one that may be published (RFC 6335 §5.1, RFC 6763 §4.1.1).
    #[error("not to be published: {0}")]
    Unfit(NameError),
    /// No publication has that number.
    #[error("no such publication")]
    NoSuchPublication,
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// A name to ask for that is none.
    #[error("not a name: {0}")]
    Name(#[from] InvalidName),
}
