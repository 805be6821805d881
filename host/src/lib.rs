//! The Plugway gateway as a library: the `plugway` binary wires these modules, and the tests reach into them.

pub mod agents;
pub mod app;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod domain;
pub mod egress;
pub mod exchanges;
pub mod feed;
pub mod filters;
pub mod hub;
pub mod ingress;
pub mod plugins;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod worker;
