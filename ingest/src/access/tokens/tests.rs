use anabranch_schemas::resources::{Credential, Resource};
use serde_json::json;

use super::*;
use crate::doubles::signer::{Signer, claims, seconds, with};

const APP: &str = "2164bef3-37c0-489c-9ac6-c94b034525d7";

fn keys(signer: &Signer) -> TokenKeys {
    let resource = json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": "tills", "app": APP},
        "spec": {"jwt": signer.jwt(), "permissions": {}},
    });
    let resource = Resource::from_value(&resource).unwrap();
    let Resource::Key { name, spec, .. } = resource else { panic!("{resource:?}") };
    let Credential::Jwt(issuer) = &spec.credential else { panic!("{spec:?}") };
    Arc::new([Arc::new(TokenKey {
        name,
        issuer: Issuer::new(issuer).unwrap(),
        claims: Args::new(),
        permissions: spec.permissions,
        validity: Validity::default(),
    })])
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
    let mut recent = Recent::new(MOST);
    let often = caller(Validity::default());
    recent.keep(numbered(0), &keys, often.clone());
    for number in 1..1_000 {
        recent.keep(numbered(number), &keys, caller(Validity::default()));
        assert!(recent.young.len() + recent.old.len() <= MOST);
        for last in number.saturating_sub(MOST / 2 - 2).max(1)..=number {
            assert!(recent.find(&numbered(last), &keys).is_some(), "{last} of {number}");
        }
        assert!(recent.find(&numbered(0), &keys).unwrap().is(&often));
    }
    assert!(recent.find(&numbered(1), &keys).is_none());
}

#[test]
fn two_who_are_verified_at_once_are_the_same() {
    let keys = keys(&Signer::secret(32));
    let mut recent = Recent::new(8);
    let [one, other] = [(); 2].map(|()| caller(Validity::default()));
    assert!(recent.keep(numbered(1), &keys, one.clone()).is(&one));
    assert!(recent.keep(numbered(1), &keys, other).is(&one));
}

#[test]
fn who_is_not_let_in_any_more_is_forgotten() {
    let now = keys(&Signer::secret(32));
    let mut recent = Recent::new(8);
    let key = Validity::default();
    recent.keep(numbered(1), &now, caller(key.clone()));
    key.revoke();
    // They are told so once.
    assert!(recent.find(&numbered(1), &now).unwrap().check_current().is_err());
    assert!(recent.find(&numbered(1), &now).is_none());
    recent.keep(numbered(2), &now, caller(key));
    assert!(recent.find(&numbered(2), &now).is_none());
    // What was found among other keys may be of another one now.
    recent.keep(numbered(3), &now, caller(Validity::default()));
    let then = keys(&Signer::secret(32));
    assert!(recent.find(&numbered(3), &then).is_none());
    assert!(recent.young.is_empty() && recent.old.is_empty());
}

#[test]
fn what_is_wrong_is_not_kept() {
    let (signer, other) = (Signer::p256(), Signer::p256());
    let (tokens, keys, app) = (Tokens::new(), keys(&signer), APP.parse().unwrap());
    let show = |token: String| {
        let token = token.parse().unwrap();
        tokens.caller(&fast(), app, &keys, &token).map(|caller| caller.is_ok())
    };
    let known = || tokens.known.lock().young.len();
    for number in 0..20 {
        let subject = format!("ann{number}");
        assert_eq!(show(other.sign(&claims(&subject))), None);
        let over = with(claims(&subject), "exp", json!(seconds(-60)));
        assert_eq!(show(signer.sign(&over)), Some(false));
        assert_eq!(show(format!("a.b.{number}")), None);
    }
    assert_eq!(known(), 0);
    let good = signer.sign(&claims("ann"));
    assert_eq!((show(good.clone()), show(good)), (Some(true), Some(true)));
    assert_eq!(known(), 1);
}

#[test]
fn a_token_is_known_for_its_app_alone() {
    let token: JsonWebToken = "a.b.c".parse().unwrap();
    let [one, other] = [1, 2].map(|number| AppId(uuid::Uuid::from_u128(number)));
    assert_eq!(tag(&fast(), one, &token), tag(&fast(), one, &token));
    assert_ne!(tag(&fast(), one, &token), tag(&fast(), other, &token));
}
