use serde_json::{Value, json};

use super::*;

fn example() -> Value {
    json!({
        "apiVersion": "anabranch/v1",
        "kind": "Replication",
        "metadata": {"name": "japanese-cars", "app": "2164bef3-37c0-489c-9ac6-c94b034525d7"},
        "spec": {
            "connections": ["west.example:4040", "[::1]:4040"],
            "subscriptions": {"queriesByCollection": {"cars": ["Origin = 'Japan'"]}},
            "onLeave": "keep"
        }
    })
}

/// The error for the example with the value at `pointer` replaced.
fn refused(pointer: &str, value: Value) -> ResourceError {
    let mut resource = example();
    match pointer.rsplit_once('/') {
        Some((parent, key)) => {
            resource.pointer_mut(parent).expect("the parent is there")[key] = value;
        }
        None => resource = value,
    }
    Resource::from_value(&resource).expect_err("it is refused")
}

#[test]
fn a_replication_is_read_and_written() {
    let resource = Resource::from_value(&example()).unwrap();
    assert_eq!(
        resource.id().key(),
        "replication/2164bef3-37c0-489c-9ac6-c94b034525d7/japanese-cars"
    );
    assert_eq!(resource.to_value(), example());
    assert_eq!(Resource::from_json(resource.to_json().as_bytes()).unwrap(), resource);
    let Resource::Replication { spec, .. } = resource else { panic!("{resource:?}") };
    assert_eq!(spec.subscriptions.predicates().unwrap().len(), 1);
}

#[test]
fn defaults_are_to_purge_and_to_want_nothing() {
    let mut resource = example();
    resource["spec"] = json!({});
    resource["status"] = json!({"lag": 3});
    let resource = Resource::from_value(&resource).unwrap();
    let Resource::Replication { spec, .. } = resource else { panic!("{resource:?}") };
    assert_eq!(spec, ReplicationSpec::default());
    assert_eq!(spec.on_leave, OnLeave::Purge);
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let error = refused("/spec/conections", json!([]));
    assert_eq!(error.to_string(), "spec: unknown key 'conections'");
    assert_eq!(error.hint.as_deref(), Some("did you mean 'connections'?"));
    let error = refused("/spec/zzzzzzzzzzzz", json!([]));
    assert_eq!(error.hint.as_deref(), Some("known: connections, subscriptions, onLeave"));
    let error = refused("/spec/onLeave", json!("keeep"));
    assert_eq!(error.hint.as_deref(), Some("did you mean 'keep'?"));
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    for (pointer, value, path) in [
        ("", json!(3), "resource"),
        ("/apiVersion", json!("anabranch/v9"), "apiVersion"),
        ("/kind", json!("Replicaton"), "kind"),
        ("/metadata/app", json!("x"), "metadata.app"),
        ("/metadata/name", json!("a/b"), "metadata.name"),
        ("/metadata/name", json!("-a"), "metadata.name"),
        ("/spec/connections", json!("a:1"), "spec.connections"),
        ("/spec/connections/0", json!("west.example"), "spec.connections[0]"),
        ("/spec/connections/1", json!("a:0"), "spec.connections[1]"),
        ("/spec/connections/1", json!("a:+1"), "spec.connections[1]"),
        ("/spec/connections/1", json!("::1:4040"), "spec.connections[1]"),
        ("/spec/subscriptions", json!([]), "spec.subscriptions"),
        (
            "/spec/subscriptions/queriesByCollection",
            json!({"9": ["true"]}),
            "spec.subscriptions.queriesByCollection",
        ),
        (
            "/spec/subscriptions/queriesByCollection",
            json!({"cars": []}),
            "spec.subscriptions.queriesByCollection.cars",
        ),
        (
            "/spec/subscriptions/queriesByCollection",
            json!({"cars": ["true", "Origin ="]}),
            "spec.subscriptions.queriesByCollection.cars[1]",
        ),
        ("/spec/onLeave", json!(true), "spec.onLeave"),
    ] {
        let error = if let Some((parent, index)) =
            pointer.rsplit_once('/').filter(|(_, key)| key.parse::<usize>().is_ok())
        {
            let mut resource = example();
            resource.pointer_mut(parent).unwrap()[index.parse::<usize>().unwrap()] = value;
            Resource::from_value(&resource).unwrap_err()
        } else {
            refused(pointer, value)
        };
        assert_eq!(error.path, path, "{pointer}: {error}");
    }
}

