//! Reads whose tokens open a key.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{array, mistyped, refuse, required, shorten, text};
use crate::resources::{
    Base64Url, EdwardsCurve, EllipticCurve, Jwk, JwkSet, PublicKey, ResourceError, SignedWith,
    TokenAlgorithm, TokenIssuer, TokenSecret,
};

/// The most keys of a set that verify tokens: one that does not name its own is tried with all that
/// fit.
const MAX_KEYS: usize = 16;
/// The most keys of a set, with those that are left out.
const MAX_GIVEN: usize = 128;
/// The longest names of issuers, audiences and keys, in bytes.
const MAX_NAME_BYTES: usize = 1_024;
/// How long the modulus of an RSA key is, in bits.
const MIN_RSA_BITS: usize = 2_048;
const MAX_RSA_BITS: usize = 8_192;
/// What only a private key has (RFC 7518, 6; RFC 8037, 2).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

pub(super) fn issuer(value: &Value) -> Result<TokenIssuer, ResourceError> {
    const PATH: &str = "spec.jwt";
    let fields = super::object(PATH, value, &["issuer", "audience", "jwks", "secret"])?;
    let signed_with = match (fields.get("jwks"), fields.get("secret")) {
        (Some(set), None) => SignedWith::Jwks(jwks(set)?),
        (None, Some(value)) => SignedWith::Secret(secret(value)?),
        (Some(_), Some(_)) => {
            let error = refuse(PATH, "it has both jwks and a secret".to_owned());
            return Err(error.with_hint("make two keys: one for each"));
        }
        (None, None) => {
            let error = refuse(PATH, "nothing signs: it has no jwks and no secret".to_owned());
            return Err(error.with_hint("give it the public keys of the issuer as jwks"));
        }
    };
    let of = |key: &str| name(&format!("{PATH}.{key}"), required(PATH, fields, key)?);
    Ok(TokenIssuer { issuer: of("issuer")?, audience: of("audience")?, signed_with })
}

fn name(path: &str, value: &Value) -> Result<String, ResourceError> {
    let name = text(path, value)?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(refuse(path, format!("it has 1 to {MAX_NAME_BYTES} bytes")));
    }
    Ok(name.to_owned())
}

fn secret(value: &Value) -> Result<TokenSecret, ResourceError> {
    const PATH: &str = "spec.jwt.secret";
    let secret = text(PATH, value)?;
    if is_public(secret) {
        let error = refuse(PATH, "it is a key file or a key set, which others know".to_owned());
        return Err(error.with_hint(
            "with it as the secret everybody could sign: declare the public keys of the issuer as \
             spec.jwt.jwks",
        ));
    }
    TokenSecret::new(secret).ok_or_else(|| {
        let (least, most) = (TokenSecret::MIN_BYTES, TokenSecret::MAX_BYTES);
        let message = format!("it has {} bytes, and needs {least} to {most}", secret.len());
        refuse(PATH, message).with_hint("draw one with 'openssl rand -hex 32'")
    })
}

/// Whether text has the form of what is published: PEM, a line of OpenSSH, a JWK or a set of them.
fn is_public(secret: &str) -> bool {
    const BEGINNINGS: [&str; 4] = ["-----BEGIN", "---- BEGIN", "ssh-", "ecdsa-sha2-"];
    // An editor may have put a mark in front.
    let secret = secret.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    BEGINNINGS.iter().any(|beginning| secret.starts_with(beginning))
        || serde_json::from_str::<Map<String, Value>>(secret).is_ok()
}

/// The keys of a set that verify tokens. The others are left out, as RFC 7517 has it in section 5: an
/// issuer publishes more than what it signs tokens with.
fn jwks(value: &Value) -> Result<JwkSet, ResourceError> {
    const PATH: &str = "spec.jwt.jwks";
    let fields = open_object(PATH, value)?;
    let path = format!("{PATH}.keys");
    let given = array(&path, required(PATH, fields, "keys")?, MAX_GIVEN)?;
    let mut names = BTreeSet::new();
    let (mut keys, mut left_out) = (Vec::new(), Vec::new());
    for (number, value) in given.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let fields = open_object(&path, value)?;
        refuse_private(&path, fields)?;
        let key = match jwk(&path, fields) {
            Ok(key) => key,
            Err(why) => {
                left_out.push(why);
                continue;
            }
        };
        if let Some(kid) = &key.kid
            && !names.insert(kid.clone())
        {
            let message = format!("'{}' is the name of another one, too", shorten(kid));
            return Err(refuse(&format!("{path}.kid"), message));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(none_left(&path, left_out));
    }
    if keys.len() > MAX_KEYS {
        let message = format!("{} keys verify tokens; the limit is {MAX_KEYS}", keys.len());
        return Err(refuse(&path, message));
    }
    Ok(JwkSet { keys })
}

/// Why a set has no key that verifies tokens.
fn none_left(path: &str, mut left_out: Vec<ResourceError>) -> ResourceError {
    match left_out.len() {
        0 => refuse(path, "it has no key".to_owned()),
        1 => left_out.remove(0),
        count => {
            let reasons: Vec<_> = left_out.iter().map(ToString::to_string).collect();
            let message =
                format!("none of its {count} keys verifies tokens: {}", reasons.join("; "));
            refuse(path, message).with_hint("give it the keys that the issuer signs tokens with")
        }
    }
}

