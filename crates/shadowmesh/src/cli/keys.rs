//! `genkey`, `pubkey`, `genpsk`: keys through pipes, as with `wg`.

use std::io::{self, IsTerminal, Read};

use handshake::{PresharedKey, StaticSecret};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use super::output::print;
use super::usage;
use crate::failure::Failure;

/// Nobody pipes more than this into `pubkey`, in bytes.
const INPUT_LEN_MAX: u64 = 4_096;

pub(super) fn genkey() -> Result<(), Failure> {
    let key = StaticSecret::generate(&mut rng()?).to_base64();
    print(&Zeroizing::new(format!("{}\n", *key)))
}

pub(super) fn genpsk() -> Result<(), Failure> {
    let key = PresharedKey::generate(&mut rng()?).to_base64();
    print(&Zeroizing::new(format!("{}\n", *key)))
}

pub(super) fn pubkey() -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        return Err(usage("pubkey reads a private key from standard input: shadowmesh pubkey < node.key"));
    }
    let mut text = Zeroizing::new(String::new());
    io::stdin().take(INPUT_LEN_MAX).read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => usage("standard input holds no private key: it is not text"),
        _ => Failure::Runtime(format!("cannot read standard input: {error}")),
    })?;
    let key: StaticSecret = text
        .trim()
        .parse()
        .map_err(|error| usage(format!("standard input holds no private key: {error}")))?;
    print(&format!("{}\n", key.public_key()))
}

/// A generator with a fresh seed from the kernel.
pub(super) fn rng() -> Result<ChaCha20Rng, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())
        .map_err(|error| Failure::Runtime(format!("the kernel gives no random numbers: {error}")))?;
    Ok(ChaCha20Rng::from_seed(*seed))
}
