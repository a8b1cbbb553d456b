//! The section `[discovery]`: finding peers on the local network.

use toml::de::DeTable;

use super::check::section;
use super::error::ConfigError;
use super::source::Source;

pub(super) const DISCOVERY_TITLE: &str = "[discovery]";
pub(super) const DISCOVERY: &[&str] = &["mdns"];

/// The `[discovery]` section.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discovery {
    /// Whether to find peers on the local network, and be found, by Multicast DNS; `None` to decide by the peers, as
    /// [`Config::discovers`](super::Config::discovers) does.
    pub mdns: Option<bool>,
}

pub(super) fn discovery(source: &Source<'_>, root: &DeTable<'_>) -> Result<Discovery, ConfigError> {
    if !root.contains_key("discovery") {
        return Ok(Discovery::default());
    }
    let section = section(source, root, "discovery", DISCOVERY_TITLE, DISCOVERY)?;
    let mdns = section.get("mdns").map(|value| value.boolean()).transpose()?;
    Ok(Discovery { mdns })
}
