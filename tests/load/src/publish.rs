//! Ways to publish events: to a channel of Redis, and by POST. Both pipeline, and look at every answer.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{bail, ensure};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to Redis that publishes on one channel.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: TcpStream,
    name: String,
}

impl Channel {
    pub(crate) fn open(address: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, name: name.to_owned() })
    }

    /// Publishes all of them; [`confirm`](Self::confirm) has to follow.
    pub(crate) fn send(&mut self, documents: &[String]) -> anyhow::Result<()> {
        let mut request = String::new();
        for document in documents {
            let _ = write!(request, "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{}\r\n", self.name.len(), self.name);
            let _ = write!(request, "${}\r\n{document}\r\n", document.len());
        }
        Ok(self.stream.write_all(request.as_bytes())?)
    }

    /// Waits for the answers to so many, and returns how many heard the last one.
    pub(crate) fn confirm(&mut self, documents: usize) -> anyhow::Result<u64> {
        let mut answers = Vec::new();
        let mut buffer = [0; 4096];
        while memchr::memchr_iter(b'\n', &answers).count() < documents {
            let length = self.stream.read(&mut buffer)?;
            ensure!(length > 0, "redis-server closed the connection");
            answers.extend_from_slice(&buffer[..length]);
        }
        let answers = String::from_utf8_lossy(&answers);
        let mut heard = 0;
        for answer in answers.lines() {
            match answer.strip_prefix(':').map(str::parse) {
                Some(Ok(count)) => heard = count,
                _ => bail!("redis-server answered {answer:?}"),
            }
        }
        Ok(heard)
    }
}

/// A connection that posts events.
#[derive(Debug)]
pub(crate) struct Posts {
    stream: TcpStream,
    head: String,
}

impl Posts {
    pub(crate) fn open(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/json\r\n");
        Ok(Self { stream, head })
    }

    /// Posts all of them; [`confirm`](Self::confirm) has to follow.
    pub(crate) fn send(&mut self, documents: &[String]) -> anyhow::Result<()> {
        let mut request = String::new();
        for document in documents {
            let _ = write!(request, "{}Content-Length: {}\r\n\r\n{document}", self.head, document.len());
        }
        Ok(self.stream.write_all(request.as_bytes())?)
    }

    /// Waits for the answers to so many, all of which have to be of success.
    pub(crate) fn confirm(&mut self, documents: usize) -> anyhow::Result<()> {
        let mut answers = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            let (taken, rest) = take_answers(&answers)?;
            if taken == documents && rest == answers.len() {
                return Ok(());
            }
            let length = self.stream.read(&mut buffer)?;
            ensure!(length > 0, "the publisher's connection was closed");
            answers.extend_from_slice(&buffer[..length]);
        }
    }
}

/// How many whole answers these are, all of success, and where they end.
fn take_answers(answers: &[u8]) -> anyhow::Result<(usize, usize)> {
    let (mut count, mut at) = (0, 0);
    while let Some(end) = memchr::memmem::find(&answers[at..], b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&answers[at..at + end]).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 20"), "the publisher was answered {head:?}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = length.map_or(Ok(0), str::parse::<usize>)?;
        let next = at + end + 4 + body;
        if next > answers.len() {
            break;
        }
        (count, at) = (count + 1, next);
    }
    Ok((count, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_when_they_are_whole() {
        let answer = "HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc";
        let two = answer.repeat(2);
        assert_eq!(take_answers(two.as_bytes()).unwrap(), (2, two.len()));
        assert_eq!(take_answers(&two.as_bytes()[..two.len() - 1]).unwrap(), (1, answer.len()));
        assert!(take_answers(b"HTTP/1.1 507 Insufficient Storage\r\n\r\n").is_err());
    }
}
