//! Pages of items, as the API lists them.

use plugway_sdk::{Error, Request, Result};
use serde_json::{Value, json};

/// Items of a page, unless the caller says how many.
const PAGE: usize = 20;
const MOST: usize = 100;

/// The page that a request asks for: `limit`, `order`, `after`. Parts of the list are read one by one, in order, until the
/// page is full.
///
/// # Errors
/// A 400 that names the parameter; a part can't be read.
pub(crate) fn page(
    request: &Request,
    parts: impl DoubleEndedIterator<Item = Result<Vec<Value>>>,
) -> Result<Value> {
    let limit = match request.query("limit") {
        None => PAGE,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=MOST).contains(limit))
            .ok_or_else(|| Error::field("limit", format_args!("must be from 1 to {MOST}")))?,
    };
    let after = request.query("after");
    let mut page = Page { limit, after: after.as_deref(), items: Vec::new() };
    match request.query("order").as_deref() {
        Some("asc") => {
            for part in parts {
                if page.is_full_with(part?) {
                    break;
                }
            }
        }
        None | Some("desc") => {
            for part in parts.rev() {
                let mut part = part?;
                part.reverse();
                if page.is_full_with(part) {
                    break;
                }
            }
        }
        Some(_) => return Err(Error::field("order", "must be one of asc, desc")),
    }
    page.shown()
}

/// A page as it fills.
struct Page<'a> {
    limit: usize,
    /// Still looked for: what stands before it, and itself, is left out.
    after: Option<&'a str>,
    /// One more than the page has, if there are more.
    items: Vec<Value>,
}

impl Page<'_> {
    fn is_full_with(&mut self, part: Vec<Value>) -> bool {
        for item in part {
            match self.after {
                Some(after) if item["id"] == after => self.after = None,
                Some(_) => {}
                None => self.items.push(item),
            }
            if self.items.len() > self.limit {
                return true;
            }
        }
        false
    }

    fn shown(mut self) -> Result<Value> {
        if self.after.is_some() {
            return Err(Error::field("after", "names no item of this list"));
        }
        let has_more = self.items.len() > self.limit;
        self.items.truncate(self.limit);
        let id = |item: Option<&Value>| item.map_or_else(|| "".into(), |item| item["id"].clone());
        Ok(json!({
            "object": "list",
            "first_id": id(self.items.first()),
            "last_id": id(self.items.last()),
            "has_more": has_more,
            "data": self.items,
        }))
    }
}
