//! What a plugin says about itself, and `export!`, which turns a type with roles into a component.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// What `export!` makes of a type. Not to be implemented by hand.
pub trait Plugin {
    /// What the plugin is, for the host's catalogue.
    fn manifest() -> Manifest;

    /// Checks a configuration before the plugin goes live.
    ///
    /// # Errors
    /// A sentence for the operator, which names the setting.
    fn check(config: &str) -> Result<(), String>;
}

/// What a plugin is, for the host's catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// The author's name for it.
    pub name: String,
    /// The author's version.
    pub version: String,
    /// One sentence for people.
    pub summary: String,
    /// What it answers.
    pub routes: Vec<Route>,
    /// Origins that it wants to reach.
    pub origins: Vec<String>,
    /// Secrets that it wants put in.
    pub secrets: Vec<String>,
    /// JSON Schema of its configuration.
    pub config_schema: String,
}

/// One route of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Upper case; `*` for any. A WebSocket's is `GET`.
    pub method: String,
    /// As `/v1/responses/{id}`.
    pub path: String,
    /// Whether it is a WebSocket, for the `socket` role.
    pub websocket: bool,
    /// Whether the plugin itself decides who may come in, rather than the host by a key.
    pub by_plugin: bool,
}

/// What `export!` collects. Hidden, since only the macro calls it.
#[doc(hidden)]
impl Manifest {
    pub fn new(name: &str, version: &str, summary: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            summary: summary.to_owned(),
            routes: Vec::new(),
            origins: Vec::new(),
            secrets: Vec::new(),
            config_schema: r#"{"type":"object","additionalProperties":false}"#.to_owned(),
        }
    }

    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    #[must_use]
    pub fn with_version(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }

    #[must_use]
    pub fn with_summary(self, summary: &str) -> Self {
        Self { summary: summary.to_owned(), ..self }
    }

    #[must_use]
    pub fn with_origins(self, origins: &[&str]) -> Self {
        Self { origins: origins.iter().map(|&origin| origin.to_owned()).collect(), ..self }
    }

    #[must_use]
    pub fn with_secrets(self, secrets: &[&str]) -> Self {
        Self { secrets: secrets.iter().map(|&secret| secret.to_owned()).collect(), ..self }
    }

    #[must_use]
    pub fn with_config<T: JsonSchema>(self) -> Self {
        let schema =
            schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
        Self { config_schema: schema.to_value().to_string(), ..self }
    }

    #[must_use]
    pub fn with_routes(self, routes: &[(&str, bool)]) -> Self {
        let routes = routes.iter().map(|&(route, by_plugin)| {
            let (method, path) = route.split_once(' ').unwrap_or(("*", route));
            let websocket = method == "WS";
            let method = if websocket { "GET" } else { method }.to_owned();
            Route { method, path: path.to_owned(), websocket, by_plugin }
        });
        Self { routes: routes.collect(), ..self }
    }
}

/// Checks a configuration for a plugin that declares none.
#[doc(hidden)]
pub fn check_nothing(config: &str) -> Result<(), String> {
    match config.trim() {
        "" | "{}" | "null" => Ok(()),
        _ => Err("this plugin takes no configuration".to_owned()),
    }
}

/// An author's own rules for a configuration.
#[doc(hidden)]
pub type Validate<T> = fn(&T) -> Result<(), String>;

/// Checks a configuration by its type and the author's own rules.
#[doc(hidden)]
pub fn check<T: DeserializeOwned>(config: &str, validate: Option<Validate<T>>) -> Result<(), String> {
    let config = crate::error::from_json::<T>(config.as_bytes()).map_err(|(message, _)| message)?;
    validate.map_or(Ok(()), |validate| validate(&config))
}

