//! The metrics, in the format that the scraper asks for.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{Accept, Header, Quality},
};

use super::answer;
use crate::telemetry::Metrics;

/// OpenMetrics for those who want it at least as much; all others get the classic text.
pub(super) fn answer(request: &HttpRequest, metrics: &Metrics) -> HttpResponse {
    // what cannot be read asks for nothing
    let accept = Accept::parse(request).map(|Accept(ranges)| ranges).unwrap_or_default();
    let wish = |types: &[&str]| {
        let wanted = accept.iter().filter(|range| types.contains(&range.item.essence_str()));
        wanted.map(|range| range.quality).max().unwrap_or(Quality::ZERO)
    };
    let openmetrics = wish(&["application/openmetrics-text"]);
    if openmetrics > Quality::ZERO && openmetrics >= wish(&["text/plain", "text/*", "*/*"]) {
        return answer::typed("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.openmetrics());
    }
    answer::typed("text/plain; version=0.0.4; charset=utf-8", metrics.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use actix_web::{http::header, test::TestRequest};

    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        for (accept, openmetrics) in [
            (None, false),
            (Some(""), false),
            (Some("*/*"), false),
            (Some("text/plain;version=0.0.4"), false),
            (Some("text/plain; version=0.0.4; charset=utf-8"), false),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), false),
            (Some("application/openmetrics-text"), true),
            (Some("application/openmetrics-text;version=1.0.0"), true),
            (Some("application/openmetrics-text;q=0"), false),
            (Some("application/openmetrics-text;q=0.2,text/plain;q=0.5"), false),
            // Prometheus 2 and 3
            (Some("application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), true),
            (
                Some(
                    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                     application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                     application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                     text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ),
                true,
            ),
            (Some("no list at all;;;"), false),
        ] {
            let request = TestRequest::default();
            let request = match accept {
                Some(accept) => request.insert_header((header::ACCEPT, accept)),
                None => request,
            };
            let answer = answer(&request.to_http_request(), &Metrics::new());
            let given = answer.headers().get(header::CONTENT_TYPE).unwrap().to_str().unwrap();
            assert_eq!(given.starts_with("application/openmetrics-text"), openmetrics, "{accept:?}");
            assert_eq!(given.starts_with("text/plain; version=0.0.4"), !openmetrics, "{accept:?}");
        }
    }
}
