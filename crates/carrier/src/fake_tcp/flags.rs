//! TCP flags, and the turns in which they are used.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use thiserror::Error;

/// The flags of a segment (RFC 9293 §3.1, RFC 3168 §6.1). Written as their first letters, `PA` for PSH and ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data.
    pub const FIN: Self = Self(0x01);
    /// Numbers begin.
    pub const SYN: Self = Self(0x02);
    /// The flow is void.
    pub const RST: Self = Self(0x04);
    /// Hand over at once.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// Congestion was met.
    pub const ECE: Self = Self(0x40);
    /// The congestion window was reduced.
    pub const CWR: Self = Self(0x80);

    const LETTERS: [(char, Self); 8] = [
        ('S', Self::SYN),
        ('F', Self::FIN),
        ('R', Self::RST),
        ('P', Self::PSH),
        ('A', Self::ACK),
        ('U', Self::URG),
        ('E', Self::ECE),
        ('C', Self::CWR),
    ];

    /// All of `flags` are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// One of `flags` is set.
    pub const fn has_any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        Self::LETTERS
            .iter()
            .filter(|(_, flag)| self.has(*flag))
            .try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

/// Flags that data cannot have.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidFlags {
    /// A letter that stands for no flag.
    #[error("`{0}` is no TCP flag: P, A, U, E and C are possible")]
    Letter(char),
    /// A flag that opens or ends a flow.
    #[error("`{0}` opens or ends a connection: data cannot have it")]
    NotForData(char),
    /// Every segment of an open connection has ACK; what has not is dropped by firewalls.
    #[error("A is missing: firewalls drop data without it")]
    NoAck,
    /// No flags at all, or more turns than anybody needs.
    #[error("from 1 to {max} turns of flags are possible", max = FlagCycle::MAX)]
    Turns,
}

impl FromStr for Flags {
    type Err = InvalidFlags;

    fn from_str(text: &str) -> Result<Self, InvalidFlags> {
        let mut flags = Self(0);
        for letter in text.chars() {
            let known = Self::LETTERS.iter().find(|(known, _)| *known == letter);
            let (_, flag) = known.ok_or(InvalidFlags::Letter(letter))?;
            if (Self::SYN | Self::FIN | Self::RST).has(*flag) {
                return Err(InvalidFlags::NotForData(letter));
            }
            flags = flags | *flag;
        }
        if flags.has(Self::ACK) { Ok(flags) } else { Err(InvalidFlags::NoAck) }
    }
}

/// The flags that trains have, one after the other.
///
/// The kernel leaves PSH on the last segment of a super-segment only, as it does for any TCP flow.
///
/// ```
/// use carrier::fake_tcp::FlagCycle;
///
/// let cycle = FlagCycle::parse(&["PA", "A"])?;
/// let turns: Vec<String> = (0..4).map(|turn| cycle.at(turn).to_string()).collect();
/// assert_eq!(turns, ["PA", "A", "PA", "A"]);
/// # Ok::<(), carrier::fake_tcp::InvalidFlags>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagCycle(Box<[Flags]>);

impl FlagCycle {
    /// Turns that a cycle may have.
    pub const MAX: usize = 64;

    /// Reads a configured list.
    ///
    /// # Errors
    /// When it is empty or too long, or one of its members is no set of flags for data.
    pub fn parse<S: AsRef<str>>(turns: &[S]) -> Result<Self, InvalidFlags> {
        if !(1..=Self::MAX).contains(&turns.len()) {
            return Err(InvalidFlags::Turns);
        }
        turns.iter().map(|turn| turn.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    /// The flags of train number `turn`.
    pub fn at(&self, turn: u32) -> Flags {
        match self.0.len() {
            1 => self.0[0],
            turns => self.0[turn as usize % turns],
        }
    }
}

impl Default for FlagCycle {
    fn default() -> Self {
        Self(Box::new([Flags::PSH | Flags::ACK]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_and_read_as_letters() {
        assert_eq!("PA".parse(), Ok(Flags::PSH | Flags::ACK));
        assert_eq!((Flags::SYN | Flags::ACK).to_string(), "SA");
        assert_eq!(Flags(0).to_string(), "none");
    }

    #[test]
    fn flags_that_break_a_flow_are_refused_with_the_reason() {
        assert_eq!("SA".parse::<Flags>(), Err(InvalidFlags::NotForData('S')));
        assert_eq!("PX".parse::<Flags>(), Err(InvalidFlags::Letter('X')));
        assert_eq!("P".parse::<Flags>(), Err(InvalidFlags::NoAck));
        assert_eq!(FlagCycle::parse::<&str>(&[]), Err(InvalidFlags::Turns));
        assert_eq!(FlagCycle::parse(&["A"; 65]), Err(InvalidFlags::Turns));
        assert_eq!(FlagCycle::parse(&["A", ""]), Err(InvalidFlags::NoAck));
    }
}