#[test]
fn a_kind_is_read_in_the_plural_too() {
    assert_eq!("replications".parse::<Kind>(), Ok(Kind::Replication));
    assert_eq!("Clusters".parse::<Kind>(), Ok(Kind::Cluster));
    let error = "clutser".parse::<Kind>().unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("did you mean 'Cluster'?"));
}

#[test]
fn a_missing_part_is_named() {
    let mut resource = example();
    resource["metadata"].as_object_mut().unwrap().remove("app");
    assert_eq!(Resource::from_value(&resource).unwrap_err().to_string(), "metadata.app: missing");
}

fn cluster(spec: &Value) -> Value {
    json!({
        "apiVersion": "anabranch/v1",
        "kind": "Cluster",
        "metadata": {"name": "east"},
        "spec": spec,
    })
}

fn refused_cluster(spec: &Value) -> ResourceError {
    Resource::from_value(&cluster(spec)).expect_err("it is refused")
}

#[test]
fn a_cluster_is_read_and_written() {
    let declared = cluster(&json!({
        "quorum": 1,
        "partitions": [
            {"weight": 3, "nodes": {"a1": "10.0.0.1:7070", "a2": "[::1]:7070"}},
            {"weight": 1, "nodes": {"b1": "b1.east:7070"}},
        ],
    }));
    let resource = Resource::from_value(&declared).unwrap();
    assert_eq!(resource.id().key(), "cluster/east");
    assert_eq!(resource.to_value(), declared);
    assert_eq!(Resource::from_json(resource.to_json().as_bytes()).unwrap(), resource);
}

#[test]
fn a_partition_weighs_1_and_the_quorum_is_left_out_unless_declared() {
    let declared = cluster(&json!({"partitions": [{"nodes": {"a": "a:1"}}]}));
    let resource = Resource::from_value(&declared).unwrap();
    let Resource::Cluster { spec, .. } = &resource else { panic!("{resource:?}") };
    assert_eq!((spec.partitions[0].weight, spec.quorum), (1, None));
    let written = json!({"partitions": [{"weight": 1, "nodes": {"a": "a:1"}}]});
    assert_eq!(resource.to_value()["spec"], written);
}

#[test]
fn a_cluster_belongs_to_no_app() {
    let mut resource = cluster(&json!({"partitions": [{"nodes": {"a": "a:1"}}]}));
    resource["metadata"]["app"] = json!("2164bef3-37c0-489c-9ac6-c94b034525d7");
    let error = Resource::from_value(&resource).unwrap_err();
    assert_eq!(error.to_string(), "metadata.app: a Cluster belongs to no app");
    for name in ["East", "1east", "ea.st"] {
        resource["metadata"] = json!({"name": name});
        assert_eq!(Resource::from_value(&resource).unwrap_err().path, "metadata.name", "{name}");
    }
    resource["metadata"] = json!({"name": "east", "nam": "x"});
    let error = Resource::from_value(&resource).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("did you mean 'name'?"));
}

#[test]
fn an_unknown_key_of_a_cluster_names_the_nearest() {
    let one = json!({"nodes": {"a": "a:1"}});
    let error = refused_cluster(&json!({"partition": [one], "quorum": 1}));
    assert_eq!(error.to_string(), "spec: unknown key 'partition'");
    assert_eq!(error.hint.as_deref(), Some("did you mean 'partitions'?"));
    let error = refused_cluster(&json!({"partitions": [one, {"node": {}}]}));
    assert_eq!(error.to_string(), "spec.partitions[1]: unknown key 'node'");
    assert_eq!(error.hint.as_deref(), Some("did you mean 'nodes'?"));
}

