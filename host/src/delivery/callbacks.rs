//! Callbacks to somebody's URL: what the operator says about them (`[callbacks]`), and the handle that takes them in.
//! What it has taken is in the outbox, so it will be sent, whatever dies.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use standardwebhooks::Webhook;
use url::Url;

use super::Retry;
use crate::domain::bounds::{WEBHOOK_KEY, WEBHOOK_URL};
use crate::egress::{Grant, SecretError, SecretRef, check_callback_url};
use crate::store::{NewWebhook, Outbox, StoreError};

/// Settings of callbacks (`[callbacks]`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallbacksConfig {
    /// Where results go that name no URL; empty: nowhere. Default: empty.
    pub result_url: String,
    /// Signs, as Standard Webhooks does: base64, with or without `whsec_` before it. Default: empty, unsigned.
    pub secret: SecretRef,
    /// The secret before it: while both are set, both sign, so that receivers can change over. Default: empty.
    pub previous_secret: SecretRef,
    /// Time for one try. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Networks, as `127.0.0.0/8`, that callbacks may reach although they are not public. Default: none.
    pub private_networks: Vec<IpNet>,
    /// Largest body. Default 1 MiB.
    pub body: ByteSize,
    /// Callbacks of one owner under way to one URL at once, at least 1. Default 4.
    pub per_url: u32,
    /// Callbacks under way to one origin at once, at least 1. Default 16.
    pub per_origin: usize,
    /// When they are tried again.
    pub retry: Retry,
}

impl Default for CallbacksConfig {
    fn default() -> Self {
        Self {
            result_url: String::new(),
            secret: SecretRef::Unset,
            previous_secret: SecretRef::Unset,
            timeout: Duration::from_secs(30),
            private_networks: Vec::new(),
            body: ByteSize::mib(1),
            per_url: 4,
            per_origin: 16,
            retry: Retry::default(),
        }
    }
}

/// Settings of callbacks that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CallbacksError {
    /// `result_url` is no URL that can be called.
    #[error("callbacks.result_url: {0}")]
    ResultUrl(String),
    /// A secret is no base64.
    #[error("callbacks.{0} must be base64, with or without `whsec_` before it, as Standard Webhooks has it")]
    NotBase64(&'static str),
    /// A secret can't be had.
    #[error("callbacks.{name}: {source}")]
    Secret {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// `previous_secret` without `secret`.
    #[error("callbacks.previous_secret is set and callbacks.secret is not")]
    OnlyPrevious,
}

/// The settings, ready to be used. Cheap to clone.
#[derive(Clone)]
pub struct Callbacks(Arc<Inner>);

struct Inner {
    config: CallbacksConfig,
    result_url: Option<Url>,
    grant: Grant,
    signers: Vec<Webhook>,
}

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callbacks").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Callbacks {
    /// Checks the settings and looks up the secrets.
    ///
    /// # Errors
    /// [`CallbacksError`].
    pub fn new(config: CallbacksConfig) -> Result<Self, CallbacksError> {
        let grant = Grant::callbacks(config.private_networks.clone());
        let result_url = match config.result_url.as_str() {
            "" => None,
            url => Some(check(&grant, url).map_err(CallbacksError::ResultUrl)?),
        };
        let mut signers = Vec::new();
        for (name, secret) in [("secret", &config.secret), ("previous_secret", &config.previous_secret)] {
            let found = secret.resolve().map_err(|source| CallbacksError::Secret { name, source })?;
            let Some(secret) = found else { continue };
            if name == "previous_secret" && signers.is_empty() {
                return Err(CallbacksError::OnlyPrevious);
            }
            signers.push(Webhook::new(secret.expose()).map_err(|_| CallbacksError::NotBase64(name))?);
        }
        Ok(Self(Arc::new(Inner { config, result_url, grant, signers })))
    }

    /// The settings as they were read.
    pub(super) fn config(&self) -> &CallbacksConfig {
        &self.0.config
    }

    /// What callbacks may reach.
    pub(super) fn grant(&self) -> &Grant {
        &self.0.grant
    }

    /// The `webhook-signature` of a body; none without a secret. Two signatures while the secret is being changed.
    pub(super) fn signature(&self, id: &str, seconds: i64, body: &str) -> Option<String> {
        // Signing fails for bytes that are no text only.
        let sign = |signer: &Webhook| signer.sign(id, seconds, body.as_bytes()).ok();
        let signatures: Vec<_> = self.0.signers.iter().filter_map(sign).collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

/// Checks a URL that somebody wants called back, before anything is promised. What its name resolves to is vetted at
/// every try.
///
/// # Errors
/// A sentence that says what is wrong.
fn check(grant: &Grant, url: &str) -> Result<Url, String> {
    if url.len() > WEBHOOK_URL {
        return Err(format!("the URL is longer than {WEBHOOK_URL} bytes"));
    }
    check_callback_url(grant, url)
}

/// A callback that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL is not acceptable: why.
    #[error("{0}")]
    Url(String),
    /// URL, key or body: which, and its bound.
    #[error("{0}")]
    TooLarge(String),
    /// The key is empty, or the body is no JSON: why.
    #[error("{0}")]
    Invalid(String),
    /// The outbox can't take it now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes callbacks in. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    outbox: Arc<dyn Outbox>,
    callbacks: Callbacks,
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhooks").field("callbacks", &self.callbacks).finish_non_exhaustive()
    }
}

