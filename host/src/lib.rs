//! The Plugway gateway as a library: the `plugway` binary wires these modules, and the tests reach into them.

pub mod agents;
pub mod domain;
pub mod store;
