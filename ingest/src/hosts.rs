//! Which names a server answers to.
//!
//! A web page can have its own name resolve to 127.0.0.1 after it was loaded (DNS rebinding). To
//! the browser of whoever looks at it, a server that listens there is then the page's own: the page
//! may read, write and declare replications. What it cannot do is send another name than its own in
//! `Host`. So on the loopback a server answers only to names that no page can have.
//!
//! A listener on another address is there to be reached by names that others gave it, such as those
//! of containers, and whoever reaches it needs no browser to stand in between: it answers to any,
//! unless names are set.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use crate::error::{Code, Refusal};

/// As a name: any.
const ANY: &str = "*";

/// The names that a listener answers to.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    /// In lower case; `None` is any.
    named: Option<Arc<[String]>>,
}

impl Hosts {
    /// For a listener at `address`, with the names that are set.
    pub(crate) fn at(address: SocketAddr, allowed: &[String]) -> Self {
        let is_any = allowed.iter().any(|name| name == ANY);
        let is_reached_by_name = allowed.is_empty() && !address.ip().to_canonical().is_loopback();
        let named = (!is_any && !is_reached_by_name)
            .then(|| allowed.iter().map(|name| name.to_ascii_lowercase()).collect());
        Hosts { named }
    }

    /// Whether the server answers to this, `host` or `host:port`.
    pub(crate) fn allow(&self, authority: &str) -> bool {
        let Some(named) = &self.named else { return true };
        let Some(host) = host(authority) else { return false };
        let host = host.strip_suffix('.').unwrap_or(&host);
        is_address(host)
            || host == "localhost"
            || host.ends_with(".localhost")
            || named.iter().any(|name| name == host)
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        // A client that names no host is no browser.
        let named = request.headers().get_all(header::HOST).iter().map(HeaderValue::to_str);
        let target = request.uri().authority().map(|authority| Ok(authority.as_str()));
        for authority in named.chain(target) {
            let authority = authority.unwrap_or_default();
            if !self.allow(authority) {
                let message = format!("this server does not answer to the host '{authority}'");
                return Err(Refusal::new(Code::HostNotAllowed, message));
            }
        }
        Ok(())
    }

    /// Refuses requests for other names.
    pub(crate) fn guard(self, routes: Router) -> Router {
        routes.layer(middleware::from_fn(move |request: Request, next: Next| {
            let checked = self.check(&request);
            async move { answer(checked, request, next).await }
        }))
    }
}

async fn answer(checked: Result<(), Refusal>, request: Request, next: Next) -> Response {
    match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Why names that are set cannot be used, if so.
pub(crate) fn check_setting(allowed: &[String]) -> Result<(), &'static str> {
    let is_name = |name: &String| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        name == ANY || (!name.is_empty() && name.bytes().all(is_part))
    };
    if allowed.iter().all(is_name) {
        Ok(())
    } else {
        Err("must have names of hosts without a port, or \"*\" for any")
    }
}

/// The host of an authority, in lower case; `None` if it is none.
fn host(authority: &str) -> Option<String> {
    let host = match authority.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((host, port)) if !port.contains(']') => {
            port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host)?
        }
        _ => authority,
    };
    (!host.contains('@')).then(|| host.to_ascii_lowercase())
}

fn is_address(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    fn at(address: &str, allowed: &[&str]) -> Hosts {
        let allowed: Vec<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        Hosts::at(address.parse().unwrap(), &allowed)
    }

    #[test]
    fn a_page_cannot_have_the_names_of_the_loopback() {
        for address in ["127.0.0.1:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
            let hosts = at(address, &["db.example"]);
            for good in [
                "127.0.0.1",
                "127.0.0.1:8080",
                "10.1.2.3:80",
                "[::1]:8080",
                "[::1]",
                "localhost:8080",
                "LocalHost",
                "east.localhost:1",
                "db.example:8080",
                "DB.example.",
            ] {
                assert!(hosts.allow(good), "{good}");
            }
            for bad in [
                "",
                ":8080",
                "evil.example",
                "evil.example:8080",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "evillocalhost",
                "user@localhost",
                "localhost:80:80",
                "[evil.example]",
                "other.db.example",
                "ingest",
            ] {
                assert!(!hosts.allow(bad), "{bad}");
            }
        }
    }

    #[test]
    fn a_listener_for_others_has_the_names_they_give_it() {
        assert!(at("0.0.0.0:8080", &[]).allow("east-ingest:8080"));
        assert!(at("[::]:8080", &[]).allow("db.example"));
        assert!(!at("0.0.0.0:8080", &["db.example"]).allow("east-ingest:8080"));
        assert!(at("127.0.0.1:8080", &["x", "*"]).allow("evil.example"));
    }

    #[test]
    fn the_setting_has_names() {
        let check = |name: &str| check_setting(&[name.to_owned()]);
        assert!(["*", "db.example", "a_b-c"].into_iter().all(|name| check(name).is_ok()));
        assert!(["", "a:80", "http://a", "*.a"].into_iter().all(|name| check(name).is_err()));
    }

    #[tokio::test]
    async fn requests_for_other_names_are_refused() {
        let routes = Router::new().route("/", get(|| async { "here" }));
        let routes = at("127.0.0.1:1", &[]).guard(routes);
        let ask = async |uri: &str, hosts: &[&str]| {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            let request = request.body(Body::empty()).unwrap();
            routes.clone().oneshot(request).await.unwrap().status()
        };
        assert_eq!(ask("/", &["127.0.0.1:1"]).await, StatusCode::OK);
        assert_eq!(ask("/", &[]).await, StatusCode::OK);
        for (uri, hosts) in [
            ("/", &["evil.example"][..]),
            ("/unknown", &["evil.example"]),
            ("/", &["localhost", "evil.example"]),
            ("http://evil.example/", &["localhost"]),
        ] {
            assert_eq!(ask(uri, hosts).await, StatusCode::FORBIDDEN, "{uri} {hosts:?}");
        }
    }
}
