//! The section `[streams]`: how streams to peers behave. Everything in it has a default that fits most networks.

use stream::fec::FecConfig;
use stream::kcp::{Congestion, Mode};
use toml::de::DeTable;

use super::check::section;
use super::error::ConfigError;
use super::source::{Source, Value};

pub(super) const STREAMS_TITLE: &str = "[streams]";
pub(super) const STREAMS: &[&str] = &["congestion", "mode", "fec", "memory_mb"];

/// How much memory all streams together may hold, in MiB.
const MEMORY_MB: std::ops::RangeInclusive<i64> = 8..=65_536;

/// The `[streams]` section.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// What bounds the data in flight.
    pub congestion: Congestion,
    /// How soon losses are taken for such.
    pub mode: Mode,
    /// Forward error correction of what this node sends.
    pub fec: FecConfig,
    /// Bytes that all streams together may hold before those who write must wait.
    pub memory_max: usize,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            congestion: Congestion::Bbr,
            mode: Mode::FAST2,
            fec: FecConfig::Adaptive,
            memory_max: 256 << 20,
        }
    }
}

pub(super) fn streams(source: &Source<'_>, root: &DeTable<'_>) -> Result<Streams, ConfigError> {
    let mut streams = Streams::default();
    if !root.contains_key("streams") {
        return Ok(streams);
    }
    let section = section(source, root, "streams", STREAMS_TITLE, STREAMS)?;
    if let Some(value) = section.get("congestion") {
        streams.congestion =
            one_of(&value, "congestion", &[("bbr", Congestion::Bbr), ("none", Congestion::None)])?;
    }
    if let Some(value) = section.get("mode") {
        let modes =
            [("normal", Mode::NORMAL), ("fast", Mode::FAST), ("fast2", Mode::FAST2), ("fast3", Mode::FAST3)];
        streams.mode = one_of(&value, "mode", &modes)?;
    }
    if let Some(value) = section.get("fec") {
        streams.fec = fec(&value)?;
    }
    if let Some(value) = section.get("memory_mb") {
        streams.memory_max = (value.integer(MEMORY_MB)? as usize) << 20;
    }
    Ok(streams)
}

fn one_of<T: Copy>(value: &Value<'_, '_>, what: &str, known: &[(&str, T)]) -> Result<T, ConfigError> {
    let wanted = value.string()?;
    known.iter().find(|(name, _)| *name == wanted).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        value.error(format!("unknown {what} `{wanted}`: {}", names.join(", ")))
    })
}

/// `"off"`, `"adaptive"`, or data and parity datagrams of a group, as `"10:3"`.
fn fec(value: &Value<'_, '_>) -> Result<FecConfig, ConfigError> {
    match value.string()? {
        "off" => Ok(FecConfig::Off),
        "adaptive" => Ok(FecConfig::Adaptive),
        text => {
            let shards = text.split_once(':').and_then(|(data, parity)| {
                Some((data.parse().ok().filter(|n| *n > 0)?, parity.parse().ok().filter(|n| *n > 0)?))
            });
            let (data, parity) = shards.ok_or_else(|| {
                value.error(format!("`{text}` is not \"off\", \"adaptive\" or DATA:PARITY, as \"10:3\""))
            })?;
            FecConfig::fixed(data, parity).map_err(|error| value.error(error.to_string()))
        }
    }
}