#[test]
fn what_is_wrong_with_a_cluster_is_refused_by_name() {
    let one = json!({"nodes": {"a": "a:1"}});
    let nodes = |nodes: Value| json!({"partitions": [one, {"nodes": nodes}]});
    let weight =
        |weight: Value| json!({"partitions": [one, {"weight": weight, "nodes": {"b": "b:1"}}]});
    let many: serde_json::Map<_, _> =
        (0..17).map(|number| (format!("n{number}"), json!(format!("n{number}:1")))).collect();
    for (spec, path, message) in [
        (json!([]), "spec", "expected an object, found a list"),
        (json!({}), "spec.partitions", "missing"),
        (json!({"partitions": {}}), "spec.partitions", "expected a list, found an object"),
        (json!({"partitions": []}), "spec.partitions", "a cluster has 1 to 1024 partitions, not 0"),
        (json!({"partitions": [{}]}), "spec.partitions[0].nodes", "missing"),
        (nodes(json!(["b"])), "spec.partitions[1].nodes", "expected an object of addresses"),
        (nodes(json!({})), "spec.partitions[1].nodes", "partition 1 has 0"),
        (nodes(json!(many)), "spec.partitions[1].nodes", "partition 1 has 17"),
        (nodes(json!({"B": "b:1"})), "spec.partitions[1].nodes", "'B' cannot be a node's name"),
        (nodes(json!({"b": "x"})), "spec.partitions[1].nodes.b", "'x' is not host:port"),
        (nodes(json!({"b": "0.0.0.0:1"})), "spec.partitions[1].nodes.b", "no address to dial"),
        (nodes(json!({"b": "[::]:1"})), "spec.partitions[1].nodes.b", "no address to dial"),
        (nodes(json!({"b": 7070})), "spec.partitions[1].nodes.b", "expected a string"),
        (nodes(json!({"a": "b:1"})), "spec.partitions[1].nodes.a", "'a' is in two partitions"),
        (nodes(json!({"b": "a:1"})), "spec.partitions[1].nodes.b", "two nodes have the address"),
        (weight(json!(0)), "spec.partitions[1].weight", "the weight of partition 1 is 0"),
        (weight(json!(-1)), "spec.partitions[1].weight", "-1 cannot be used"),
        (weight(json!(1.5)), "spec.partitions[1].weight", "1.5 cannot be used"),
        (weight(json!(1_u64 << 32)), "spec.partitions[1].weight", "4294967296 cannot be used"),
        (weight(json!("1")), "spec.partitions[1].weight", "expected a whole number"),
        (json!({"partitions": [one], "quorum": 0}), "spec.quorum", "a quorum of 0 does not fit"),
        (json!({"partitions": [one], "quorum": 2}), "spec.quorum", "a quorum of 2 does not fit"),
        (json!({"partitions": [one], "quorum": null}), "spec.quorum", "expected a whole number"),
    ] {
        let error = refused_cluster(&spec);
        assert_eq!(error.path, path, "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    let error = refused_cluster(&nodes(json!({"b": "x"})));
    assert_eq!(error.hint.as_deref(), Some("write it like 10.0.0.1:7070, or [::1]:7070"));
}

fn key() -> Value {
    json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": "till-17", "app": "2164bef3-37c0-489c-9ac6-c94b034525d7"},
        "spec": {
            "apiKey": {"hash": "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"},
            "expiresAt": "2027-01-31T00:00:00Z",
            "claims": {"store": 17},
            "permissions": {
                "orders": {"read": "store = :store", "write": "store = :store AND open"},
                "products": {"read": "TRUE"},
                "*": {},
            },
        },
    })
}

