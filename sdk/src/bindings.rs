//! The raw contract.
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
}
pub mod http {
    wit_bindgen::generate!({
        path: "../wit",
        inline: r#"
            package plugway:sdk;
            world http {
                export plugway:gateway/http@0.1.0;
            }
        "#,
        world: "plugway:sdk/http",
        with: { "plugway:gateway/types@0.1.0": crate::bindings::imports::plugway::gateway::types },
        pub_export_macro: true,
        export_macro_name: "export_http",
        default_bindings_module: "plugway_sdk::bindings::http",
    });
}
