//! Which types a name has: the bitmap of an NSEC record.

use super::RecordType;

/// Bytes of the longest bitmap that [`TypeBitmap::of`] builds: one window of all types below 256.
pub const TYPE_BITMAP_LEN_MAX: usize = 34;

/// Bytes of the longest window (RFC 4034 §4.1.2).
const WINDOW_LEN_MAX: usize = 32;

/// A set of types, as RFC 4034 §4.1.2 writes it: windows of 256 types, ascending; in each a bit for each type, the first of
/// them the highest bit of the first byte.
///
/// ```text
///  0        1        2 .. 2 + length
///  window   length   bits
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeBitmap<'a> {
    windows: &'a [u8],
}

impl<'a> TypeBitmap<'a> {
    /// Reads a bitmap; `None` if a window is empty, too long, cut off or not above the one before it.
    pub fn parse(windows: &'a [u8]) -> Option<Self> {
        let mut rest = windows;
        let mut lowest = 0;
        while let Some((&window, after)) = rest.split_first() {
            let (&length, after) = after.split_first()?;
            if u16::from(window) < lowest || !(1..=WINDOW_LEN_MAX).contains(&usize::from(length)) {
                return None;
            }
            lowest = u16::from(window) + 1;
            rest = after.get(usize::from(length)..)?;
        }
        Some(Self { windows })
    }

    /// The bitmap with those of `types` that are below 256, in the restricted form that multicast DNS uses: one window
    /// (RFC 6762 §6.1). It is built in `buf`.
    pub fn of(types: &[RecordType], buf: &'a mut [u8; TYPE_BITMAP_LEN_MAX]) -> Self {
        *buf = [0; TYPE_BITMAP_LEN_MAX];
        for number in types.iter().filter_map(|record_type| u8::try_from(record_type.0).ok()) {
            let byte = number / 8;
            buf[2 + usize::from(byte)] |= 0x80 >> (number % 8);
            buf[1] = buf[1].max(byte + 1);
        }
        let len = if buf[1] == 0 { 0 } else { 2 + usize::from(buf[1]) };
        Self { windows: &buf[..len] }
    }

    /// The bytes on the wire.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.windows
    }

    /// Whether the type is in the set.
    pub fn contains(&self, record_type: RecordType) -> bool {
        let [high, low] = record_type.0.to_be_bytes();
        self.windows()
            .find(|(window, _)| *window == high)
            .and_then(|(_, bits)| bits.get(usize::from(low / 8)))
            .is_some_and(|byte| byte & 0x80 >> (low % 8) != 0)
    }

    /// The types in the set, ascending.
    pub fn types(&self) -> impl Iterator<Item = RecordType> + use<'a> {
        self.windows().flat_map(|(window, bits)| {
            (0_u16..).zip(bits).flat_map(move |(index, &byte)| {
                (0..8)
                    .filter(move |bit| byte & 0x80 >> bit != 0)
                    .map(move |bit| RecordType(u16::from(window) * 256 + index * 8 + bit))
            })
        })
    }

    fn windows(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.windows;
        std::iter::from_fn(move || {
            let (&[window, length], after) = rest.split_first_chunk()?;
            let (bits, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            Some((window, bits))
        })
    }
}

impl std::fmt::Debug for TypeBitmap<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.types().map(|record_type| record_type.to_string())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{RecordType, TYPE_BITMAP_LEN_MAX, TypeBitmap};

    #[test]
    fn a_bitmap_holds_the_types_it_was_built_of_and_no_others() {
        let types = [RecordType::A, RecordType::TXT, RecordType::AAAA, RecordType::SRV, RecordType::ANY];
        let mut buf = [0xff; TYPE_BITMAP_LEN_MAX];
        let bitmap = TypeBitmap::of(&[types.as_slice(), &[RecordType(256)]].concat(), &mut buf);
        assert!(bitmap.types().eq(types));
        assert!(types.iter().all(|record_type| bitmap.contains(*record_type)));
        assert!(!bitmap.contains(RecordType::PTR) && !bitmap.contains(RecordType(256)));
        assert_eq!(TypeBitmap::parse(bitmap.as_bytes()), Some(bitmap));
    }

    #[test]
    fn the_example_of_rfc_4034_is_read() {
        // RFC 4034 §4.3: A MX RRSIG NSEC TYPE1234.
        let mut bytes = vec![0x00, 0x06, 0x40, 0x01, 0x00, 0x00, 0x00, 0x03, 0x04, 0x1b];
        bytes.extend([0; 26]);
        bytes.push(0x20);
        let bitmap = TypeBitmap::parse(&bytes).expect("well-formed");
        assert!(bitmap.types().map(|record_type| record_type.0).eq([1, 15, 46, 47, 1_234]));
    }

    #[test]
    fn windows_that_are_empty_too_long_cut_off_or_out_of_order_are_refused() {
        let long = [&[0, 33], [1; 33].as_slice()].concat();
        for wrong in [&[0][..], &[0, 0], &[0, 2, 1], &[1, 1, 1, 0, 1, 1], &[0, 1, 1, 0, 1, 1], &long] {
            assert_eq!(TypeBitmap::parse(wrong), None, "{wrong:?}");
        }
        assert!(TypeBitmap::parse(&[]).is_some_and(|bitmap| bitmap.types().next().is_none()));
    }
}
