//! JSON Web Tokens of somebody else: who shows one sees what the key allows for its claims, until
//! the key is revoked.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_tests::cluster::{Dev, PATIENCE, plain_client};
use anabranch_tests::support::wait_until;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::BINARY;
use crate::commands::{DONE, REFUSED, has, run};

const APP: &str = "11111111-1111-4111-8111-111111111111";
const ISSUER: &str = "https://id.example";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A token of somebody who works in a store.
fn token(subject: &str, store: i64) -> Result<String> {
    let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 600;
    let claims = json!({"iss": ISSUER, "aud": "tills", "sub": subject, "exp": end, "store": store});
    let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", encode(&json!({"alg": "HS256"})), encode(&claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Runs a statement as who shows a token: the status, and what is answered.
fn execute(dev: &Dev, token: &str, body: &Value, key: Option<&str>) -> Result<(u16, Value)> {
    let url = format!("{}/apps/{APP}/api/v1/store/execute", dev.api.url());
    let request = plain_client().build()?.post(url).bearer_auth(token).json(body);
    let request = key.iter().fold(request, |request, key| request.header("Idempotency-Key", *key));
    let response = request.send()?;
    Ok((response.status().as_u16(), response.json()?))
}

#[test]
fn who_shows_a_token_sees_their_own_until_the_key_is_revoked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dev = Dev::start(Path::new(BINARY), dir.path(), "tokens", &[])?;
    let key = |arguments: &[&str], code| {
        let of = ["--app", APP, "--server", dev.api.admin_url()];
        run(&[&["key"], arguments, &of].concat(), code)
    };
    let secret = dir.path().join("secret").display().to_string();
    fs::write(&secret, format!("{SECRET}\n"))?;
    let issuer = ["--issuer", ISSUER, "--audience", "tills", "--secret-file", &secret];
    let rules = ["--read", "orders:store = :store", "--write", "orders:store = :store"];
    let create = [&["create", "tills"], &issuer[..], &rules].concat();
    has(&key(&create, DONE)?.1, "'sub'")?;
    has(&key(&["list"], DONE)?.0, &format!("tokens of {ISSUER}"))?;
    has(&key(&["rotate", "tills"], REFUSED)?.1, "has no secret to draw anew")?;

    let (ann, bob) = (token("ann", 1)?, token("bob", 2)?);
    let select = json!({"statement": "SELECT * FROM orders"});
    wait_until("the key is known", PATIENCE, || Ok(execute(&dev, &ann, &select, None)?.0 == 200))?;
    let mut last = Value::Null;
    for (token, store) in [(&ann, 1), (&bob, 2)] {
        let insert = |store: i64| {
            let statement = "INSERT INTO orders DOCUMENTS (:d)";
            json!({"statement": statement, "args": {"d": {"store": store}}})
        };
        // One's Idempotency-Key is not the other's.
        let (status, reply) = execute(&dev, token, &insert(store), Some("first"))?;
        ensure!(status == 200, "{reply}");
        last = reply["transactionId"].clone();
        let (status, reply) = execute(&dev, token, &insert(3 - store), None)?;
        ensure!(status == 403, "{reply}");
    }
    let at_least = last.to_string();
    for (token, store) in [(&ann, 1), (&bob, 2)] {
        let statement = "SELECT store FROM orders";
        let asked = ["query", statement, "--app", APP, "--server", dev.api.url(), "--key", token];
        let asked = [&asked[..], &["--at-least", &at_least]].concat();
        let (rows, _) = run(&asked, DONE)?;
        let rows: Vec<Value> = rows.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(rows == [json!({"store": store})], "{rows:?}");
    }

    key(&["revoke", "tills"], DONE)?;
    for token in [&ann, &bob] {
        wait_until(
            "it is refused",
            PATIENCE,
            || Ok(execute(&dev, token, &select, None)?.0 == 401),
        )?;
    }
    let (_, reply) = execute(&dev, &ann, &select, None)?;
    let code = reply["error"]["code"].as_str().context("a code")?;
    ensure!(code == "unauthenticated", "{reply}");
    Ok(())
}
