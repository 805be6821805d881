//! Takes secrets out of what goes back: their values, and the forms in which servers echo them.

use std::borrow::Cow;
use std::fmt;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Secret;
use super::placeholder::PATH_SEGMENT;

/// Encoded forms of shorter secrets would be found everywhere.
const SHORTEST_ENCODED: usize = 4;
/// Base64 that is shorter than this, as it stands within a longer text, would be found everywhere.
const SHORTEST_BASE64: usize = 8;

/// Replaces secrets by `[secret:NAME]`: as they are, percent-encoded, as in a JSON text, and within base64 at any offset.
pub struct Redactor {
    /// None where there is nothing to take out.
    automaton: Option<AhoCorasick>,
    /// What to put in, by pattern.
    labels: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("patterns", &self.labels.len()).finish()
    }
}

impl Redactor {
    /// Takes out these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a Secret)>) -> Self {
        let (mut patterns, mut labels) = (Vec::new(), Vec::new());
        for (name, secret) in secrets {
            for form in forms(secret.expose()) {
                patterns.push(form);
                labels.push(format!("[secret:{name}]"));
            }
        }
        let build = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns);
        // Building fails beyond 2^31 states only, which no configuration file can hold.
        let automaton = if patterns.is_empty() { None } else { build().ok() };
        Self { automaton, labels }
    }

    /// A text without secrets.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.automaton {
            Some(automaton) if automaton.is_match(text) => automaton.replace_all(text, &self.labels).into(),
            _ => text.into(),
        }
    }

    /// Bytes without secrets.
    pub fn bytes(&self, bytes: Bytes) -> Bytes {
        match &self.automaton {
            Some(automaton) if automaton.is_match(&bytes) => {
                automaton.replace_all_bytes(&bytes, &self.labels).into()
            }
            _ => bytes,
        }
    }
}

/// The texts that give a secret away.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    if secret.len() >= SHORTEST_ENCODED {
        for encoded in [
            utf8_percent_encode(secret, PATH_SEGMENT).to_string(),
            utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
            url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
        ] {
            forms.push(lower_hex(&encoded));
            forms.push(encoded);
        }
        if let Ok(json) = serde_json::to_string(secret) {
            let json = &json[1..json.len() - 1];
            forms.push(json.replace('/', "\\/"));
            forms.push(json.to_owned());
        }
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            forms.push(engine.encode(secret));
            forms.extend((0..3).map(|offset| within_base64(&engine, secret, offset)));
        }
        forms.retain(|form| form.len() >= SHORTEST_ENCODED.min(secret.len()));
    }
    forms.sort_unstable();
    forms.dedup();
    forms
}

/// The part of a base64 text that only the secret decides, when `offset` bytes (modulo 3) stand before it; as in
/// `Basic base64(user:secret)`. Empty where that is too little to be told from anything else.
fn within_base64(engine: &GeneralPurpose, secret: &str, offset: usize) -> String {
    let mut bytes = vec![0; offset];
    bytes.extend_from_slice(secret.as_bytes());
    let text = engine.encode(&bytes);
    let (first, end) = ((offset * 8).div_ceil(6), bytes.len() * 8 / 6);
    let stable = text.get(first..end).unwrap_or_default();
    if stable.len() >= SHORTEST_BASE64 { stable.to_owned() } else { String::new() }
}

/// Percent-encoding with lower-case digits.
fn lower_hex(encoded: &str) -> String {
    let mut out = String::with_capacity(encoded.len());
    let mut rest = 0;
    for c in encoded.chars() {
        if rest > 0 {
            rest -= 1;
            out.push(c.to_ascii_lowercase());
        } else {
            rest = if c == '%' { 2 } else { 0 };
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn redactor(value: &str) -> Redactor {
        Redactor::new([("token", &Secret::new(value).unwrap())])
    }

    #[test]
    fn every_form_of_a_secret_is_taken_out() {
        let value = "123456:AA/bb+cc\"dd";
        let redactor = redactor(value);
        for echo in [
            value.to_owned(),
            "123456:AA%2Fbb+cc%22dd".to_owned(),
            "123456%3AAA%2Fbb%2Bcc%22dd".to_owned(),
            "123456%3aAA%2fbb%2bcc%22dd".to_owned(),
            serde_json::to_string(value).unwrap().trim_matches('"').to_owned(),
            STANDARD.encode(value),
            STANDARD.encode(format!("bot:{value}")),
            STANDARD.encode(format!("u:{value}@x")),
            STANDARD.encode(format!("me:{value}!")),
        ] {
            let text = redactor.text(&echo);
            assert!(text.contains("[secret:token]"), "{echo} -> {text}");
            assert!(!text.contains("AA"), "{echo} -> {text}");
        }
    }

    #[test]
    fn what_holds_no_secret_is_left_as_it_is() {
        let redactor = redactor("hunter2!");
        assert!(matches!(redactor.text("nothing here"), Cow::Borrowed("nothing here")));
        let bytes = Bytes::from_static(&[0xff, 0x00, 0x7f]);
        assert_eq!(redactor.bytes(bytes.clone()), bytes);
        let mut echo = vec![0xff];
        echo.extend_from_slice(b"hunter2!\xfe");
        assert_eq!(&redactor.bytes(echo.into())[..], b"\xff[secret:token]\xfe");
    }

    #[test]
    fn no_secrets_need_no_work() {
        assert_eq!(Redactor::new([]).text("abc"), "abc");
    }
}
