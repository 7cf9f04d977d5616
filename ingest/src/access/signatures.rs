//! What verifies the signatures of tokens: ring, as all cryptography here.
//!
//! `jsonwebtoken` asks whoever is installed in the process. What it asks with are an algorithm and a
//! key that were matched before; here they are matched once more, since a public key that is taken
//! for the secret of an HMAC would let everybody sign.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature::{Error as Unsigned, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs it, unless it is.
pub(super) fn install() {
    // It fails if it was done before.
    let _ = PROVIDER.install_default();
}

/// Verifies what is signed with one algorithm and one key.
struct Signatures {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if algorithm.family() != key.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    Ok(Box::new(Signatures { algorithm: *algorithm, key: key.clone() }))
}

impl JwtVerifier for Signatures {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Signatures {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Unsigned> {
        if is_signed(self.algorithm, &self.key, message, signature) {
            Ok(())
        } else {
            Err(Unsigned::new())
        }
    }
}

fn is_signed(algorithm: Algorithm, key: &DecodingKey, message: &[u8], signature: &[u8]) -> bool {
    let key = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let Some(parameters) = rsa(algorithm) else { return false };
            return RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok();
        }
        DecodingKeyKind::SecretOrDer(key) => key,
    };
    let shared = |hash| hmac::verify(&hmac::Key::new(hash, key), message, signature).is_ok();
    let public = |curve: &'static dyn VerificationAlgorithm| {
        UnparsedPublicKey::new(curve, key).verify(message, signature).is_ok()
    };
    match algorithm {
        Algorithm::HS256 => shared(hmac::HMAC_SHA256),
        Algorithm::HS384 => shared(hmac::HMAC_SHA384),
        Algorithm::HS512 => shared(hmac::HMAC_SHA512),
        Algorithm::ES256 => public(&ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => public(&ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => public(&ED25519),
        _ => false,
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}
