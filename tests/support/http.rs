//! HTTP clients, in the clear: the program's own reqwest has TLS and asks for a provider of it, whoever uses it.

/// As `reqwest::Client::builder()`.
pub fn builder() -> reqwest::ClientBuilder {
    // an error says that another test of this process was first
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// As `reqwest::Client::new()`.
pub fn client() -> reqwest::Client {
    builder().build().expect("an HTTP client")
}

/// As `reqwest::get`.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Result<reqwest::Response> {
    client().get(url).send().await
}
