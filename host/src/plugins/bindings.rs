//! The parts of the contract that are served here: the `plugin` interface, which every plugin exports, and the role
//! `filter`.

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package plugway:host;
        world plugin-exports { export plugway:gateway/plugin@0.1.0; }
    ",
    world: "plugway:host/plugin-exports",
    exports: { default: async },
    require_store_data_send: true,
});

/// The role that judges events, with the one import that is linked for it.
pub(super) mod filter {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package plugway:host;
            world filter-component {
                import plugway:gateway/host@0.1.0;
                export plugway:gateway/filter@0.1.0;
            }
        ",
        world: "plugway:host/filter-component",
        imports: { default: trappable },
        exports: { default: async },
        require_store_data_send: true,
    });
}
