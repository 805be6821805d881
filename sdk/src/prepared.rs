//! What a plugin makes of its configuration, kept for the next call of the same instance.

use crate::{error::Result, host, sys};
use serde::de::DeserializeOwned;
use std::{cell::RefCell, fmt, rc::Rc};

/// What a filter makes of its configuration (compiled patterns, tables), made once an instance: filters are called for
/// every event, and an instance never sees another configuration. Not for what a task leaves behind: that is `state`.
///
/// ```
/// # use plugway_sdk::{Prepared, mock::Mock};
/// #[derive(serde::Deserialize)]
/// struct Config { words: Vec<String> }
///
/// thread_local! {
///     static LONGEST: Prepared<usize> =
///         Prepared::new(|config: Config| config.words.iter().map(String::len).max().unwrap_or(0));
/// }
///
/// # let mock = Mock::new();
/// mock.config(serde_json::json!({"words": ["a", "abc"]}));
/// assert_eq!(*LONGEST.with(|longest| longest.get())?, 3);
/// # Ok::<(), plugway_sdk::Error>(())
/// ```
pub struct Prepared<T> {
    make: Box<dyn Fn() -> Result<T>>,
    made: RefCell<Option<(String, Rc<T>)>>,
}

impl<T> fmt::Debug for Prepared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

impl<T> Prepared<T> {
    /// What is to be made, by the first [`get`](Self::get).
    pub fn new<C: DeserializeOwned>(make: impl Fn(C) -> T + 'static) -> Self {
        Self { make: Box::new(move || host::config().map(&make)), made: RefCell::new(None) }
    }

    /// What was made. In the mock it is made again once another configuration is there.
    ///
    /// # Errors
    /// As [`host::config`].
    pub fn get(&self) -> Result<Rc<T>> {
        let config = if cfg!(target_family = "wasm") { String::new() } else { sys::host::config() };
        if let Some((made_of, made)) = &*self.made.borrow()
            && *made_of == config
        {
            return Ok(made.clone());
        }
        let made = Rc::new((self.make)()?);
        *self.made.borrow_mut() = Some((config, made.clone()));
        Ok(made)
    }
}
