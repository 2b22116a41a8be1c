//! A port without a switch: moves frames between a TAP interface, whose other end a client uses, and the services.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use packet::{HEAD_LENGTH, L3, MacAddr, arp, icmp, ndp};
use services::dhcp4::Lease4;
use services::dhcp6::Lease6;
use services::metadata::{Broken, Identity, Limits, Proxy, Read, StreamId, Upstream};
use services::neighbours::{Action, Link, Resolver};
use services::ra::{Advertisement, Advertiser};
use services::{Refusal, dhcp4, dhcp6, link_local, metadata, ra};
use smoltcp::phy::{self, Device, Medium, RxToken, TunTapInterface, TxToken};
use towpath_tests::Result;
use towpath_tests::netns::Namespace;

/// The client's interface.
pub(crate) const INTERFACE: &str = "tp0";
pub(crate) const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 10]);
pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub(crate) const IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 1, 0, 0, 0, 0x10);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 1, 0, 0, 0, 1);
/// What a client may take: programs start late on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the interface is waited for before the rest is looked at again.
const WAIT: Duration = Duration::from_millis(20);

pub(crate) fn lease4() -> Result<Lease4> {
    Ok(Lease4 {
        mac: MAC,
        ip: IP,
        prefix: 24,
        gateway: GATEWAY,
        gateway_mac: GATEWAY_MAC,
        dns: vec![Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(10, 0, 1, 3)],
        domain: Some("blue.internal".into()),
        hostname: Some("vm1".into()),
        mtu: 1450,
        lease: 3600,
        routes: vec![("169.254.169.254/32".parse()?, GATEWAY)],
    })
}

pub(crate) fn lease6() -> Result<Lease6> {
    Ok(Lease6 {
        mac: MAC,
        addresses: vec![IP6],
        gateway_mac: GATEWAY_MAC,
        dns: vec!["fd00:10:0:1::2".parse()?],
        domains: vec!["blue.internal".into()],
        lease: 3600,
    })
}

pub(crate) fn advertisement() -> Result<Advertisement> {
    Ok(Advertisement {
        gateway_mac: GATEWAY_MAC,
        prefixes: vec!["fd00:10:0:1::/64".parse()?],
        mtu: 1450,
        dns: vec!["fd00:10:0:1::2".parse()?],
        domains: vec!["blue.internal".into()],
        default_router: true,
    })
}

pub(crate) fn identity() -> Identity {
    Identity {
        port: "vm1-eth0".into(),
        project: "default".into(),
        vpc: "blue".into(),
        mac: MAC,
        gateway_mac: GATEWAY_MAC,
        addresses: vec![IpAddr::V4(IP), IpAddr::V6(IP6)],
        mtu: 1450,
        service: "test".into(),
    }
}

/// A service that answers every request with its head and then some bytes.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    streams: HashMap<StreamId, (Vec<u8>, usize)>,
    /// Bytes behind the head.
    pub(crate) more: usize,
}

impl Echo {
    /// What answers this request: known as soon as its head is whole.
    fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        request.ends_with(b"\r\n\r\n").then(|| {
            let length = request.len() + self.more;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            [head.as_bytes(), request, &vec![b'.'; self.more]].concat()
        })
    }
}

impl Upstream for Echo {
    fn open(&mut self, stream: StreamId, _: &str) -> std::result::Result<(), Broken> {
        self.streams.insert(stream, (Vec::new(), 0));
        Ok(())
    }

    fn write(&mut self, stream: StreamId, bytes: &[u8]) -> std::result::Result<usize, Broken> {
        self.streams.get_mut(&stream).ok_or(Broken)?.0.extend(bytes);
        Ok(bytes.len())
    }

    fn read(&mut self, stream: StreamId, buffer: &mut [u8]) -> std::result::Result<Read, Broken> {
        let (request, sent) = self.streams.get(&stream).ok_or(Broken)?;
        let Some(answer) = self.answer(request) else { return Ok(Read::Nothing) };
        let rest = &answer[*sent..];
        if rest.is_empty() {
            return Ok(Read::End);
        }
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.streams.entry(stream).and_modify(|(_, sent)| *sent += length);
        Ok(Read::Bytes(length))
    }

    fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }
}

/// The port.
pub(crate) struct Port {
    tap: TunTapInterface,
    begin: Instant,
    advertiser: Advertiser,
    proxy: Proxy,
    pub(crate) echo: Echo,
    pub(crate) resolver: Resolver,
    /// What the resolver said beside frames.
    pub(crate) resolved: Vec<Action>,
    /// Every frame, both ways.
    pub(crate) frames: Vec<Vec<u8>>,
    /// Answers by service, and what needed none.
    pub(crate) answered: HashMap<&'static str, u32>,
    pub(crate) refusals: Vec<(&'static str, Refusal)>,
}

/// Makes the interface in `namespace` with the port's MAC address, up, and lets `work` use the port on a thread inside.
pub(crate) fn with_port<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce(&mut Port) -> Result<T> + Send,
) -> Result<T> {
    namespace.enter(|| {
        let tap = TunTapInterface::new(INTERFACE, Medium::Ethernet).context("make a TAP interface")?;
        // No duplicate address detection: clients begin at once.
        for (setting, value) in [("accept_dad", "0"), ("accept_ra", "2")] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/{setting}"), value).context(setting)?;
        }
        namespace.run_all(&format!(
            "ip link set {INTERFACE} address {MAC}
             ip link set {INTERFACE} up"
        ))?;
        let mut echo = Echo::default();
        let mut proxy = Proxy::new(Limits::default(), 1);
        proxy.set_port(0, identity(), &mut echo);
        let addresses = vec!["10.0.1.1/24".parse()?, "fd00:10:0:1::1/64".parse()?];
        let link = Link { mac: GATEWAY_MAC, addresses, gateways: Vec::new() };
        work(&mut Port {
            tap,
            begin: Instant::now(),
            // The first advertisement is unasked; tests of answers do not want it.
            advertiser: Advertiser::new(1, LIMIT * 10),
            proxy,
            echo,
            resolver: Resolver::new(link, 1),
            resolved: Vec::new(),
            frames: Vec::new(),
            answered: HashMap::new(),
            refusals: Vec::new(),
        })
    })
}

