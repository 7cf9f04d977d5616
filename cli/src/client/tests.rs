//! Servers that are not to be trusted, and what a user is told of them.

use std::net::SocketAddr;
use std::sync::Arc;

use anabranch_ingest::ApiToken;
use anabranch_runtime::admin;
use anabranch_runtime::listen::Listener;
use anabranch_runtime::tasks::Shutdown;
use anabranch_runtime::tls::ServedCertificate;
use anabranch_runtime::tls::doubles::TestAuthority;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::Redirect;
use axum::routing::get;
use clap::Parser;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;
use crate::failure::Shown;

/// Which keys were shown to a server.
type Shows = Arc<Mutex<Vec<String>>>;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    trust: TrustFlags,
}

/// Trusts this authority.
fn trusting(authority: &TestAuthority) -> TrustFlags {
    let file = authority.file().display().to_string();
    Flags::try_parse_from(["test", "--ca-file", &file]).unwrap().trust
}

async fn shown(State(shows): State<Shows>, headers: HeaderMap) -> &'static str {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    shows.lock().push(shown.unwrap_or("none").to_owned());
    "{}"
}

/// A server that notes which keys are shown to it; who asks for `/elsewhere` is sent there.
async fn serve(certificate: Option<&TestAuthority>, elsewhere: &str) -> (SocketAddr, Shows) {
    let certificate = certificate.map(|it| ServedCertificate::open(it.files()).unwrap());
    let listener = Listener::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), certificate);
    let (address, shows) = (listener.local_addr().unwrap(), Shows::default());
    let to = elsewhere.to_owned();
    let routes = Router::new().route("/", get(shown)).with_state(shows.clone());
    let routes = routes.route("/elsewhere", get(|| async move { Redirect::temporary(&to) }));
    tokio::spawn(admin::serve(listener, routes, Shutdown::new()));
    (address, shows)
}

/// What a user is told who asks for a path.
async fn told(server: &str, trust: &TrustFlags, path: &str) -> (Exit, String) {
    let token = ApiToken::draw("test".parse().unwrap());
    let client = Client::new(server, trust).unwrap().showing(&token);
    let asked = client.json::<Value>(client.request(Method::GET, path)).await;
    let error = asked.expect_err("it is an error");
    // Waiting makes nobody trusted.
    let request = || client.request(Method::GET, path);
    let patient = client.send_patiently(request, REQUEST, |why| panic!("waits: {why}")).await;
    assert_eq!(Shown(&patient.unwrap_err()).to_string(), Shown(&error).to_string());
    let told = Shown(&error).to_string();
    assert!(!told.contains(token.reveal().as_str()), "{told}");
    (Shown(&error).exit(), told)
}

#[tokio::test]
async fn a_server_is_called_over_tls_by_who_trusts_its_authority() {
    let authority = TestAuthority::new("127.0.0.1");
    let (address, shows) = serve(Some(&authority), "/").await;
    let server = format!("https://{address}/");
    let client = Client::new(&server, &trusting(&authority)).unwrap();
    client.json::<Value>(client.request(Method::GET, "/")).await.unwrap();
    assert_eq!(*shows.lock(), ["none"]);
}

#[tokio::test]
async fn who_is_not_trusted_gets_no_key_and_the_user_is_told_what_to_do() {
    let authority = TestAuthority::new("127.0.0.1");
    let (address, shows) = serve(Some(&authority), "/").await;
    let by_address = format!("https://{address}");
    let other = TestAuthority::new("127.0.0.1");
    let (exit, text) = told(&by_address, &trusting(&other), "/").await;
    assert_eq!(exit, Exit::Failed, "{text}");
    assert!(text.contains("not trusted") && text.contains("--ca-file"), "{text}");

    let by_name = format!("https://localhost:{}", address.port());
    let (exit, text) = told(&by_name, &trusting(&authority), "/").await;
    assert_eq!(exit, Exit::Failed, "{text}");
    assert!(text.contains("for another host") && text.contains("127.0.0.1"), "{text}");

    let (exit, text) = told(&format!("http://{address}"), &trusting(&authority), "/").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    assert!(text.contains("write https:// instead of http://"), "{text}");

    let (plain, _) = serve(None, "/").await;
    let (exit, text) = told(&format!("https://{plain}"), &trusting(&authority), "/").await;
    assert_eq!(exit, Exit::Failed, "{text}");
    assert!(text.contains("does not speak TLS"), "{text}");
    assert!(shows.lock().is_empty());
}

#[tokio::test]
async fn a_key_is_for_the_server_that_was_named() {
    let (other, shows) = serve(None, "/").await;
    let (address, _) = serve(None, &format!("http://{other}/")).await;
    let trust = TrustFlags::default();
    let (exit, text) = told(&format!("http://{address}"), &trust, "/elsewhere").await;
    assert_eq!(exit, Exit::Failed, "{text}");
    assert!(text.contains(&format!("http://{other}/")) && text.contains("--server"), "{text}");
    assert!(shows.lock().is_empty());
}

#[test]
fn an_authority_that_cannot_be_read_is_wrong_usage() {
    let trust = Flags::try_parse_from(["test", "--ca-file", "no-such-file"]).unwrap().trust;
    let error = Client::new("https://localhost", &trust).err().unwrap();
    assert_eq!(Shown(&error).exit(), Exit::Usage);
    assert!(error.to_string().contains("no-such-file"), "{error}");
    // Where no TLS is spoken it is of no use.
    Client::new("http://localhost", &trust).unwrap();
}
