//! Many TCP connections at once: a server that says who it is whenever it is asked, and a client that keeps what it opened and asks again.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long a connection or an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at all connections of a server.
const PAUSE: Duration = Duration::from_millis(5);

/// Answers every byte of every connection with `name`, as long as the agent lives. It listens when this returns.
///
/// # Errors
/// It cannot listen there.
pub fn serve(listen: SocketAddr, name: u8) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    thread::spawn(move || {
        let mut streams: Vec<TcpStream> = Vec::new();
        loop {
            while let Ok((stream, _)) = listener.accept() {
                if stream.set_nonblocking(true).is_ok() {
                    streams.push(stream);
                }
            }
            streams.retain_mut(|stream| answer(stream, name));
            thread::sleep(PAUSE);
        }
    });
    Ok(())
}

/// Whether the connection goes on.
fn answer(stream: &mut TcpStream, name: u8) -> bool {
    let mut asked = [0; 16];
    match stream.read(&mut asked) {
        Ok(0) => false,
        // What is not taken at once is not said: the other asks once and waits.
        Ok(count) => stream.write(&vec![name; count]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Connections that a client keeps.
#[derive(Debug, Default)]
pub struct Crowd(Vec<TcpStream>);

/// How many were answered by whom, and how many were not: `-`.
pub type Counts = BTreeMap<char, u64>;

impl Crowd {
    /// Opens `count` connections, forgetting those that there were, and asks all.
    pub fn open(&mut self, to: SocketAddr, count: usize) -> Counts {
        self.0.clear();
        let opened = (0..count).filter_map(|_| TcpStream::connect_timeout(&to, PATIENCE).ok());
        self.0.extend(opened);
        let mut counts = self.ask();
        let failed = (count - self.0.len()) as u64;
        if failed > 0 {
            *counts.entry('-').or_default() += failed;
        }
        counts
    }

    /// Asks all who they are. None is forgotten: one that was cut says so again.
    pub fn ask(&mut self) -> Counts {
        let end = Instant::now() + PATIENCE;
        let asked: Vec<bool> = self.0.iter_mut().map(|stream| stream.write_all(b"?").is_ok()).collect();
        let mut counts = Counts::new();
        for (stream, asked) in self.0.iter_mut().zip(asked) {
            let name = if asked { listen(stream, end) } else { None };
            *counts.entry(name.unwrap_or('-')).or_default() += 1;
        }
        counts
    }
}

fn listen(stream: &mut TcpStream, end: Instant) -> Option<char> {
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).ok()?;
    let mut name = [0];
    stream.read_exact(&mut name).ok()?;
    Some(char::from(name[0]))
}
