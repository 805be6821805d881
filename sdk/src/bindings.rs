//! The contract as wit-bindgen generates it. Nothing in here is for authors: the rest of the crate puts Rust types over it.
//!
//! The contract's own worlds bundle roles, so they are not used. Here stands one world with everything that may be
//! imported, and one tiny world per interface that may be exported. Each becomes a section of the built module, and the
//! linker's component encoder merges the sections: a component imports what its code calls, and exports `plugin` and the
//! roles that `export!` was given.

/// Everything that an adapter may call.
pub mod imports {
    wit_bindgen::generate!({
        path: "../wit",
        inline: r#"
            package plugway:sdk;
            world imports {
                include plugway:gateway/adapter-imports@0.1.0;
                import plugway:gateway/responder@0.1.0;
                import plugway:gateway/connection@0.1.0;
            }
        "#,
        world: "plugway:sdk/imports",
        generate_all,
    });

    pub use plugway::gateway::*;
}

/// The export that every plugin has.
pub mod plugin {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package plugway:sdk; world plugin { export plugway:gateway/plugin@0.1.0; }",
        world: "plugway:sdk/plugin",
        pub_export_macro: true,
        export_macro_name: "export_plugin",
        default_bindings_module: "plugway_sdk::bindings::plugin",
    });

    pub use exports::plugway::gateway::plugin::*;
}

/// Role `http`.
pub mod http {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package plugway:sdk; world http { export plugway:gateway/http@0.1.0; }",
        world: "plugway:sdk/http",
        with: { "plugway:gateway/types@0.1.0": crate::bindings::imports::types },
        pub_export_macro: true,
        export_macro_name: "export_http",
        default_bindings_module: "plugway_sdk::bindings::http",
    });

    pub use exports::plugway::gateway::http::Guest;
}

/// Role `socket`.
pub mod socket {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package plugway:sdk; world socket { export plugway:gateway/socket@0.1.0; }",
        world: "plugway:sdk/socket",
        with: { "plugway:gateway/types@0.1.0": crate::bindings::imports::types },
        pub_export_macro: true,
        export_macro_name: "export_socket",
        default_bindings_module: "plugway_sdk::bindings::socket",
    });

    pub use exports::plugway::gateway::socket::Guest;
}

/// Role `delivery`.
pub mod delivery {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package plugway:sdk; world delivery { export plugway:gateway/delivery@0.1.0; }",
        world: "plugway:sdk/delivery",
        pub_export_macro: true,
        export_macro_name: "export_delivery",
        default_bindings_module: "plugway_sdk::bindings::delivery",
    });

    pub use exports::plugway::gateway::delivery::{Failure, Guest, Retry};
}

/// Role `filter`.
pub mod filter {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "package plugway:sdk; world filter { export plugway:gateway/filter@0.1.0; }",
        world: "plugway:sdk/filter",
        pub_export_macro: true,
        export_macro_name: "export_filter",
        default_bindings_module: "plugway_sdk::bindings::filter",
    });

    pub use exports::plugway::gateway::filter::{Admission, Draft, Guest, Step};
}