impl Webhooks {
    /// A handle that puts callbacks into this outbox.
    pub fn new(outbox: Arc<dyn Outbox>, callbacks: Callbacks) -> Self {
        Self { outbox, callbacks }
    }

    /// Whether a callback to that URL would be taken: for whoever accepts a URL now and posts later.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the URL.
    pub fn validate_url(&self, url: &str) -> Result<(), String> {
        check(self.callbacks.grant(), url).map(drop)
    }

    /// Puts one POST of a JSON body into the outbox; when this returns it is durable. The same key of the same owner is
    /// sent once within the retention time. Without a URL it goes to `callbacks.result_url`; false if there is none.
    ///
    /// # Errors
    /// [`WebhookError`]: nothing was written.
    pub async fn post(
        &self,
        owner: &str,
        url: Option<String>,
        body: String,
        key: String,
    ) -> Result<bool, WebhookError> {
        let callbacks = &self.callbacks.0;
        let too_large = |what: &str, has: usize, bound: &dyn std::fmt::Display| {
            WebhookError::TooLarge(format!("the {what} has {has} bytes, {bound} is the limit"))
        };
        if let Some(url) = url.as_ref().filter(|url| url.len() > WEBHOOK_URL) {
            return Err(too_large("URL", url.len(), &WEBHOOK_URL));
        }
        let url = match url {
            Some(url) => check(&callbacks.grant, &url).map_err(WebhookError::Url)?,
            None => match &callbacks.result_url {
                Some(url) => url.clone(),
                None => return Ok(false),
            },
        };
        if key.is_empty() {
            return Err(WebhookError::Invalid("the key is empty".to_owned()));
        }
        if key.len() > WEBHOOK_KEY {
            return Err(too_large("key", key.len(), &WEBHOOK_KEY));
        }
        let max = callbacks.config.body;
        if u64::try_from(body.len()).unwrap_or(u64::MAX) > max.as_u64() {
            return Err(too_large("body", body.len(), &max));
        }
        serde_json::from_str::<IgnoredAny>(&body)
            .map_err(|error| WebhookError::Invalid(format!("the body is not JSON: {error}")))?;
        let lane = lane(&url, owner, &key, callbacks.config.per_url);
        let origin = origin(url.as_str());
        let webhook = NewWebhook {
            owner: owner.to_owned(),
            key,
            url: url.into(),
            origin,
            lane,
            body: body.into_boxed_str(),
        };
        self.outbox.enqueue_webhook(webhook).await?;
        Ok(true)
    }
}

