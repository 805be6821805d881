//! Bounds of the contract that no setting changes: what is over one is refused, with a sentence that names it. The host
//! and the SDK's mock compile this same file, so that neither takes what the other refuses.

/// Longest key of `kv`, in bytes; an empty one is refused too.
pub const KV_KEY: usize = 512;
/// Largest value of `kv`, in bytes.
pub const KV_VALUE: usize = 1 << 20;
/// Keys that one call of `kv.keys` returns at most.
pub const KV_KEYS: u32 = 1_000;

/// Longest key of a rate, in bytes.
pub const PACING_KEY: usize = 512;
/// Largest `count` of a rate; the least is 1.
pub const PACING_COUNT: u32 = 1_000;
/// Longest `per-ms` of a rate, and longest wait for it: an hour.
pub const PACING_WINDOW_MS: u32 = 3_600_000;
/// Longest pause: a day.
pub const PACING_PAUSE_MS: u32 = 86_400_000;
/// Rates that one call of `acquire` may name.
pub const PACING_RATES: usize = 8;
/// Keys that one plugin may have in use; those whose window and pause are over do not count.
pub const PACING_KEYS: usize = 10_000;

/// Longest URL of a callback, in bytes.
pub const WEBHOOK_URL: usize = 2_048;
/// Longest key of a callback, in bytes; an empty one is refused too.
pub const WEBHOOK_KEY: usize = 512;

/// Longest name of a session, in bytes; an empty one is refused too.
pub const SESSION_NAME: usize = 512;
/// Longest idempotency key, in bytes; an empty one is refused too.
pub const TASK_KEY: usize = 512;
/// Longest address of a delivery, in bytes.
pub const TASK_ADDRESS: usize = 64 << 10;
/// Tasks and sessions that one exchange may follow at once.
pub const FOLLOWS: usize = 64;

/// Longest reason of a WebSocket's close, in bytes.
pub const CLOSE_REASON: usize = 123;
/// Whether a WebSocket may be closed with this code: RFC 6455, section 7.4, without those that are never sent.
#[must_use]
pub const fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Random bytes that one call may ask for.
pub const RANDOM: u32 = 64 << 10;

/// Longest URL of an outgoing request, in bytes.
pub const HTTP_URL: usize = 16 << 10;
/// Header fields of an outgoing request, and of an answer.
pub const HTTP_HEADERS: usize = 128;
/// Bytes of all these fields, names and values.
pub const HTTP_HEADER_BYTES: usize = 64 << 10;
/// Methods of an outgoing request.
pub const HTTP_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Headers of an outgoing request that are the host's business: setting one is refused.
pub const HTTP_OWN_HEADERS: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "keep-alive",
];
/// Headers of an answer that are the host's business: setting one is refused. A `content-length` is left out.
pub const ANSWER_OWN_HEADERS: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
