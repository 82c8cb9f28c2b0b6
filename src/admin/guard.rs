//! Who may ask. With a token: who presents it. Without one the address is loopback, which keeps other machines out and not
//! a browser on this one: any site that it shows could send requests here. So what such a request gives away is looked at.

use std::hint::black_box;
use std::net::IpAddr;

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};

use super::routes::Refused;
use crate::config::Secret;

/// The token, or an address and an origin that are ours.
pub(super) fn authorize(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Refused> {
    match token {
        Some(token) => present(headers, token),
        None => local(headers),
    }
}

fn present(headers: &HeaderMap, token: &Secret) -> Result<(), Refused> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if given.is_some_and(|given| same(given, token.reveal().as_bytes())) {
        return Ok(());
    }
    let why = match given {
        Some(_) => "this is not the token of admin.token_file",
        None => "a token is needed: --token-file FILE or TANDEM_TOKEN (HTTP: the header `Authorization: Bearer TOKEN`)",
    };
    Err(Refused(StatusCode::UNAUTHORIZED, why.to_owned()))
}

/// A page of another site says so in `Origin`. One whose name was made to lead here (DNS rebinding) is its own origin, and
/// is known by that name; an address cannot be made to lead anywhere.
fn local(headers: &HeaderMap) -> Result<(), Refused> {
    let forbidden = |why: &str| Err(Refused(StatusCode::FORBIDDEN, why.to_owned()));
    let host = text(headers, HOST).unwrap_or_default();
    if !is_local(host) {
        return forbidden("without a token (admin.token_file), ask by address or as `localhost`");
    }
    match text(headers, ORIGIN).map(|origin| origin.split_once("://").map(|(_, authority)| authority)) {
        None => Ok(()),
        Some(Some(authority)) if authority.eq_ignore_ascii_case(host) => Ok(()),
        Some(_) => forbidden("a page of another origin may not ask this"),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// `127.0.0.1:6480`, `[::1]:6480`, `localhost`.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Compare without telling by the time it takes where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && black_box(a.iter().zip(b).fold(0, |differs, (x, y)| black_box(differs | (x ^ y)))) == 0
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn tokens_are_equal_only_to_themselves() {
        assert!(same(b"token", b"token"));
        for other in [&b""[..], b"toke", b"tokens", b"tokeN", b"\0oken"] {
            assert!(!same(b"token", other));
        }
    }

    #[test]
    fn without_a_token_other_sites_are_kept_out() {
        let asked = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
            authorize(&headers, None).is_ok()
        };
        for host in ["127.0.0.1:6480", "127.0.0.1", "[::1]:6480", "[::1]", "localhost:6480", "LOCALHOST"] {
            assert!(asked(host, None), "{host}");
        }
        assert!(asked("127.0.0.1:6480", Some("http://127.0.0.1:6480")));
        for (host, origin) in [
            ("evil.example:6480", None),
            ("evil.example:6480", Some("http://evil.example:6480")),
            ("127.0.0.1:6480", Some("https://evil.example")),
            ("127.0.0.1:6480", Some("http://127.0.0.1:8080")),
            ("127.0.0.1:6480", Some("null")),
            ("localhost.evil.example", None),
            ("", None),
        ] {
            assert!(!asked(host, origin), "{host} {origin:?}");
        }
    }

    #[test]
    fn who_has_the_token_may_ask_from_anywhere() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("tandem.example"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer s3cret"));
        assert!(authorize(&headers, Some(&Secret::new("s3cret"))).is_ok());
        assert!(authorize(&headers, Some(&Secret::new("other"))).is_err());
    }
}
