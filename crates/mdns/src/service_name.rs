//! A service by name, as people write it and programs show it.

use std::fmt;
use std::str::FromStr;

use crate::service::{InstanceName, NameError, ServiceType};
use crate::wire::NameBuf;
use crate::wire::text::{unescape, write_escaped};

/// An instance and its type: `My printer._ipp._tcp`.
///
/// What is shown is read back as the same, whatever a device calls itself: a backslash is doubled, and control characters and bytes
/// that are not UTF-8 are `\DDD`. Dots in the instance are left alone. What other programs show is read as well: `\.` as
/// `dns-sd` and `avahi-browse` have it, `\032` for a space, `.local` with and without its dot, and instance and type as
/// two columns.
///
/// ```
/// use mdns::ServiceName;
/// let name: ServiceName = r"Dr\. No's\032TV._http._tcp.local.".parse().unwrap();
/// assert_eq!(name.instance.as_str(), "Dr. No's TV");
/// assert_eq!(name.to_string(), "Dr. No's TV._http._tcp");
/// assert_eq!("Dr. No's TV    _http._tcp".parse(), Ok(name));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The instance.
    pub instance: InstanceName,
    /// Its type.
    pub service_type: ServiceType,
}

impl ServiceName {
    /// The name on the wire.
    pub fn to_name(&self) -> NameBuf {
        self.service_type.instance_name(&self.instance)
    }

    /// Whether a text ends as the name of a service does: what does not is the name of a host.
    pub fn ends_like_one(text: &str) -> bool {
        let text = without_local(text);
        let end = text.len().checked_sub(5).and_then(|at| text.get(at..));
        end.is_some_and(|end| ["._tcp", "._udp"].iter().any(|known| end.eq_ignore_ascii_case(known)))
    }
}

/// `text` without what says nothing: a last dot, and `.local`.
fn without_local(text: &str) -> &str {
    let text = text.strip_suffix('.').unwrap_or(text);
    let end = text.len().checked_sub(6).and_then(|at| text.get(at..));
    if end.is_some_and(|end| end.eq_ignore_ascii_case(".local")) { &text[..text.len() - 6] } else { text }
}

/// Whether the byte at `at` has a backslash before it that is not itself escaped.
fn is_escaped(text: &str, at: usize) -> bool {
    text.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = without_local(text);
        let (names, _) =
            text.rsplit_once('.').filter(|_| Self::ends_like_one(text)).ok_or(NameError::NotAServiceType)?;
        // The type begins with the last underscore that begins a label, or a column.
        let at = names
            .match_indices('_')
            .filter_map(|(at, _)| Some((at, names[..at].chars().next_back()?)))
            .filter(|(at, before)| {
                (*before == '.' || before.is_whitespace()) && !is_escaped(names, at - before.len_utf8())
            })
            .map(|(at, before)| (at, at - before.len_utf8(), before))
            .next_back();
        let (service, end, separator) = at.ok_or(NameError::NotAServiceType)?;
        let instance = if separator == '.' { &names[..end] } else { names[..end].trim_end() };
        Ok(Self {
            instance: InstanceName::from_label(&unescaped(instance))?,
            service_type: text[service..].parse()?,
        })
    }
}

/// The bytes that a text stands for. A backslash that escapes nothing is one.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = if byte == b'\\' { unescape(after).ok() } else { None };
        let (byte, after) = escaped.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_instance(f, &self.instance)?;
        write!(f, ".{}", self.service_type)
    }
}

fn write_instance(f: &mut fmt::Formatter<'_>, instance: &InstanceName) -> fmt::Result {
    write_escaped(f, instance.as_bytes(), |character| character == '\\')
}

/// An instance as [`ServiceName`] shows it, to be shown alone.
#[derive(Clone, Copy, Debug)]
pub struct ShownInstance<'a>(pub &'a InstanceName);

impl fmt::Display for ShownInstance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_instance(f, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Vec<u8>, String)> {
        let name: ServiceName = text.parse().ok()?;
        Some((name.instance.as_bytes().to_vec(), name.service_type.to_string()))
    }

    #[test]
    fn a_service_is_read_however_people_and_other_programs_write_it() {
        let service = |name: &str, kind: &str| Some((name.as_bytes().to_vec(), kind.to_owned()));
        for (text, expected) in [
            ("My printer._ipp._tcp", service("My printer", "_ipp._tcp")),
            ("My printer._IPP._TCP.LOCAL", service("My printer", "_ipp._tcp")),
            ("Dr. No._http._udp.local.", service("Dr. No", "_http._udp")),
            (r"Dr\. No._http._tcp.local", service("Dr. No", "_http._tcp")),
            (r"My\032printer._ipp._tcp", service("My printer", "_ipp._tcp")),
            ("a._b._c._tcp", service("a._b", "_c._tcp")),
            (r"a\._b._c._tcp", service("a._b", "_c._tcp")),
            ("My printer       _ipp._tcp", service("My printer", "_ipp._tcp")),
            ("My _x._lg_dtv_wifirc._tcp", service("My _x", "_lg_dtv_wifirc._tcp")),
            (r"C:\\share._smb._tcp", service(r"C:\share", "_smb._tcp")),
            (r"end\\._smb._tcp", service(r"end\", "_smb._tcp")),
            (r"Gateway_00:1e\013\010._http._tcp", service("Gateway_00:1e\r\n", "_http._tcp")),
            ("\"quoted\"._http._tcp", service("\"quoted\"", "_http._tcp")),
            ("Büro ☃._http._tcp", service("Büro ☃", "_http._tcp")),
            (r"B\252ro._http._tcp", Some((b"B\xfcro".to_vec(), "_http._tcp".into()))),
            ("nas.local", None),
            ("_ipp._tcp", None),
            ("._ipp._tcp", None),
            ("x._tcp", None),
            ("é._tcp", None),
            ("", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back_and_obeyed_by_no_terminal() {
        let labels: [&[u8]; 9] = [
            b"My printer",
            b"a\\b",
            b"\\",
            b"Dr. No",
            b"a._b._tcp",
            b"x _y",
            b"\x1b[31m\r\n",
            "\u{202e}\u{9b}".as_bytes(),
            b"B\xfcro\\032",
        ];
        for label in labels {
            for service_type in ["_http._tcp", r"_a\.b._udp", r"_a\ _b._udp", r"_a\\._udp"] {
                let name = ServiceName {
                    instance: InstanceName::from_label(label).unwrap(),
                    service_type: service_type.parse().unwrap(),
                };
                let shown = name.to_string();
                assert!(!shown.chars().any(crate::wire::is_control), "{shown:?}");
                assert_eq!(shown.parse(), Ok(name), "{shown}");
            }
        }
    }
}
