use anabranch_schemas::resources::{Credential, PermissionScope, PermissionSpec, Resource};
use serde_json::json;

use super::super::caller::{Permissions, TEXT_WEIGHT, declared_claims};
use super::*;
use crate::doubles::APP;
use crate::doubles::signer::{Signer, claims, seconds, with};

fn keys(signer: &Signer) -> Arc<TokenKeys> {
    let resource = json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": "tills", "app": APP},
        "spec": {"jwt": signer.jwt(), "permissions": {}},
    });
    let resource = Resource::from_value(&resource).unwrap();
    let Resource::Key { name, spec, .. } = resource else { panic!("{resource:?}") };
    let Credential::Jwt(issuer) = &spec.credential else { panic!("{spec:?}") };
    let (issuer, claims) = (Issuer::new(issuer).unwrap(), Args::new());
    let rules = Rules::of(&spec.permissions).unwrap();
    let key = TokenKey { name, issuer, claims, rules, ends: None };
    Arc::new(TokenKeys::new(vec![Arc::new(key)]))
}

fn fast() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, b"of this process")
}

fn numbered(number: usize) -> Tag {
    let mut tag = Tag::default();
    tag[..8].copy_from_slice(&number.to_be_bytes());
    tag
}

fn caller(validity: Validity) -> Caller {
    Caller::new("tills/ann".to_owned(), Permissions::default(), validity)
}

#[test]
fn those_that_were_shown_last_are_known_and_no_more_than_there_is_room_for() {
    const MOST: usize = 8;
    let keys = keys(&Signer::secret(32));
    let mut recent = Recent::new(MOST, MAX_KNOWN_BYTES);
    let often = caller(Validity::default());
    recent.keep(numbered(0), &keys, often.clone(), 1);
    for number in 1..1_000 {
        recent.keep(numbered(number), &keys, caller(Validity::default()), 1);
        assert!(recent.young.len() + recent.old.len() <= MOST);
        for last in number.saturating_sub(MOST / 2 - 2).max(1)..=number {
            assert!(recent.find(&numbered(last), &keys).is_some(), "{last} of {number}");
        }
        assert!(recent.find(&numbered(0), &keys).unwrap().is(&often));
    }
    assert!(recent.find(&numbered(1), &keys).is_none());
}

#[test]
fn those_who_take_much_room_leave_it_to_few() {
    const MOST_BYTES: usize = 1_000;
    let keys = keys(&Signer::secret(32));
    let mut recent = Recent::new(MAX_KNOWN, MOST_BYTES);
    let bytes = |recent: &Recent| -> usize {
        let young: usize = recent.young.values().map(|known| known.weight).sum();
        assert_eq!(young, recent.young_bytes);
        young + recent.old.values().map(|known| known.weight).sum::<usize>()
    };
    let revoked = Validity::default();
    for number in 0..1_000 {
        let weight = 1 + number * 37 % (MOST_BYTES / 4);
        recent.keep(numbered(number), &keys, caller(revoked.clone()), weight);
        recent.find(&numbered(number.saturating_sub(3)), &keys);
        assert!(bytes(&recent) <= MOST_BYTES);
        assert!(recent.find(&numbered(number), &keys).is_some());
    }
    // One that would drive out all others is let in, and not kept.
    let large = caller(revoked.clone());
    let tag = numbered(1_000);
    assert!(recent.keep(tag, &keys, large.clone(), MOST_BYTES / 2 + 1).is(&large));
    assert!(recent.find(&tag, &keys).is_none() && recent.find(&numbered(999), &keys).is_some());
    // Of those that are forgotten nothing is counted.
    revoked.revoke();
    for number in 0..1_000 {
        assert!(recent.find(&numbered(number), &keys).is_none());
    }
    assert_eq!(bytes(&recent), 0);
}

#[test]
fn rules_are_weighed_with_the_claims_in_place() {
    let rules = |read: &str| {
        let read = Some(read.to_owned());
        let permission = PermissionSpec { read, write: Some("TRUE".to_owned()) };
        Rules::of(
            &[("orders".parse().map(PermissionScope::Collection).unwrap(), permission)].into(),
        )
    };
    let weigh = |read: &str, claims: &serde_json::Value| {
        let claims = declared_claims(claims.as_object().unwrap()).unwrap();
        let permissions = rules(read).unwrap().bind(&claims).unwrap();
        Caller::new("tills/ann".to_owned(), permissions, Validity::default()).weight()
    };
    let all = weigh("TRUE", &json!({}));
    let one = weigh("store = :store", &json!({"store": "a"}));
    let long = weigh("store = :store", &json!({"store": "a".repeat(1_001)}));
    assert!(all < one);
    assert_eq!(long - one, 1_000 * TEXT_WEIGHT);
}

#[test]
fn two_who_are_verified_at_once_are_the_same() {
    let keys = keys(&Signer::secret(32));
    let mut recent = Recent::new(8, MAX_KNOWN_BYTES);
    let [one, other] = [(); 2].map(|()| caller(Validity::default()));
    assert!(recent.keep(numbered(1), &keys, one.clone(), 1).is(&one));
    assert!(recent.keep(numbered(1), &keys, other, 1).is(&one));
}

