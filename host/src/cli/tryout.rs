//! What `plugway dev` prints to try: lines that work as they stand, pasted into sh or bash.
//!
//! No secret is printed: lines name the variable that holds it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::Config;
use crate::egress::SecretRef;

/// What the lines need of the configuration.
#[derive(Debug, Default)]
pub(super) struct Tryout {
    /// Before the telegram plugin's routes.
    mount: String,
    /// Before the openai plugin's.
    openai: String,
    /// The webhook's secret, a caller's key, an operator's key: where they are needed.
    webhook: Option<Shown>,
    key: Option<Shown>,
    admin: Admin,
}

/// A shell variable that holds a secret.
#[derive(Debug)]
struct Shown {
    variable: String,
    /// What it has to be set to, where it is not the variable that the gateway itself reads.
    hint: Option<&'static str>,
}

/// What `/admin` asks for.
#[derive(Debug, Default)]
enum Admin {
    #[default]
    Open,
    Key(Shown),
    Closed,
}

impl Shown {
    fn of(secret: &SecretRef, otherwise: &str, hint: &'static str) -> Self {
        match secret {
            SecretRef::Env(name) => Self { variable: name.clone(), hint: None },
            _ => Self { variable: otherwise.to_owned(), hint: Some(hint) },
        }
    }

    /// A comment that says what to set first.
    fn set_first(&self) -> String {
        match self.hint {
            Some(hint) => format!("  # first: {}='{hint}'\n", self.variable),
            None => format!("  # where {} is set as it is for the gateway\n", self.variable),
        }
    }
}

impl Tryout {
    /// What the configuration asks of callers.
    pub(super) fn of(config: &Config) -> Self {
        let telegram = config.plugins.get("telegram");
        let given = |secret: &&SecretRef| matches!(secret.resolve(), Ok(Some(_)));
        let webhook = telegram.and_then(|telegram| telegram.secrets.get("webhook_secret")).filter(given);
        let key = config.auth.keys.first();
        let admin = match (config.auth.admin_keys.first(), key) {
            (Some(key), _) => Admin::Key(Shown::of(key, "PLUGWAY_ADMIN_KEY", "one of auth.admin_keys")),
            (None, Some(_)) => Admin::Closed,
            (None, None) => Admin::Open,
        };
        let openai = config.plugins.get("openai").and_then(|openai| openai.mount.clone());
        Self {
            openai: openai.unwrap_or_default(),
            mount: telegram.and_then(|telegram| telegram.mount.clone()).unwrap_or_default(),
            webhook: webhook
                .map(|secret| Shown::of(secret, "WEBHOOK_SECRET", "plugins.telegram.secrets.webhook_secret")),
            key: key.map(|key| Shown::of(key, "PLUGWAY_KEY", "one of auth.keys")),
            admin,
        }
    }

