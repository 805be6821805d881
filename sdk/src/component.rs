//! The glue between the traits and the contract's exports. The functions are the same natively, where `mock` calls them.

use crate::{
    bindings::{delivery as delivery_wit, filter as filter_wit, imports::types::HttpRequest, plugin},
    error::{Error, Result, from_json},
    mailbox::{self, Reason},
    manifest::Plugin,
    reply::{Answer, Reply},
    request::Request,
    role::{Admission, Delivery, Draft, Failure, Filter, HttpAdapter, Socket, SocketAdapter},
    sys::{millis64, responder},
    task::TaskRef,
};

pub fn describe<P: Plugin>() -> plugin::Manifest {
    let manifest = P::manifest();
    let routes = manifest.routes.into_iter().map(|route| plugin::Route {
        kind: if route.websocket { plugin::RouteKind::Websocket } else { plugin::RouteKind::Http },
        access: if route.by_plugin { plugin::Access::Plugin } else { plugin::Access::Key },
        method: route.method,
        path: route.path,
    });
    plugin::Manifest {
        name: manifest.name,
        version: manifest.version,
        summary: manifest.summary,
        routes: routes.collect(),
        origins: manifest.origins,
        secrets: manifest.secrets,
        config_schema: manifest.config_schema,
    }
}

pub fn handle<A: HttpAdapter>(adapter: &A, request: HttpRequest) -> Result<(), String> {
    mailbox::clear();
    let (reply, answer) = Reply::new();
    let outcome = adapter.handle(Request::from_raw(request), reply);
    match (outcome, answer.take()) {
        (Ok(()), Answer::Growing(body)) => {
            responder::Body::finish(body);
            Ok(())
        }
        (Ok(()), Answer::Whole) | (Err(Error::Closed(Reason::PeerGone)), _) => Ok(()),
        (Ok(()), Answer::None) => Err("the handler returned without an answer".to_owned()),
        (Ok(()), Answer::Refused(problem)) => Err(problem),
        (Err(error @ (Error::Internal(_) | Error::Gap { .. })), Answer::None) => Err(error.reason()),
        (Err(error), Answer::None) => {
            responder::send(&error.response().into_raw())?;
            // What the caller was not told is for the log.
            if error.reason() == error.to_string() { Ok(()) } else { Err(error.reason()) }
        }
        (Err(error), Answer::Growing(_) | Answer::Whole | Answer::Refused(_)) => Err(error.reason()),
    }
}

pub fn serve<A: SocketAdapter>(adapter: &A, upgrade: HttpRequest) -> Result<(), String> {
    mailbox::clear();
    match adapter.serve(Request::from_raw(upgrade), Socket { private: () }) {
        Ok(()) | Err(Error::Closed(_)) => Ok(()),
        Err(error) => Err(error.reason()),
    }
}

pub fn deliver<A: Delivery>(adapter: &A, task: String, address: &str) -> Result<(), delivery_wit::Failure> {
    mailbox::clear();
    let outcome = match from_json(address.as_bytes()) {
        Ok(address) => adapter.deliver(TaskRef::new(task), address),
        Err((message, _)) => Err(Failure::Permanent(format!("address: {message}"))),
    };
    outcome.map_err(|failure| match failure {
        Failure::Retry { after, reason } => {
            delivery_wit::Failure::Retry(delivery_wit::Retry { after_ms: millis64(after), reason })
        }
        Failure::Permanent(why) => delivery_wit::Failure::Permanent(why),
    })
}

pub fn given_up<A: Delivery>(adapter: &A, task: String, address: &str, reason: &str) -> Result<(), String> {
    mailbox::clear();
    let address = from_json(address.as_bytes()).map_err(|(message, _)| format!("address: {message}"))?;
    adapter.given_up(TaskRef::new(task), address, reason).map_err(|error| error.reason())
}