#[test]
fn who_is_not_let_in_any_more_is_forgotten() {
    let now = keys(&Signer::secret(32));
    let mut recent = Recent::new(8, MAX_KNOWN_BYTES);
    let key = Validity::default();
    recent.keep(numbered(1), &now, caller(key.clone()), 1);
    assert!(recent.find(&numbered(1), &now).is_some());
    key.revoke();
    assert!(recent.find(&numbered(1), &now).is_none());
    recent.keep(numbered(2), &now, caller(key), 1);
    assert!(recent.find(&numbered(2), &now).is_none());
    // What was found among other keys may be of another one now.
    recent.keep(numbered(3), &now, caller(Validity::default()), 1);
    let then = keys(&Signer::secret(32));
    assert!(recent.find(&numbered(3), &then).is_none());
    assert!(recent.young.is_empty() && recent.old.is_empty());
}

/// Who shows a token, or why they are not let in.
async fn show(tokens: &Tokens, keys: &Arc<TokenKeys>, token: &str) -> Result<Caller, Denied> {
    tokens.caller(&fast(), APP.parse().unwrap(), keys, &token.parse().unwrap()).await
}

#[tokio::test]
async fn what_is_wrong_is_not_kept() {
    let (signer, other) = (Signer::p256(), Signer::p256());
    let (tokens, keys) = (Tokens::new(), keys(&signer));
    let known = || tokens.known.lock().young.len();
    let name = async |token: &str| show(&tokens, &keys, token).await.unwrap_err().name;
    for number in 0..20 {
        let subject = format!("ann{number}");
        assert_eq!(name(&other.sign(&claims(&subject))).await, None);
        let over = with(claims(&subject), "exp", json!(seconds(-60)));
        assert_eq!(name(&signer.sign(&over)).await, Some(format!("tills/{subject}")));
        let nobody = with(over, "sub", json!(null));
        assert_eq!(name(&signer.sign(&nobody)).await.as_deref(), Some("tills"));
        assert_eq!(name(&format!("a.b.{number}")).await, None);
    }
    assert_eq!(known(), 0);
    let good = signer.sign(&claims("ann"));
    let first = show(&tokens, &keys, &good).await.unwrap();
    assert!(show(&tokens, &keys, &good).await.unwrap().is(&first));
    assert_eq!(known(), 1);
}

#[tokio::test]
async fn who_has_signatures_verified_is_in_nobodys_way_who_was_let_in_before() {
    let (signer, other) = (Signer::p256(), Signer::p256());
    let tokens = Tokens { queue: Queue::new("tokens", 1, 1), ..Tokens::new() };
    let keys = keys(&signer);
    let good = signer.sign(&claims("ann"));
    let ann = show(&tokens, &keys, &good).await.unwrap();
    let held = tokens.queue.turn().await.unwrap();
    let code = async |token: &str| {
        let denied = show(&tokens, &keys, token).await.unwrap_err();
        assert_eq!(denied.name, None);
        denied.refusal.code()
    };
    for unknown in [signer.sign(&claims("bob")), other.sign(&claims("ann"))] {
        assert_eq!(code(&unknown).await, Code::Overloaded);
    }
    // What none of the keys can have signed takes nobody's turn.
    for elsewhere in [
        signer.sign(&with(claims("ann"), "iss", json!("https://evil.example"))),
        Signer::edwards().sign(&claims("ann")),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(code(&elsewhere).await, Code::Unauthenticated);
    }
    assert!(show(&tokens, &keys, &good).await.unwrap().is(&ann));
    drop(held);
    assert!(show(&tokens, &keys, &signer.sign(&claims("bob"))).await.is_ok());
}

#[tokio::test]
async fn a_token_is_tried_with_a_bounded_number_of_keys() {
    let strangers: Vec<_> = (0..MAX_TRIES).map(|_| keys(&Signer::p256()).keys[0].clone()).collect();
    let signer = Signer::p256();
    let ours = keys(&signer).keys[0].clone();
    let token = signer.sign(&claims("ann"));
    for (before, is_found) in [(MAX_TRIES - 1, true), (MAX_TRIES, false)] {
        let keys = [&strangers[..before], std::slice::from_ref(&ours)].concat();
        let shown = show(&Tokens::new(), &Arc::new(TokenKeys::new(keys)), &token).await;
        assert_eq!(shown.is_ok(), is_found);
    }
}

#[test]
fn a_token_is_known_for_its_app_alone() {
    let token: JsonWebToken = "a.b.c".parse().unwrap();
    let [one, other] = [1, 2].map(|number| AppId(uuid::Uuid::from_u128(number)));
    assert_eq!(tag(&fast(), one, &token), tag(&fast(), one, &token));
    assert_ne!(tag(&fast(), one, &token), tag(&fast(), other, &token));
}
