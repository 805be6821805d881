//! Splitting and rendering, by example and by property.

use super::reader::read;
use crate::{
    chunk::{LIMIT, split, split_on, units},
    markdown::{Fence, render},
};
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn rendered(source: &str) -> String {
    render(source).text
}

#[test]
fn common_markdown_becomes_markdownv2() {
    let cases = [
        ("**bold** and 1.5", r"*bold* and 1\.5"),
        ("*it* and _it_", "_it_ and _it_"),
        ("***both***", "*_both_*"),
        ("~~gone~~", "~gone~"),
        ("`a.b` and ``a`b``", "`a.b` and `a\\`b`"),
        ("# Title!", r"*Title\!*"),
        ("## The `code` title", "The `code` title"),
        ("[text](https://a.example/x_(y)?q=1)", r"[text](https://a.example/x_(y\)?q=1)"),
        ("see https://a.example/a_b_c **now**", r"see https://a\.example/a\_b\_c *now*"),
        ("snake_case_name and **x**", r"snake\_case\_name and *x*"),
        ("2 * 3 * 4 = **24**", r"2 \* 3 \* 4 \= *24*"),
        ("**bold with `code` in it**", "bold with `code` in it"),
        ("*a **b** c*", "_a *b* c_"),
        ("```rust\nlet a = b.c();\n```", "```rust\nlet a = b.c();\n```"),
        ("```\na \\ `b`\n```\nafter **x**", "```\na \\\\ \\`b\\`\n```\nafter *x*"),
        ("```py\nnever closed", "```py\nnever closed\n```"),
        (r"\*no marker\* **x**", r"\*no marker\* *x*"),
        ("_a__b_ **x**", r"_a\_\_b_ *x*"),
        ("*a*_b_", r"_a_\_b\_"),
        ("- item\n- **two**", "\\- item\n\\- *two*"),
        ("## C# vs F#", r"*C\# vs F\#*"),
        ("# C#", r"*C\#*"),
        ("## Title ##", "*Title*"),
        ("### **Step 1**", "*Step 1*"),
        ("### **Step 1**: *go*", "*Step 1: _go_*"),
        ("## **Step** with `code`", "*Step* with `code`"),
        ("_a *b* c_", "_a b c_"),
        ("```\n```\n**x**", "\\`\\`\\`\n\\`\\`\\`\n*x*"),
        ("[one](https://a.example) **x**", "[one](https://a.example) *x*"),
        ("[one](http://me@a.example:80?q) **x**", "[one](http://me@a.example:80?q) *x*"),
        ("[chat](tg://user?id=1)", "[chat](tg://user?id=1)"),
        ("[Dashboard](http://localhost:3000/_x_) **x**", r"\[Dashboard\]\(http://localhost:3000/\_x\_\) *x*"),
        ("[mail](mailto:a@b.example) **x**", r"\[mail\]\(mailto:a@b\.example\) *x*"),
        ("[me](https://a.example@localhost/) **x**", r"\[me\]\(https://a\.example@localhost/\) *x*"),
    ];
    for (source, expected) in cases {
        assert_eq!(rendered(source), expected, "{source}");
        read(expected).unwrap_or_else(|problem| panic!("{source}: {problem}"));
    }
}

#[test]
fn a_text_without_markup_is_left_as_it_is() {
    for source in
        ["Hello. (1+1=2!)", "a_b_c", "2 * 3", "**open", "a | b\n--|--", "`", "[x](y)", "```\n```", "#hash"]
    {
        let rendered = render(source);
        assert_eq!((rendered.text.as_str(), rendered.formatted), (source, false));
    }
}

