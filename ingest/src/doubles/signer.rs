//! Issuers of tokens for tests: they sign whatever they are given.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaKeyPair,
};
use serde_json::{Value, json};

/// Whose tokens, and for whom.
pub(crate) const ISSUER: &str = "https://id.example";
pub(crate) const AUDIENCE: &str = "anabranch";

/// What signs.
pub(crate) enum Signer {
    Secret(String),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn secret(bytes: usize) -> Self {
        Signer::Secret("s".repeat(bytes))
    }

    pub(crate) fn p256() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Signer::P256(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap())
    }

    pub(crate) fn p384() -> Self {
        let (kind, random) = (&ECDSA_P384_SHA384_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Signer::P384(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap())
    }

    pub(crate) fn edwards() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Edwards(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    /// Always the same one: drawing one takes long.
    pub(crate) fn rsa() -> Self {
        let key = include_bytes!("../../../tests/fixtures/rsa-2048.der");
        Signer::Rsa(RsaKeyPair::from_der(key).unwrap())
    }

    /// Its usual algorithm.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Signer::Secret(_) => "HS256",
            Signer::P256(_) => "ES256",
            Signer::P384(_) => "ES384",
            Signer::Edwards(_) => "EdDSA",
            Signer::Rsa(_) => "RS256",
        }
    }

    /// Its public key.
    pub(crate) fn jwk(&self) -> Value {
        let elliptic = |curve: &str, key: &EcdsaKeyPair| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
        };
        match self {
            Signer::Secret(_) => panic!("a secret is not public"),
            Signer::P256(key) => elliptic("P-256", key),
            Signer::P384(key) => elliptic("P-384", key),
            Signer::Edwards(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key())})
            }
            Signer::Rsa(key) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = key.public().into();
                json!({"kty": "RSA", "n": encode(n), "e": encode(e)})
            }
        }
    }

    /// What a key declares of it.
    pub(crate) fn jwt(&self) -> Value {
        match self {
            Signer::Secret(secret) => {
                json!({"issuer": ISSUER, "audience": AUDIENCE, "secret": secret})
            }
            _ => jwt(&[self.jwk()]),
        }
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "typ": "JWT"}), claims)
    }

    /// A token with this header, too.
    pub(crate) fn sign_as(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A token of text, whether it is JSON or not.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let algorithm = serde_json::from_str::<Value>(header).unwrap_or_default();
        let algorithm = algorithm["alg"].as_str().unwrap_or_default().to_owned();
        let signature = self.signature(&algorithm, message.as_bytes());
        format!("{message}.{}", encode(signature))
    }

    fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Signer::Secret(secret) => {
                let hash = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                let key = hmac::Key::new(hash, secret.as_bytes());
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Signer::P256(key) | Signer::P384(key) => {
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Signer::Edwards(key) => key.sign(message).as_ref().to_vec(),
            Signer::Rsa(key) => {
                let padding: &dyn ring::signature::RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }
}

/// What a key declares of an issuer with these public keys.
pub(crate) fn jwt(keys: &[Value]) -> Value {
    json!({"issuer": ISSUER, "audience": AUDIENCE, "jwks": {"keys": keys}})
}

/// Seconds since 1970, so many from now.
pub(crate) fn seconds(from_now: i64) -> i64 {
    Timestamp::now().as_second() + from_now
}

/// Claims of somebody who is let in for a while.
pub(crate) fn claims(subject: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": seconds(600), "store": 17})
}

/// These claims, one of them changed; without it if it is null.
pub(crate) fn with(mut claims: Value, name: &str, value: Value) -> Value {
    let fields = claims.as_object_mut().unwrap();
    fields.insert(name.to_owned(), value);
    fields.retain(|_, value| !value.is_null());
    claims
}
