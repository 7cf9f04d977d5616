use anabranch_journal::metadata::Version;
use anabranch_schemas::resources::{ApiKey, KeySpec, PermissionScope, PermissionSpec};
use serde_json::json;

use super::*;

fn app(number: u128) -> AppId {
    AppId(uuid::Uuid::from_u128(number))
}

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

/// A key of app 1 as it is declared.
fn declared(token: &ApiToken, version: u64, expires_at: Option<&str>) -> DeclaredKey {
    let spec = KeySpec {
        api_key: ApiKey { hash: token.hash() },
        expires_at: expires_at.map(|end| end.parse().unwrap()),
        claims: json!({"store": 17}).as_object().unwrap().clone(),
        permissions: [(
            PermissionScope::Others,
            PermissionSpec { read: Some("store = :store".to_owned()), write: None },
        )]
        .into(),
    };
    let name = token.name().clone();
    DeclaredKey { app: app(1), name, version: Version(version), spec }
}

fn bearer(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().unwrap();
    [(header::AUTHORIZATION, value)].into_iter().collect()
}

async fn code(keys: &Keys, of: u128, headers: &HeaderMap) -> Option<Code> {
    keys.caller(app(of), headers).await.err().map(|refusal| refusal.code())
}

const UNAUTHENTICATED: Option<Code> = Some(Code::Unauthenticated);

#[tokio::test]
async fn who_shows_a_key_may_do_what_it_says() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    let shown = bearer(&token.reveal());
    assert_eq!(code(&keys, 1, &shown).await, Some(Code::JournalUnavailable));
    keys.replace(vec![declared(&token, 1, None)]);
    // The second time it is known by its fast hash.
    for _ in 0..2 {
        let caller = keys.caller(app(1), &shown).await.unwrap();
        assert_eq!(caller.name(), "till");
        let orders = "orders".parse().unwrap();
        assert_eq!(caller.readable(&orders).unwrap().as_str(), "store = 17");
        assert!(caller.restriction(&orders).is_err());
    }
}

#[tokio::test]
async fn who_shows_none_or_a_wrong_one_is_not_let_in() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    keys.replace(vec![declared(&token, 1, None)]);
    let (good, other) = (token.reveal(), ApiToken::draw(name("till")).reveal());
    for round in 0..2 {
        for headers in [
            HeaderMap::new(),
            bearer(""),
            bearer("x"),
            bearer(&other),
            bearer(&ApiToken::draw(name("another")).reveal()),
            [(header::AUTHORIZATION, good.parse().unwrap())].into_iter().collect(),
            [(header::AUTHORIZATION, format!("Basic {good}").parse().unwrap())]
                .into_iter()
                .collect(),
        ] {
            assert_eq!(code(&keys, 1, &headers).await, UNAUTHENTICATED, "{headers:?}");
        }
        let mut twice = bearer(&good);
        twice.append(header::AUTHORIZATION, format!("Bearer {good}").parse().unwrap());
        assert_eq!(code(&keys, 1, &twice).await, UNAUTHENTICATED);
        assert_eq!(code(&keys, 2, &bearer(&good)).await, UNAUTHENTICATED, "of another app");
        // The next time the right one was shown before.
        assert_eq!(code(&keys, 1, &bearer(&good)).await, None, "{round}");
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_replaced_or_over_opens_nothing() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    let shown = bearer(&token.reveal());
    keys.replace(vec![declared(&token, 1, None)]);
    assert_eq!(code(&keys, 1, &shown).await, None);
    let other = ApiToken::draw(name("till"));
    keys.replace(vec![declared(&other, 2, None)]);
    assert_eq!(code(&keys, 1, &shown).await, UNAUTHENTICATED);
    assert_eq!(code(&keys, 1, &bearer(&other.reveal())).await, None);
    keys.replace(vec![declared(&token, 3, Some("2020-01-01T00:00:00Z"))]);
    assert_eq!(code(&keys, 1, &shown).await, UNAUTHENTICATED);
    keys.replace(vec![declared(&token, 4, Some("2999-01-01T00:00:00Z"))]);
    assert_eq!(code(&keys, 1, &shown).await, None);
    keys.replace(vec![]);
    assert_eq!(code(&keys, 1, &shown).await, UNAUTHENTICATED);
}

#[tokio::test]
async fn a_key_that_cannot_be_used_opens_nothing_and_is_in_nobodys_way() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("good")));
    let mut broken = declared(&ApiToken::draw(name("broken")), 1, None);
    broken.spec.api_key.hash = "$argon2id$".to_owned();
    keys.replace(vec![broken, declared(&token, 1, None)]);
    assert_eq!(code(&keys, 1, &bearer(&token.reveal())).await, None);
}

#[tokio::test]
async fn where_it_is_open_nobody_has_to_show_one() {
    let caller = Keys::new(true).caller(app(1), &HeaderMap::new()).await.unwrap();
    assert!(caller.check_owns(&"orders".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn who_was_let_in_with_a_key_that_is_changed_is_told_so() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    let now = declared(&token, 1, None);
    keys.replace(vec![now.clone()]);
    let caller = keys.caller(app(1), &bearer(&token.reveal())).await.unwrap();
    keys.replace(vec![now, declared(&ApiToken::draw(name("other")), 1, None)]);
    assert!(caller.check_current().is_ok());
    keys.replace(vec![declared(&token, 2, None)]);
    assert!(caller.check_current().is_err());
}

#[tokio::test]
async fn who_guesses_is_in_nobodys_way_who_was_let_in_before() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    let guessed = ApiToken::draw(name("guessed"));
    keys.replace(vec![declared(&token, 1, None), declared(&guessed, 1, None)]);
    assert_eq!(code(&keys, 1, &bearer(&token.reveal())).await, None);
    let guess = || bearer(&ApiToken::draw(name("guessed")).reveal());
    let guesses: Vec<_> = (0..SLOW_WAITING * 2).map(|_| guess()).collect();
    let mut asked = futures::stream::FuturesUnordered::new();
    guesses.iter().for_each(|headers| asked.push(code(&keys, 1, headers)));
    // Those that are too many are refused at once.
    let first = futures::StreamExt::next(&mut asked).await.unwrap();
    assert_eq!(first, Some(Code::Overloaded));
    assert_eq!(code(&keys, 1, &bearer(&token.reveal())).await, None);
    let told: Vec<_> = futures::StreamExt::collect(asked).await;
    assert!(told.iter().all(|told| [UNAUTHENTICATED, Some(Code::Overloaded)].contains(told)));
}
