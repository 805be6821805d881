//! The contract as Rust types, generated from `wit/`: one world with everything that an exchange may import, and one
//! per role, so that any mix of roles can be read off a component.

/// What exchanges import.
pub(crate) mod imports {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package plugway:host;
            world exchange {
                include plugway:gateway/adapter-imports@0.1.0;
                import plugway:gateway/responder@0.1.0;
                import plugway:gateway/connection@0.1.0;
            }
        ",
        world: "plugway:host/exchange",
        imports: {
            "plugway:gateway/host": trappable,
            "plugway:gateway/agents": trappable,
            "plugway:gateway/pacing.pause": trappable,
            "plugway:gateway/responder.send": trappable,
            "plugway:gateway/responder.start": trappable,
            "plugway:gateway/responder.[static]body.finish": trappable,
            "plugway:gateway/connection.close": trappable,
            default: async | trappable,
        },
        with: {
            "plugway:gateway/responder.body": crate::exchanges::responder::Body,
        },
        require_store_data_send: true,
    });
}

/// The role that answers HTTP requests.
pub(crate) mod http {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package plugway:host;
            world http-exports { export plugway:gateway/http@0.1.0; }
        ",
        world: "plugway:host/http-exports",
        exports: { default: async },
        with: { "plugway:gateway/types": super::imports::plugway::gateway::types },
        require_store_data_send: true,
    });
}

/// The role that serves WebSocket connections.
pub(crate) mod socket {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package plugway:host;
            world socket-exports { export plugway:gateway/socket@0.1.0; }
        ",
        world: "plugway:host/socket-exports",
        exports: { default: async },
        with: { "plugway:gateway/types": super::imports::plugway::gateway::types },
        require_store_data_send: true,
    });
}

/// The role that carries a task's outcome to a platform.
pub(crate) mod delivery {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package plugway:host;
            world delivery-exports { export plugway:gateway/delivery@0.1.0; }
        ",
        world: "plugway:host/delivery-exports",
        exports: { default: async },
        require_store_data_send: true,
    });
}

pub(crate) use imports::plugway::gateway::{
    agents, connection, host, http_client, kv, mailbox, pacing, responder, tasks, types, webhooks,
};
