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
    assert_eq!(resource.key(), "replication/2164bef3-37c0-489c-9ac6-c94b034525d7/japanese-cars");
    assert_eq!(resource.to_value(), example());
    assert_eq!(Resource::from_json(resource.to_json().as_bytes()).unwrap(), resource);
    let Spec::Replication(spec) = resource.spec;
    assert_eq!(spec.subscriptions.predicates().unwrap().len(), 1);
}

#[test]
fn defaults_are_to_purge_and_to_want_nothing() {
    let mut resource = example();
    resource["spec"] = json!({});
    resource["status"] = json!({"lag": 3});
    let Spec::Replication(spec) = Resource::from_value(&resource).unwrap().spec;
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
    assert!("Cluster".parse::<Kind>().is_err());
}

#[test]
fn a_missing_part_is_named() {
    let mut resource = example();
    resource["metadata"].as_object_mut().unwrap().remove("app");
    assert_eq!(Resource::from_value(&resource).unwrap_err().to_string(), "metadata.app: missing");
}
