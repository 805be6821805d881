//! The HTTP client of the tests: as plain as reqwest can be, no proxies, no TLS.

use std::sync::Once;

/// A builder whose clients can be built in whatever company: another crate of the workspace makes reqwest ask for a
/// provider of cryptography, which plain HTTP never uses.
pub fn builder() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Somebody else in the process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy()
}

/// A client for one test.
pub fn plain() -> reqwest::Client {
    builder().build().expect("a client without TLS can be built")
}