#[test]
fn a_text_is_split_at_paragraphs_then_lines_then_words() {
    let paragraphs = format!("{}\n\n{}", "a ".repeat(1500).trim_end(), "b ".repeat(1500).trim_end());
    let chunks = split(&paragraphs);
    assert_eq!(chunks.len(), 2);
    assert!(chunks[0].source.ends_with('a') && chunks[1].source.starts_with('b'));

    let lines = format!("{}\n{}", "a ".repeat(1500).trim_end(), "b ".repeat(1500).trim_end());
    assert!(split(&lines)[1].source.starts_with('b'));

    let marks = "abc ``` ".repeat(2000);
    assert!(split(&marks).iter().all(|chunk| chunk.source.starts_with("abc")), "no block begins at a cut");

    let words = "word ".repeat(2000);
    assert!(
        split(&words).iter().all(|chunk| chunk.source.starts_with("word") && chunk.source.ends_with("word"))
    );
}

#[test]
fn a_block_of_code_is_closed_and_opened_again() {
    let code = format!("Look:\n```rust\n{}```\nDone.", "let number = 1234567890;\n".repeat(400));
    let chunks = split(&code);
    assert!(chunks.len() > 2);
    for chunk in &chunks {
        assert_eq!(chunk.source.matches("```").count() % 2, 0, "{}", chunk.source);
    }
    assert!(chunks[1].source.starts_with("```rust\nlet number"));
    let code: usize = chunks
        .iter()
        .flat_map(|chunk| read(&render(&chunk.source).text).unwrap().entities)
        .filter(|(kind, _)| *kind == "pre")
        .map(|(_, code)| code.matches("1234567890").count())
        .sum();
    assert_eq!(code, 400);
}

#[test]
fn a_message_ends_as_it_did_when_more_text_follows() {
    let text = super::bot_api::long_text(15_000);
    let whole = split(&text);
    for length in (0..text.len()).step_by(333) {
        let part = split(&text[..length]);
        let settled = part.len().saturating_sub(1);
        assert!(part[..settled].iter().zip(&whole).all(|(part, whole)| part.range == whole.range));
    }
}

#[test]
fn characters_that_belong_together_stay_together() {
    let family = "👨\u{200d}👩\u{200d}👧";
    for chunk in split(&family.repeat(1500)) {
        assert!(chunk.source.ends_with('👧') && chunk.source.starts_with('👨'));
    }
}

/// Lines that ask for a look ahead from everywhere: 300 KB each, for which a look from everywhere would take minutes.
fn hard_lines() -> Vec<String> {
    let runs = |longest: usize| (1..=longest).map(|length| "`".repeat(length) + "x").collect::<String>();
    let markers = [
        "-_a",
        "*a ",
        " _a",
        "**a ",
        "***a _b ~~c ",
        "[",
        "[a](",
        "[a](https://b.example/(",
        "(",
        "\\",
        "`` ` ",
    ];
    let mut lines: Vec<String> = markers.iter().map(|marker| marker.repeat(300_000 / marker.len())).collect();
    lines.push(runs(770));
    lines.push("-_a".repeat(50_000) + &runs(540));
    lines.push("[".repeat(150_000) + "](" + &"(".repeat(150_000));
    lines.push("```\n".repeat(75_000));
    lines
}

/// The limit is far above what is needed where the cost grows with the length, and far below what is needed where it grows
/// with its square.
#[test]
fn rendering_and_splitting_cost_what_the_length_warrants() {
    for line in hard_lines() {
        let begun = Instant::now();
        render(&line);
        split(&line);
        let name: String = line.chars().take(20).collect();
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}… takes {:?}", begun.elapsed());
    }
}

/// Texts with everything that could be taken for markup.
fn markup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9 .,!?äß]{1,12}",
        1 => Just("\n".to_owned()),
        1 => Just("\n\n".to_owned()),
        2 => "[*_~`#\\[\\]()>|{}=+\\\\-]{1,4}",
        1 => Just("**bold**".to_owned()),
        1 => Just("_italic_".to_owned()),
        1 => Just("`co*de`".to_owned()),
        1 => Just("[li_nk](https://a.example/?a=(b)_c)".to_owned()),
        1 => Just("\n```rust\n".to_owned()),
        1 => Just("\n```\n".to_owned()),
        1 => Just("\n~~~\n".to_owned()),
        1 => Just("\n~~~\n~~~\n".to_owned()),
        1 => Just("\n## Title *x*\n".to_owned()),
        1 => Just("🦀👨\u{200d}👩\u{200d}👧\u{301}".to_owned()),
    ];
    (prop::collection::vec(piece, 0..60), 1..40_usize)
        .prop_map(|(pieces, times)| pieces.concat().repeat(times))
}

