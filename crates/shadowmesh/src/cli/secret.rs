//! `secret`: a key that both ends of a carrier are given, for its guard.

use handshake::PresharedKey;
use zeroize::Zeroizing;

use super::keys;
use super::output::print;
use crate::failure::Failure;

pub(super) fn run() -> Result<(), Failure> {
    let secret = PresharedKey::generate(&mut keys::rng()?).to_base64();
    print(&Zeroizing::new(format!("{}\n", *secret)))
}