#[test]
fn a_key_is_read_and_written() {
    let resource = Resource::from_value(&key()).unwrap();
    assert_eq!(resource.id().key(), "key/2164bef3-37c0-489c-9ac6-c94b034525d7/till-17");
    assert_eq!(resource.to_value(), key());
    assert_eq!(Resource::from_json(resource.to_json().as_bytes()).unwrap(), resource);
    let mut bare = key();
    bare["spec"] = json!({"apiKey": key()["spec"]["apiKey"], "permissions": {"a": {"read": true}}});
    let Resource::Key { spec, .. } = Resource::from_value(&bare).unwrap() else { panic!("{bare}") };
    assert_eq!((spec.expires_at, spec.claims.len()), (None, 0));
    let [(_, permission)] = &spec.permissions.into_iter().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((permission.read.as_deref(), &permission.write), (Some("true"), &None));
}

#[test]
fn what_is_wrong_with_a_key_is_named() {
    for (pointer, value, path) in [
        ("/spec", json!({"permissions": {}}), "spec"),
        ("/spec/apiKey", json!({}), "spec.apiKey.hash"),
        ("/spec/apiKey/hash", json!("secret"), "spec.apiKey.hash"),
        ("/spec/apiKey/hash", json!("$argon2id$".repeat(100)), "spec.apiKey.hash"),
        ("/spec/expiresAt", json!("tomorrow"), "spec.expiresAt"),
        ("/spec/expiresAt", json!("2027-01-31"), "spec.expiresAt"),
        ("/spec/claims", json!([]), "spec.claims"),
        ("/spec/claims/store", json!("x".repeat(70_000)), "spec.claims"),
        ("/spec/permissions", json!([]), "spec.permissions"),
        ("/spec/permissions", json!({"9": {}}), "spec.permissions"),
        ("/spec/permissions/orders", json!({"reed": "TRUE"}), "spec.permissions.orders"),
        ("/spec/permissions/orders/read", json!("store ="), "spec.permissions.orders.read"),
        ("/spec/permissions/orders/write", json!(1), "spec.permissions.orders.write"),
    ] {
        let mut resource = key();
        *resource.pointer_mut(pointer).unwrap() = value;
        let error = Resource::from_value(&resource).expect_err(pointer);
        assert_eq!(error.path, path, "{error}");
    }
}

/// What `golden/` has of keys, which is what clusters have stored, and what it means.
#[test]
fn a_stored_key_means_what_it_meant() {
    let bytes = |bytes: &[u8]| Base64Url::read(&encoded(bytes)).unwrap();
    let point = |crv, x: &[u8], y: &[u8]| PublicKey::Elliptic { crv, x: bytes(x), y: bytes(y) };
    let unnamed = |key| Jwk { kid: None, alg: None, key };
    let rsa = PublicKey::Rsa { n: bytes(&[0xff; 256]), e: bytes(&[1, 0, 1]) };
    let edwards = PublicKey::Edwards { crv: EdwardsCurve::Ed25519, x: bytes(&[3; 32]) };
    let set = JwkSet {
        keys: vec![
            Jwk { kid: Some("2026".to_owned()), alg: Some(TokenAlgorithm::Ps256), key: rsa },
            unnamed(point(EllipticCurve::P256, &[1; 32], &[2; 32])),
            unnamed(point(EllipticCurve::P384, &[1; 48], &[2; 48])),
            unnamed(edwards),
        ],
    };
    let secret = TokenSecret::new(&"s".repeat(32)).unwrap();
    let of_issuer = |signed_with| {
        let (issuer, audience) = ("https://id.example".to_owned(), "anabranch".to_owned());
        Credential::Jwt(TokenIssuer { issuer, audience, signed_with })
    };
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".to_owned();
    let end = "2027-01-31T00:00:00Z".parse().unwrap();
    let claims = json!({"store": 17}).as_object().unwrap().clone();
    let [none, claims] = [serde_json::Map::new(), claims];
    for (text, credential, expires_at, claims) in [
        (
            include_str!("../../golden/key/v1-api-key.json"),
            Credential::ApiKey(ApiKey { hash }),
            Some(end),
            claims,
        ),
        (
            include_str!("../../golden/key/v1-jwks.json"),
            of_issuer(SignedWith::Jwks(set)),
            None,
            none.clone(),
        ),
        (
            include_str!("../../golden/key/v1-secret.json"),
            of_issuer(SignedWith::Secret(secret)),
            None,
            none,
        ),
    ] {
        let orders = PermissionScope::Collection("orders".parse().unwrap());
        let (read, write) = ("store = :store".to_owned(), "store = :store AND open".to_owned());
        let permission = PermissionSpec { read: Some(read), write: Some(write) };
        let others = (PermissionScope::Others, PermissionSpec::default());
        let permissions = [(orders, permission), others].into();
        let (app, name) = key_place();
        let spec = KeySpec { credential, expires_at, claims, permissions };
        let expected = Resource::Key { app, name, spec };
        assert_eq!(Resource::from_json(text.as_bytes()).unwrap(), expected);
        assert_eq!(expected.to_json(), text.trim_end());
    }
}

