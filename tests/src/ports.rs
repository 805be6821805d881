//! Ports that a test owns for as long as it runs.
//!
//! A port of the kernel's choice may be taken by anyone while its server is down. What goes away and comes back on the
//! same port (a restarted gateway, a Bot API that refuses connections) takes one from below the kernel's range,
//! under a lock that other tests respect.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

/// Below Linux' range of ports for outgoing connections, which starts at 32768.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A free port of the loopback interface, given back when dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub(crate) fn lease() -> Self {
        let directory = env::temp_dir().join("plugway-tests-ports");
        fs::create_dir_all(&directory).expect("the directory of port locks can be made");
        for _ in 0..1_000 {
            let number = rand::rng().random_range(RANGE);
            let path = directory.join(number.to_string());
            let Ok(lock) = OpenOptions::new().create(true).truncate(false).write(true).open(path) else {
                continue;
            };
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port between {} and {}", RANGE.start, RANGE.end);
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