impl Port {
    pub(crate) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    pub(crate) fn send(&mut self, frame: Vec<u8>) {
        if let Some(token) = self.tap.transmit(smoltcp::time::Instant::ZERO) {
            token.consume(frame.len(), |room| room.copy_from_slice(&frame));
        }
        self.frames.push(frame);
    }

    /// Serves the client until `probe` gives something.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            self.serve()?;
            if let Some(found) = probe(self).with_context(|| format!("waiting for {what}"))? {
                return Ok(found);
            }
            if begin.elapsed() > LIMIT {
                bail!(
                    "waited {LIMIT:?} for {what}; answered {:?}, refused {:?}",
                    self.answered,
                    self.refusals
                );
            }
            phy::wait(self.tap.as_raw_fd(), Some(WAIT.into())).context("wait for the interface")?;
        }
    }

    /// Answers all that has come, and does what is due.
    fn serve(&mut self) -> Result<()> {
        while let Some((token, _)) = self.tap.receive(smoltcp::time::Instant::ZERO) {
            let frame = token.consume(<[u8]>::to_vec);
            let answers = self.answer(&frame)?;
            self.frames.push(frame);
            answers.into_iter().for_each(|answer| self.send(answer));
        }
        let now = self.now();
        let mut due: Vec<Vec<u8>> = Vec::new();
        if self.advertiser.on_tick(now) {
            due.push(ra::unsolicited(&advertisement()?));
        }
        let tcp = self.proxy.on_tick(now, &mut self.echo);
        due.extend(tcp.into_iter().map(|(_, frame)| frame));
        for action in self.resolver.on_tick(now) {
            match action {
                Action::Send(frame) => due.push(frame),
                other => self.resolved.push(other),
            }
        }
        due.into_iter().for_each(|frame| self.send(frame));
        Ok(())
    }

    fn answer(&mut self, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        let head = &frame[..frame.len().min(HEAD_LENGTH)];
        let Ok(headers) = packet::parse(head, frame.len() as u32) else { return Ok(Vec::new()) };
        let now = self.now();
        if let Ok(actions) = self.resolver.on_frame(frame, now) {
            self.resolved.extend(actions);
        }
        let is_solicitation = headers.l3 == L3::Ipv6
            && icmp::type_and_code(head, &headers).is_some_and(|(kind, _)| kind == ndp::ROUTER_SOLICITATION);
        let (name, answer) = if dhcp4::is_request(&headers) {
            ("dhcp4", dhcp4::answer(&lease4()?, frame).map(|answer| answer.into_iter().collect()))
        } else if dhcp6::is_request(&headers) {
            ("dhcp6", dhcp6::answer(&lease6()?, frame).map(|answer| answer.into_iter().collect()))
        } else if is_solicitation {
            let answer = self.advertiser.on_solicitation(&advertisement()?, frame, now);
            ("ra", answer.map(|answer| answer.into_iter().collect()))
        } else if headers.destination_ip(head).is_some_and(metadata::is_address) {
            let frames = self.proxy.on_frame(0, frame, now, &mut self.echo);
            ("metadata", frames.map(|frames| frames.into_iter().map(|(_, frame)| frame).collect()))
        } else {
            ("neighbour", Ok(gateway_answer(head, &headers).into_iter().collect()))
        };
        Ok(match answer {
            Ok(answers) => {
                let answers: Vec<Vec<u8>> = answers;
                *self.answered.entry(name).or_default() += u32::try_from(answers.len())?;
                answers
            }
            Err(refusal) => {
                self.refusals.push((name, refusal));
                Vec::new()
            }
        })
    }
}

/// What the switch's own stage answers: who asks for the gateway.
fn gateway_answer(head: &[u8], headers: &packet::Headers) -> Option<Vec<u8>> {
    let mut answer = head.to_vec();
    answer.resize(HEAD_LENGTH, 0);
    let length = match headers.l3 {
        L3::Arp if arp::View::new(head, headers)?.target_ip() == GATEWAY => {
            arp::reply_in_place(&mut answer, headers, GATEWAY_MAC)?
        }
        L3::Ipv6 => match ndp::parse(head, headers) {
            Ok(ndp::Message::Solicitation(asked))
                if [GATEWAY6, link_local(GATEWAY_MAC)].contains(&asked.target) =>
            {
                ndp::advertise_in_place(&mut answer, headers, &asked, GATEWAY_MAC, ndp::Role::Router)?
            }
            _ => return None,
        },
        _ => return None,
    };
    answer.truncate(length as usize);
    Some(answer)
}
