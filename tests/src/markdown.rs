//! Telegram's MarkdownV2, as the Bot API reads it, and comparing what a chat shows with what an agent wrote.
//!
//! Source: <https://core.telegram.org/bots/api#markdownv2-style>.

const RESERVED: &str = "_*[]()~`>#+-=|{}.!";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entity {
    Bold,
    Italic,
    Underline,
    Strikethrough,
    Spoiler,
    Link,
}

impl Entity {
    fn mark(self) -> &'static str {
        match self {
            Self::Bold => "*",
            Self::Italic => "_",
            Self::Underline => "__",
            Self::Strikethrough => "~",
            Self::Spoiler => "||",
            Self::Link => "]",
        }
    }
}

/// The text that a reader sees.
///
/// # Errors
///
/// What the Bot API says when it can't parse the entities.
pub fn visible(text: &str) -> Result<String, String> {
    let mut reader = Reader { rest: text, seen: String::new(), open: Vec::new() };
    while !reader.rest.is_empty() {
        reader.step()?;
    }
    match reader.open.last() {
        None => Ok(reader.seen),
        Some(entity) => Err(format!("Can't find end of {entity:?} entity")),
    }
}

struct Reader<'a> {
    rest: &'a str,
    seen: String,
    open: Vec<Entity>,
}

impl Reader<'_> {
    fn step(&mut self) -> Result<(), String> {
        if self.skip("```") {
            return self.pre();
        }
        if self.skip("`") {
            return self.code("`");
        }
        if self.skip("\\") {
            self.escaped();
            return Ok(());
        }
        if let Some(entity) = self.open.last().copied()
            && self.rest.starts_with(entity.mark())
            && !(entity == Entity::Italic && self.rest.starts_with("__"))
        {
            self.skip(entity.mark());
            self.open.pop();
            return if entity == Entity::Link { self.target() } else { Ok(()) };
        }
        let begins = [
            ("__", Entity::Underline),
            ("_", Entity::Italic),
            ("*", Entity::Bold),
            ("~", Entity::Strikethrough),
            ("||", Entity::Spoiler),
            ("![", Entity::Link),
            ("[", Entity::Link),
        ];
        for (mark, entity) in begins {
            if self.skip(mark) {
                self.open.push(entity);
                return Ok(());
            }
        }
        if (self.seen.is_empty() || self.seen.ends_with('\n')) && self.skip(">") {
            return Ok(());
        }
        match self.take() {
            Some(char) if RESERVED.contains(char) => {
                Err(format!("Character '{char}' is reserved and must be escaped with the preceding '\\'"))
            }
            char => {
                self.seen.extend(char);
                Ok(())
            }
        }
    }

    fn skip(&mut self, mark: &str) -> bool {
        let found = self.rest.strip_prefix(mark);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn take(&mut self) -> Option<char> {
        let char = self.rest.chars().next()?;
        self.rest = &self.rest[char.len_utf8()..];
        Some(char)
    }

    /// What follows a backslash: itself if it is ASCII, else the backslash stands for itself.
    fn escaped(&mut self) {
        if self.rest.starts_with(|char: char| char.is_ascii()) {
            let char = self.take();
            self.seen.extend(char);
        } else {
            self.seen.push('\\');
        }
    }

    fn pre(&mut self) -> Result<(), String> {
        let language =
            self.rest.find(|char: char| char.is_whitespace() || char == '`').unwrap_or(self.rest.len());
        if !self.rest[language..].starts_with('`') {
            self.rest = &self.rest[language..];
        }
        self.skip("\n");
        self.code("```")
    }

    fn code(&mut self, end: &str) -> Result<(), String> {
        loop {
            if self.skip(end) {
                return Ok(());
            }
            match self.take() {
                Some('\\') => self.escaped(),
                Some('`') => return Err("Character '`' is reserved inside of code".to_owned()),
                Some(char) => self.seen.push(char),
                None => return Err("Can't find end of Code entity".to_owned()),
            }
        }
    }

    /// The target of a link, if it has one.
    fn target(&mut self) -> Result<(), String> {
        if !self.skip("(") {
            return Ok(());
        }
        loop {
            match self.take() {
                Some('\\') => drop(self.take()),
                Some(')') => return Ok(()),
                Some(_) => {}
                None => return Err("Can't find end of a URL".to_owned()),
            }
        }
    }
}

/// Length in the unit that Telegram counts in.
pub fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// What has to survive any splitting and any rendering: every character but white space, marks of Markdown (those of
/// headings included) and the lines that open and close a code fence.
pub fn essence(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("```"));
    let lines = lines.map(|line| line.trim_start().trim_start_matches('#'));
    lines.flat_map(str::chars).filter(|char| !char.is_whitespace() && !"*_~`\\".contains(*char)).collect()
}

/// Whether every code fence of a text that is shown as it stands is closed.
pub fn fences_closed(text: &str) -> bool {
    text.lines().filter(|line| line.trim_start().starts_with("```")).count() % 2 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_taken_out_and_escapes_resolved() {
        assert_eq!(visible("*bold _both_* ~gone~ ||hush|| __line__").unwrap(), "bold both gone hush line");
        assert_eq!(visible("1 \\+ 1 \\= 2\\.").unwrap(), "1 + 1 = 2.");
        assert_eq!(visible("[a link](https://example.org/\\)) `co_de`").unwrap(), "a link co_de");
        assert_eq!(visible("```rust\nlet a = \"\\`\";\n```").unwrap(), "let a = \"`\";\n");
        assert_eq!(visible(">quoted\n>too").unwrap(), "quoted\ntoo");
    }

    #[test]
    fn what_the_bot_api_refuses_is_refused() {
        for text in ["1 + 1", "end.", "*open", "```never closed", "a_b", "`open", "(", "a > b", "# head"] {
            assert!(visible(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn lengths_are_counted_in_utf_16() {
        assert_eq!(length("a\u{e9}\u{1f600}"), 4);
    }
}
