//! TLS for everything that leaves: rustls over ring, judged by the platform's certificate authorities, which are read
//! once and not before somebody needs them.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tracing::warn;

/// The shared TLS configuration. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tls(Arc<OnceCell<ClientConfig>>);

impl Tls {
    /// The configuration; the first call reads the platform's certificates (some milliseconds, off the async threads).
    /// Without any, every https connection fails with an unknown issuer, and plain http works.
    pub async fn config(&self) -> ClientConfig {
        self.0.get_or_init(|| async { load_off_thread().await }).await.clone()
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
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    match rustls_platform_verifier::Verifier::new(Arc::clone(&provider)) {
        Ok(verifier) => {
            let builder = ClientConfig::builder_with_provider(provider);
            match builder.with_safe_default_protocol_versions() {
                Ok(builder) => builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
                    .with_no_client_auth(),
                Err(_) => trust(RootCertStore::empty()),
            }
        }
        Err(error) => {
            warn!(%error, "this machine has no certificate authorities: https will fail");
            trust(RootCertStore::empty())
        }
    }
}

fn trust(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    #[expect(clippy::expect_used, reason = "ring speaks both protocol versions that rustls has")]
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3");
    builder.with_root_certificates(roots).with_no_client_auth()
}
