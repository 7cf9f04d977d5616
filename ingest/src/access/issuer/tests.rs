use anabranch_schemas::resources::{Base64Url, Credential, Resource};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::doubles::APP;
use crate::doubles::signer::{AUDIENCE, ISSUER, Signer, claims, encode, jwt, seconds, with};

/// The issuer that a key declares.
fn declared(jwt: &serde_json::Value) -> Result<Issuer, String> {
    let resource = json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": "tills", "app": APP},
        "spec": {"jwt": jwt, "permissions": {}},
    });
    let resource = Resource::from_value(&resource).unwrap();
    let Resource::Key { spec, .. } = resource else { panic!("{resource:?}") };
    let Credential::Jwt(issuer) = &spec.credential else { panic!("{spec:?}") };
    Issuer::new(issuer)
}

fn issuer(signer: &Signer) -> Issuer {
    declared(&signer.jwt()).unwrap()
}

/// What is found out of a token, and told about it.
fn verify(issuer: &Issuer, token: &str) -> Option<Result<Verified, String>> {
    let token: JsonWebToken = token.parse().ok()?;
    let verified = issuer.verify(&token, &Claimed::of(&token)?, &mut 16)?;
    Some(verified.map_err(|Unfit { refusal, .. }| {
        assert_eq!(refusal.code(), Code::Unauthenticated);
        refusal.message().to_owned()
    }))
}

fn is_let_in(issuer: &Issuer, token: &str) -> bool {
    matches!(verify(issuer, token), Some(Ok(_)))
}

fn all() -> [Signer; 5] {
    [Signer::secret(64), Signer::p256(), Signer::p384(), Signer::edwards(), Signer::rsa()]
}

#[test]
fn what_a_declared_key_has_signed_is_believed() {
    for signer in all() {
        let algorithms: &[&str] = match &signer {
            Signer::Secret(_) => &["HS256", "HS384", "HS512"],
            Signer::Rsa(_) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            _ => &[signer.algorithm()],
        };
        for algorithm in algorithms {
            let token = signer.sign_as(&json!({"alg": algorithm}), &claims("ann"));
            let verified = verify(&issuer(&signer), &token).expect(algorithm).unwrap();
            assert_eq!(verified.subject, "ann");
            assert_eq!(verified.claims["store"], Value::Int(17));
        }
    }
}

#[test]
fn what_was_changed_or_signed_by_somebody_else_is_not_believed() {
    for signer in all() {
        let (issuer, token) = (issuer(&signer), signer.sign(&claims("ann")));
        let parts: Vec<_> = token.split('.').collect();
        let &[header, payload, signature] = &parts[..] else { panic!("{token}") };
        let other = encode(claims("bob").to_string());
        let longer = encode(json!({"alg": signer.algorithm(), "typ": "JWT", "x": 1}).to_string());
        for changed in [
            format!("{header}.{other}.{signature}"),
            format!("{longer}.{payload}.{signature}"),
            format!("{header}.{payload}.{}", &signature[1..]),
            format!("{header}.{payload}.{signature}A"),
            format!("{header}.{payload}.AA"),
        ] {
            assert_eq!(verify(&issuer, &changed), None, "{}", signer.algorithm());
        }
        assert!(is_let_in(&issuer, &token));
    }
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    assert_eq!(verify(&issuer(&ours), &theirs.sign(&claims("ann"))), None);
}

