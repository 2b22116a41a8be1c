//! Connections to metadata services, for the control thread: none of them waits.

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
use services::metadata::{Broken, Read, StreamId, Upstream};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// TCP connections, and what waits for them.
pub struct TcpUpstream {
    epoll: OwnedFd,
    streams: HashMap<StreamId, OwnedFd>,
}

impl TcpUpstream {
    /// None yet.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, streams: HashMap::new() })
    }

    /// Becomes readable when [`TcpUpstream::ready`] has something to say.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Streams that can be read or written again, were connected, or broke.
    pub fn ready(&self) -> Vec<StreamId> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).is_err() {
            return Vec::new();
        }
        events.into_iter().map(|event| StreamId(event.data.u64())).collect()
    }

    fn connect(&self, stream: StreamId, service: &str) -> io::Result<OwnedFd> {
        let address = address_of(service).ok_or(io::ErrorKind::InvalidInput)?;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(stream.0), flags)?;
        Ok(socket)
    }
}

/// The address in `http://ADDRESS:PORT`, as the model has checked it.
fn address_of(service: &str) -> Option<SocketAddr> {
    service.strip_prefix("http://").unwrap_or(service).parse().ok()
}

impl Upstream for TcpUpstream {
    fn open(&mut self, stream: StreamId, service: &str) -> Result<(), Broken> {
        let socket = self.connect(stream, service).map_err(|error| {
            tracing::warn!(service, %error, "the metadata service cannot be reached; check dhcp.metadata of the subnet");
            Broken
        })?;
        self.streams.insert(stream, socket);
        Ok(())
    }

    fn write(&mut self, stream: StreamId, bytes: &[u8]) -> Result<usize, Broken> {
        let socket = self.streams.get(&stream).ok_or(Broken)?;
        match rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(count) => Ok(count),
            // Not connected yet, or no room.
            Err(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => Ok(0),
            Err(_) => Err(Broken),
        }
    }

    fn read(&mut self, stream: StreamId, buffer: &mut [u8]) -> Result<Read, Broken> {
        let socket = self.streams.get(&stream).ok_or(Broken)?;
        match rustix::io::read(socket, buffer) {
            Ok(0) => Ok(Read::End),
            Ok(count) => Ok(Read::Bytes(count)),
            Err(Errno::AGAIN | Errno::NOTCONN | Errno::INTR) => Ok(Read::Nothing),
            Err(_) => Err(Broken),
        }
    }

    fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_stream_carries_bytes_both_ways_and_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let service = format!("http://{}", listener.local_addr().unwrap());
        let mut upstream = TcpUpstream::new().unwrap();
        let stream = StreamId(7);
        upstream.open(stream, &service).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        while upstream.write(stream, b"hello").unwrap() == 0 {}
        let mut bytes = [0; 5];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        peer.write_all(b"back").unwrap();
        drop(peer);
        let (mut seen, mut buffer) = (Vec::new(), [0; 16]);
        loop {
            match upstream.read(stream, &mut buffer).unwrap() {
                Read::Bytes(count) => seen.extend_from_slice(&buffer[..count]),
                Read::Nothing => assert!(upstream.ready().iter().all(|ready| *ready == stream)),
                Read::End => break,
            }
        }
        assert_eq!(seen, b"back");
        upstream.close(stream);
        assert_eq!(upstream.read(stream, &mut buffer), Err(Broken));
    }
}
