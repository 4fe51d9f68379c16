//! What every answer carries, and who may ask: a page of another site must not reach us through a name that it controls.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// Names that this process answers to.
#[derive(Debug, Clone)]
pub(super) struct Hosts(Arc<[String]>);

impl Hosts {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Addresses are always fine: rebinding needs a name. `None` (HTTP/1.0) comes from no browser.
    fn allow(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return true };
        let name = name_of(host).to_ascii_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.0.contains(&name)
    }
}

/// Without port and brackets.
fn name_of(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or("", |(address, _)| address);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|value| value.to_str().unwrap_or("?"));
    let authority = Uri::authority(request.uri()).map(axum::http::uri::Authority::as_str);
    let mut response = if hosts.allow(host) && hosts.allow(authority) {
        next.run(request).await
    } else {
        let text = "unknown host name; say --http-host NAME to the JobManager if this is one of its names\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours() {
        let hosts = Hosts::new(vec!["Status.Hospital.example".to_owned()]);
        for fine in ["127.0.0.1:8081", "[::1]:8081", "localhost", "LOCALHOST:1", "status.hospital.example:80"] {
            assert!(hosts.allow(Some(fine)), "{fine}");
        }
        assert!(hosts.allow(None));
        for wrong in
            ["attacker.example", "localhost.attacker.example:8081", "127.0.0.1.attacker.example", "", "?", "[::1"]
        {
            assert!(!hosts.allow(Some(wrong)), "{wrong}");
        }
    }
}
