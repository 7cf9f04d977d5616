//! What somebody shows who wants to be let in: the secret of a key, or a token of somebody whom a
//! key trusts. They are told apart by their form.

use std::fmt;
use std::str::FromStr;

use super::api_key::ApiToken;
use crate::error::{Code, Refusal};

/// The longest token, in bytes: it comes with each request.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// What its holder shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownKey {
    /// The secret of a key.
    ApiKey(ApiToken),
    /// A token that somebody else has signed.
    Token(JsonWebToken),
}

/// Text of the form of a JSON Web Token. Nothing that it says is verified.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonWebToken(String);

/// It is nothing that a key could be opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither anb_NAME_SECRET nor a JSON Web Token of up to {MAX_TOKEN_BYTES} bytes")]
pub struct NoKey;

impl ShownKey {
    /// It as its holder sends it.
    pub fn reveal(&self) -> String {
        match self {
            ShownKey::ApiKey(token) => token.reveal(),
            ShownKey::Token(token) => token.as_str().to_owned(),
        }
    }
}

impl From<&ApiToken> for ShownKey {
    fn from(token: &ApiToken) -> Self {
        ShownKey::ApiKey(token.clone())
    }
}

impl FromStr for ShownKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        match text.parse() {
            Ok(token) => Ok(ShownKey::ApiKey(token)),
            Err(_) => text.parse().map(ShownKey::Token),
        }
    }
}

impl JsonWebToken {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JsonWebToken {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let is_part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let has_form = text.len() <= MAX_TOKEN_BYTES
            && text.split('.').count() == 3
            && text.split('.').all(is_part);
        if has_form { Ok(JsonWebToken(text.to_owned())) } else { Err(NoKey) }
    }
}

/// Whoever has a token is let in with it: it stands in no log.
impl fmt::Debug for JsonWebToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonWebToken(..)")
    }
}

/// Why what is shown opens nothing. The text does not tell whether there is a key of that name; how
/// long it takes may.
pub(super) fn wrong() -> Refusal {
    let refusal = Refusal::new(Code::Unauthenticated, "this is no valid key of the app");
    refusal.with_hint(
        "it may be of another app, or was revoked; a token has to be signed by an issuer, and be for \
         an audience, that a key of the app names",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_from_the_secret_of_a_key() {
        let token = ApiToken::draw("till-17.a".parse().unwrap());
        let shown: ShownKey = token.reveal().parse().unwrap();
        assert_eq!((shown.reveal(), &shown), (token.reveal(), &ShownKey::ApiKey(token)));
        let shown: ShownKey = "eyJ.eyJ-.s_1".parse().unwrap();
        assert!(matches!(shown, ShownKey::Token(_)), "{shown:?}");
        assert_eq!(shown.reveal(), "eyJ.eyJ-.s_1");
    }

    #[test]
    fn what_is_neither_is_refused() {
        let most = "a".repeat(MAX_TOKEN_BYTES - 4);
        assert!(format!("{most}.a.a").parse::<ShownKey>().is_ok());
        for text in [
            "",
            "a.b",
            "a.b.",
            ".a.b",
            "a..b",
            "a.b.c.d",
            "a.b.c=",
            "a.b+.c",
            "a.b .c",
            "a.b.\u{e9}",
            "Bearer a.b.c",
            &format!("{most}a.a.a"),
        ] {
            assert_eq!(text.parse::<ShownKey>(), Err(NoKey), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_shown_by_mistake() {
        let shown: ShownKey = "eyJ.eyJ.sig".parse().unwrap();
        assert_eq!(format!("{shown:?}"), "Token(JsonWebToken(..))");
    }
}
