//! Pages of items, as the API lists them.

use plugway_sdk::{Error, Request, Result};
use serde_json::{Value, json};

/// Items of a page, unless the caller says how many.
const PAGE: usize = 20;
const MOST: usize = 100;

/// The page that a request asks for: `limit`, `order`, `after`.
///
/// # Errors
/// A 400 that names the parameter.
pub(crate) fn page(request: &Request, mut items: Vec<Value>) -> Result<Value> {
    let limit = match request.query("limit") {
        None => PAGE,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=MOST).contains(limit))
            .ok_or_else(|| Error::field("limit", format_args!("must be from 1 to {MOST}")))?,
    };
    match request.query("order").as_deref() {
        Some("asc") => {}
        None | Some("desc") => items.reverse(),
        Some(_) => return Err(Error::field("order", "must be one of asc, desc")),
    }
    if let Some(after) = request.query("after") {
        let at = items.iter().position(|item| item["id"] == *after);
        let at = at.ok_or_else(|| Error::field("after", "names no item of this list"))?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id = |item: Option<&Value>| item.map_or_else(|| "".into(), |item| item["id"].clone());
    Ok(json!({
        "object": "list",
        "first_id": id(items.first()),
        "last_id": id(items.last()),
        "has_more": has_more,
        "data": items,
    }))
}