/// Stops the build for a route that can't be right, at compile time.
#[doc(hidden)]
pub const fn check_routes(routes: &[(&str, bool)], roles: &[&str]) {
    let (http, socket) = (has(roles, "http"), has(roles, "socket"));
    let mut at = 0;
    while at < routes.len() {
        let route = routes[at].0.as_bytes();
        let mut space = 0;
        while space < route.len() && route[space] != b' ' {
            assert!(
                route[space].is_ascii_uppercase() || route[space] == b'*',
                "a route is written as \"METHOD /path\", the method in upper case"
            );
            space += 1;
        }
        assert!(
            space > 0 && space + 1 < route.len() && route[space + 1] == b'/',
            "a route is written as \"METHOD /path\", with one space"
        );
        if space == 2 && route[0] == b'W' && route[1] == b'S' {
            assert!(socket, "a \"WS /path\" route needs the role `socket`");
        } else {
            assert!(http, "a \"METHOD /path\" route needs the role `http`");
        }
        at += 1;
    }
}

const fn has(roles: &[&str], wanted: &str) -> bool {
    let mut at = 0;
    while at < roles.len() {
        let (role, wanted) = (roles[at].as_bytes(), wanted.as_bytes());
        let mut same = 0;
        while same < role.len() && same < wanted.len() && role[same] == wanted[same] {
            same += 1;
        }
        if same == role.len() && same == wanted.len() {
            return true;
        }
        at += 1;
    }
    false
}

