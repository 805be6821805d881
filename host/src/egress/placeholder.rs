//! `{secret:NAME}`: found in the URL's path and in header values, and replaced on the way out.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::Secret;

/// What may not stand as it is within a path's segment (RFC 3986, `pchar`): a colon, as in a bot's token, may.
pub(super) const PATH_SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

const OPEN: &str = "{secret:";

/// Whether a text has a placeholder in it, braces percent-encoded or not.
pub(super) fn is_in(text: &str) -> bool {
    text.contains(OPEN) || normal(text).contains(OPEN)
}

/// The path with its secrets, percent-encoded as a segment needs it. `url` encodes the braces of a placeholder: those
/// are understood too.
///
/// # Errors
/// The name of a secret that is not there, or what stands in the place of a name.
pub(super) fn fill_path<'a>(
    path: &str,
    secret: &impl Fn(&str) -> Option<&'a Secret>,
) -> Result<String, String> {
    fill(&normal(path), |name| {
        secret(name).map(|secret| utf8_percent_encode(secret.expose(), PATH_SEGMENT).to_string())
    })
}

/// A header's value with its secrets.
///
/// # Errors
/// As [`fill_path`].
pub(super) fn fill_header<'a>(
    value: &str,
    secret: &impl Fn(&str) -> Option<&'a Secret>,
) -> Result<String, String> {
    fill(value, |name| secret(name).map(|secret| secret.expose().to_owned()))
}

/// Placeholders whose braces were percent-encoded, with their braces.
fn normal(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    loop {
        let found = rest.match_indices('%').find(|(at, _)| {
            rest.get(*at..*at + 10).is_some_and(|text| text.eq_ignore_ascii_case("%7Bsecret:"))
        });
        let Some((at, _)) = found else { break };
        out.push_str(&rest[..at]);
        out.push_str(OPEN);
        rest = &rest[at + 10..];
        let end = rest
            .match_indices('%')
            .find(|(at, _)| rest.get(*at..*at + 3).is_some_and(|text| text.eq_ignore_ascii_case("%7D")));
        if let Some((end, _)) = end {
            out.push_str(&rest[..end]);
            out.push('}');
            rest = &rest[end + 3..];
        }
    }
    out.push_str(rest);
    out
}

fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        out.push_str(before);
        let (name, after) =
            after.split_once('}').ok_or_else(|| after.chars().take(40).collect::<String>())?;
        out.push_str(&value(name).ok_or_else(|| name.chars().take(80).collect::<String>())?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_into_the_path_as_it_stands() {
        let token = Secret::new("123456:AA-bb_cc").unwrap();
        let odd = Secret::new("a/b?c d").unwrap();
        let secret = |name: &str| match name {
            "token" => Some(&token),
            "odd" => Some(&odd),
            _ => None,
        };
        let fill = |path: &str| fill_path(path, &secret);
        assert_eq!(fill("/bot{secret:token}/sendMessage").unwrap(), "/bot123456:AA-bb_cc/sendMessage");
        assert_eq!(fill("/bot%7Bsecret:token%7d/x").unwrap(), "/bot123456:AA-bb_cc/x");
        assert_eq!(fill("/{secret:odd}").unwrap(), "/a%2Fb%3Fc%20d");
        assert_eq!(fill("/100%/%7Bname%7D").unwrap(), "/100%/%7Bname%7D");
        assert_eq!(fill("/{secret:other}").unwrap_err(), "other");
        assert_eq!(fill("/{secret:token").unwrap_err(), "token");
        assert_eq!(fill_header("Bearer {secret:odd}", &secret).unwrap(), "Bearer a/b?c d");
    }

    #[test]
    fn a_secret_that_looks_like_a_placeholder_is_not_filled_again() {
        let (a, b) = (Secret::new("{secret:b}").unwrap(), Secret::new("inner").unwrap());
        let secret = |name: &str| if name == "a" { Some(&a) } else { Some(&b) };
        assert_eq!(fill_header("{secret:a}", &secret).unwrap(), "{secret:b}");
    }
}
