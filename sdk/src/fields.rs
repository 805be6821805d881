//! An event's data by field, for filters: what is not touched keeps its bytes, and a chunk costs no tree of values.

use crate::json;
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// The fields of a JSON object, each as the JSON text that it came as.
///
/// ```
/// # use plugway_sdk::Fields;
/// let mut fields = Fields::parse(r#"{"text":"Hi","n":1.0,"raw":{}}"#).unwrap();
/// assert_eq!(fields.text("text").unwrap(), "Hi");
/// fields.set_text("text", "Ho");
/// fields.remove("raw");
/// assert_eq!(fields.to_json(), r#"{"text":"Ho","n":1.0}"#);
/// ```
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    /// Names and values as they stand in the text, the names without their quotes.
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Fields<'a> {
    /// Takes an object apart. None if the text is no JSON object.
    pub fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        text.trim_ascii_start().starts_with('{').then(|| {
            let fields =
                json::members(text).map(|member| (Cow::Borrowed(member.name), Cow::Borrowed(member.value)));
            Self { fields: fields.collect() }
        })
    }

    /// A field's value as JSON; of several with one name the last, as readers do.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(field, _)| json::is(field, name)).map(|(_, value)| &**value)
    }

    /// A field's value, if it is a text.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        unquote(self.get(name)?)
    }

    /// Puts JSON in a field's place, or behind the others if there is no such field.
    pub fn set(&mut self, name: &str, json: String) {
        match self.fields.iter().rposition(|(field, _)| json::is(field, name)) {
            Some(at) => self.fields[at].1 = Cow::Owned(json),
            None => {
                let quoted = quote(name);
                self.fields.push((Cow::Owned(quoted[1..quoted.len() - 1].to_owned()), Cow::Owned(json)));
            }
        }
    }

    /// As [`Fields::set`], with a text.
    pub fn set_text(&mut self, name: &str, text: &str) {
        self.set(name, quote(text));
    }

    /// Takes a field out. Whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.fields.len();
        self.fields.retain(|(field, _)| !json::is(field, name));
        self.fields.len() != before
    }

    /// Names and values as JSON, in order. A name is without its quotes, but with its escapes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The object, in the order in which it came.
    pub fn to_json(&self) -> String {
        let size = self.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
        let mut json = String::with_capacity(size + 2);
        json.push('{');
        for (at, (name, value)) in self.fields.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            json.push('"');
            json.push_str(name);
            json.push('"');
            json.push(':');
            json.push_str(value);
        }
        json.push('}');
        json
    }
}

/// Text as JSON.
fn quote(text: &str) -> String {
    // Only maps with keys that are no strings could fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// The text of a JSON string, with U+FFFD for half of a surrogate pair; borrowed where nothing in it is escaped.
fn unquote(quoted: &str) -> Option<Cow<'_, str>> {
    let plain = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if plain.contains('\\') {
        return json::text(quoted).map(Cow::Owned);
    }
    Some(Cow::Borrowed(plain))
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn an_object_keeps_its_bytes() {
        for json in
            [r#"{}"#, r#"{"a":[1,{"b":"}"}],"c\"":"\\","d":1e400,"e":{"x":"\"{"},"a":null}"#, r#"{"ü":-0.0}"#]
        {
            assert_eq!(Fields::parse(json).unwrap().to_json(), json);
        }
        let spaced = Fields::parse(" {\n \"a\" : 1 , \"b\" : [ 2 ] } ").unwrap();
        assert_eq!(spaced.to_json(), r#"{"a":1,"b":[ 2 ]}"#);
    }

    #[test]
    fn what_is_no_object_is_none() {
        for json in ["", "[]", "7", "{", r#"{"a":}"#, r#"{"a":1}x"#] {
            assert!(Fields::parse(json).is_none_or(|fields| fields.text("a").is_none()), "{json}");
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_hides_no_text() {
        let fields = Fields::parse(r#"{"a":"x\ud800"}"#).unwrap();
        assert_eq!(fields.text("a").unwrap(), "x\u{FFFD}");
    }

    #[test]
    fn fields_are_found_under_escaped_names_and_the_last_one_counts() {
        let mut fields = Fields::parse(r#"{"\u0061":"x\n","a":"y"}"#).unwrap();
        assert_eq!(fields.text("a").unwrap(), "y");
        fields.set_text("b", "\"");
        assert!(fields.remove("a") && !fields.remove("a"));
        assert_eq!(fields.to_json(), r#"{"b":"\""}"#);
    }
}
