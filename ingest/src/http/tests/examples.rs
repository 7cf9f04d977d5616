//! The examples in the description are true, and there is one of everything.

use serde_json::json;

use super::access::guarded_with;
use super::openapi::examples_of_each;
use super::schema::mismatch;
use crate::doubles::impatient;
use crate::examples;
use crate::http::openapi::{DOCUMENT, STORY};

#[tokio::test]
async fn the_story_is_what_a_new_cluster_replies() {
    let everything = json!({"read": true, "write": true});
    let (cluster, keys) = guarded_with(
        impatient(),
        [
            ("usual", json!({"*": everything})),
            ("reader", json!({"cars": {"read": true}})),
            ("stranger", json!({})),
        ],
    )
    .await;
    for example in examples::read(STORY) {
        let key = match example.caller.as_deref() {
            None => &keys[0],
            Some("reader") => &keys[1],
            Some("stranger") => &keys[2],
            Some(other) => panic!("nobody is called {other}"),
        };
        example.check(&cluster.send(example.request(key)).await);
    }
}

#[test]
fn there_is_an_example_of_everything_and_it_is_as_described() {
    examples_of_each(&DOCUMENT);
    let key = json!({"n": 3, "plant": "x"});
    let id = json!({"$ref": "#/components/schemas/Id"});
    assert_eq!(mismatch(&DOCUMENT, &id, &key), None);
}
