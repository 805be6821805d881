//! Who may use whom. The table is the one in ARCHITECTURE.md; a forbidden `crate::…` or a library in the wrong module
//! fails here, so that neither can rot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may use beside `domain` and `telemetry`.
const MODULES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("telemetry", &[]),
    ("store", &[]),
    ("egress", &[]),
    ("agents", &["egress"]),
    ("hub", &["store"]),
    ("feed", &["egress", "hub", "store"]),
    ("tasks", &["store", "hub", "filters"]),
    ("worker", &["tasks", "agents", "filters", "hub", "store"]),
    ("plugins", &["egress"]),
    ("filters", &["plugins"]),
    ("delivery", &["store", "egress"]),
    ("exchanges", &["plugins", "tasks", "hub", "store", "egress", "delivery"]),
    ("ingress", &["exchanges", "tasks", "hub", "feed", "plugins", "store", "egress"]),
    ("config", &["agents", "delivery", "egress", "feed", "ingress", "plugins", "tasks"]),
    (
        "app",
        &[
            "agents",
            "config",
            "delivery",
            "egress",
            "exchanges",
            "feed",
            "filters",
            "hub",
            "ingress",
            "plugins",
            "store",
            "tasks",
            "worker",
        ],
    ),
    ("cli", &["agents", "app", "config", "delivery", "egress", "exchanges", "feed", "ingress", "plugins"]),
];

/// Libraries that only some modules may know.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("wasmtime", &["plugins", "exchanges"]),
    ("wasmtime_wasi", &["plugins", "exchanges"]),
    ("axum", &["ingress"]),
    ("tower_http", &["ingress"]),
    ("rusqlite", &["store"]),
    ("redis", &["store", "agents", "feed"]),
    ("reqwest", &["agents"]),
    ("hyper_rustls", &["egress"]),
    ("clap", &["cli"]),
    ("figment", &["config"]),
    ("anyhow", &["app", "cli"]),
];

#[test]
fn no_module_uses_one_that_it_may_not() {
    let mut faults = Vec::new();
    for (module, files) in sources() {
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("{module}: not in the table; add it here and to ARCHITECTURE.md"));
            continue;
        };
        for (path, text) in &files {
            for used in words_after(text, "crate::") {
                let fits =
                    used == module || matches!(used, "domain" | "telemetry") || allowed.contains(&used);
                if MODULES.iter().any(|(name, _)| *name == used) && !fits {
                    faults.push(format!("{}: `{module}` may not use `{used}`", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_library_is_known_where_it_should_not_be() {
    let mut faults = Vec::new();
    for (module, files) in sources() {
        for (path, text) in &files {
            for (library, allowed) in LIBRARIES {
                let named = [format!("use {library}::"), format!("{library}::")];
                let is_used = named.iter().any(|name| mentions(text, name));
                if is_used && !allowed.contains(&module.as_str()) {
                    faults.push(format!("{}: `{module}` may not know `{library}`", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_in_the_architecture_document_is_this_one() {
    let document = fs::read_to_string(root().join("../ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, module, _, uses, ..] = cells[..] else { continue };
        documented.insert(module.trim_matches('`').to_owned(), names(uses));
    }
    for (module, allowed) in MODULES {
        let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(documented.get(*module), Some(&allowed), "ARCHITECTURE.md, row of `{module}`");
    }
    let known: BTreeSet<&str> = MODULES.iter().map(|(name, _)| *name).collect();
    for module in documented.keys() {
        assert!(known.contains(module.as_str()), "ARCHITECTURE.md names `{module}`, which there is not");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every module's files, without what is compiled for tests only.
fn sources() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let mut modules: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    let src = root().join("src");
    for path in rust_files(&src) {
        let inside = path.strip_prefix(&src).expect("below src");
        let first = inside.components().next().expect("not empty").as_os_str().to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs").to_owned();
        let is_root = matches!(module.as_str(), "lib" | "main");
        let only_for_tests = inside.ancestors().any(|part| {
            part.file_stem()
                .is_some_and(|stem| ["tests", "fake", "conformance"].iter().any(|name| stem == *name))
        });
        if is_root || only_for_tests {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a readable source");
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
        modules.entry(module).or_default().push((path, text));
    }
    assert!(modules.len() > 10, "the sources were not found");
    modules
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Lines that are code, not comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The first name of every path that begins with `prefix`, those in `use crate::{a, b}` included.
fn words_after<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut words = Vec::new();
    for line in code(text) {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            let listed = rest.strip_prefix('{').and_then(|list| list.split('}').next());
            match listed {
                Some(list) => words.extend(list.split(',').map(|item| first_word(item.trim()))),
                None => words.push(first_word(rest)),
            }
        }
    }
    words
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Whether a path that begins with `name` stands in the code, not as a part of a longer one.
fn mentions(text: &str, name: &str) -> bool {
    code(text).any(|line| {
        line.match_indices(name)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
    })
}

/// The names in backticks of a table's cell.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
