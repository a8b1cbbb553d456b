//! Names and attributes of services and hosts, checked once where they enter.

use std::fmt;
use std::str::FromStr;

use crate::wire::{self, InvalidName, InvalidTxt, Name, NameBuf, Shown, text::write_escaped};

/// Why the labels of a checked name always make a name.
const FITS: &str = "checked labels of 63 bytes at most, few enough for 255 bytes";

/// Why a name, a type or an attribute cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NameError {
    /// A service type is `_name._tcp` or `_name._udp`.
    #[error("a service type is written _name._tcp or _name._udp")]
    NotAServiceType,
    /// RFC 6335 §5.1: 1 to 15 characters.
    #[error("the name of a service has 1 to 15 characters")]
    ServiceLength,
    /// RFC 6335 §5.1: letters, digits and single inner hyphens, with at least one letter.
    #[error("the name of a service has letters, digits and single hyphens inside, and at least one letter")]
    ServiceCharacters,
    /// A label has 1 to 63 bytes (RFC 1035 §2.3.4, RFC 6763 §4.1.1).
    #[error("a label has 1 to 63 bytes of UTF-8")]
    LabelLength,
    /// RFC 6763 §4.1.1 bans ASCII control characters.
    #[error("a name has no control characters")]
    ControlCharacter,
    /// A host name outside `local.` is not Multicast DNS's to resolve (RFC 6762 §3).
    #[error("a host name of several labels ends in .local")]
    NotLocal,
    /// A name has at most 255 bytes (RFC 1035 §2.3.4).
    #[error("a name has at most 255 bytes")]
    NameLength,
    /// RFC 6763 §6.4: a key has at least one character, all printable ASCII but `=`.
    #[error("a TXT key has one or more printable ASCII characters other than =")]
    TxtKey,
    /// RFC 6763 §6.1: one `key=value` has at most 255 bytes.
    #[error("a TXT entry, key and value together, has at most 255 bytes")]
    TxtEntryLength,
    /// The whole TXT record would not fit in a message.
    #[error("a TXT record has at most {max} bytes", max = Txt::BYTES_MAX)]
    TxtLength,
    /// RFC 6763 §6.4: a key that stands twice; the second would never be seen.
    #[error("a TXT key stands twice")]
    TxtKeyTwice,
}

/// Checks a label that a person may have chosen: arbitrary UTF-8, dots included, without control characters.
fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() || label.len() > 63 {
        return Err(NameError::LabelLength);
    }
    if label.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}

/// The transport half of a service type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `_tcp`
    Tcp,
    /// `_udp`: everything that is not TCP (RFC 6763 §4.1.2).
    Udp,
}

impl Protocol {
    /// The label, with its underscore.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
        }
    }
}

/// A service type such as `_ipp._tcp` (RFC 6763 §7), in lower case.
///
/// Any label with an underscore before it is one: devices offer types of more than 15 characters, or with more underscores
/// (`_androidtvremote2._tcp`, `_lg_dtv_wifirc._tcp`), and have to be found. What is published follows RFC 6335 §5.1, which
/// [`check`](Self::check) tells.
///
/// ```
/// use mdns::ServiceType;
/// let printing: ServiceType = "_IPP._tcp.local.".parse().unwrap();
/// assert_eq!(printing.to_string(), "_ipp._tcp");
/// let television: ServiceType = "_lg_dtv_wifirc._tcp".parse().unwrap();
/// assert!(television.check().is_err());
/// assert!("ipp".parse::<ServiceType>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceType {
    /// The first label, with its underscore.
    service: Box<str>,
    protocol: Protocol,
}

impl ServiceType {
    /// The first label, with its underscore: `_ipp`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The second label.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The type whose two labels are these, underscores included.
    ///
    /// # Errors
    /// [`NameError`] when they are none, or are too long for a label.
    pub fn from_labels(service: &str, protocol: &str) -> Result<Self, NameError> {
        let protocol = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .find(|known| known.label().eq_ignore_ascii_case(protocol))
            .ok_or(NameError::NotAServiceType)?;
        let name = service.strip_prefix('_').ok_or(NameError::NotAServiceType)?;
        if name.is_empty() {
            return Err(NameError::ServiceLength);
        }
        if service.len() > 63 {
            return Err(NameError::LabelLength);
        }
        Ok(Self { service: service.to_ascii_lowercase().into(), protocol })
    }

