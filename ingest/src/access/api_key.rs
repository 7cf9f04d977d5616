//! API keys: what their holders show, and what is kept of it.
//!
//! A token is `anb_NAME_SECRET`: the name of the key that it opens, within its app, and 256 bits that
//! nobody else knows. Only a slow hash of the secret is kept.

use std::fmt;
use std::str::FromStr;

use anabranch_schemas::resources::ResourceName;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// What every token begins with, so that one that is somewhere by mistake is found.
const PREFIX: &str = "anb";
const SECRET_BYTES: usize = 32;

/// What looking at a hash may take at most: whoever declares keys does not stop a server with one.
const MAX_MEMORY_KIB: u32 = 64 << 10;
const MAX_ITERATIONS: u32 = 10;
const MAX_LANES: u32 = 4;

/// A key as its holder has it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken {
    name: ResourceName,
    secret: String,
}

impl ApiToken {
    /// A new one, for the key of this name.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn draw(name: ResourceName) -> Self {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
        let secret = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        ApiToken { name, secret }
    }

    /// The name of the key that it opens.
    pub fn name(&self) -> &ResourceName {
        &self.name
    }

    /// What a key keeps of it. Takes some 20 milliseconds and MiB.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn hash(&self) -> String {
        let hash: PasswordHash = Argon2::default()
            .hash_password(self.secret.as_bytes())
            .expect("the usual parameters can be used, and the system has random numbers");
        hash.to_string()
    }

    /// Whether it is the same. How long it takes does not tell how much of the secret is.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn is_same_as(&self, other: &ApiToken) -> bool {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.expect("the system has random numbers");
        let tag = hmac::sign(&key, other.secret());
        self.name == other.name && hmac::verify(&key, self.secret(), tag.as_ref()).is_ok()
    }

    /// Whether a hash is of its secret. Takes as long as hashing does.
    pub fn opens(&self, hash: &str) -> bool {
        ApiKeyHash::new(hash).is_ok_and(|hash| hash.is_of(self))
    }

    /// It as its holder is told, once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}_{}_{}", self.name, self.secret)
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }
}

/// It is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not of the form {PREFIX}_NAME_SECRET")]
pub struct NoToken;

impl FromStr for ApiToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let parts: Vec<_> = text.split('_').collect();
        let &[PREFIX, name, secret] = &parts[..] else { return Err(NoToken) };
        let is_secret = secret.len() == SECRET_BYTES * 2
            && secret.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match name.parse() {
            Ok(name) if is_secret => Ok(ApiToken { name, secret: secret.to_owned() }),
            _ => Err(NoToken),
        }
    }
}

/// Secrets stand in no log.
impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}_{}_..", self.name)
    }
}

/// What is kept of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiKeyHash(PasswordHash);

impl ApiKeyHash {
    /// Reads it, if looking at it takes no more than it may.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let hash = PasswordHash::new(text).map_err(|error| format!("it is no hash: {error}"))?;
        let params = Params::try_from(&hash).map_err(|error| format!("it is no hash: {error}"))?;
        let is_cheap = params.m_cost() <= MAX_MEMORY_KIB
            && params.t_cost() <= MAX_ITERATIONS
            && params.p_cost() <= MAX_LANES;
        match (is_cheap, &hash.hash) {
            (false, _) => Err(format!(
                "it takes more than {MAX_MEMORY_KIB} KiB, {MAX_ITERATIONS} iterations or \
                 {MAX_LANES} lanes to look at"
            )),
            (true, None) => Err("it has no hash".to_owned()),
            (true, Some(_)) => Ok(ApiKeyHash(hash)),
        }
    }

    /// Whether it is of this token's secret. Takes as long as hashing does.
    pub(crate) fn is_of(&self, token: &ApiToken) -> bool {
        Argon2::default().verify_password(token.secret(), &self.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ResourceName {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_opens_what_was_made_of_it_and_nothing_else() {
        let token = ApiToken::draw(name("till-17.a"));
        let hash = ApiKeyHash::new(&token.hash()).unwrap();
        let shown: ApiToken = token.reveal().parse().unwrap();
        assert_eq!(shown, token);
        assert!(hash.is_of(&shown));
        let other = ApiToken::draw(name("till-17.a"));
        assert!(!hash.is_of(&other));
        assert!(shown.is_same_as(&token) && !shown.is_same_as(&other));
    }

    #[test]
    fn what_is_no_token_is_told_from_one() {
        let good = ApiToken::draw(name("a")).reveal();
        assert!(good.parse::<ApiToken>().is_ok());
        for bad in [
            "".to_owned(),
            "anb".to_owned(),
            "anb_a_".to_owned(),
            good.replace("anb", "ana"),
            good.replace("_a_", "_A_"),
            good.replace("_a_", "__"),
            format!("{good}0"),
            format!(" {good}"),
            good.to_uppercase(),
        ] {
            assert_eq!(bad.parse::<ApiToken>(), Err(NoToken), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_shown_by_mistake() {
        let token = ApiToken::draw(name("a"));
        assert_eq!(format!("{token:?}"), "anb_a_..");
    }

    #[test]
    fn a_hash_that_takes_too_long_is_refused() {
        let hash = ApiToken::draw(name("a")).hash();
        for (part, instead) in [("m=19456", "m=1048576"), ("t=2", "t=1000"), ("p=1", "p=64")] {
            assert!(hash.contains(part), "{hash}");
            assert!(ApiKeyHash::new(&hash.replace(part, instead)).is_err(), "{instead}");
        }
        let (cut, _) = hash.rsplit_once('$').unwrap();
        for bad in ["", "x", "$argon2id$", cut] {
            assert!(ApiKeyHash::new(bad).is_err(), "{bad}");
        }
    }
}
