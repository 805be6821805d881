//! Streams over real sockets that join groups and leave them, from a source that anybody can count.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::super::handover::Connection;
use super::super::heartbeat::{Heartbeat, heartbeats};
use super::super::server::Place;
use super::super::sse::Source;
use super::super::wire::Bounds;
use super::super::writer;
use super::*;
use crate::domain::Clock;

const DEADLINE: Duration = Duration::from_secs(20);

/// Numbers up to the one that was counted to; it ends at the last.
struct Count {
    at: u64,
    to: watch::Receiver<u64>,
    last: u64,
}

impl Count {
    fn from(at: u64, counter: &Counter) -> Self {
        Self { at, to: counter.to.subscribe(), last: counter.last }
    }
}

impl Shared for Count {
    type Key = ();
    type Place = u64;

    fn place(&self) -> u64 {
        self.at
    }

    async fn next(&mut self, frames: &mut Vec<Frame>) -> bool {
        if self.at == self.last {
            return false;
        }
        let at = self.at;
        let to = *self.to.wait_for(|to| *to > at).await.unwrap();
        self.at = to.min(at + 7);
        frames.extend((at + 1..=self.at).map(|n| Frame::text(&format!("{n:0100}\n"))));
        true
    }
}

/// One of many who count, and whisper at times.
struct Whisperer {
    count: Count,
    whispers: watch::Receiver<u64>,
    heard: u64,
}

impl Whisperer {
    fn whispers(&self) -> u64 {
        *self.whispers.borrow() - self.heard
    }
}

impl Source for Whisperer {
    type Shared = Count;

    async fn next(&mut self, frames: &mut Vec<Frame>) -> bool {
        let (whispers, heard) = (self.whispers(), self.heard);
        tokio::select! {
            biased;
            _ = self.whispers.wait_for(|whispers| *whispers > heard) => {}
            more = self.count.next(frames) => return more,
        }
        self.heard += whispers.max(1);
        frames.extend((0..whispers.max(1)).map(|_| Frame::text("whisper\n")));
        true
    }

    fn key(&self) {}

    fn place(&self) -> Option<u64> {
        (self.whispers() == 0).then_some(self.count.at)
    }

    fn shared(&self) -> Count {
        Count { at: self.count.at, to: self.count.to.clone(), last: self.count.last }
    }

    async fn own(&mut self) {
        let heard = self.heard;
        self.whispers.wait_for(|whispers| *whispers > heard).await.unwrap();
    }

    fn move_to(&mut self, place: u64) {
        assert!(place >= self.count.at, "nobody goes back");
        self.count.at = place;
    }
}

struct Counter {
    to: watch::Sender<u64>,
    last: u64,
    whispers: watch::Sender<u64>,
    groups: Groups<Count>,
    heartbeat: Heartbeat,
    _timer: super::super::heartbeat::Timer,
}

impl Counter {
    fn to(last: u64) -> Self {
        let (heartbeats, timer) = heartbeats(Duration::from_secs(60), Clock::System);
        Self {
            to: watch::Sender::new(0),
            last,
            whispers: watch::Sender::new(0),
            groups: Groups { most: 2, ..Groups::default() },
            heartbeat: heartbeats.join(),
            _timer: timer,
        }
    }

    /// A client, and the task that writes to it.
    async fn open(&self, from: u64) -> (TcpStream, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        // So that who reads late is not saved by the kernel.
        socket2::SockRef::from(&socket).set_send_buffer_size(4 << 10).unwrap();
        socket2::SockRef::from(&client).set_recv_buffer_size(4 << 10).unwrap();
        let connection = Connection { socket, chunked: false, place: Place::alone() };
        let bounds = Bounds { write_timeout: DEADLINE, received: 1 << 10 };
        let whispers = self.whispers.subscribe();
        let heard = *whispers.borrow();
        let source = Whisperer { count: Count::from(from, self), whispers, heard };
        let relative = self.groups.enter(&());
        (client, tokio::spawn(writer::write(connection, bounds, source, self.heartbeat.clone(), relative)))
    }

    /// Members of every group.
    fn members(&self) -> Vec<usize> {
        let kin = Registry::enter(&self.groups.registry, &(), || Kin { groups: Mutex::default() });
        let groups = locked(&kin.groups);
        groups.iter().map(|group| locked(&group.state).members.len()).collect()
    }