    /// Whether it may be published.
    ///
    /// # Errors
    /// [`NameError`] unless it follows RFC 6335 §5.1.
    pub fn check(&self) -> Result<(), NameError> {
        let name = self.service.trim_start_matches('_');
        if name.is_empty() || name.len() > 15 {
            return Err(NameError::ServiceLength);
        }
        let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && name.bytes().any(|byte| byte.is_ascii_alphabetic())
            && !name.starts_with('-')
            && !name.ends_with('-')
            && !name.contains("--")
            && name.len() + 1 == self.service.len();
        if legal { Ok(()) } else { Err(NameError::ServiceCharacters) }
    }
}

/// Names of DNS-SD (RFC 6763 §4.1, §7.1, §9).
impl ServiceType {
    /// `_ipp._tcp.local`: where the PTR records of all instances are.
    pub fn to_name(&self) -> NameBuf {
        NameBuf::from_labels([&*self.service, self.protocol.label(), "local"]).expect(FITS)
    }

    /// `_printer._sub._ipp._tcp.local`: where the PTR records are of those that are of a subtype as well.
    pub fn subtype_name(&self, subtype: &Subtype) -> NameBuf {
        NameBuf::from_labels([subtype.as_str(), "_sub", &self.service, self.protocol.label(), "local"])
            .expect(FITS)
    }

    /// `Instance._ipp._tcp.local`: where the SRV and TXT records of an instance are.
    pub fn instance_name(&self, instance: &InstanceName) -> NameBuf {
        self.to_name().with_first_label(instance.as_bytes()).expect(FITS)
    }

    /// `_services._dns-sd._udp.local`: where the PTR records of all types are.
    pub fn enumeration_name() -> NameBuf {
        NameBuf::from_labels(["_services", "_dns-sd", "_udp", "local"]).expect(FITS)
    }

    /// The instance of this type that has that name.
    pub(crate) fn instance_of(&self, name: Name<'_>) -> Option<InstanceName> {
        let first = name.labels().next()?;
        (name.parent()? == self.to_name()).then_some(())?;
        InstanceName::from_label(first).ok()
    }

    /// The type that has that name.
    pub(crate) fn of_name(name: Name<'_>) -> Option<Self> {
        let mut labels = name.labels().map(std::str::from_utf8);
        let mut next = || labels.next()?.ok();
        let (service, protocol, local) = (next()?, next()?, next()?);
        (local.eq_ignore_ascii_case("local") && next().is_none()).then_some(())?;
        Self::from_labels(service, protocol).ok()
    }
}

impl FromStr for ServiceType {
    type Err = NameError;

    /// Reads `_ipp._tcp`, with or without `.local` and a final dot, as it is shown.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let name: NameBuf = strip_local(text).unwrap_or(text).parse().map_err(|error| match error {
            InvalidName::LabelTooLong | InvalidName::TooLong => NameError::LabelLength,
            InvalidName::EmptyLabel | InvalidName::Escape => NameError::NotAServiceType,
        })?;
        let mut labels = name.as_name().labels().map(std::str::from_utf8);
        match (labels.next(), labels.next(), labels.next()) {
            (Some(Ok(service)), Some(Ok(protocol)), None) => Self::from_labels(service, protocol),
            _ => Err(NameError::NotAServiceType),
        }
    }
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A space would end it where it stands in a column.
        let special = |character: char| matches!(character, '.' | '\\') || character.is_whitespace();
        write_escaped(f, self.service.as_bytes(), special)?;
        write!(f, ".{}", self.protocol.label())
    }
}

/// `name` without its final `.local` or `.local.`, if it has one.
fn strip_local(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let (rest, last) = name.split_at_checked(name.len().checked_sub(6)?)?;
    last.eq_ignore_ascii_case(".local").then_some(rest)
}

/// The name a person reads for one instance of a service: arbitrary UTF-8, dots and spaces included, in one label (RFC 6763
/// §4.1.1).
///
/// A name that is parsed from text is fit to be published. That of a device may break the rules, with control characters or
/// bytes that are not UTF-8; it is kept as it is, so that the device can be found and asked, and shown without them.
///
/// ```
/// use mdns::InstanceName;
/// let name: InstanceName = "Dr. Müller's printer".parse().unwrap();
/// assert_eq!(name.as_str(), "Dr. Müller's printer");
/// let gateway = InstanceName::from_label(b"Gateway\r\n").unwrap();
/// assert_eq!(gateway.to_string(), r"Gateway\013\010");
/// assert!(gateway.check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName {
    text: Box<str>,
    /// The label, where it is not UTF-8 and `text` has U+FFFD in it.
    bytes: Option<Box<[u8]>>,
}