/// What a text says: all of it but white space and what marks code, emphasis, headings and escapes. Brackets and addresses
/// of links, and languages of code, are in the rendered text where they are in its source.
fn characters(text: &str) -> String {
    let is_said = |char: &char| !char.is_whitespace() && !['*', '_', '~', '`', '#', '\\'].contains(char);
    text.chars().filter(is_said).collect()
}

/// A text without white space, and without the lines that open and close blocks of code.
fn without_fences(text: &str) -> String {
    let mut open: Option<Fence> = None;
    let mut said = String::new();
    for line in text.lines() {
        match &open {
            Some(fence) if fence.closes(line) => open = None,
            None if Fence::opening(line).is_some() => open = Fence::opening(line),
            _ => said.extend(line.chars().filter(|char| !char.is_whitespace())),
        }
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn chunks_are_the_text_in_order_and_whole(text in markup()) {
        // A line that is cut may begin a block where it goes on.
        prop_assume!(text.lines().all(|line| line.len() < 3000 || !(line.contains("```") || line.contains("~~~"))));
        let chunks = split(&text);
        prop_assert!(chunks.iter().all(|chunk| !chunk.source.trim().is_empty()));
        let sent: String = chunks.iter().map(|chunk| without_fences(&chunk.source)).collect();
        prop_assert_eq!(sent, without_fences(&text));
    }

    #[test]
    fn a_text_that_grows_is_split_as_the_whole_is(text in markup(), step in 1..3000_usize) {
        let mut chunks = Vec::new();
        for end in (0..text.len()).step_by(step).filter(|end| text.is_char_boundary(*end)) {
            split_on(&mut chunks, &text[..end]);
        }
        split_on(&mut chunks, &text);
        prop_assert_eq!(chunks, split(&text));
    }

    #[test]
    fn every_chunk_fits_into_a_message_in_either_form(text in markup()) {
        for chunk in split(&text) {
            prop_assert!(units(&chunk.source) <= LIMIT);
            prop_assert!(units(&render(&chunk.source).text) <= LIMIT);
        }
    }

    #[test]
    fn no_chunk_leaves_a_block_of_code_open(text in markup()) {
        for chunk in split(&text) {
            // The last one may end in a block that the text leaves open; rendering closes it.
            let open = chunk.source.split_inclusive('\n').fold(None, |open: Option<Fence>, line| match open {
                Some(fence) if fence.closes(line) => None,
                Some(fence) => Some(fence),
                None => Fence::opening(line),
            });
            prop_assert!(open.is_none() || chunk.range.end == text.len());
        }
    }

    #[test]
    fn what_is_rendered_can_be_read_and_says_the_same(text in markup()) {
        let rendered = render(&text);
        if !rendered.formatted {
            prop_assert_eq!(&rendered.text, &text);
            return Ok(());
        }
        read(&rendered.text).map_err(TestCaseError::fail)?;
        // Of the line that opens a block of code the language is kept.
        let opening = |line| Fence::opening(line).is_none_or(|fence| characters(line) == characters(&fence.reopen()));
        prop_assume!(text.lines().all(opening));
        prop_assert_eq!(characters(&rendered.text), characters(&text));
    }

    #[test]
    fn nothing_but_markers_is_rendered_to_something_that_can_be_read(text in "[*_~`#\\[\\]()\\\\ \na.:]{0,120}") {
        let rendered = render(&text);
        if rendered.formatted {
            read(&rendered.text).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn any_text_is_rendered_to_something_that_can_be_read(text in "\\PC{0,200}") {
        let rendered = render(&text);
        if rendered.formatted {
            read(&rendered.text).map_err(TestCaseError::fail)?;
        }
    }
}
