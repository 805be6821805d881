//! Samples of streams, line by line.

use anyhow::{bail, ensure};

use crate::event;

/// Reads every line of a stream, and checks that what carries a mark is a whole event.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    text: Vec<u8>,
    data: String,
    /// Whole events with a mark so far.
    pub(crate) whole: u64,
}

impl Audit {
    /// Reads on. `padding` is that of the events that come.
    pub(crate) fn read(&mut self, body: &[u8], padding: usize) -> anyhow::Result<()> {
        self.text.extend_from_slice(body);
        while let Some(end) = memchr::memchr(b'\n', &self.text) {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            let line = std::str::from_utf8(&line)?.trim_end_matches(['\r', '\n']).to_owned();
            self.line(&line, padding)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, padding: usize) -> anyhow::Result<()> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            if data.contains("@@") {
                ensure!(event::is_whole(&data, padding), "an event is not what was sent: {data:?}");
                self.whole += 1;
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        match field {
            "data" => self.data.push_str(value.strip_prefix(' ').unwrap_or(value)),
            "" | "id" | "event" | "retry" => {}
            other => bail!("a stream of events has no field {other:?}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plugway_figures::mark::Mark;

    use super::*;

    #[test]
    fn an_audit_counts_whole_events_and_stops_at_others() {
        let document = event::document(Mark { number: 1, made: Duration::from_nanos(5) }, 20);
        let mut audit = Audit::default();
        let text = format!(": hi\r\n\r\nid: 1\r\nevent: signal\r\ndata: {document}\r\n\r\ndata: other\n\n");
        for byte in text.as_bytes() {
            audit.read(&[*byte], 20).unwrap();
        }
        assert_eq!(audit.whole, 1);
        assert!(audit.read(&document.as_bytes()[20..], 20).is_ok(), "a line that has not ended is none");
        assert!(audit.read(b"\n", 20).is_err());
        let torn = format!("data: {}\n\n", document.replace("xxx", "xx\u{fffd}"));
        assert!(Audit::default().read(torn.as_bytes(), 20).is_err());
    }
}
