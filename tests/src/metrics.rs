//! The gateway's figures, read from the Prometheus text format.

use std::collections::BTreeMap;

/// Samples of one scrape, by name with labels, as `plugway_tasks_total{state="completed"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text format.
    ///
    /// # Panics
    ///
    /// On a line that isn't of this format.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
            let value = value.parse().unwrap_or_else(|error| panic!("no number ({error}): {line:?}"));
            (name.to_owned(), value)
        });
        Self(samples.collect())
    }

    /// Sum of the samples of `name` that have all these labels, each as `state="completed"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = self.0.iter().filter(|(sample, _)| sample.split('{').next() == Some(name));
        of_name
            .filter(|(sample, _)| labels.iter().all(|label| sample.contains(label)))
            .map(|(_, value)| value)
            .sum()
    }

    /// Whether there is any sample of `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.keys().any(|sample| sample.split('{').next() == Some(name))
    }
}