#[test]
fn how_a_token_is_signed_is_not_for_the_token_to_say() {
    let rsa = Signer::rsa();
    let claims = claims("ann");
    let message = |algorithm: &str| {
        let header = json!({"alg": algorithm, "typ": "JWT"}).to_string();
        format!("{}.{}", encode(header), encode(claims.to_string()))
    };
    for algorithm in ["none", "None", "NONE", "", "HS256", "RS257"] {
        for signature in ["", "AA", &encode([0; 32]), &encode([0; 256])] {
            let token = format!("{}.{signature}", message(algorithm));
            for signer in all() {
                assert_eq!(verify(&issuer(&signer), &token), None, "{token}");
            }
        }
    }
    // The public key as the secret of an HMAC, in the forms in which it is known.
    let modulus = rsa.jwk()["n"].as_str().unwrap().to_owned();
    for secret in [modulus.clone(), rsa.jwk().to_string()] {
        let token = Signer::Secret(secret).sign(&claims);
        assert_eq!(verify(&issuer(&rsa), &token), None);
    }
    let raw = Base64Url::read(&modulus).unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, raw.number());
    let message = message("HS256");
    let token = format!("{message}.{}", encode(ring::hmac::sign(&key, message.as_bytes())));
    assert_eq!(verify(&issuer(&rsa), &token), None);
    // One that the key is not for, or not long enough for.
    let mut one = rsa.jwk();
    one["alg"] = json!("RS256");
    let one = declared(&jwt(&[one])).unwrap();
    assert!(is_let_in(&one, &rsa.sign(&claims)));
    assert_eq!(verify(&one, &rsa.sign_as(&json!({"alg": "PS256"}), &claims)), None);
    let short = Signer::secret(47);
    assert!(is_let_in(&issuer(&short), &short.sign(&claims)));
    let token = short.sign_as(&json!({"alg": "HS384"}), &claims);
    assert_eq!(verify(&issuer(&short), &token), None);
}

#[test]
fn a_header_that_asks_for_more_is_refused() {
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    let (issuer, claims) = (issuer(&ours), claims("ann"));
    for header in [
        json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
        json!({"alg": "ES256", "crit": []}),
        json!({"alg": ["ES256"]}),
        json!({"typ": "JWT"}),
        json!(["ES256"]),
    ] {
        assert_eq!(verify(&issuer, &ours.sign_as(&header, &claims)), None, "{header}");
    }
    for header in [r#"{"alg": "ES256", "alg": "ES256"}"#, r#"{"alg": "ES256"} "#, "{", ""] {
        let token = ours.sign_text(header, &claims.to_string());
        assert_eq!(is_let_in(&issuer, &token), header.ends_with(' '), "{header}");
    }
    // A key that the token brings is not asked.
    let header = json!({"alg": "ES256", "jwk": theirs.jwk(), "jku": "https://evil.example/jwks"});
    assert_eq!(verify(&issuer, &theirs.sign_as(&header, &claims)), None);
    assert!(is_let_in(&issuer, &ours.sign_as(&header, &claims)));
}

#[test]
fn a_token_that_names_its_key_is_of_that_one() {
    let (one, other, unnamed) = (Signer::p256(), Signer::p256(), Signer::edwards());
    let named = |signer: &Signer, kid: &str| with(signer.jwk(), "kid", json!(kid));
    let set = [named(&one, "one"), named(&other, "other"), unnamed.jwk()];
    let issuer = declared(&jwt(&set)).unwrap();
    let signed = |signer: &Signer, kid: Option<&str>| {
        let header = json!({"alg": signer.algorithm(), "kid": kid});
        signer.sign_as(&header, &claims("ann"))
    };
    for (signer, kid, expected) in [
        (&one, Some("one"), true),
        (&one, None, true),
        (&other, Some("other"), true),
        (&other, None, true),
        (&unnamed, None, true),
        (&one, Some("other"), false),
        (&one, Some("ONE"), false),
        (&one, Some(""), false),
        (&unnamed, Some("one"), false),
        (&unnamed, Some("two"), false),
    ] {
        let token = signed(signer, kid);
        assert_eq!(verify(&issuer, &token).is_some(), expected, "{kid:?}");
    }
    // A secret has no name that could be another.
    let secret = Signer::secret(32);
    assert!(is_let_in(&declared(&secret.jwt()).unwrap(), &signed(&secret, Some("one"))));
}

