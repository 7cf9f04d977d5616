//! What the log notes of those who declare resources.

use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
use futures::FutureExt;

use super::*;
use crate::doubles::until;
use crate::http::tests::audit::{Log, audited};

/// A key whose tokens are signed with a secret.
fn key(secret: &str) -> Value {
    let jwt = json!({"issuer": "https://id.example", "audience": "tills", "secret": secret});
    json!({
        "apiVersion": "anabranch/v1",
        "kind": "Key",
        "metadata": {"name": "tills", "app": APP},
        "spec": {"jwt": jwt, "permissions": {}},
    })
}

fn key_path() -> String {
    format!("/api/v1/resources/key/{APP}/tills")
}

/// Routes for who shows this key.
fn held_by(journal: Arc<dyn Journal>, token: &ApiToken) -> Router {
    let operators = Operators::Holding(token.clone());
    let operated = Operated { operators, ..operated(journal, None) };
    admin_routes("127.0.0.1:8081".parse().unwrap(), &[], operated)
}

/// What of a key nobody else is to know.
fn secret_of(shown: &str) -> &str {
    shown.rsplit('_').next().unwrap()
}

#[tokio::test]
async fn who_changes_a_resource_is_noted_with_what_became_of_it() {
    let (log, _noted) = Log::begin();
    let (cluster, _) = start().await;
    let token = ApiToken::draw("admin".parse().unwrap());
    let router = held_by(cluster.journal.clone(), &token);
    let guess = ApiToken::draw("guess".parse().unwrap());
    let [shown, guess] = [&token, &guess].map(|token| format!("Bearer {}", token.reveal()));
    let hidden = ["hidden", secret_of(&shown), secret_of(&guess)];
    let secrets = ["hidden-hidden-hidden-hidden-hidden-", "other-hidden-hidden-hidden-hidden-"];
    let (path, good) = (key_path(), [("authorization", shown.as_str())]);
    let guessed = [("authorization", guess.as_str())];
    let stale = [("authorization", shown.as_str()), ("if-match", "\"7\"")];
    let [first, second] = secrets.map(key);
    for (method, body, headers, status, noted) in [
        (Method::PUT, &first, &good[..], 201, json!({"kind": "create", "version": "1"})),
        (Method::PUT, &first, &good, 200, json!({"kind": "keep", "version": "1"})),
        (Method::PUT, &second, &good, 200, json!({"kind": "change", "version": "2"})),
        (Method::PUT, &first, &stale, 409, json!({"code": "resource_changed"})),
        (Method::PUT, &json!({}), &good, 422, json!({"code": "invalid_resource"})),
        (Method::GET, &Value::Null, &good, 200, Value::Null),
        (Method::GET, &Value::Null, &guessed, 401, json!({"code": "unauthenticated"})),
        (Method::DELETE, &Value::Null, &guessed, 401, json!({"code": "unauthenticated"})),
        (Method::DELETE, &Value::Null, &good, 204, json!({"kind": "remove"})),
        (Method::DELETE, &Value::Null, &good, 404, json!({"code": "resource_not_found"})),
    ] {
        let reply = send(&router, method.clone(), &path, body, headers).await;
        assert_eq!(reply.status.as_u16(), status, "{method}: {}", reply.text);
        let text = log.text();
        assert!(hidden.iter().all(|secret| !text.contains(secret)), "{text}");
        let by = if headers == guessed { "guess" } else { "admin" };
        let mut expected = json!({
            "message": "resource", "key": by, "method": method.as_str(), "path": path,
            "status": status,
        });
        let expected = noted.as_object().map(|noted| {
            expected.as_object_mut().unwrap().extend(noted.clone());
            expected
        });
        let noted: Vec<_> = audited(&text).iter().map(|line| line["fields"].clone()).collect();
        assert_eq!(noted, expected.into_iter().collect::<Vec<_>>(), "{method} {status}");
    }
}

/// Who sends a change and goes away before it is made is not to stay unknown.
#[tokio::test]
async fn a_change_is_noted_also_of_who_goes_away() {
    let (log, _noted) = Log::begin();
    let (cluster, _) = start().await;
    let (begun, begins) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let goes_on = parking_lot::Mutex::new(goes_on);
    let slow = FaultyJournal::new(cluster.journal.clone(), move |step| {
        if matches!(step, Step::Writer(_)) {
            let _ = begun.send(());
            let _ = goes_on.lock().recv();
        }
        Fate::Done
    });
    let token = ApiToken::draw("admin".parse().unwrap());
    let router = held_by(Arc::new(slow), &token);
    let body = key("hidden-hidden-hidden-hidden-hidden-").to_string();
    let request = Request::put(key_path())
        .header("authorization", format!("Bearer {}", token.reveal()))
        .body(Body::from(body));
    let mut asking = Box::pin(router.oneshot(request.unwrap()));
    until(|| (&mut asking).now_or_never().is_none() && begins.try_recv().is_ok()).await;
    drop(asking);
    drop(go_on);
    let mut noted = Vec::new();
    until(|| {
        noted.extend(log.audited());
        !noted.is_empty()
    })
    .await;
    let fields = &noted[0]["fields"];
    assert_eq!((&fields["kind"], &fields["status"]), (&json!("create"), &json!(201)), "{fields}");
}
