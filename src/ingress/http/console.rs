//! The console's page, its script and its style: built from web/console, and open to anybody, for they tell nothing. What the page
//! shows and does are calls of the API, with the key that it asks for.

use actix_web::{
    HttpResponse,
    http::header::{self, HeaderValue},
};

use super::answer;

/// Nothing of another host, and no code or style in the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConsoleFile {
    Page,
    Script,
    Style,
}

impl ConsoleFile {
    /// Answers with it.
    pub(super) fn answer(self) -> HttpResponse {
        let (content_type, bytes): (_, &'static [u8]) = match self {
            Self::Page => ("text/html; charset=utf-8", include_bytes!("../../../web/console/dist/console.html")),
            Self::Script => ("text/javascript; charset=utf-8", include_bytes!("../../../web/console/dist/console.js")),
            Self::Style => ("text/css; charset=utf-8", include_bytes!("../../../web/console/dist/console.css")),
        };
        let mut file = answer::typed(content_type, bytes);
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            // those of another version fit no other
            (header::CACHE_CONTROL, "no-cache"),
        ] {
            file.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        file
    }
}