impl InstanceName {
    /// The instance with that label, as some device has it.
    ///
    /// # Errors
    /// [`NameError::LabelLength`] for what is no label.
    pub fn from_label(label: &[u8]) -> Result<Self, NameError> {
        if label.is_empty() || label.len() > 63 {
            return Err(NameError::LabelLength);
        }
        Ok(match std::str::from_utf8(label) {
            Ok(text) => Self { text: text.into(), bytes: None },
            Err(_) => Self { text: String::from_utf8_lossy(label).into(), bytes: Some(label.into()) },
        })
    }

    /// The label as text, for a program to compare and keep; U+FFFD for what is not UTF-8. It may have control characters:
    /// what is shown to a person is [`Display`](fmt::Display).
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The label.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.text.as_bytes())
    }

    /// Whether it may be published.
    ///
    /// # Errors
    /// [`NameError`] for a name with control characters (RFC 6763 §4.1.1), or that is not UTF-8.
    pub fn check(&self) -> Result<(), NameError> {
        if self.bytes.is_some() { Err(NameError::LabelLength) } else { check_label(&self.text) }
    }
}

impl FromStr for InstanceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_label(text)?;
        Ok(Self { text: text.into(), bytes: None })
    }
}

/// Fit for a terminal and a log, whatever a device calls itself; as [`ServiceName`](crate::ServiceName) shows it, it can be read
/// back as well.
impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(self.as_bytes()).fmt(f)
    }
}

/// A subtype such as `_printer`: one label, by custom with an underscore (RFC 6763 §7.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtype(Box<str>);