    /// The lines, for what is served.
    pub(super) fn text(&self, address: SocketAddr, serves: impl Fn(&str) -> bool, plugins: &Path) -> String {
        let url = format!("http://{}", reachable(address));
        let mut text = String::from("\nTry, in another terminal:\n\n");
        let bearer = |key: &Shown| format!(" -H \"Authorization: Bearer ${}\"", key.variable);
        let key = self.key.as_ref().map(bearer).unwrap_or_default();
        if serves("telegram") {
            let secret = self
                .webhook
                .as_ref()
                .map(|secret| format!(" -H \"X-Telegram-Bot-Api-Secret-Token: ${}\"", secret.variable));
            let secret = secret.unwrap_or_default();
            let first: String = self.webhook.iter().chain(&self.key).map(Shown::set_first).collect();
            let mount = self.mount.trim_end_matches('/');
            // Writing into a string can't fail.
            let _ = write!(
                text,
                r#"  # a Telegram update comes in; the answer names a task
{first}  TASK=$(curl -s {url}{mount}/webhook -H 'Content-Type: application/json'{secret} \
    -d '{{"update_id":'$(date +%s)',"message":{{"message_id":1,"date":0,"chat":{{"id":42,"type":"private"}},"from":{{"id":42,"is_bot":false,"first_name":"You"}},"text":"Hello from a fresh machine"}}}}' \
    | sed 's/.*"task_id":"\([^"]*\)".*/\1/'); echo "$TASK"

  # its events, as they happen
  curl -N{key} {url}/stream/$TASK

  # what is known about it
  curl{key} {url}/tasks/$TASK

"#
            );
        }
        if serves("openai") {
            let mount = self.openai.trim_end_matches('/');
            let first: String = self.key.iter().map(Shown::set_first).collect();
            let _ = write!(
                text,
                r#"  # the same agent, as OpenAI's clients ask it
{first}  curl -N{key} {url}{mount}/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{{"stream":true,"messages":[{{"role":"user","content":"Hello from a fresh machine"}}]}}'

"#
            );
        }
        let admin = match &self.admin {
            Admin::Open => format!("  curl {url}/admin/plugins\n"),
            Admin::Key(key) => format!("{}  curl{} {url}/admin/plugins\n", key.set_first(), bearer(key)),
            Admin::Closed => format!("  # {url}/admin/plugins needs auth.admin_keys\n"),
        };
        let dir = plugins.display();
        let _ = write!(
            text,
            "  # the plugins, and how the gateway is\n{admin}  curl {url}/ready\n\nChange a plugin's source, and it is rebuilt and swapped in; drop any .wasm into {dir}.\n"
        );
        text
    }
}

/// An address that this machine can call: an unspecified one stands for all of its own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the lines in a plain shell whose `curl` says what it was called with.
    fn pasted(tryout: &Tryout, address: &str) -> String {
        let text = tryout.text(address.parse().unwrap(), |_| true, Path::new("plugins"));
        let lines: String = text
            .lines()
            .filter(|line| line.starts_with("  "))
            .fold(String::new(), |all, line| all + line + "\n");
        let curl = "set -eu\ncurl() { for arg in \"$@\"; do echo \"<$arg>\" >&2; done; echo '{\"status\":\"accepted\",\"task_id\":\"task_1\"}'; }\n";
        let script = format!("{curl}{lines}");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).env("SECRET", "s3cret").env("KEY", "a key");
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{output:?} of {script}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn update(called: &str) -> serde_json::Value {
        let json = called.lines().find_map(|line| line.strip_prefix("<{")).unwrap();
        serde_json::from_str(&format!("{{{}", json.strip_suffix('>').unwrap())).unwrap()
    }

    #[test]
    fn the_lines_work_in_a_plain_shell() {
        let called = pasted(&Tryout::default(), "0.0.0.0:8080");
        assert!(called.contains("<http://127.0.0.1:8080/webhook>"), "{called}");
        assert!(called.contains("<http://127.0.0.1:8080/stream/task_1>"), "{called}");
        assert!(update(&called)["update_id"].as_u64().unwrap() > 1_000_000_000, "{called}");
        assert!(!called.contains("Bearer") && !called.contains("Secret-Token"), "{called}");
    }

    #[test]
    fn the_lines_carry_what_the_configuration_asks_for() {
        let variable = |name: &str| Shown::of(&SecretRef::Env(name.into()), "", "");
        let tryout = Tryout {
            mount: "/second/".into(),
            openai: "/ai".into(),
            webhook: Some(variable("SECRET")),
            key: Some(variable("KEY")),
            admin: Admin::Key(variable("KEY")),
        };
        let called = pasted(&tryout, "[::1]:8080");
        assert!(called.contains("<http://[::1]:8080/second/webhook>"), "{called}");
        assert!(called.contains("<X-Telegram-Bot-Api-Secret-Token: s3cret>"), "{called}");
        assert!(called.contains("<http://[::1]:8080/ai/v1/chat/completions>"), "{called}");
        assert_eq!(called.matches("<Authorization: Bearer a key>").count(), 4, "{called}");
        update(&called);
    }
}