/// Makes a type a plugin: names its roles, and what the host's catalogue should know.
///
/// The type is a unit struct that implements the trait of each role: `http` ([`HttpAdapter`](crate::HttpAdapter)),
/// `socket` ([`SocketAdapter`](crate::SocketAdapter)), `delivery` ([`Delivery`](crate::Delivery)), `filter`
/// ([`Filter`](crate::Filter)). Options, all optional and in any order:
///
/// | option | what it is | default |
/// | --- | --- | --- |
/// | `routes = ["POST /hello", "WS /ws/{id}"]` | what it answers; `"POST /hook" by plugin` when the plugin itself verifies the caller | none |
/// | `name`, `version`, `summary` | for people | the crate's |
/// | `origins = ["https://api.example.com"]` | where it wants to send requests | none |
/// | `secrets = ["token"]` | what it wants put in | none |
/// | `config = Type` | its configuration: serde, and schemars for the schema | takes none |
/// | `validate = function` | `fn(&Type) -> Result<(), String>`: rules beyond the type | – |
///
/// ```
/// use plugway_sdk::prelude::*;
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// #[derive(Deserialize, JsonSchema)]
/// #[serde(default, deny_unknown_fields)]
/// struct Config { greeting: String }
///
/// impl Default for Config {
///     fn default() -> Self { Self { greeting: "Hello".into() } }
/// }
///
/// fn polite(config: &Config) -> Result<(), String> {
///     if config.greeting.is_empty() { Err("greeting: must not be empty".into()) } else { Ok(()) }
/// }
///
/// struct Greeter;
///
/// impl HttpAdapter for Greeter {
///     fn handle(&self, request: Request, reply: Reply) -> Result<()> {
///         let config: Config = host::config()?;
///         reply.text(200, format!("{} {}", config.greeting, request.param("name").unwrap_or("you")))
///     }
/// }
///
/// plugway_sdk::export!(Greeter: http, routes = ["GET /greet/{name}" by plugin], config = Config, validate = polite);
///
/// # fn main() {
/// assert_eq!(Greeter::check(r#"{"greeting": 7}"#), Err("greeting: invalid type: integer `7`, expected a string".into()));
/// assert_eq!(Greeter::check(r#"{"greeting": ""}"#), Err("greeting: must not be empty".into()));
/// assert_eq!(plugway_sdk::mock::Mock::new().get("/greet/Ada").handle(&Greeter).text(), "Hello Ada");
/// # }
/// ```
#[macro_export]
macro_rules! export {
    ($adapter:ident : $role:ident $(+ $more:ident)* $(, $($options:tt)*)?) => {
        impl $crate::Plugin for $adapter {
            fn manifest() -> $crate::Manifest {
                const ROLES: &[&str] = &[stringify!($role) $(, stringify!($more))*];
                let manifest = $crate::Manifest::new(
                    env!("CARGO_PKG_NAME"),
                    env!("CARGO_PKG_VERSION"),
                    env!("CARGO_PKG_DESCRIPTION"),
                );
                $crate::__manifest!(manifest, ROLES; $($($options)*)?)
            }

            fn check(config: &str) -> ::core::result::Result<(), ::std::string::String> {
                $crate::__check!(config, [], []; $($($options)*)?)
            }
        }

        $crate::__component!($adapter plugin);
        $crate::__component!($adapter $role);
        $($crate::__component!($adapter $more);)*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __manifest {
    ($manifest:expr, $roles:ident; ) => { $manifest };
    ($manifest:expr, $roles:ident; routes = [$($route:literal $(by $access:ident)?),* $(,)?] $(, $($rest:tt)*)?) => {{
        const ROUTES: &[(&str, bool)] = &[$(($route, $crate::__by_plugin!($($access)?))),*];
        const { $crate::manifest::check_routes(ROUTES, $roles) };
        $crate::__manifest!($manifest.with_routes(ROUTES), $roles; $($($rest)*)?)
    }};
    ($manifest:expr, $roles:ident; name = $name:expr $(, $($rest:tt)*)?) => {
        $crate::__manifest!($manifest.with_name($name), $roles; $($($rest)*)?)
    };
    ($manifest:expr, $roles:ident; version = $version:expr $(, $($rest:tt)*)?) => {
        $crate::__manifest!($manifest.with_version($version), $roles; $($($rest)*)?)
    };
    ($manifest:expr, $roles:ident; summary = $summary:expr $(, $($rest:tt)*)?) => {
        $crate::__manifest!($manifest.with_summary($summary), $roles; $($($rest)*)?)
    };
    ($manifest:expr, $roles:ident; origins = [$($origin:expr),* $(,)?] $(, $($rest:tt)*)?) => {
        $crate::__manifest!($manifest.with_origins(&[$($origin),*]), $roles; $($($rest)*)?)
    };
    ($manifest:expr, $roles:ident; secrets = [$($secret:expr),* $(,)?] $(, $($rest:tt)*)?) => {
        $crate::__manifest!($manifest.with_secrets(&[$($secret),*]), $roles; $($($rest)*)?)
    };
    ($manifest:expr, $roles:ident; config = $config:ty $(, $($rest:tt)*)?) => {
        $crate::__manifest!($manifest.with_config::<$config>(), $roles; $($($rest)*)?)
    };
    ($manifest:expr, $roles:ident; validate = $validate:expr $(, $($rest:tt)*)?) => {
        $crate::__manifest!($manifest, $roles; $($($rest)*)?)
    };
    ($manifest:expr, $roles:ident; $option:ident $($rest:tt)*) => {
        compile_error!(concat!(
            "`", stringify!($option), "` is no option of export!, or its value has another form: ",
            "routes, name, version, summary, origins, secrets, config, validate"
        ))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __by_plugin {
    () => {
        false
    };
    (key) => {
        false
    };
    (plugin) => {
        true
    };
    ($other:ident) => {
        compile_error!("access is `by key` (the default) or `by plugin`")
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __check {
    ($text:ident, [], []; ) => { $crate::manifest::check_nothing($text) };
    ($text:ident, [], [$($validate:tt)+]; ) => { compile_error!("`validate` needs `config`") };
    ($text:ident, [$config:ty], []; ) => { $crate::manifest::check::<$config>($text, ::core::option::Option::None) };
    ($text:ident, [$config:ty], [$validate:expr]; ) => {
        $crate::manifest::check::<$config>($text, ::core::option::Option::Some($validate))
    };
    ($text:ident, [$($old:tt)*], [$($validate:tt)*]; config = $config:ty $(, $($rest:tt)*)?) => {
        $crate::__check!($text, [$config], [$($validate)*]; $($($rest)*)?)
    };
    ($text:ident, [$($config:tt)*], [$($old:tt)*]; validate = $validate:expr $(, $($rest:tt)*)?) => {
        $crate::__check!($text, [$($config)*], [$validate]; $($($rest)*)?)
    };
    ($text:ident, [$($config:tt)*], [$($validate:tt)*]; routes = [$($value:tt)*] $(, $($rest:tt)*)?) => {
        $crate::__check!($text, [$($config)*], [$($validate)*]; $($($rest)*)?)
    };
    ($text:ident, [$($config:tt)*], [$($validate:tt)*]; $option:ident = $value:expr $(, $($rest:tt)*)?) => {
        $crate::__check!($text, [$($config)*], [$($validate)*]; $($($rest)*)?)
    };
}