#[test]
fn no_more_keys_are_tried_than_may_be() {
    let signers: Vec<_> = (0..4).map(|_| Signer::p256()).collect();
    let mut keys: Vec<_> = signers.iter().map(Signer::jwk).collect();
    // What cannot have signed it is not tried.
    keys.insert(0, Signer::edwards().jwk());
    let issuer = declared(&jwt(&keys)).unwrap();
    let token: JsonWebToken = signers[2].sign(&claims("ann")).parse().unwrap();
    let claimed = Claimed::of(&token).unwrap();
    for (may_be, left, is_found) in [(9, 6, true), (3, 0, true), (2, 0, false), (0, 0, false)] {
        let mut tries = may_be;
        let verified = issuer.verify(&token, &claimed, &mut tries);
        assert_eq!((verified.is_some(), tries), (is_found, left), "{may_be}");
    }
}

#[test]
fn a_signed_token_that_is_no_good_tells_whose_it_is() {
    let signer = Signer::p256();
    let issuer = issuer(&signer);
    let whose = |claims: &serde_json::Value| {
        let token: JsonWebToken = signer.sign(claims).parse().unwrap();
        let verified = issuer.verify(&token, &Claimed::of(&token).unwrap(), &mut 1);
        verified.unwrap().unwrap_err().subject
    };
    let over = with(claims("ann"), "exp", json!(seconds(-60)));
    assert_eq!(whose(&over).as_deref(), Some("ann"));
    assert_eq!(whose(&with(claims("ann"), "exp", json!(null))).as_deref(), Some("ann"));
    for nobody in [json!(null), json!(17), json!(""), json!("s".repeat(256))] {
        assert_eq!(whose(&with(over.clone(), "sub", nobody)), None);
    }
}

