//! One try of a webhook: a signed POST, judged by its status.

use std::time::Duration;

use bytes::Bytes;

use super::Callbacks;
use super::callbacks::webhook_id;
use super::retry::Outcome;
use crate::domain::Clock;
use crate::egress::{Egress, EgressError, EgressRequest, EgressResponse, retry_after};

/// Posts a body. Any 2xx means that it arrived; 410 that the receiver wants none of it any more. Everything else is a
/// failure that another try may mend, redirects and other 4xx included: a receiver that is being deployed answers 404
/// or 401 for a while, and only its operator can tell when that is over.
pub(super) async fn post(
    egress: &Egress,
    callbacks: &Callbacks,
    clock: &Clock,
    owner: &str,
    key: &str,
    url: &str,
    body: &str,
) -> Outcome {
    let id = webhook_id(owner, key);
    let seconds = i64::try_from(clock.now_ms() / 1000).unwrap_or(i64::MAX);
    let mut headers = vec![
        ("content-type".to_owned(), "application/json".to_owned()),
        ("webhook-timestamp".to_owned(), seconds.to_string()),
    ];
    if let Some(signature) = callbacks.signature(&id, seconds, body) {
        headers.push(("webhook-signature".to_owned(), signature));
    }
    headers.push(("webhook-id".to_owned(), id));
    let request = EgressRequest {
        method: "POST".to_owned(),
        url: url.to_owned(),
        headers,
        body: Bytes::copy_from_slice(body.as_bytes()),
        timeout: callbacks.config().timeout,
    };
    match egress.send_for_head(callbacks.grant(), request).await {
        Ok(response) => judge(&response, clock.now_ms()),
        // It was acceptable when it was taken, so this is the operator's to mend; then the dead letter can be replayed.
        Err(EgressError::Denied(error)) => Outcome::Hopeless { error },
        Err(error) => Outcome::Failed { error: error.to_string(), after: Duration::ZERO },
    }
}

fn judge(response: &EgressResponse, now_ms: u64) -> Outcome {
    match response.status {
        200..300 => Outcome::Delivered,
        410 => Outcome::Hopeless { error: "the receiver is gone (status 410)".to_owned() },
        status => {
            let asked = response.header("retry-after").and_then(|value| retry_after(value, now_ms));
            let error = match status {
                300..400 => {
                    format!("the receiver answered with a redirect (status {status}), which is not followed")
                }
                _ => format!("the receiver answered with status {status}"),
            };
            Outcome::Failed { error, after: asked.unwrap_or_default() }
        }
    }
}