pub fn admit<A: Filter>(adapter: &A, input: &str) -> filter_wit::Admission {
    match adapter.admit(input) {
        Admission::Pass => filter_wit::Admission::Pass,
        Admission::Replace(input) => filter_wit::Admission::Replace(input),
        Admission::Refuse(why) => filter_wit::Admission::Refuse(why),
    }
}

pub fn apply<A: Filter>(
    adapter: &A,
    task: &str,
    mut state: Vec<u8>,
    event: filter_wit::Draft,
) -> filter_wit::Step {
    let events = adapter.apply(task, &mut state, Draft { kind: event.kind, data: event.data });
    let events = events.into_iter().map(|event| filter_wit::Draft { kind: event.kind, data: event.data });
    filter_wit::Step { state, events: events.collect() }
}

/// Exports one interface for one type; in a component only, so that native tests may have several plugins in one binary.
#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    ($adapter:ident plugin) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::plugin::Guest for Exported {
                fn describe() -> $crate::bindings::plugin::Manifest {
                    $crate::component::describe::<$adapter>()
                }

                fn check(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    <$adapter as $crate::Plugin>::check(&config)
                }
            }

    $crate::bindings::plugin::export_plugin!(Exported with_types_in $crate::bindings::plugin);
        };
    };
    ($adapter:ident http) => {
        const _: fn() = $crate::component::implements_http::<$adapter>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::http::Guest for Exported {
                fn handle(
                    request: $crate::bindings::imports::types::HttpRequest,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::component::handle(&$adapter, request)
                }
            }

    $crate::bindings::http::export_http!(Exported with_types_in $crate::bindings::http);
        };
    };
    ($adapter:ident socket) => {
        const _: fn() = $crate::component::implements_socket::<$adapter>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::socket::Guest for Exported {
                fn serve(
                    upgrade: $crate::bindings::imports::types::HttpRequest,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::component::serve(&$adapter, upgrade)
                }
            }

    $crate::bindings::socket::export_socket!(Exported with_types_in $crate::bindings::socket);
        };
    };
    ($adapter:ident delivery) => {
        const _: fn() = $crate::component::implements_delivery::<$adapter>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::delivery::Guest for Exported {
                fn deliver(
                    task: ::std::string::String,
                    address: ::std::string::String,
                ) -> ::core::result::Result<(), $crate::bindings::delivery::Failure> {
                    $crate::component::deliver(&$adapter, task, &address)
                }

                fn given_up(
                    task: ::std::string::String,
                    address: ::std::string::String,
                    reason: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::component::given_up(&$adapter, task, &address, &reason)
                }
            }

    $crate::bindings::delivery::export_delivery!(Exported with_types_in $crate::bindings::delivery);
        };
    };
    ($adapter:ident filter) => {
        const _: fn() = $crate::component::implements_filter::<$adapter>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::filter::Guest for Exported {
                fn admit(input: ::std::string::String) -> $crate::bindings::filter::Admission {
                    $crate::component::admit(&$adapter, &input)
                }

                fn apply(
                    task: ::std::string::String,
                    state: ::std::vec::Vec<u8>,
                    event: $crate::bindings::filter::Draft,
                ) -> $crate::bindings::filter::Step {
                    $crate::component::apply(&$adapter, &task, state, event)
                }
            }

    $crate::bindings::filter::export_filter!(Exported with_types_in $crate::bindings::filter);
        };
    };
    ($adapter:ident $other:ident) => {
        compile_error!(concat!("`", stringify!($other), "` is no role: http, socket, delivery, filter"));
    };
}

/// The compiler's word that a type has the trait of its role, natively too.
pub fn implements_http<A: HttpAdapter>() {}

/// See [`implements_http`].
pub fn implements_socket<A: SocketAdapter>() {}

/// See [`implements_http`].
pub fn implements_delivery<A: Delivery>() {}

/// See [`implements_http`].
pub fn implements_filter<A: Filter>() {}
