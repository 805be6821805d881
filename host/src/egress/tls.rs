//! TLS for everything that leaves: rustls over ring, judged by the platform's certificate authorities, which are read
//! once and not before somebody needs them.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use tokio::sync::OnceCell;
use tracing::warn;

/// The shared TLS configuration. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tls(Arc<OnceCell<ClientConfig>>);

impl Tls {
    /// The configuration; the first call reads the platform's certificates (some milliseconds, off the async threads).
    /// Without any, every https connection fails with an unknown issuer, and plain http works.
    pub async fn config(&self) -> ClientConfig {
        self.0.get_or_init(load_off_thread).await.clone()
    }

    /// Trusts these authorities only.
    #[cfg(test)]
    pub(crate) fn trusting(roots: RootCertStore) -> Self {
        Self(Arc::new(OnceCell::new_with(Some(trust(roots)))))
    }
}

async fn load_off_thread() -> ClientConfig {
    match tokio::task::spawn_blocking(load).await {
        Ok(config) => config,
        Err(error) => {
            warn!(%error, "reading the certificate authorities failed");
            trust(RootCertStore::empty())
        }
    }
}

fn load() -> ClientConfig {
    match rustls_platform_verifier::Verifier::new(provider()) {
        Ok(verifier) => {
            builder().dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
        Err(error) => {
            warn!(%error, "this machine has no certificate authorities: https will fail");
            trust(RootCertStore::empty())
        }
    }
}

fn trust(roots: RootCertStore) -> ClientConfig {
    builder().with_root_certificates(roots).with_no_client_auth()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    #[expect(clippy::expect_used, reason = "fails only for a provider that lacks what ring has")]
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
}