/// The lane of a callback: its URL, and one of `per_url` places by its key. One lane has one callback under way, so a URL
/// that is dead holds no more than that many of its origin's places, and none while it waits for another try.
fn lane(url: &Url, owner: &str, key: &str, per_url: u32) -> String {
    let place =
        digest(owner, key).first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)) % per_url.max(1);
    format!("{}#{place}", hex(&Sha256::digest(url.as_str())))
}

/// Scheme, host and port of a URL; empty for what is none.
pub(super) fn origin(url: &str) -> String {
    Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

/// The `webhook-id`: the same for every try of a delivery, and for its replay.
pub(super) fn webhook_id(owner: &str, key: &str) -> String {
    format!("msg_{}", hex(&digest(owner, key)))
}

/// The first half of a digest: enough to tell one thing from another.
fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest[..16].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn digest(owner: &str, key: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(owner.as_bytes());
    hash.update([0]);
    hash.update(key.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretRef {
        SecretRef::parse(text).unwrap()
    }

    fn callbacks(config: CallbacksConfig) -> Result<Callbacks, String> {
        Callbacks::new(config).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_that_make_no_sense_are_told() {
        let wrong = |config: CallbacksConfig| callbacks(config).unwrap_err();
        let config = CallbacksConfig::default();
        let told = wrong(CallbacksConfig { result_url: "http://127.0.0.1/x".to_owned(), ..config.clone() });
        assert!(
            told.contains("private_networks = [\"127.0.0.0/8\"]") && told.contains("[callbacks]"),
            "{told}"
        );
        let told = wrong(CallbacksConfig { secret: secret("not base64!"), ..config.clone() });
        assert!(told.contains("callbacks.secret") && !told.contains("not base64!"), "{told}");
        let told = wrong(CallbacksConfig { previous_secret: secret("whsec_AAAA"), ..config });
        assert!(told.contains("previous_secret"), "{told}");
    }

    #[test]
    fn two_secrets_make_two_signatures() {
        let old = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let body = r#"{"email":"test@example.com","username":"test_user"}"#;
        let one = callbacks(CallbacksConfig { secret: secret(old), ..CallbacksConfig::default() }).unwrap();
        // The example of the Standard Webhooks specification.
        let known = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        let id = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
        assert_eq!(one.signature(id, 1_649_367_553, body).as_deref(), Some(known));
        let config = CallbacksConfig {
            secret: secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            previous_secret: secret(old),
            ..CallbacksConfig::default()
        };
        let both = callbacks(config).unwrap().signature(id, 1_649_367_553, body).unwrap();
        let (new, previous) = both.split_once(' ').unwrap();
        assert_eq!(previous, known);
        assert!(new.starts_with("v1,") && new != known);
        let unsigned = callbacks(CallbacksConfig::default()).unwrap();
        assert_eq!(unsigned.signature(id, 1, body), None);
    }

    #[test]
    fn a_url_has_a_few_lanes_and_a_key_has_one() {
        let url: Url = "https://hooks.example/a?b=c".parse().unwrap();
        let other: Url = "https://hooks.example/z".parse().unwrap();
        let lanes = |url: &Url| -> std::collections::BTreeSet<_> {
            (0..100).map(|key| lane(url, "p", &key.to_string(), 4)).collect()
        };
        assert_eq!(lanes(&url).len(), 4);
        assert!(lanes(&url).is_disjoint(&lanes(&other)), "another receiver of the same origin");
        assert_eq!(lane(&url, "p", "k", 4), lane(&url, "p", "k", 4));
        assert_eq!(origin(url.as_str()), "https://hooks.example");
        assert_eq!(webhook_id("p", "k"), webhook_id("p", "k"));
        assert_ne!(webhook_id("p", "k"), webhook_id("pk", ""));
        assert_eq!(webhook_id("p", "k").len(), 36);
    }
}