#[test]
fn who_cannot_sign_is_told_nothing() {
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    let issuer = issuer(&ours);
    let over = with(claims("ann"), "exp", json!(seconds(-600)));
    assert_eq!(verify(&issuer, &theirs.sign(&over)), None);
    for claims in [
        with(claims("ann"), "iss", json!("https://evil.example")),
        with(claims("ann"), "iss", json!([ISSUER])),
        with(claims("ann"), "iss", json!(null)),
        with(claims("ann"), "aud", json!("anabranch2")),
        with(claims("ann"), "aud", json!([])),
        with(claims("ann"), "aud", json!({AUDIENCE: true})),
        with(claims("ann"), "aud", json!(null)),
        json!([1]),
    ] {
        assert_eq!(verify(&issuer, &ours.sign(&claims)), None, "{claims}");
    }
    for text in [
        "",
        "x",
        &claims("ann").to_string().replace(r#""aud""#, r#""iss": "https://id.example", "aud""#),
    ] {
        assert_eq!(verify(&issuer, &ours.sign_text(r#"{"alg": "ES256"}"#, text)), None, "{text}");
    }
    let several = with(claims("ann"), "aud", json!(["other", AUDIENCE]));
    assert!(is_let_in(&issuer, &ours.sign(&several)));
}

#[test]
fn who_shows_a_token_that_is_no_good_is_told_why() {
    let signer = Signer::edwards();
    let issuer = issuer(&signer);
    let missing =
        |name: &str| format!("the claim '{name}' of the token is missing or cannot be used");
    for (name, value, expected) in [
        ("exp", json!(seconds(-31)), "the token has expired".to_owned()),
        ("exp", json!(0), "the token has expired".to_owned()),
        ("exp", json!(null), missing("exp")),
        ("exp", json!("tomorrow"), missing("exp")),
        ("exp", json!(-1), missing("exp")),
        ("nbf", json!(seconds(60)), "the token is not valid yet".to_owned()),
        ("nbf", json!("now"), missing("nbf")),
        ("sub", json!(null), missing("sub")),
        ("sub", json!(""), missing("sub")),
        ("sub", json!(17), missing("sub")),
        (
            "sub",
            json!("s".repeat(256)),
            "the claim 'sub' of the token has more than 255 bytes".to_owned(),
        ),
    ] {
        let token = signer.sign(&with(claims("ann"), name, value.clone()));
        assert_eq!(verify(&issuer, &token), Some(Err(expected)), "{name}: {value}");
    }
    // What could be read in two ways is read in none.
    let text = claims("ann").to_string();
    for (from, to) in [
        (r#""store":17"#, r#""store":17,"store":18"#),
        (r#""store":17"#, r#""store":18446744073709551615"#),
        (r#""sub":"ann""#, r#""sub":"ann","sub":"bob""#),
    ] {
        assert!(text.contains(from), "{text}");
        let token = signer.sign_text(r#"{"alg": "EdDSA"}"#, &text.replace(from, to));
        let told = verify(&issuer, &token).unwrap().unwrap_err();
        assert!(told.starts_with("the claims of the token cannot be"), "{told}");
    }
}

#[test]
fn clocks_may_differ_a_little() {
    let signer = Signer::secret(32);
    let issuer = issuer(&signer);
    let end = seconds(-20);
    let token = signer.sign(&with(claims("ann"), "exp", json!(end)));
    let verified = verify(&issuer, &token).unwrap().unwrap();
    assert_eq!(verified.expires_at.as_second(), end + 30);
    let token = signer.sign(&with(claims("ann"), "nbf", json!(seconds(20))));
    assert!(is_let_in(&issuer, &token));
    // What never ends ends with all times.
    for end in [json!(i64::MAX), json!(1e18), json!(seconds(600) as f64 + 0.5)] {
        let token = signer.sign(&with(claims("ann"), "exp", end.clone()));
        assert!(is_let_in(&issuer, &token), "{end}");
    }
}

#[test]
fn a_point_beside_its_curve_is_no_key() {
    for signer in [Signer::p256(), Signer::p384()] {
        let mut key = signer.jwk();
        key["x"] = signer.jwk()["y"].clone();
        let error = declared(&jwt(&[signer.jwk(), key])).map(|_| ()).unwrap_err();
        assert_eq!(error, "jwt.jwks.keys[1]: x and y are no point of the curve");
    }
}

proptest! {
    #[test]
    fn a_token_that_was_changed_anywhere_opens_nothing(
        which in 0..5_usize,
        place in any::<prop::sample::Index>(),
        byte in prop::sample::select(
            b"ABCXYZabcxyz0189-_.".to_vec()
        ),
    ) {
        let signer = &all()[which];
        let token = signer.sign(&claims("ann"));
        let mut changed = token.clone().into_bytes();
        let place = place.index(changed.len());
        prop_assume!(changed[place] != byte);
        changed[place] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert!(!is_let_in(&issuer(signer), &changed), "{} {}", token, changed);
    }

    #[test]
    fn whatever_is_sent_opens_nothing_and_breaks_nothing(
        text in prop_oneof![
            ".{0,200}",
            "[A-Za-z0-9_-]{0,99}\\.[A-Za-z0-9_-]{0,99}\\.[A-Za-z0-9_-]{0,99}",
        ],
        header in prop_oneof![Just(r#"{"alg": "HS256"}"#.to_owned()), ".{0,50}"],
        claims in prop_oneof![Just(claims("ann").to_string()), ".{0,100}"],
        signature in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let issuer = issuer(&Signer::secret(32));
        prop_assert!(!is_let_in(&issuer, &text));
        let text = format!("{}.{}.{}", encode(header), encode(claims), encode(signature));
        prop_assert!(!is_let_in(&issuer, &text));
    }

    #[test]
    fn whatever_an_issuer_signs_breaks_nothing(
        name in "(exp|nbf|iat|sub|x)",
        value in prop_oneof![
            any::<i64>().prop_map(|it| it.to_string()),
            any::<u64>().prop_map(|it| it.to_string()),
            any::<f64>().prop_map(|it| format!("{it:e}")),
            "\"\\PC{0,9}\"",
            "\\PC{0,20}",
        ],
    ) {
        let signer = Signer::secret(32);
        let claims = with(claims("ann"), &name, json!(null)).to_string();
        let claims = claims.replacen('{', &format!("{{\"{name}\": {value}, "), 1);
        let token = signer.sign_text(r#"{"alg": "HS256"}"#, &claims);
        if let Some(Ok(verified)) = verify(&issuer(&signer), &token) {
            prop_assert!(!verified.subject.is_empty());
        }
    }
}
