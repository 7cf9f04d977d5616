mod followed;

use std::task::Poll;

use anabranch_journal::metadata::Version;
use anabranch_schemas::resources::{ApiKey, PermissionScope, PermissionSpec, Resource};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;
use crate::doubles::signer::{Signer, claims, seconds, with};
use crate::doubles::until;

fn app(number: u128) -> AppId {
    AppId(uuid::Uuid::from_u128(number))
}

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

/// A key of app 1 as it is declared.
fn declared(token: &ApiToken, version: u64, expires_at: Option<&str>) -> DeclaredKey {
    let spec = KeySpec {
        credential: Credential::ApiKey(ApiKey { hash: token.hash() }),
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

async fn asked(keys: &Keys, of: u128, headers: &HeaderMap) -> Result<Caller, Refusal> {
    keys.caller(app(of), headers, &Sender::default()).await
}

async fn code(keys: &Keys, of: u128, headers: &HeaderMap) -> Option<Code> {
    asked(keys, of, headers).await.err().map(|refusal| refusal.code())
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
        let caller = asked(&keys, 1, &shown).await.unwrap();
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
    broken.spec.credential = Credential::ApiKey(ApiKey { hash: "$argon2id$".to_owned() });
    keys.replace(vec![broken, declared(&token, 1, None)]);
    assert_eq!(code(&keys, 1, &bearer(&token.reveal())).await, None);
}

#[tokio::test]
async fn where_it_is_open_nobody_has_to_show_one() {
    let caller = asked(&Keys::new(true), 1, &HeaderMap::new()).await.unwrap();
    assert!(caller.check_owns(&"orders".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn who_was_let_in_with_a_key_that_is_changed_is_told_so() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    let now = declared(&token, 1, None);
    keys.replace(vec![now.clone()]);
    let caller = asked(&keys, 1, &bearer(&token.reveal())).await.unwrap();
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

#[tokio::test]
async fn who_guesses_at_one_key_leaves_room_for_who_shows_another_for_the_first_time() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    let guessed = ApiToken::draw(name("guessed"));
    keys.replace(vec![declared(&token, 1, None), declared(&guessed, 1, None)]);
    // Nobody else has a turn for now.
    let held = keys.slow.turn().await.unwrap();
    let guess = || bearer(&ApiToken::draw(name("guessed")).reveal());
    let headers: Vec<_> = (0..SLOW_WAITING * 2).map(|_| guess()).collect();
    let mut waiting = Vec::new();
    for headers in &headers {
        let mut asked = Box::pin(code(&keys, 1, headers));
        match futures::poll!(&mut asked) {
            Poll::Ready(told) => assert_eq!(told, Some(Code::Overloaded)),
            Poll::Pending => waiting.push(asked),
        }
    }
    assert_eq!(waiting.len(), SLOW_OF_KEY);
    let (good, right) = (bearer(&token.reveal()), bearer(&guessed.reveal()));
    let mut other = Box::pin(code(&keys, 1, &good));
    assert!(futures::poll!(&mut other).is_pending(), "it is not refused");
    assert_eq!(code(&keys, 1, &right).await, Some(Code::Overloaded));
    drop(held);
    let (told, guesses) = futures::join!(other, futures::future::join_all(waiting));
    assert_eq!(told, None);
    assert!(guesses.iter().all(|told| *told == UNAUTHENTICATED), "{guesses:?}");
    assert_eq!(code(&keys, 1, &right).await, None, "those who are gone have left their places");
}

/// A key of an app that tokens open.
fn for_tokens(of: u128, name: &str, version: u64, spec: &Value) -> DeclaredKey {
    let resource = json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": name, "app": app(of)},
        "spec": spec,
    });
    match Resource::from_value(&resource).unwrap() {
        Resource::Key { app, name, spec } => {
            DeclaredKey { app, name, version: Version(version), spec }
        }
        other => panic!("{other:?}"),
    }
}

/// One that lets who shows a token of this signer read the documents of their store.
fn tills(signer: &Signer) -> Value {
    json!({"jwt": signer.jwt(), "permissions": {"*": {"read": "store = :store"}}})
}

fn readable(caller: &Caller) -> String {
    caller.readable(&"orders".parse().unwrap()).unwrap().as_str().to_owned()
}

/// Who shows a token, or why they are not let in.
async fn bears(keys: &Keys, token: &str) -> Result<Caller, (Code, String)> {
    let asked = asked(keys, 1, &bearer(token)).await;
    asked.map_err(|refusal| (refusal.code(), refusal.message().to_owned()))
}

#[tokio::test]
async fn who_shows_a_token_may_do_what_the_key_says_of_its_claims() {
    let (keys, signer) = (Keys::new(false), Signer::p256());
    keys.replace(vec![for_tokens(1, "tills", 1, &tills(&signer))]);
    let ann = signer.sign(&claims("ann"));
    let bob = signer.sign(&with(claims("bob"), "store", json!(18)));
    let (ann, again) = (bears(&keys, &ann).await.unwrap(), bears(&keys, &ann).await.unwrap());
    assert!(ann.is(&again), "it is known again");
    let bob = bears(&keys, &bob).await.unwrap();
    assert_eq!((ann.name(), readable(&ann).as_str()), ("tills/ann", "store = 17"));
    assert_eq!((bob.name(), readable(&bob).as_str()), ("tills/bob", "store = 18"));
    // Who lacks a claim that a rule names is let at nothing.
    let nobody = signer.sign(&with(claims("eve"), "store", json!(null)));
    let nobody = bears(&keys, &nobody).await.unwrap();
    assert!(nobody.readable(&"orders".parse().unwrap()).is_err());
    // A later token of somebody is of the same one.
    let later = signer.sign(&with(claims("ann"), "exp", json!(seconds(900))));
    assert_eq!(bears(&keys, &later).await.unwrap().name(), "tills/ann");
}

#[tokio::test]
async fn what_the_operator_says_goes_before_what_the_token_says() {
    let (keys, signer) = (Keys::new(false), Signer::secret(32));
    let spec = with(tills(&signer), "claims", json!({"store": 1, "region": "north"}));
    keys.replace(vec![for_tokens(1, "tills", 1, &spec)]);
    let caller = bears(&keys, &signer.sign(&claims("ann"))).await.unwrap();
    assert_eq!(readable(&caller), "store = 1");
}

#[tokio::test]
async fn rules_that_the_claims_of_a_token_do_not_fit_are_told() {
    let (keys, signer) = (Keys::new(false), Signer::secret(32));
    for (rule, value) in [
        ("name LIKE :x", json!(1)),
        ("a = :x OR b = :x OR c = :x OR d = :x", json!("x".repeat(5_000))),
    ] {
        let spec = json!({"jwt": signer.jwt(), "permissions": {"*": {"read": rule}}});
        keys.replace(vec![for_tokens(1, "tills", 1, &spec)]);
        let token = signer.sign(&with(claims("ann"), "x", value));
        let (code, told) = bears(&keys, &token).await.unwrap_err();
        assert_eq!(code, Code::Forbidden);
        let expected = "the claims of the token do not fit the key: permissions.*.read: ";
        assert!(told.starts_with(expected), "{told}");
    }
}

#[tokio::test]
async fn a_token_is_of_the_first_key_that_it_fits() {
    let (keys, one, other) = (Keys::new(false), Signer::p256(), Signer::p256());
    let elsewhere = with(one.jwt(), "audience", json!("elsewhere"));
    let elsewhere = json!({"jwt": elsewhere, "permissions": {}});
    keys.replace(vec![
        for_tokens(1, "d", 1, &tills(&one)),
        for_tokens(1, "c", 1, &tills(&one)),
        for_tokens(1, "b", 1, &tills(&other)),
        for_tokens(1, "a", 1, &elsewhere),
        for_tokens(2, "0", 1, &tills(&Signer::p256())),
    ]);
    let of = async |signer: &Signer| {
        let caller = bears(&keys, &signer.sign(&claims("ann"))).await;
        caller.map(|caller| caller.name().to_owned())
    };
    assert_eq!(of(&one).await.unwrap(), "c/ann");
    assert_eq!(of(&other).await.unwrap(), "b/ann");
    let wrong = (Code::Unauthenticated, "this is no valid key of the app".to_owned());
    assert_eq!(of(&Signer::p256()).await.unwrap_err(), wrong);
    // Of another app.
    let token = one.sign(&claims("ann"));
    assert_eq!(code(&keys, 1, &bearer(&token)).await, None);
    for of in [2, 3] {
        assert_eq!(code(&keys, of, &bearer(&token)).await, UNAUTHENTICATED);
    }
}

#[tokio::test]
async fn a_token_opens_no_key_with_a_secret_and_a_secret_none_for_tokens() {
    let (keys, token) = (Keys::new(false), ApiToken::draw(name("till")));
    let signer = Signer::secret(32);
    let shown = bearer(&signer.sign(&claims("till")));
    keys.replace(vec![declared(&token, 1, None)]);
    assert_eq!(code(&keys, 1, &shown).await, UNAUTHENTICATED);
    keys.replace(vec![for_tokens(1, "till", 2, &tills(&signer))]);
    assert_eq!(code(&keys, 1, &bearer(&token.reveal())).await, UNAUTHENTICATED);
    // Whatever a subject is named, it is nobody else.
    assert_eq!(bears(&keys, &signer.sign(&claims("till"))).await.unwrap().name(), "till/till");
}

#[tokio::test]
async fn a_key_that_is_changed_or_revoked_is_so_for_all_who_showed_a_token() {
    let (keys, signer) = (Keys::new(false), Signer::edwards());
    let token = ApiToken::draw(name("other"));
    let (ann, bob) = (signer.sign(&claims("ann")), signer.sign(&claims("bob")));
    let first = for_tokens(1, "tills", 1, &tills(&signer));
    keys.replace(vec![first.clone()]);
    let before = [bears(&keys, &ann).await.unwrap(), bears(&keys, &bob).await.unwrap()];
    // A key that no token opens changes nothing, and neither does one of another app.
    let elsewhere = for_tokens(2, "a", 1, &tills(&signer));
    keys.replace(vec![first.clone(), declared(&token, 1, None), elsewhere]);
    assert!(bears(&keys, &ann).await.unwrap().is(&before[0]));
    // The same tokens, and other rules.
    let mut wider = tills(&signer);
    wider["permissions"]["*"]["read"] = json!(true);
    keys.replace(vec![for_tokens(1, "tills", 2, &wider)]);
    for caller in before {
        assert_eq!(caller.check_current().unwrap_err().code(), Code::Unauthenticated);
    }
    let now = bears(&keys, &ann).await.unwrap();
    assert_eq!(readable(&now), "");
    // One that comes before it counts, on each server alike, also for those who are at something.
    let second = for_tokens(1, "tills", 2, &wider);
    keys.replace(vec![second.clone(), for_tokens(1, "a", 1, &tills(&signer))]);
    assert!(now.check_current().is_err());
    let now = bears(&keys, &ann).await.unwrap();
    assert_eq!((now.name(), readable(&now).as_str()), ("a/ann", "store = 17"));
    keys.replace(vec![second.clone()]);
    assert!(now.check_current().is_err());
    let now = bears(&keys, &ann).await.unwrap();
    assert_eq!((now.name(), readable(&now).as_str()), ("tills/ann", ""));
    keys.replace(vec![second]);
    assert!(now.check_current().is_ok());
    keys.replace(vec![]);
    assert!(now.check_current().is_err());
    for token in [&ann, &bob] {
        assert_eq!(bears(&keys, token).await.unwrap_err().0, Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_key_that_has_ended_is_in_no_other_ones_way() {
    let (keys, signer) = (Keys::new(false), Signer::p256());
    let ann = signer.sign(&claims("ann"));
    let end = Timestamp::now() + SignedDuration::from_secs(3);
    let ending = with(tills(&signer), "expiresAt", json!(end.to_string()));
    let ending = for_tokens(1, "a", 1, &ending);
    keys.replace(vec![ending.clone(), for_tokens(1, "b", 1, &tills(&signer))]);
    let of_first = bears(&keys, &ann).await.unwrap();
    assert_eq!(of_first.name(), "a/ann");
    until(|| of_first.check_current().is_err()).await;
    // Also of a token that was known.
    assert_eq!(bears(&keys, &ann).await.unwrap().name(), "b/ann");
    keys.replace(vec![ending]);
    let told = (Code::Unauthenticated, "the key has expired".to_owned());
    assert_eq!(bears(&keys, &ann).await.unwrap_err(), told);
}

#[tokio::test]
async fn a_token_ends_with_its_key() {
    let (keys, signer) = (Keys::new(false), Signer::secret(32));
    let token = signer.sign(&claims("ann"));
    for (end, told) in
        [("2020-01-01T00:00:00Z", Some("the key has expired")), ("2999-01-01T00:00:00Z", None)]
    {
        let spec = with(tills(&signer), "expiresAt", json!(end));
        keys.replace(vec![for_tokens(1, "tills", 1, &spec)]);
        let asked = bears(&keys, &token).await;
        assert_eq!(asked.err().map(|(_, told)| told).as_deref(), told);
    }
    let over = signer.sign(&with(claims("ann"), "exp", json!(seconds(-60))));
    let told = (Code::Unauthenticated, "the token has expired".to_owned());
    assert_eq!(bears(&keys, &over).await.unwrap_err(), told);
}
