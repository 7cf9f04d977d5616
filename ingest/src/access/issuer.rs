//! Whose tokens open a key: what a token says before it is verified, and what is true of it after.
//!
//! Before its signature was verified nobody is told what is wrong with a token: who cannot sign
//! learns nothing of what is declared. Which algorithms may have signed it the declared key says.

use std::collections::BTreeMap;

use anabranch_core::Value;
use anabranch_core::query::Args;
use anabranch_schemas::resources::{
    EllipticCurve, Jwk, PublicKey, SignedWith, TokenAlgorithm, TokenIssuer,
};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode};
use ring::agreement::{self, EphemeralPrivateKey};
use ring::rand::SystemRandom;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::shown::JsonWebToken;
use super::signatures;
use crate::error::{Code, Refusal};

/// How far the clocks of issuers may be from ours.
const LEEWAY: SignedDuration = SignedDuration::from_secs(30);
/// The longest subject, in bytes.
const MAX_SUBJECT_BYTES: usize = 255;

/// Somebody whose tokens are believed.
pub(super) struct Issuer {
    name: String,
    audience: String,
    /// The one key is a secret, which has no name.
    is_secret: bool,
    keys: Vec<SigningKey>,
}

/// What verifies tokens.
struct SigningKey {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// What a token says of itself, true or not.
pub(super) struct Claimed {
    header: Header,
    whose: Whose,
}

#[derive(Deserialize)]
struct Whose {
    iss: String,
    aud: Audiences,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

/// What a token says that its issuer has signed.
#[derive(Debug, PartialEq)]
pub(super) struct Verified {
    /// Who shows it.
    pub(super) subject: String,
    /// All that it says.
    pub(super) claims: Args,
    /// When it opens nothing any more.
    pub(super) expires_at: Timestamp,
}

/// Why a token that its issuer has signed lets nobody in.
#[derive(Debug)]
pub(super) struct Unfit {
    /// Who shows it, if it tells.
    pub(super) subject: Option<String>,
    pub(super) refusal: Refusal,
}

impl Claimed {
    /// What a token says; `None` if it is none that could be verified.
    pub(super) fn of(token: &JsonWebToken) -> Option<Self> {
        let token = jsonwebtoken::dangerous::insecure_decode(token.as_str()).ok()?;
        // What is critical has to be understood, and nothing of it is.
        token.header.crit.is_none().then_some(Claimed { header: token.header, whose: token.claims })
    }
}

impl Issuer {
    /// One that is declared.
    ///
    /// # Errors
    /// Which key can have signed nothing.
    pub(super) fn new(declared: &TokenIssuer) -> Result<Self, String> {
        signatures::install();
        let (keys, is_secret) = match &declared.signed_with {
            SignedWith::Secret(secret) => {
                let key = DecodingKey::from_secret(secret.reveal());
                let algorithms = algorithms(secret.algorithms());
                (vec![SigningKey { kid: None, algorithms, key }], true)
            }
            SignedWith::Jwks(set) => {
                let key = |(number, jwk)| {
                    SigningKey::new(jwk)
                        .map_err(|reason| format!("jwt.jwks.keys[{number}]: {reason}"))
                };
                (set.keys.iter().enumerate().map(key).collect::<Result<_, _>>()?, false)
            }
        };
        let TokenIssuer { issuer, audience, .. } = declared;
        Ok(Issuer { name: issuer.clone(), audience: audience.clone(), is_secret, keys })
    }

    /// Whether one of the keys could have signed a token, by what it says of itself.
    pub(super) fn may_have_signed(&self, claimed: &Claimed) -> bool {
        self.fitting(claimed).next().is_some()
    }

    /// What a token says, if one of the keys has signed it: `None` if none has, as far as there are
    /// `tries` left, of which each key takes one.
    ///
    /// # Errors
    /// Why it does not let anybody in nevertheless.
    pub(super) fn verify(
        &self,
        token: &JsonWebToken,
        claimed: &Claimed,
        tries: &mut usize,
    ) -> Option<Result<Verified, Unfit>> {
        self.fitting(claimed).find_map(|key| {
            *tries = tries.checked_sub(1)?;
            let verified = self.verify_with(key, token, claimed.header.alg)?;
            Some(verified.map_err(|refusal| Unfit { subject: subject(token), refusal }))
        })
    }

    /// The keys that a token may be signed with.
    fn fitting<'a>(&'a self, claimed: &'a Claimed) -> impl Iterator<Item = &'a SigningKey> {
        let Header { alg, kid, .. } = &claimed.header;
        let is_ours = self.may_be_of(claimed);
        self.keys.iter().filter(move |key| {
            is_ours
                && (self.is_secret || kid.is_none() || key.kid == *kid)
                && key.algorithms.contains(alg)
        })
    }

    fn may_be_of(&self, claimed: &Claimed) -> bool {
        let Whose { iss, aud } = &claimed.whose;
        *iss == self.name
            && match aud {
                Audiences::One(audience) => *audience == self.audience,
                Audiences::Several(audiences) => audiences.contains(&self.audience),
            }
    }

