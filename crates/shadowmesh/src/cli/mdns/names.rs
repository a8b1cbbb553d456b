//! Names of interfaces, and text from the network that must not control a terminal.

use mdns::wire::Shown;
use os::netlink::Netlink;
use std::collections::HashMap;

use crate::failure::Failure;

/// The names of interfaces, looked up once each.
#[derive(Debug)]
pub(super) struct InterfaceNames {
    netlink: Netlink,
    known: HashMap<u32, String>,
}

impl InterfaceNames {
    pub(super) fn new() -> Result<Self, Failure> {
        let netlink = Netlink::open()
            .map_err(|error| Failure::Runtime(format!("cannot list the network interfaces: {error}")))?;
        Ok(Self { netlink, known: HashMap::new() })
    }

    /// The name of an interface; its number when it has gone.
    pub(super) fn get(&mut self, index: u32) -> &str {
        let Self { netlink, known } = self;
        known.entry(index).or_insert_with(|| {
            netlink.link_by_index(index).map_or_else(|_| format!("#{index}"), |link| link.name)
        })
    }
}

/// Text that somebody on the network has chosen, with everything that would control a terminal made visible: as `\DDD`, which
/// names are read back from.
pub(super) fn visible(text: impl AsRef<[u8]>) -> String {
    Shown(text.as_ref()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_text_direction_are_shown_rather_than_obeyed() {
        assert_eq!(visible("Büro \u{1f5a8}"), "Büro \u{1f5a8}");
        assert_eq!(visible("a\x1b[31mb\u{9b}c\u{202e}d\n"), r"a\027[31mb\194\155c\226\128\174d\010");
        assert_eq!(visible(b"B\xfcro"), r"B\252ro");
    }
}
