//! A SOCKS5 client, or whatever has found the port.

use shadowmesh::proxy::{Target, socks5};

use crate::incremental::check;

/// # Panics
/// When a message is understood in two ways, or a target is not the bytes it came from.
pub fn run(input: &[u8]) {
    check(input, socks5::greeting);
    check(input, |bytes| {
        let login = socks5::login(bytes)?;
        Ok::<_, socks5::Socks5Error>(
            login.map(|(login, len)| ((login.username.to_vec(), login.password.to_vec()), len)),
        )
    });
    if let Some((request, len)) = check(input, socks5::request) {
        same_target(&request.target, &input[3..len]);
    }
    if let Ok((target, data)) = socks5::datagram(input) {
        assert_eq!([&input[..3], target, data].concat(), input, "a datagram that is not all of its parts");
    }
}

/// Writes a target again and compares it with what it was read from.
pub(crate) fn same_target(target: &Target, read_from: &[u8]) {
    let mut written = Vec::new();
    target.encode(&mut written);
    assert!(written.len() <= Target::ENCODED_LEN_MAX);
    assert_eq!(Target::decode(&written), Ok(Some((target.clone(), written.len()))));
    // An address that came as a name is written as an address.
    assert!(written == read_from || read_from[0] == 3, "{written:?} from {read_from:?}");
}
