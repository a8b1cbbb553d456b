//! Names of services, as people and devices have them.

use crate::Seeds;

pub(crate) fn all() -> Seeds {
    let texts: &[(&'static str, &[u8])] = &[
        ("my-printer", b"My printer._ipp._tcp"),
        ("escaped-dot", b"Dr\\. No._http._tcp.local."),
        ("decimal", b"My\\032printer\\013._ipp._udp.LOCAL"),
        ("columns", b"My printer       _ipp._tcp"),
        ("double-backslash", b"C:\\\\share\\\\._smb._tcp"),
        ("odd-backslash", b"end\\._smb._tcp"),
        ("type-with-dot", b"x._a\\.b._tcp"),
        ("type-with-space", b"x._a\\ _b._udp"),
        ("label-control", b"\x08\x1b[31m\r\n\x7f_a.b\\ _c"),
        ("label-latin1", b"\x04B\xfcro_ab_"),
        ("label-bidi", b"\x06\xe2\x80\xaeabc_\xc2\x9bxyz"),
        ("bad-escape", b"x\\999y\\1._http._tcp\\"),
        ("utf8", "Büro ☃._http._tcp".as_bytes()),
    ];
    texts.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect()
}
