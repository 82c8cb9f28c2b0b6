//! The dashboard: one static page, live over the events of the API, that looks and can switch. It is part of the program:
//! no build, no framework, and nothing from any other host, because an operator's console must work when nothing else does.
//!
//! The files are public, they hold nothing but the page; what it shows comes from the guarded API, with a token that the
//! operator types in and the browser's tab keeps. The policy below lets the page run its own scripts and talk to where it
//! came from; texts of servers and tables are shown as texts and cannot become anything else (trusted types).

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

/// A file of the page.
pub(super) struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: &[File] = &[
    File { path: "/", kind: "text/html; charset=utf-8", text: include_str!("page.html") },
    File { path: "/dashboard/page.css", kind: "text/css; charset=utf-8", text: include_str!("page.css") },
    File { path: "/dashboard/page.js", kind: SCRIPT, text: include_str!("page.js") },
    File { path: "/dashboard/link.js", kind: SCRIPT, text: include_str!("link.js") },
    File { path: "/dashboard/plot.js", kind: SCRIPT, text: include_str!("plot.js") },
    File { path: "/dashboard/shadow.js", kind: SCRIPT, text: include_str!("shadow.js") },
    File { path: "/dashboard/switch.js", kind: SCRIPT, text: include_str!("switch.js") },
    File { path: "/dashboard/words.js", kind: SCRIPT, text: include_str!("words.js") },
];

/// What the page may do, and who may show it.
const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    // Of another version tomorrow, at the same address.
    ("cache-control", "no-cache"),
];

/// The file at this path.
pub(super) fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    pub(super) fn body(&self) -> Bytes {
        Bytes::from_static(self.text.as_bytes())
    }

    pub(super) fn describe(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        for (name, value) in HEADERS {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_no_other_host() {
        for file in FILES {
            // The name of SVG's elements is not an address that anybody asks.
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("://"), "{} names another host", file.path);
        }
    }

    #[test]
    fn what_the_page_refers_to_is_served() {
        for file in FILES {
            let words = file.text.split(['"', '\'']);
            for word in words.filter(|word| word.starts_with("/dashboard/") || word.starts_with("./")) {
                let path = word.replace("./", "/dashboard/");
                assert!(super::file(&path).is_some(), "{} refers to {word}", file.path);
            }
        }
    }

    #[test]
    fn no_text_becomes_markup() {
        for file in FILES {
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"] {
                assert!(!file.text.contains(way), "{} has {way}", file.path);
            }
        }
    }
}
