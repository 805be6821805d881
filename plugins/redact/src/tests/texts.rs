//! What is found in a text, and what is not.

use super::{clean, rules};
use crate::{Redact, stream::redact};
use plugway_sdk::Plugin;
use proptest::prelude::*;
use serde_json::json;

#[test]
fn what_should_not_leave_is_replaced() {
    let table = [
        // E-mail.
        ("mail john.doe+news@example.co.uk.", "mail [EMAIL]."),
        ("<a@b.de>,\"c@d.org\"", "<[EMAIL]>,\"[EMAIL]\""),
        ("mailto:john@example.com?subject=hi", "mailto:[EMAIL]?subject=hi"),
        ("müller@grün.de und 请联系john@example.com获取", "[EMAIL] und 请联系[EMAIL]获取"),
        ("...jo@example.com...", "...[EMAIL]..."),
        ("_x@example.com", "[EMAIL]"),
        ("a@b.co.123", "[EMAIL].123"),
        ("postgres://user:pa55@db.example.com/x", "postgres://user:[EMAIL]/x"),
        ("{\\\"a\\\":\\\"x\\njohn@example.com\\\"}", "{\\\"a\\\":\\\"x\\n[EMAIL]\\\"}"),
        ("john@2x.com git@example.com, noreply@3x.io", "[EMAIL] [EMAIL], [EMAIL]"),
        ("ask git@example.com: now", "ask [EMAIL]: now"),
        ("\\u003cjohn@example.com\\u003e", "\\u003c[EMAIL]\\u003e"),
        ("\\u003c4111111111111111\\u003e", "\\u003c[CARD]\\u003e"),
        // Cards.
        ("4111\u{2003}1111\u{2006}1111\u{3000}1111 4111\t1111\t1111\t1111", "[CARD] [CARD]"),
        ("4111\n1111\n1111\n1111\n", "[CARD]\n"),
        ("3782\n822463\n10005", "[CARD]"),
        ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n2 apples", "[CARD]\n2 apples"),
        ("4222 2222 22222\n42 apples", "[CARD]\n42 apples"),
        ("pay 4111 1111 1111 1111 now", "pay [CARD] now"),
        ("4111111111111111", "[CARD]"),
        ("4111-1111-1111-1111, 378282246310005", "[CARD], [CARD]"),
        ("3782 822463 10005 and 4222222222222", "[CARD] and [CARD]"),
        ("6011 1111 1111 1117/5555 5555 5555 4444", "[CARD]/[CARD]"),
        ("4111\u{a0}1111\u{202f}1111\u{2011}1111", "[CARD]"),
        ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1.", "[CARD]."),
        ("4111 1111 1111 1111 12/25 123", "[CARD] 12/25 123"),
        ("no. 12 4111 1111 1111 1111", "no. 12 [CARD]"),
        ("1,4111111111111111,Visa\\n5555555555554444", "1,[CARD],Visa\\n[CARD]"),
        ("id_4111111111111111", "id_[CARD]"),
        ("6212345678900000003 2200 0000 0000 0004", "[CARD] [CARD]"),
        // A phone number that a card stands behind takes nothing of it away.
        ("+49 30 12345 4111 1111 1111 1111", "[PHONE][CARD]"),
        ("030 12345 4111 1111 1111 1111", "[PHONE][CARD]"),
        // Phones.
        ("call +49 30 1234567.", "call [PHONE]."),
        ("+4915112345678, +1 (415) 555-2671", "[PHONE], [PHONE]"),
        ("+49 (0)30 1234-5678", "[PHONE]"),
        ("+33 6 12 34 56 78", "[PHONE]"),
        ("0049 30 1234567", "[PHONE]"),
        ("+49  30  1234567, +49.1711234567, +1.4155552671", "[PHONE], [PHONE], [PHONE]"),
        ("(415) 555-2671 or 415-555-2671 or 415.555.2671", "[PHONE] or [PHONE] or [PHONE]"),
        ("1-800-555-2671", "[PHONE]"),
        ("030 12345678, (030) 123456-0, 0171/1234567", "[PHONE], [PHONE], [PHONE]"),
        ("06 12 34 56 78, 06.12.34.56.78, 020 7946 0958", "[PHONE], [PHONE], [PHONE]"),
        ("(11) 91234-5678", "[PHONE]"),
        ("+49 30 1234567 3 items", "[PHONE] 3 items"),
        // Secrets.
        ("key sk-proj-abcDEF0123456789abcdef0123456789.", "key [SECRET]."),
        ("sk-ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz-0123_4", "[SECRET]"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345 x", "[SECRET] x"),
        ("github_pat_11ABCDEFG0123456789_abcdefghijklmnop", "[SECRET]"),
        ("'xoxb-123456789012-1234567890123-AbCdEfGhIjKl'", "'[SECRET]'"),
        ("AKIAIOSFODNN7EXAMPLE", "[SECRET]"),
        ("AIzaSyA-0123456789abcdefghijklmnopqrstu", "[SECRET]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123. Next", "[SECRET]. Next"),
        ("Authorization: Bearer abc.def0123456789-xyz==\n", "Authorization: Bearer [SECRET]\n"),
        ("bot 123456789:AAE-abcdefghijklmnopqrstuvwxyz01234", "bot [SECRET]"),
        (
            "a\n-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEowIBAAKCAQEA0123456789abcdefghij\n\
             AbCd+/AbCdEfGhIjKlMnOpQrStUvWx\nAb==\n-----END RSA PRIVATE KEY-----\nb",
            "a\n[SECRET]\nb",
        ),
        (
            "\"-----BEGIN PRIVATE KEY-----\\nMIIEowIBAAKCAQEA0123456789abcdefghij\\nAb==\\n-----END PRIVATE KEY-----\\n\"",
            "\"[SECRET]\\n\"",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA0123456789abcdefghij\nAbCd", "[SECRET]"),
        (
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2.0.22 (GNU/Linux)\nComment: Using GnuPG with Thunderbird - \
             https://www.enigmail.net/\n\nlQOYBFJ0ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123\n=abcd\n\
             -----END PGP PRIVATE KEY BLOCK-----\nafter",
            "[SECRET]\nafter",
        ),
        (
            "-----BEGIN RSA PRIVATE KEY-----\\nProc-Type: 4,ENCRYPTED\\nDEK-Info: AES-256-CBC,0123456789ABCDEF0123456789ABCDEF\\n\\n\
             MIIEowIBAAKCAQEA0123456789abcdefghij\\nabc=\\n-----END RSA PRIVATE KEY-----\\nafter",
            "[SECRET]\\nafter",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nNote: this is how one begins, with nothing of a key behind it, as you can see for yourself here",
            "[SECRET]\nNote: this is how one begins, with nothing of a key behind it, as you can see for yourself here",
        ),
        ("it begins with `-----BEGIN PRIVATE KEY-----`, you see", "it begins with `[SECRET]`, you see"),
    ];
    for (text, expected) in table {
        assert_eq!(clean(text), expected, "{text}");
    }
}

#[test]
fn what_only_looks_so_survives() {
    let table = [
        "550e8400-e29b-41d4-a716-446655440000 12345678-1234-4716-8716-446655440000",
        "d41d8cd98f00b204e9800998ecf8427e da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "2026-11-21T19:18:52.123Z 2026-11-21 19:18:52 +01:00 20261121191852 01.02.2024 10:30 01-02-2024 10:30:00",
        "1763752732 1763752732123 1763752732123456 1763752732123456789 0.4142135623730951 0.5105105105105100",
        "order 4500012345, #100234567, ORD-2026-001234, 112-1234567-1234567, PO-415-555-2671",
        "v1.2.3-rc.4 10.0.0.255 192.168.100.200:8080 1.95.0 2001:db8::1",
        "https://example.com/orders/12345678901?page=20&id=98765432101234",
        "4111 1111 1111 1112 and 1234 5678 9012 3456 and 300 400 5000 60000",
        "@app.route x@y git@github.com:org/repo.git icon@2x.png react@18.2.0 user@localhost",
        "sk-learn sk-fading-circle-container-of-things task-force ghp_short xoxb- AKIA eyJ eyJabc.def",
        "Bearer authentication is required; the bearer token; Bearer of very-bad-news-indeed-today",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
        "| a | b |\n|-----|-----|\n",
        "+1 +12 +1234567 C++ 1+2345678901 0012345678905 (2019) (12) 345",
        "+52.5200066, +13.404954 +3.141592653 0101 1100 0011, 08 09 10 11 12, 01 02 03 04 05 06",
        "IBAN DE89 3704 0044 0532 0130 00, GB82 WEST 1234 5698 7654 32",
        "y = x@w.transpose() + A@B.conj()",
        "git@github.com/org/repo ssh://git@host.example.com/x icon@3x.webp",
        "1234\n5678\n9012\n3456\n41\n11\n11\n11\n11\n11\n11\n11",
        "978-3-16-148410-0 DE89370400440532013000 12.345.678,90 € 1,234,567,890.12",
        "Grüße, 你好 🙂 naïve",
        "",
    ];
    for text in table {
        assert_eq!(clean(text), text);
    }
}

#[test]
fn own_patterns_and_kinds_that_are_off() {
    let rules = rules(json!({
        "phone": false, "email": "<mail>",
        "patterns": [
            {"name": "ticket", "pattern": r"\bTICKET-\d{4,8}\b"},
            {"name": "name", "pattern": "(?i)müller", "replacement": "N."},
            {"name": "note", "pattern": "note: .*"},
        ],
    }));
    let table = [
        ("see TICKET-12345, XTICKET-1234, TICKET-123456789", "see [TICKET], XTICKET-1234, TICKET-123456789"),
        ("Frau MÜLLER, +49 30 1234567", "Frau N., +49 30 1234567"),
        ("a@b.de", "<mail>"),
        ("note: a\nb", "[NOTE]\nb"),
        // What overlaps is covered whole.
        ("note: TICKET-1234 4111 1111 1111 1111", "[NOTE]"),
    ];
    for (text, expected) in table {
        assert_eq!(redact(&rules, text).unwrap_or_else(|| text.to_owned()), expected);
    }
}

#[test]
fn a_match_that_begins_in_another_one_is_covered_too() {
    let rules = rules(json!({"patterns": [{"name": "n", "pattern": r"no \d{4}"}]}));
    assert_eq!(redact(&rules, "no 4111 1111 1111 1111!").unwrap(), "[N][CARD]!");
}

#[test]
fn texts_that_look_like_the_beginning_of_something_everywhere_are_read_once() {
    let pieces = [
        "eyJ-",
        "sk-",
        "a@",
        "a.",
        "4-",
        "4 ",
        "04 ",
        "-----BEGIN ",
        "+4",
        "+4 ",
        "(4",
        "1:",
        "Bearer ",
        "ghp_-",
        "\\n",
        "\\u003c",
        "_",
        "a_",
        "sk-a-",
        "4 1 1 1 ",
        "4\n1\n",
        "001 ",
        "A: -----BEGIN PRIVATE KEY-----\n",
    ];
    for piece in pieces {
        let text = piece.repeat(20_000);
        assert!(clean(&text).len() <= text.len(), "{piece}");
    }
}

#[test]
fn a_wrong_setting_is_named() {
    let own = |pattern: &str| json!({"patterns": [{"name": "a", "pattern": "x"}, {"name": "t", "pattern": pattern}]});
    let table = [
        (json!({"emial": true}), "unknown field `emial`"),
        (json!({"email": 7}), "email: expected true, false, or the text to put in a match's place"),
        (json!({"hold_bytes": 1}), "hold_bytes: 1 is not within 16 and 8192"),
        (own("("), "patterns[1].pattern: t: unclosed group at 1"),
        (own(r"\d*"), "patterns[1].pattern: t: it matches the empty text"),
        (own(r"(a{1000}){1000}"), "patterns[1].pattern: t: "),
        (
            own(r"\w{100}"),
            "patterns[1].pattern: t: all patterns together are more than 1048576 bytes compiled: repeat less",
        ),
        (
            own(&format!("(?i){}", r"[\w-]".repeat(100))),
            "patterns: these are too much to compile for every instance",
        ),
        (
            json!({"patterns": (0..64).map(|at| json!({"name": at.to_string(), "pattern": "(?i)[ä-ü]{8}".repeat(20)})).collect::<Vec<_>>()}),
            "patterns: these are too much to compile",
        ),
        (
            json!({"streams": [{"kind": "completed", "field": "text"}]}),
            "streams[0].kind: the gateway knows the texts of `completed`",
        ),
        (json!({"streams": [{"kind": "a", "field": ""}]}), "streams[0]: name a kind and a field"),
        (
            json!({"streams": (0..17).map(|at| json!({"kind": at.to_string(), "field": "x"})).collect::<Vec<_>>()}),
            "streams: these are too many, at most 16",
        ),
        (own("(a)\\1"), "patterns[1].pattern: t: backreferences are not supported at 4"),
        (
            json!({"patterns": [{"name": "a", "pattern": "x"}, {"name": "a", "pattern": "y"}]}),
            "patterns[1].name: \"a\"",
        ),
        (json!({"patterns": [{"name": "a"}]}), "patterns[0].pattern: missing field"),
        (json!({"card": "x".repeat(257)}), "card: 257 bytes are too many, at most 256"),
    ];
    for (config, expected) in table {
        let error = Redact::check(&config.to_string()).expect_err(expected);
        assert!(error.contains(expected), "{config}: {error}");
    }
    assert_eq!(Redact::check("{}"), Ok(()));
    let patterns = (0..64).map(
        |at| json!({"name": at.to_string(), "pattern": format!(r"(?i)\bcustomer{at} no\.?\s?\d{{4,12}}\b")}),
    );
    assert_eq!(Redact::check(&json!({"patterns": patterns.collect::<Vec<_>>()}).to_string()), Ok(()));
}

fn luhn(mut digits: Vec<u8>) -> String {
    digits.push(0);
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(
            |(at, digit)| if at % 2 == 0 { u32::from(*digit) } else { u32::from(digit * 2 % 10 + digit / 5) },
        )
        .sum();
    if let Some(last) = digits.last_mut() {
        *last = ((10 - sum % 10) % 10) as u8;
    }
    digits.iter().map(|digit| char::from(b'0' + digit)).collect()
}

proptest! {
    #[test]
    fn every_visa_card_is_found_however_it_is_written(
        digits in proptest::collection::vec(0_u8..10, 14),
        gaps in proptest::collection::vec(prop_oneof![Just(""), Just(" "), Just("-"), Just(" - "), Just("\u{2011}")], 15),
    ) {
        let number = luhn([&[4], &*digits].concat());
        let spaced = number.char_indices().map(|(at, char)| format!("{char}{}", gaps.get(at).unwrap_or(&""))).collect::<String>();
        let expected = "Card: [CARD], thanks".to_owned();
        prop_assert_eq!(clean(&format!("Card: {number}, thanks")), &*expected);
        prop_assert_eq!(clean(&format!("Card: {spaced}, thanks")), expected);
    }

    #[test]
    fn uuids_and_hashes_survive(bytes in any::<u128>(), more in any::<u128>()) {
        let hex = format!("{bytes:032x}");
        let version = format!("{}4{}8{}", &hex[..12], &hex[13..16], &hex[17..]);
        let uuid = [&version[..8], &version[8..12], &version[12..16], &version[16..20], &version[20..]].join("-");
        let text = format!("{uuid} {hex} {hex}{more:032x}");
        prop_assert_eq!(clean(&text), text);
    }

    #[test]
    fn words_and_numbers_survive(text in "([a-zA-Z,.;:!?'\"ä漢🙂\\\\\n ]|[0-9]{1,6}, )*") {
        prop_assert_eq!(clean(&text), text);
    }
}