/// The place of the key of these tests.
fn key_place() -> (AppId, ResourceName) {
    let app = "2164bef3-37c0-489c-9ac6-c94b034525d7";
    (app.parse().unwrap(), "till-17".parse().unwrap())
}

/// A key for the tokens that an issuer signs with this.
fn token_key(signed_with: &Value) -> Value {
    let mut resource = key();
    let spec = resource["spec"].as_object_mut().unwrap();
    spec.remove("apiKey");
    let mut jwt = json!({"issuer": "https://id.example", "audience": "anabranch"});
    jwt.as_object_mut().unwrap().extend(signed_with.as_object().unwrap().clone());
    spec.insert("jwt".to_owned(), jwt);
    resource
}

fn encoded(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes)
}

/// Something that has the form of a public key.
fn rsa(bytes: usize) -> Value {
    json!({"kty": "RSA", "n": encoded(&vec![0xff; bytes]), "e": "AQAB"})
}

fn elliptic() -> Value {
    json!({"kty": "EC", "crv": "P-256", "x": encoded(&[1; 32]), "y": encoded(&[2; 32])})
}

#[test]
fn a_key_for_tokens_is_read_and_written() {
    let p384 = json!({"kty": "EC", "crv": "P-384", "x": encoded(&[1; 48]), "y": encoded(&[2; 48])});
    let edwards = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&[3; 32]), "alg": "EdDSA"});
    let mut named = rsa(256);
    named["kid"] = json!("one");
    named["alg"] = json!("PS256");
    for signed_with in [
        json!({"secret": "s".repeat(32)}),
        json!({"jwks": {"keys": [named, rsa(1_024), elliptic(), p384, edwards]}}),
    ] {
        let resource = Resource::from_value(&token_key(&signed_with)).unwrap();
        assert_eq!(resource.to_value(), token_key(&signed_with));
        assert_eq!(Resource::from_json(resource.to_json().as_bytes()).unwrap(), resource);
        assert!(!format!("{resource:?}").contains("ssss"), "{resource:?}");
    }
}

#[test]
fn what_others_say_of_their_public_keys_is_passed_over() {
    let mut published = elliptic();
    published["use"] = json!("sig");
    published["x5c"] = json!(["MIIC"]);
    published["x5t#S256"] = json!("x");
    published["key_ops"] = json!(["verify"]);
    let given = token_key(&json!({"jwks": {"keys": [published], "next": 1}}));
    let kept = token_key(&json!({"jwks": {"keys": [elliptic()]}}));
    assert_eq!(Resource::from_value(&given).unwrap().to_value(), kept);
}

/// Keys that issuers publish beside those that they sign tokens with.
fn others() -> [Value; 5] {
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    [
        with(rsa(256), "use", json!("enc")),
        with(rsa(256), "alg", json!("RSA-OAEP")),
        json!({"kty": "EC", "crv": "secp256k1", "x": encoded(&[1; 32]), "y": encoded(&[2; 32])}),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": encoded(&[1; 64])}),
        rsa(128),
    ]
}

