//! Who may use a listener.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, Digest, SHA256};

/// A username and a password to compare with, kept as a digest: the comparison then takes the same time whatever was
/// sent, its length included.
#[derive(Clone)]
pub struct Credentials(Digest);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// What a client must send.
    pub fn new(username: &[u8], password: &[u8]) -> Self {
        Self(digest(username, password))
    }

    /// Whether a client sent the right ones.
    pub fn accept(&self, username: &[u8], password: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_ref(), digest(username, password).as_ref()).is_ok()
    }
}

fn digest(username: &[u8], password: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    // The length keeps ("a", "bc") and ("ab", "c") apart.
    context.update(&(username.len() as u64).to_le_bytes());
    context.update(username);
    context.update(password);
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_username_with_the_right_password_is_accepted() {
        let credentials = Credentials::new(b"alice", b"secret");
        assert!(credentials.accept(b"alice", b"secret"));
        for (username, password) in [("alice", ""), ("", "secret"), ("alices", "ecret"), ("Alice", "secret")]
        {
            assert!(!credentials.accept(username.as_bytes(), password.as_bytes()), "{username}:{password}");
        }
    }
}