impl Subtype {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subtype {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_label(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Subtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `label` with `number` after it, in a form that is read back: `base`, `open`, number, `close`. What is too long is cut.
fn numbered(label: &str, number: u32, open: &str, close: &str) -> Box<str> {
    if number <= 1 {
        return label.into();
    }
    // The name may be one that was won in an earlier conflict.
    let earlier =
        label.strip_suffix(close).and_then(|label| label.rsplit_once(open)).and_then(|(base, digits)| {
            let earlier: u32 = digits.parse().ok().filter(|earlier| (2..1_000_000).contains(earlier))?;
            (!digits.starts_with('0') && !base.is_empty()).then_some((base, earlier))
        });
    let (base, number) = match earlier {
        Some((base, earlier)) => (base, earlier.saturating_add(number - 1)),
        None => (label, number),
    };
    let suffix = format!("{open}{number}{close}");
    let mut len = base.len().min(63 - suffix.len());
    while !base.is_char_boundary(len) {
        len -= 1;
    }
    (base[..len].to_owned() + &suffix).into()
}

impl InstanceName {
    /// The name to try after `number - 1` conflicts: `Printer`, `Printer (2)`, `Printer (3)` (RFC 6762 §9).
    pub(crate) fn numbered(&self, number: u32) -> Self {
        Self { text: numbered(&self.text, number, " (", ")"), bytes: None }
    }
}

/// The name of a host in `local.`
///
/// A single label gets `.local`; a name of several labels must have it already.
///
/// ```
/// use mdns::{HostName, NameError};
/// assert_eq!("nas".parse::<HostName>().unwrap().to_string(), "nas.local");
/// assert_eq!("nas.local.".parse::<HostName>().unwrap().to_string(), "nas.local");
/// assert_eq!("nas.example.com".parse::<HostName>(), Err(NameError::NotLocal));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// The labels before `local`.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// The name on the wire.
    pub fn to_name(&self) -> NameBuf {
        NameBuf::from_labels(self.labels().chain(["local"])).expect(FITS)
    }

    /// The name to try after `number - 1` conflicts: `nas`, `nas-2`, `nas-3` (RFC 6762 §9).
    pub(crate) fn numbered(&self, number: u32) -> Self {
        let (first, rest) = self.0.split_at(self.0.find('.').unwrap_or(self.0.len()));
        let first = numbered(first, number, "-", "");
        // A name at the limit of 255 bytes has no room for a longer first label.
        let len = first.len() + rest.len() + 1 + 6 + 1;
        if len > 255 { Self(self.0.clone()) } else { Self((first.into_string() + rest).into()) }
    }
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let host = if let Some(host) = strip_local(text) {
            host
        } else {
            let host = text.strip_suffix('.').unwrap_or(text);
            if host.contains('.') || host.eq_ignore_ascii_case("local") {
                return Err(NameError::NotLocal);
            }
            host
        };
        host.split('.').try_for_each(check_label)?;
        // One length byte a label, `local` and the root.
        if host.len() + 1 + 6 + 1 > 255 {
            return Err(NameError::NameLength);
        }
        Ok(Self(host.into()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.local", self.0)
    }
}

/// The attributes of a service: the content of its TXT record (RFC 6763 §6).
///
/// Kept as they travel: strings of at most 255 bytes, each after its length. There is always at least one, be it empty
/// (§6.1).
///
/// ```
/// let txt = mdns::Txt::new([("rp", "ipp/print"), ("pdl", "")]).unwrap();
/// assert_eq!(txt.value("RP"), Some(Some(&b"ipp/print"[..])));
/// assert_eq!(txt.value("paper"), None);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Txt(Box<[u8]>);

impl Txt {
    /// The most bytes of a TXT record, lengths included: what fits in a message of 9,000 bytes (RFC 6762 §17) beside
    /// the longest names.
    pub const BYTES_MAX: usize = 8_400;

    /// A record of `key=value` strings, in that order.
    ///
    /// # Errors
    /// A key that is not printable ASCII or stands twice, an entry over 255 bytes, a record over
    /// [`Txt::BYTES_MAX`].
    pub fn new<K: AsRef<str>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, NameError> {
        pairs
            .into_iter()
            .try_fold(Self::default(), |txt, (key, value)| txt.with(key.as_ref(), Some(value.as_ref())))
    }

    /// This record and one more entry: `key=value`, or the bare `key` of a boolean attribute (RFC 6763 §6.4).
    ///
    /// # Errors
    /// As [`Txt::new`].
    pub fn with(self, key: &str, value: Option<&[u8]>) -> Result<Self, NameError> {
        if self.value(key).is_some() {
            return Err(NameError::TxtKeyTwice);
        }
        let mut bytes = if *self.0 == *wire::Txt::EMPTY.as_bytes() { Vec::new() } else { self.0.into_vec() };
        wire::Txt::append(&mut bytes, key, value).map_err(|error| match error {
            InvalidTxt::Key => NameError::TxtKey,
            InvalidTxt::AttributeTooLong => NameError::TxtEntryLength,
            InvalidTxt::TooLong | InvalidTxt::Truncated => NameError::TxtLength,
        })?;
        if bytes.len() > Self::BYTES_MAX {
            return Err(NameError::TxtLength);
        }
        Ok(Self(bytes.into()))
    }

    /// What a record on the wire said. An empty one counts as one empty string
    /// (RFC 6763 §6.1).
    pub(crate) fn from_wire(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::default() } else { Self(bytes.into()) }
    }

    /// The content of the TXT record.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The content as the data of a record.
    pub(crate) fn as_wire(&self) -> wire::Txt<'_> {
        wire::Txt::as_received(&self.0)
    }

    /// The entries in order: key, and value if there is a `=`. Strings without a key are left out, and so are all but the
    /// first of a key, whatever its case (§6.4).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut seen = std::collections::HashSet::new();
        self.as_wire()
            .attributes()
            .filter(move |attribute| seen.insert(attribute.key.to_ascii_lowercase()))
            .map(|attribute| (attribute.key, attribute.value))
    }

    /// The value of `key`, whatever its case; of a key that stands twice the first (§6.4). `Some(None)`: there is the key but
    /// no value.
    pub fn value(&self, key: &str) -> Option<Option<&[u8]>> {
        self.as_wire().get(key).map(|attribute| attribute.value)
    }
}

impl Default for Txt {
    /// One empty string (§6.1).
    fn default() -> Self {
        Self(wire::Txt::EMPTY.as_bytes().into())
    }
}

impl fmt::Debug for Txt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(key, value)| {
                (String::from_utf8_lossy(key).into_owned(), value.map(String::from_utf8_lossy))
            }))
            .finish()
    }
}