#[test]
fn keys_of_a_set_that_verify_no_tokens_are_left_out() {
    let sixteen = vec![elliptic(); 16];
    let given = [&others()[..], &sixteen, &others()].concat();
    let resource = Resource::from_value(&token_key(&json!({"jwks": {"keys": given}}))).unwrap();
    let kept = token_key(&json!({"jwks": {"keys": sixteen}}));
    assert_eq!(resource.to_value(), kept);
    // What is kept is read as it was written.
    assert_eq!(Resource::from_json(resource.to_json().as_bytes()).unwrap(), resource);
    // A name that is taken by one that is left out is free.
    let [mut enc, ..] = others();
    let mut sig = rsa(256);
    (enc["kid"], sig["kid"]) = (json!("one"), json!("one"));
    let given = token_key(&json!({"jwks": {"keys": [enc, sig]}}));
    assert_eq!(
        Resource::from_value(&given).unwrap().to_value(),
        token_key(&json!({"jwks": {"keys": [sig]}}))
    );
}

#[test]
fn a_set_of_which_nothing_is_left_is_refused_and_each_key_told_why() {
    let resource = token_key(&json!({"jwks": {"keys": others()}}));
    let error = Resource::from_value(&resource).unwrap_err();
    assert_eq!(error.path, "spec.jwt.jwks.keys");
    assert!(error.message.starts_with("none of its 5 keys verifies tokens: "), "{error}");
    for (number, part) in ["use", "alg", "crv", "kty", "n"].into_iter().enumerate() {
        let told = format!("spec.jwt.jwks.keys[{number}].{part}: ");
        assert!(error.message.contains(&told), "{error}");
    }
}

#[test]
fn what_a_token_may_be_signed_with_follows_from_the_key() {
    let algorithms = |signed_with: &Value| -> Vec<&str> {
        let resource = Resource::from_value(&token_key(signed_with)).unwrap();
        let Resource::Key { spec, .. } = resource else { panic!("{resource:?}") };
        let Credential::Jwt(issuer) = spec.credential else { panic!("{spec:?}") };
        let algorithms = match &issuer.signed_with {
            SignedWith::Jwks(set) => set.keys[0].algorithms(),
            SignedWith::Secret(secret) => secret.algorithms(),
        };
        algorithms.iter().map(|algorithm| algorithm.as_str()).collect()
    };
    let secret = |bytes| json!({"secret": "s".repeat(bytes)});
    assert_eq!(algorithms(&secret(32)), ["HS256"]);
    assert_eq!(algorithms(&secret(63)), ["HS256", "HS384"]);
    assert_eq!(algorithms(&secret(64)), ["HS256", "HS384", "HS512"]);
    let of = |key: Value| algorithms(&json!({"jwks": {"keys": [key]}}));
    assert_eq!(of(rsa(256)), ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]);
    let mut one = rsa(256);
    one["alg"] = json!("RS512");
    assert_eq!(of(one), ["RS512"]);
    assert_eq!(of(elliptic()), ["ES256"]);
}

