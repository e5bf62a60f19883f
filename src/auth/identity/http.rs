//! How the key set is fetched, and the call-out and the webhook of events are called: HTTP(S) within bounds, without redirects.

use std::{error::Error, sync::Arc, time::Duration};

use reqwest::{Client, Response, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// A client that trusts the certificates (PEM) in `ca`, or Mozilla's. Each request has `timeout` from its connect to the last
/// byte of its answer.
///
/// # Errors
/// The certificates cannot be used; in words.
pub(crate) fn client(ca: Option<&str>, timeout: Duration) -> Result<Client, String> {
    let roots = match ca {
        Some(ca) => own_roots(ca)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        // what is configured is what is asked
        .redirect(Policy::none())
        .no_proxy()
        .timeout(timeout)
        .user_agent(concat!("oxipush/", env!("CARGO_PKG_VERSION")));
    client.build().map_err(|error| chain(&error))
}

fn own_roots(ca: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("it is no certificate in PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate in it cannot be used: {error}"))?;
    }
    if roots.is_empty() { Err("it has no certificate in PEM".to_owned()) } else { Ok(roots) }
}

/// The body of an answer, of `max` bytes at most.
///
/// # Errors
/// It is longer, or did not arrive; in words.
pub(crate) async fn body(mut response: Response, max: usize) -> Result<Vec<u8>, String> {
    let too_long = || format!("its answer has more than {max} bytes");
    if response.content_length().is_some_and(|length| length > max as u64) {
        return Err(too_long());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
        if body.len() + chunk.len() > max {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What went wrong, with each cause of it; without the URL, whose query may hold a key.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => return "it did not answer in time".to_owned(),
        Some(error) if error.is_connect() => "no connection".to_owned(),
        Some(error) if error.is_request() => "the request failed".to_owned(),
        Some(_) => "its answer broke off".to_owned(),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        let what = error.to_string();
        if !text.ends_with(&what) {
            text = format!("{text}: {what}");
        }
        cause = error.source();
    }
    text
}