/// Refuses what only the issuer should know, whatever else there is to be said of it.
fn refuse_private(path: &str, fields: &Map<String, Value>) -> Result<(), ResourceError> {
    if fields.get("kty").is_some_and(|key_type| key_type == "oct") {
        let error = refuse(&format!("{path}.kty"), "a secret is no public key".to_owned());
        return Err(error.with_hint("write the secret as spec.jwt.secret"));
    }
    let Some(private) = PRIVATE.iter().find(|&&name| fields.contains_key(name)) else {
        return Ok(());
    };
    let error = refuse(path, format!("it has '{private}', which is of a private key"));
    Err(error.with_hint(
        "declare the public key alone; who has read this can sign tokens, so have the issuer make \
         another one",
    ))
}

/// A key. What it says that nobody needs here is passed over, as RFC 7517 has it.
///
/// # Errors
/// Why it verifies no tokens.
fn jwk(path: &str, fields: &Map<String, Value>) -> Result<Jwk, ResourceError> {
    if let Some(usage) = fields.get("use") {
        let path = format!("{path}.use");
        if text(&path, usage)? != "sig" {
            let error = refuse(&path, "it is for something else than signatures".to_owned());
            return Err(error.with_hint("leave the key out: it signs no tokens"));
        }
    }
    let key = public_key(path, fields, field(path, fields, "kty")?)?;
    let alg = match fields.get("alg") {
        None => None,
        Some(alg) => Some(algorithm(&format!("{path}.alg"), alg, &key)?),
    };
    let kid = fields.get("kid").map(|kid| name(&format!("{path}.kid"), kid)).transpose()?;
    Ok(Jwk { kid, alg, key })
}

fn public_key(
    path: &str,
    fields: &Map<String, Value>,
    key_type: &str,
) -> Result<PublicKey, ResourceError> {
    match key_type {
        "RSA" => rsa(path, fields),
        "EC" => {
            let known = [("P-256", EllipticCurve::P256), ("P-384", EllipticCurve::P384)];
            let crv = curve(path, fields, &known)?;
            let of = |name: &str| coordinate(path, fields, name, crv.bytes());
            Ok(PublicKey::Elliptic { crv, x: of("x")?, y: of("y")? })
        }
        "OKP" => {
            let crv = curve(path, fields, &[("Ed25519", EdwardsCurve::Ed25519)])?;
            Ok(PublicKey::Edwards { crv, x: coordinate(path, fields, "x", crv.bytes())? })
        }
        other => Err(super::unknown_word(&format!("{path}.kty"), other, &["RSA", "EC", "OKP"])),
    }
}

fn rsa(path: &str, fields: &Map<String, Value>) -> Result<PublicKey, ResourceError> {
    let [n, e] = ["n", "e"].map(|name| bytes(path, fields, name));
    let (n, e) = (n?, e?);
    let bits =
        n.number().len() * 8 - n.number().first().map_or(0, |first| first.leading_zeros() as usize);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        let message = format!("it has {bits} bits, and needs {MIN_RSA_BITS} to {MAX_RSA_BITS}");
        return Err(refuse(&format!("{path}.n"), message));
    }
    // What no RSA key has.
    let is_odd = |number: &Base64Url| number.bytes().last().is_some_and(|byte| byte % 2 == 1);
    if !is_odd(&n) {
        return Err(refuse(&format!("{path}.n"), "it is an even number".to_owned()));
    }
    if !is_odd(&e) || e.number() == [1] || e.number().len() > 4 {
        let message = "it is no odd number from 3 to 2^32".to_owned();
        return Err(refuse(&format!("{path}.e"), message).with_hint("the usual one is AQAB"));
    }
    Ok(PublicKey::Rsa { n, e })
}

fn curve<C: Copy>(
    path: &str,
    fields: &Map<String, Value>,
    known: &[(&str, C)],
) -> Result<C, ResourceError> {
    let word = field(path, fields, "crv")?;
    let found = known.iter().find(|(name, _)| *name == word);
    found.map(|(_, curve)| *curve).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        super::unknown_word(&format!("{path}.crv"), word, &names)
    })
}

fn coordinate(
    path: &str,
    fields: &Map<String, Value>,
    name: &str,
    length: usize,
) -> Result<Base64Url, ResourceError> {
    let read = bytes(path, fields, name)?;
    if read.bytes().len() != length {
        let message = format!("it has {} bytes, and needs {length}", read.bytes().len());
        return Err(refuse(&format!("{path}.{name}"), message));
    }
    Ok(read)
}

fn algorithm(path: &str, value: &Value, key: &PublicKey) -> Result<TokenAlgorithm, ResourceError> {
    let word = text(path, value)?;
    let fits = key.algorithms();
    fits.iter().find(|fit| fit.as_str() == word).copied().ok_or_else(|| {
        let names: Vec<_> = fits.iter().map(|fit| fit.as_str()).collect();
        let message = format!("such a key signs no tokens with '{}'", shorten(word));
        refuse(path, message).with_hint(format!("it does with {}", names.join(", ")))
    })
}

fn bytes(path: &str, fields: &Map<String, Value>, name: &str) -> Result<Base64Url, ResourceError> {
    let written = field(path, fields, name)?;
    Base64Url::read(written).ok_or_else(|| {
        refuse(&format!("{path}.{name}"), "it is not base64url without padding".to_owned())
    })
}

fn field<'a>(
    path: &str,
    fields: &'a Map<String, Value>,
    name: &str,
) -> Result<&'a str, ResourceError> {
    text(&format!("{path}.{name}"), required(path, fields, name)?)
}

/// The fields of an object that may have others than are known.
fn open_object<'a>(path: &str, value: &'a Value) -> Result<&'a Map<String, Value>, ResourceError> {
    value.as_object().ok_or_else(|| mistyped(path, "an object", value))
}
