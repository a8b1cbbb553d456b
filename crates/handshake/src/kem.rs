//! ML-KEM-768 (FIPS 203), as AWS-LC implements it.
//!
//! AWS-LC offers no way to hand it the randomness, so this is the one place whose bytes do not follow from
//! the caller's generator. Lengths and outcomes do not depend on them.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use crate::HandshakeError;
use crate::crypto::Secret;
use crate::message::{KEM_CIPHERTEXT_LEN, KEM_KEY_LEN};

/// An ephemeral decapsulation key and its public half. AWS-LC clears the former when it is dropped.
pub(crate) struct KemKeyPair {
    pub(crate) private: DecapsulationKey,
    pub(crate) public: Box<[u8; KEM_KEY_LEN]>,
}

impl KemKeyPair {
    pub(crate) fn generate() -> Self {
        const INFALLIBLE: &str =
            "generating an ML-KEM key fails only when memory or the system's entropy does";
        let private = DecapsulationKey::generate(&ML_KEM_768).expect(INFALLIBLE);
        let encoded = private.encapsulation_key().and_then(|key| key.key_bytes()).expect(INFALLIBLE);
        let mut public = Box::new([0; KEM_KEY_LEN]);
        public.copy_from_slice(encoded.as_ref());
        Self { private, public }
    }

    /// The secret in a ciphertext. A wrong ciphertext yields a secret nobody else has (FIPS 203 §6.3), not an
    /// error.
    pub(crate) fn decapsulate(
        &self,
        ciphertext: &[u8; KEM_CIPHERTEXT_LEN],
    ) -> Result<Secret, HandshakeError> {
        let ciphertext = Ciphertext::from(ciphertext.as_slice());
        let shared = self.private.decapsulate(ciphertext).map_err(|_| HandshakeError::Unauthentic)?;
        Ok(to_secret(shared.as_ref()))
    }
}

/// A secret for the holder of the key behind `public`, which is checked to be valid (FIPS 203 §7.2).
pub(crate) fn encapsulate(
    public: &[u8; KEM_KEY_LEN],
) -> Result<([u8; KEM_CIPHERTEXT_LEN], Secret), HandshakeError> {
    let (ciphertext, shared) = EncapsulationKey::new(&ML_KEM_768, public)
        .map_err(|_| HandshakeError::InvalidKemKey)?
        .encapsulate()
        .map_err(|_| HandshakeError::InvalidKemKey)?;
    let ciphertext = ciphertext.as_ref().try_into().expect("an ML-KEM-768 ciphertext has 1,088 bytes");
    Ok((ciphertext, to_secret(shared.as_ref())))
}

fn to_secret(bytes: &[u8]) -> Secret {
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(bytes);
    secret
}