    /// Counts until so many are members: who is there before the groups are joins them at one of the next numbers.
    async fn gathers(&self, members: usize) {
        let end = std::time::Instant::now() + DEADLINE;
        while self.members().iter().sum::<usize>() != members {
            assert!(std::time::Instant::now() < end, "{:?} are members and not {members}", self.members());
            self.to.send_modify(|to| *to += 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many are members.
    async fn has(&self, members: usize) {
        let wait = async {
            while self.members().iter().sum::<usize>() != members {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = timeout(DEADLINE, wait).await;
        waited.unwrap_or_else(|_| panic!("{:?} are members and not {members}", self.members()));
    }
}

/// The numbers that a client reads to the end, and how many whispers.
async fn read(mut client: TcpStream, late: bool) -> (Vec<u64>, usize) {
    let (mut text, mut piece) = (Vec::new(), vec![0; 8 << 10]);
    loop {
        if late {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..10))).await;
        }
        match timeout(DEADLINE, client.read(&mut piece)).await.expect("something in time").unwrap() {
            0 => break,
            length => text.extend_from_slice(&piece[..length]),
        }
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let (whispers, numbers): (Vec<_>, Vec<_>) = text.lines().partition(|line| *line == "whisper");
    (numbers.into_iter().map(|number| number.parse().unwrap()).collect(), whispers.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_leaves_and_comes_back_is_told_everything_once() {
    let counter = Counter::to(3_000);
    let mut clients = JoinSet::new();
    for from in [0; 300] {
        let (client, _) = counter.open(from).await;
        clients.spawn(async move { (from, read(client, false).await) });
    }
    counter.gathers(300).await;
    assert_eq!(counter.members().len(), 2, "two processors have something to do");
    let begun = *counter.to.borrow();
    for to in begun + 1..=counter.last {
        counter.to.send_replace(to);
        match to % 100 {
            0 => counter.whispers.send_modify(|whispers| *whispers += 1),
            3 if to < 2_000 => {
                let (client, _) = counter.open(to - 3).await;
                clients.spawn(async move { (to - 3, read(client, true).await) });
            }
            50 => drop(counter.open(to).await),
            _ => tokio::task::yield_now().await,
        }
        if to % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let (mut all, whispers) = (0, *counter.whispers.borrow());
    while let Some(client) = clients.join_next().await {
        let (from, (numbers, heard)) = client.unwrap();
        assert_eq!(numbers, (from + 1..=counter.last).collect::<Vec<_>>());
        assert!(from > 0 || heard as u64 == whispers, "{heard} of {whispers} whispers");
        all += 1;
    }
    assert!(all >= 310, "{all} clients");
    counter.has(0).await;
}

#[tokio::test]
async fn who_takes_nothing_leaves_and_holds_up_nobody() {
    let counter = Counter::to(1_000);
    let (silent, _) = counter.open(0).await;
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let (client, _) = counter.open(0).await;
        clients.spawn(read(client, false));
    }
    counter.gathers(41).await;
    counter.to.send_replace(counter.last - 1);
    counter.has(40).await;
    counter.to.send_replace(counter.last);
    let all: Vec<_> = (1..=counter.last).collect();
    for (numbers, _) in clients.join_all().await {
        assert_eq!(numbers, all);
    }
    assert_eq!(read(silent, false).await.0, all);
}

#[tokio::test]
async fn few_go_by_themselves_and_who_leaves_is_forgotten() {
    let counter = Counter::to(1_000);
    let mut clients = Vec::new();
    for _ in 0..FEW {
        clients.push(counter.open(0).await);
    }
    counter.to.send_replace(1);
    for (client, _) in &mut clients {
        client.read_exact(&mut [0; 101]).await.unwrap();
    }
    counter.has(0).await;
    for _ in 0..4 {
        clients.push(counter.open(1).await);
    }
    counter.has(4).await;
    counter.gathers(FEW + 4).await;
    // One says more than it may, the others go.
    let (mut talker, writing) = clients.pop().unwrap();
    talker.write_all(&[b'x'; 2 << 10]).await.unwrap();
    timeout(DEADLINE, writing).await.unwrap().unwrap();
    counter.has(FEW + 3).await;
    let writing: Vec<_> = clients.drain(..).map(|(_, writing)| writing).collect();
    for writing in writing {
        timeout(DEADLINE, writing).await.unwrap().unwrap();
    }
    assert!(counter.members().is_empty(), "a group without members ends");
}

#[tokio::test]
async fn heartbeats_and_the_end_come_to_members_too() {
    let (heartbeats, timer) = heartbeats(Duration::from_millis(640), Clock::System);
    let counter = Counter { heartbeat: heartbeats.join(), ..Counter::to(1_000) };
    let end = tokio_util::sync::CancellationToken::new();
    tokio::spawn(timer.run(end.clone()));
    let mut clients = JoinSet::new();
    for _ in 0..FEW + 4 {
        let (mut client, _) = counter.open(0).await;
        clients.spawn(async move {
            let mut text = String::new();
            timeout(DEADLINE, client.read_to_string(&mut text)).await.unwrap().unwrap();
            text
        });
    }
    counter.gathers(FEW + 4).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    end.cancel();
    for text in clients.join_all().await {
        assert!(text.matches("event: heartbeat").count() >= 2, "{text}");
    }
}