#[test]
fn what_is_wrong_with_a_key_for_tokens_is_named() {
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let named = with(rsa(256), "kid", json!("one"));
    const KEYS: &str = "spec.jwt.jwks.keys";
    for (signed_with, path) in [
        (json!({}), "spec.jwt"),
        (json!({"secret": "s".repeat(32), "jwks": {"keys": [elliptic()]}}), "spec.jwt"),
        (json!({"secrets": "s"}), "spec.jwt"),
        (json!({"secret": "s".repeat(31)}), "spec.jwt.secret"),
        (json!({"secret": "s".repeat(1_025)}), "spec.jwt.secret"),
        (json!({"secret": 17}), "spec.jwt.secret"),
        (json!({"issuer": "", "secret": "s".repeat(32)}), "spec.jwt.issuer"),
        (json!({"audience": ["a"], "secret": "s".repeat(32)}), "spec.jwt.audience"),
        (json!({"jwks": []}), "spec.jwt.jwks"),
        (json!({"jwks": {}}), KEYS),
        (json!({"jwks": {"keys": []}}), KEYS),
        (json!({"jwks": {"keys": vec![elliptic(); 17]}}), KEYS),
        (json!({"jwks": {"keys": vec![json!({}); 129]}}), KEYS),
        (json!({"jwks": {"keys": [elliptic(), 17]}}), "spec.jwt.jwks.keys[1]"),
        (json!({"jwks": {"keys": [named.clone(), named]}}), "spec.jwt.jwks.keys[1].kid"),
    ] {
        let error = Resource::from_value(&token_key(&signed_with)).expect_err(path);
        assert_eq!(error.path, path, "{error}");
    }
    let oct = json!({"kty": "oct", "k": encoded(&[1; 32])});
    for (key, part) in [
        (json!({}), ".kty"),
        (oct, ".kty"),
        (with(rsa(256), "kty", json!("DSA")), ".kty"),
        (with(rsa(256), "use", json!("enc")), ".use"),
        (with(rsa(256), "kid", json!("")), ".kid"),
        (with(rsa(256), "alg", json!("HS256")), ".alg"),
        (with(rsa(256), "alg", json!("none")), ".alg"),
        (with(elliptic(), "alg", json!("ES384")), ".alg"),
        (with(rsa(256), "n", json!("a+b/")), ".n"),
        (with(rsa(256), "n", json!(encoded(&[0xfe; 256]))), ".n"),
        (rsa(255), ".n"),
        (rsa(1_025), ".n"),
        (rsa(0), ".n"),
        (with(rsa(256), "e", json!("AQ")), ".e"),
        (with(rsa(256), "e", json!("AAAA")), ".e"),
        (with(elliptic(), "crv", json!("P-521")), ".crv"),
        (with(elliptic(), "crv", json!("Ed25519")), ".crv"),
        (with(elliptic(), "x", json!(encoded(&[1; 31]))), ".x"),
        (with(elliptic(), "y", json!(encoded(&[1; 33]))), ".y"),
    ] {
        let resource = token_key(&json!({"jwks": {"keys": [key]}}));
        let error = Resource::from_value(&resource).expect_err(part);
        assert_eq!(error.path, format!("{KEYS}[0]{part}"), "{error}");
    }
}

#[test]
fn a_private_key_is_refused_and_not_repeated() {
    for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        let mut key = rsa(256);
        key[name] = json!("c2VjcmV0");
        // Also of a key that would be left out.
        let mut unused = key.clone();
        unused["use"] = json!("enc");
        for key in [key, unused] {
            let resource = token_key(&json!({"jwks": {"keys": [elliptic(), key]}}));
            let error = Resource::from_value(&resource).expect_err(name);
            assert_eq!(error.path, "spec.jwt.jwks.keys[1]");
            assert!(!format!("{error:?}").contains("c2VjcmV0"), "{error:?}");
        }
    }
}

#[test]
fn a_public_key_is_no_secret() {
    let body = encoded(&[1; 90]);
    let set = json!({"keys": [elliptic()]}).to_string();
    for public in [
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----"),
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----"),
        format!("---- BEGIN SSH2 PUBLIC KEY ----\n{body}"),
        format!("ssh-ed25519 {body} ann@example"),
        format!("ecdsa-sha2-nistp256 {body}"),
        elliptic().to_string(),
        format!(" \u{feff}\n{set}\n"),
    ] {
        let resource = token_key(&json!({"secret": public}));
        let error = Resource::from_value(&resource).expect_err(&public);
        assert_eq!(error.path, "spec.jwt.secret", "{error}");
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("spec.jwt.jwks")), "{error}");
        assert!(!format!("{error:?}").contains(&body), "{error:?}");
    }
    for secret in [format!("{{{body}"), format!("[\"{body}\"]"), format!("my ssh-key {body}")] {
        assert!(Resource::from_value(&token_key(&json!({"secret": secret}))).is_ok(), "{secret}");
    }
}

#[test]
fn a_key_is_opened_in_one_way() {
    let mut both = token_key(&json!({"secret": "s".repeat(32)}));
    both["spec"]["apiKey"] = key()["spec"]["apiKey"].clone();
    let error = Resource::from_value(&both).unwrap_err();
    assert_eq!(error.to_string(), "spec: it has both an apiKey and a jwt");
}
