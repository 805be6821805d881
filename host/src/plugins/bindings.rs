//! The part of the contract that the catalogue itself reads: the `plugin` interface, which every plugin exports.

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
