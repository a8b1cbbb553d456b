//! The numbers of record types, classes and sections.

use std::fmt;

/// What kind of record: the registered numbers of RFC 1035 §3.2.2 and its successors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

macro_rules! record_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl RecordType {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The name of the type, if it is one of those listed here.
            fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The type of that name, in any case, or of `TYPE` and a number (RFC 3597 §5).
            pub fn from_name(name: &str) -> Option<Self> {
                $(if name.eq_ignore_ascii_case(stringify!($name)) {
                    return Some(Self::$name);
                })*
                let (prefix, number) = name.split_at_checked(4)?;
                let number = number.parse().ok()?;
                prefix.eq_ignore_ascii_case("TYPE").then_some(Self(number))
            }
        }
    };
}

record_types! {
    /// An IPv4 address.
    A = 1,
    /// The name of a name server.
    NS = 2,
    /// The name that this one is an alias of.
    CNAME = 5,
    /// The start of a zone: nothing that multicast DNS has.
    SOA = 6,
    /// The name that this one points to.
    PTR = 12,
    /// Processor and operating system.
    HINFO = 13,
    /// A mail server.
    MX = 15,
    /// Strings; in DNS-SD the attributes of a service.
    TXT = 16,
    /// Two names of a responsible person.
    RP = 17,
    /// A server of a cell database.
    AFSDB = 18,
    /// A route through an intermediate host.
    RT = 21,
    /// A mapping of X.400 mail.
    PX = 26,
    /// An IPv6 address.
    AAAA = 28,
    /// Host and port of a service.
    SRV = 33,
    /// A key exchanger.
    KX = 36,
    /// The name that a whole subtree is an alias of.
    DNAME = 39,
    /// Options of the message, not a record (RFC 6891).
    OPT = 41,
    /// Which types a name has (RFC 6762 §6.1).
    NSEC = 47,
    /// How to connect to a service.
    SVCB = 64,
    /// How to connect to a web server.
    HTTPS = 65,
    /// Questions only: every type.
    ANY = 255,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// The class: 15 bits, since multicast DNS uses the sixteenth for something else (RFC 6762 §18.12, §18.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u16);

impl Class {
    /// The Internet: the only class in use.
    pub const IN: Self = Self(1);
    /// Questions only: every class.
    pub const ANY: Self = Self(255);
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IN => f.pad("IN"),
            Self::ANY => f.pad("ANY"),
            Self(number) => write!(f, "CLASS{number}"),
        }
    }
}

/// Where in a message a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// What was asked for; in a query, the answers that are known already (RFC 6762 §7.1).
    Answer,
    /// In a probe, the records that are to become unique (RFC 6762 §8.2).
    Authority,
    /// What the asker will want next.
    Additional,
}

#[cfg(test)]
mod tests {
    use super::RecordType;

    #[test]
    fn a_type_is_read_as_it_is_shown() {
        for number in 0..300 {
            let shown = RecordType(number).to_string();
            assert_eq!(RecordType::from_name(&shown), Some(RecordType(number)), "{shown}");
        }
        assert_eq!(RecordType::from_name("aaaa"), Some(RecordType::AAAA));
        assert_eq!(RecordType::from_name("type65280"), Some(RecordType(65_280)));
        for wrong in ["", "AA", "TYPE", "TYPE65536", "TYPEx", "тип1"] {
            assert_eq!(RecordType::from_name(wrong), None, "{wrong}");
        }
    }
}
