//! Whose tokens open a key: JSON Web Tokens (RFC 7519) that somebody else signs.
//!
//! Which algorithms a token may be signed with follows from the key that is declared and from its
//! length, never from the token.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Serialize, Serializer};

/// Who signs tokens, for whom, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenIssuer {
    /// Whose tokens: their `iss`.
    pub issuer: String,
    /// For whom they have to be: their `aud`, or one of those.
    pub audience: String,
    /// What signs them.
    #[serde(flatten)]
    pub signed_with: SignedWith,
}

/// What signs tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SignedWith {
    /// A private key of which this has the public part.
    Jwks(JwkSet),
    /// A secret that the issuer shares with the cluster: HMAC.
    Secret(TokenSecret),
}

/// Public keys, as RFC 7517 writes them. What nobody needs to verify a token is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JwkSet {
    /// The keys. No two have the same name.
    pub keys: Vec<Jwk>,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwk {
    /// Its name, by which a token says what signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The one algorithm that it is used with, if that is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<TokenAlgorithm>,
    /// The key itself.
    #[serde(flatten)]
    pub key: PublicKey,
}

/// A public key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kty")]
pub enum PublicKey {
    /// RSA, 2048 to 8192 bits.
    #[serde(rename = "RSA")]
    Rsa {
        /// The modulus.
        n: Base64Url,
        /// The exponent.
        e: Base64Url,
    },
    /// A point of an elliptic curve. Whether it lies on its curve is not known here.
    #[serde(rename = "EC")]
    Elliptic {
        /// The curve.
        crv: EllipticCurve,
        /// The one coordinate, as long as the curve's.
        x: Base64Url,
        /// The other.
        y: Base64Url,
    },
    /// A point of an Edwards curve.
    #[serde(rename = "OKP")]
    Edwards {
        /// The curve.
        crv: EdwardsCurve,
        /// The key, as long as the curve's.
        x: Base64Url,
    },
}

/// The curves of keys for ECDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EllipticCurve {
    /// NIST's curve of 256 bits.
    #[serde(rename = "P-256")]
    P256,
    /// NIST's curve of 384 bits.
    #[serde(rename = "P-384")]
    P384,
}

impl EllipticCurve {
    /// How long a coordinate is, in bytes.
    pub fn bytes(self) -> usize {
        match self {
            EllipticCurve::P256 => 32,
            EllipticCurve::P384 => 48,
        }
    }
}

/// The curves of keys for EdDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EdwardsCurve {
    /// The one of 255 bits.
    Ed25519,
}

impl EdwardsCurve {
    /// How long a key is, in bytes.
    pub fn bytes(self) -> usize {
        match self {
            EdwardsCurve::Ed25519 => 32,
        }
    }
}

/// How a token may be signed, as RFC 7518 and RFC 8037 name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum TokenAlgorithm {
    /// RSA PKCS #1 1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA of P-256 with SHA-256.
    Es256,
    /// ECDSA of P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
}

impl TokenAlgorithm {
    /// As the header of a token names it.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenAlgorithm::Rs256 => "RS256",
            TokenAlgorithm::Rs384 => "RS384",
            TokenAlgorithm::Rs512 => "RS512",
            TokenAlgorithm::Ps256 => "PS256",
            TokenAlgorithm::Ps384 => "PS384",
            TokenAlgorithm::Ps512 => "PS512",
            TokenAlgorithm::Es256 => "ES256",
            TokenAlgorithm::Es384 => "ES384",
            TokenAlgorithm::EdDsa => "EdDSA",
            TokenAlgorithm::Hs256 => "HS256",
            TokenAlgorithm::Hs384 => "HS384",
            TokenAlgorithm::Hs512 => "HS512",
        }
    }
}

impl From<TokenAlgorithm> for &'static str {
    fn from(algorithm: TokenAlgorithm) -> &'static str {
        algorithm.as_str()
    }
}

impl PublicKey {
    /// What its private part can sign with.
    pub fn algorithms(&self) -> &'static [TokenAlgorithm] {
        use TokenAlgorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            PublicKey::Rsa { .. } => &[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512],
            PublicKey::Elliptic { crv: EllipticCurve::P256, .. } => &[Es256],
            PublicKey::Elliptic { crv: EllipticCurve::P384, .. } => &[Es384],
            PublicKey::Edwards { crv: EdwardsCurve::Ed25519, .. } => &[EdDsa],
        }
    }
}

impl Jwk {
    /// What a token may be signed with that this key is to verify.
    pub fn algorithms(&self) -> &[TokenAlgorithm] {
        match &self.alg {
            Some(alg) => std::slice::from_ref(alg),
            None => self.key.algorithms(),
        }
    }
}

/// Bytes, which are written as base64url without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Base64Url(Vec<u8>);

impl Base64Url {
    /// Reads text; `None` if it is something else. Padding is no part of it.
    pub fn read(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok().map(Base64Url)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes of a number, without zeros in front.
    pub fn number(&self) -> &[u8] {
        let zeros = self.0.iter().take_while(|&&byte| byte == 0).count();
        &self.0[zeros..]
    }
}

impl fmt::Display for Base64Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl fmt::Debug for Base64Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Base64Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A secret that signs tokens: text of 32 bytes or more.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct TokenSecret(String);

impl TokenSecret {
    /// One of this text, if that is long enough and not too long.
    pub fn new(text: &str) -> Option<Self> {
        (Self::MIN_BYTES..=Self::MAX_BYTES).contains(&text.len()).then(|| Self(text.to_owned()))
    }

    /// The shortest, in bytes: what HMAC with SHA-256 needs (RFC 7518, 3.2).
    pub const MIN_BYTES: usize = 32;
    /// The longest, in bytes.
    pub const MAX_BYTES: usize = 1_024;

    /// Its bytes, for whoever verifies tokens.
    pub fn reveal(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// What it may sign with: a secret is as long as the hash, or longer (RFC 7518, 3.2).
    pub fn algorithms(&self) -> &'static [TokenAlgorithm] {
        const ALL: &[TokenAlgorithm] =
            &[TokenAlgorithm::Hs256, TokenAlgorithm::Hs384, TokenAlgorithm::Hs512];
        match self.0.len() {
            ..48 => &ALL[..1],
            48..64 => &ALL[..2],
            64.. => ALL,
        }
    }
}

/// Secrets stand in no log.
impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}
