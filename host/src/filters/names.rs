//! Which filters a task passes, as the configuration says it.

use std::collections::{BTreeMap, BTreeSet};

use crate::plugins::{NAME_RULE, is_name};

/// The names of filters in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Chains {
    /// Of all tasks.
    pub for_all: Vec<String>,
    /// Of tasks of one agent, by its name.
    pub agents: BTreeMap<String, Vec<String>>,
    /// Of tasks that one plugin submits, by its name.
    pub adapters: BTreeMap<String, Vec<String>>,
}

impl Chains {
    /// What no type can say.
    ///
    /// # Errors
    /// A sentence that names the setting: a name that no plugin can have, or one that stands twice in a list.
    pub fn check(&self) -> Result<(), String> {
        check("filters", &self.for_all)?;
        for (agent, names) in &self.agents {
            check(&format!("agents.{agent}.filters"), names)?;
        }
        for (plugin, names) in &self.adapters {
            check(&format!("plugins.{plugin}.filters"), names)?;
        }
        Ok(())
    }

    /// The filters of a task, in their order: those for all, the agent's, the adapter's; each once, where it comes first.
    pub(super) fn of(&self, adapter: &str, agent: &str) -> Vec<&str> {
        let agents = self.agents.get(agent).into_iter().flatten();
        let adapters = self.adapters.get(adapter).into_iter().flatten();
        let mut seen = BTreeSet::new();
        let all = self.for_all.iter().chain(agents).chain(adapters).map(String::as_str);
        all.filter(|name| seen.insert(*name)).collect()
    }

    /// The plugins whose tasks pass filters of their own.
    pub fn filtered(&self) -> impl Iterator<Item = String> {
        self.adapters.iter().filter(|(_, filters)| !filters.is_empty()).map(|(name, _)| name.clone())
    }

    /// Every name that stands anywhere.
    pub fn names(&self) -> BTreeSet<String> {
        let lists = self.agents.values().chain(self.adapters.values());
        self.for_all.iter().chain(lists.flatten()).cloned().collect()
    }
}

fn check(setting: &str, names: &[String]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !is_name(name) {
            return Err(format!("{setting}: {name:?} is no plugin name: {NAME_RULE}"));
        }
        if !seen.insert(name) {
            return Err(format!("{setting}: `{name}` stands twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn those_for_all_come_first_then_the_agents_then_the_adapters_each_once() {
        let chains = Chains {
            for_all: names(&["redact"]),
            agents: [("model".to_owned(), names(&["allow", "redact"]))].into(),
            adapters: [("telegram".to_owned(), names(&["sample", "allow"]))].into(),
        };
        assert_eq!(chains.of("telegram", "model"), ["redact", "allow", "sample"]);
        assert_eq!(chains.of("telegram", "echo"), ["redact", "sample", "allow"]);
        assert_eq!(chains.of("", "echo"), ["redact"]);
        assert_eq!(chains.names().len(), 3);
        assert_eq!(chains.filtered().collect::<Vec<_>>(), ["telegram"]);
    }

    #[test]
    fn a_wrong_list_is_told_by_its_setting() {
        let agents = |list: &[&str]| Chains {
            agents: [("model".to_owned(), names(list))].into(),
            ..Chains::default()
        };
        assert!(agents(&["a", "b"]).check().is_ok());
        let told = agents(&["Redact"]).check().unwrap_err();
        assert!(told.starts_with("agents.model.filters: \"Redact\" is no plugin name"), "{told}");
        assert_eq!(agents(&["a", "b", "a"]).check().unwrap_err(), "agents.model.filters: `a` stands twice");
    }
}