    fn verify_with(
        &self,
        key: &SigningKey,
        token: &JsonWebToken,
        algorithm: Algorithm,
    ) -> Option<Result<Verified, Refusal>> {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.name]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY.as_secs().unsigned_abs();
        let error = match decode::<Box<RawValue>>(token.as_str(), &key.key, &validation) {
            Ok(token) => return Some(Verified::of(token.claims.get())),
            Err(error) => error.into_kind(),
        };
        Some(Err(match error {
            ErrorKind::ExpiredSignature => expired(),
            ErrorKind::ImmatureSignature => refuse("the token is not valid yet"),
            ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => {
                lacks(&name)
            }
            // It was read before, all but what is looked at once the signature is verified.
            ErrorKind::Json(_) => refuse("the claims of the token cannot be read"),
            _ => return None,
        }))
    }
}

impl SigningKey {
    fn new(jwk: &Jwk) -> Result<Self, String> {
        let key = match &jwk.key {
            PublicKey::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n.number(), e.number()),
            PublicKey::Elliptic { crv, x, y } => {
                let point = [&[4][..], x.bytes(), y.bytes()].concat();
                check_point(*crv, &point)?;
                DecodingKey::from_ec_der(&point)
            }
            PublicKey::Edwards { x, .. } => DecodingKey::from_ed_der(x.bytes()),
        };
        let algorithms = algorithms(jwk.algorithms());
        Ok(SigningKey { kid: jwk.kid.clone(), algorithms, key })
    }
}

/// Refuses what does not lie on its curve. Of signatures ring only tells that they are wrong; but
/// nothing is agreed upon with who is not on the curve.
fn check_point(curve: EllipticCurve, point: &[u8]) -> Result<(), String> {
    let curve = match curve {
        EllipticCurve::P256 => &agreement::ECDH_P256,
        EllipticCurve::P384 => &agreement::ECDH_P384,
    };
    let ours = EphemeralPrivateKey::generate(curve, &SystemRandom::new())
        .map_err(|_| "the system has no random numbers".to_owned())?;
    let theirs = agreement::UnparsedPublicKey::new(curve, point);
    agreement::agree_ephemeral(ours, &theirs, |_| ())
        .map_err(|_| "x and y are no point of the curve".to_owned())
}

fn algorithms(declared: &[TokenAlgorithm]) -> Vec<Algorithm> {
    declared.iter().copied().map(algorithm).collect()
}

fn algorithm(declared: TokenAlgorithm) -> Algorithm {
    match declared {
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Rs384 => Algorithm::RS384,
        TokenAlgorithm::Rs512 => Algorithm::RS512,
        TokenAlgorithm::Ps256 => Algorithm::PS256,
        TokenAlgorithm::Ps384 => Algorithm::PS384,
        TokenAlgorithm::Ps512 => Algorithm::PS512,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::Es384 => Algorithm::ES384,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
        TokenAlgorithm::Hs256 => Algorithm::HS256,
        TokenAlgorithm::Hs384 => Algorithm::HS384,
        TokenAlgorithm::Hs512 => Algorithm::HS512,
    }
}

/// Who shows a token that is signed and lets nobody in, if it tells.
fn subject(token: &JsonWebToken) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        sub: String,
    }
    let token = jsonwebtoken::dangerous::insecure_decode::<Named>(token.as_str()).ok()?;
    let Named { sub } = token.claims;
    (1..=MAX_SUBJECT_BYTES).contains(&sub.len()).then_some(sub)
}

impl Verified {
    /// What it says in JSON text, and is verified.
    fn of(claims: &str) -> Result<Self, Refusal> {
        // Nothing that could mean one thing here and another elsewhere.
        let claims = match Value::from_json(claims.as_bytes()) {
            Ok(Value::Object(claims)) => claims,
            Ok(_) => return Err(refuse("the claims of the token are no object")),
            Err(error) => {
                return Err(refuse(&format!("the claims of the token cannot be used: {error}")));
            }
        };
        let subject = match claims.get("sub") {
            Some(Value::String(subject)) if !subject.is_empty() => subject.clone(),
            _ => return Err(lacks("sub")),
        };
        if subject.len() > MAX_SUBJECT_BYTES {
            let message =
                format!("the claim 'sub' of the token has more than {MAX_SUBJECT_BYTES} bytes");
            return Err(refuse(&message));
        }
        Ok(Verified { expires_at: end(&claims)?, subject, claims })
    }
}

/// When a token with these claims opens nothing any more.
fn end(claims: &BTreeMap<String, Value>) -> Result<Timestamp, Refusal> {
    #[allow(clippy::cast_possible_truncation, reason = "what is beyond all times is the last")]
    let seconds = match claims.get("exp") {
        Some(Value::Int(seconds)) => *seconds,
        Some(Value::Float(seconds)) => *seconds as i64,
        _ => return Err(lacks("exp")),
    };
    let end = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    Ok(end.checked_add(LEEWAY).unwrap_or(Timestamp::MAX))
}

fn lacks(name: &str) -> Refusal {
    refuse(&format!("the claim '{name}' of the token is missing or cannot be used"))
}

pub(super) fn expired() -> Refusal {
    refuse("the token has expired")
}

fn refuse(message: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, message.to_owned())
        .with_hint("get another one from whoever issues the tokens")
}

#[cfg(test)]
mod tests;
