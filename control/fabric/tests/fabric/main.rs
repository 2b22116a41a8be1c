//! A host's fabric with the real switch under it: what guests ask is answered, next hops are found, broadcasts are copied, moves are heard.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: what fails here fails the test")]

mod health;

use agent::{
    Action, DhcpPlan, ExternalAction, ExternalOwner, ExternalPlan, PortPlan, SubnetPlan, VpcPlan, VtepKind,
};
use buf::{Burst, Frame, Offload, Pool};
use engine::{PortIndex, Punt, PuntKind, RxQueue, TxQueue, Unobserved};
use fabric::{Event, Fabric, UplinkSettings};
use packet::checksum::{Sum, pseudo_header_v4, pseudo_header_v6};
use packet::{MacAddr, arp, vxlan};
use ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use services::metadata::{Broken, Read, StreamId, Upstream};
use services::neighbours::Link;
use services::{announce, link_local};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use switch::{Clock, Control, SwitchConfig, UPLINK, Worker};
use tables::external::{Block, Mapping, Source};
use tables::rules::{Direction, Remote, Rule};
use tables::{Endpoint, Location, NextHop, PortProfile};
use towpath_fabric as fabric;

struct Still;

impl Clock for Still {
    fn cycles(&mut self) -> u64 {
        0
    }
}

/// No service anywhere.
struct Nowhere;

impl Upstream for Nowhere {
    fn open(&mut self, _: StreamId, _: &str) -> Result<(), Broken> {
        Err(Broken)
    }
    fn write(&mut self, _: StreamId, _: &[u8]) -> Result<usize, Broken> {
        Err(Broken)
    }
    fn read(&mut self, _: StreamId, _: &mut [u8]) -> Result<Read, Broken> {
        Err(Broken)
    }
    fn close(&mut self, _: StreamId) {}
}

struct End(LoopbackTx, LoopbackRx);

impl End {
    fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.0.send(&[Frame::from_head(frame, Offload::NONE)]).sent, 1);
        self.0.flush();
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut burst = Burst::new();
            self.1.poll(&mut burst);
            if burst.is_empty() {
                return frames;
            }
            frames.extend((0..burst.len()).map(|index| burst.frame(index).unwrap().to_vec()));
            self.1.complete();
        }
    }
}

struct Host {
    control: Control,
    worker: Worker,
    fabric: Fabric<Nowhere>,
    guests: Vec<End>,
    wire: End,
    now: Duration,
    events: Vec<Event>,
}

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 7, 0]);
const OWN: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 9, 2]);
const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 1, 9]);
const VPC: u16 = 1;
const VTEP: u16 = 2;

fn mac(port: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, port as u8])
}

fn address(port: u16) -> [IpAddr; 2] {
    [IpAddr::from([10, 0, 0, 10 + port as u8]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x10 + port])]
}

fn attach(control: &mut Control, port: PortIndex, long: bool) -> End {
    let pool = Pool::new(1024);
    let ((rx, sends), (receives, tx)) = (loopback(&pool, 256, || {}), loopback(&pool, 256, || {}));
    control.attach_rx(port, 0, Box::new(if long { rx.with_long_heads() } else { rx })).unwrap();
    control.attach_tx(port, 0, Box::new(tx)).unwrap();
    End(sends, receives)
}

fn blue() -> VpcPlan {
    VpcPlan {
        name: "default/blue".into(),
        vni: 100,
        mtu: 1450,
        local: true,
        directory: vec![],
        is_directory: false,
        peers: vec![],
        clamp_mss: false,
    }
}

fn web() -> SubnetPlan {
    let dhcp = DhcpPlan {
        dns: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        domain: Some("blue.internal".into()),
        lease: Duration::from_secs(3600),
        metadata: None,
    };
    SubnetPlan {
        name: "default/web".into(),
        vpc: VPC,
        prefixes: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        gateways: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        gateway_mac: GATEWAY,
        dhcp: Some(dhcp),
        multicast: false,
        routes: Some(0),
    }
}

impl Host {
    /// Two guests here, one behind another tunnel end point.
    fn new() -> Self {
        let config = SwitchConfig {
            workers: 1,
            pool_chunks: 4096,
            secret: [1, 2],
            sessions: 1024,
            huge_pages: false,
            timeouts: tables::sessions::Timeouts::default(),
            now: 0,
        };
        let (mut control, mut workers) = Control::new(&config).unwrap();
        let mut fabric = Fabric::new(7, Nowhere);
        let link = Link { mac: OWN, addresses: vec!["192.0.2.1/24".parse().unwrap()], gateways: vec![] };
        fabric.set_uplink(&mut control, UplinkSettings { link, mtu: 1500, kernel_answers: vec![] });
        let wire = attach(&mut control, UPLINK, true);
        let (worker, now) = (workers.remove(0), Duration::ZERO);
        let mut host = Self { control, worker, fabric, guests: vec![], wire, now, events: vec![] };
        let source = IpAddr::from([192, 0, 2, 2]);
        let (sources, kind) = (vec![source], VtepKind::Host);
        host.act(Action::SetVtep { vtep: VTEP, address: source, sources, kind });
        host.act(Action::SetVpc { vpc: VPC, plan: Box::new(blue()) });
        host.act(Action::SetSubnet { subnet: 0, plan: Box::new(web()) });
        let plan = vec![("10.0.0.0/24".parse().unwrap(), NextHop::Subnet(0))];
        host.act(Action::SetRoutes { routes: 0, plan });
        (0..2).for_each(|port| host.open(port));
        host.place(REMOTE, address(9), Location::Remote(VTEP));
        host.control.publish();
        host.run();
        host.guests.iter_mut().for_each(|guest| drop(guest.receive()));
        host
    }

    fn open(&mut self, port: u16) {
        let index = PortIndex(port);
        let profile = PortProfile::new(0, mac(port), 1450, &address(port), &[]).in_vpc(VPC, GATEWAY, 1);
        let name = format!("default/vm{port}");
        let project = model::Name::default_project();
        let object = model::ObjectName::parse(&format!("vm{port}"), &project).unwrap();
        let uid = model::Uid::derived(&model::Key::of(model::Kind::Port, &object));
        let plan = PortPlan { name, uid, attachment: None, vpc: VPC, profile: profile.clone() };
        let open = Action::OpenPort { index, plan: Box::new(plan) };
        let back = self.fabric.carry_out(&mut self.control, open, self.now);
        assert!(matches!(back, Some(Action::OpenPort { .. })), "the socket is the caller's");
        self.control.add_port(index, profile);
        let end = attach(&mut self.control, index, false);
        self.guests.push(end);
        self.place(mac(port), address(port), Location::Local(port));
        let space = tables::vpc_space(VPC);
        self.act(Action::BindMac { space, mac: mac(port), location: Location::Local(port) });
        assert!(self.fabric.set_running(index, true, self.now));
    }

    fn place(&mut self, mac: MacAddr, addresses: [IpAddr; 2], location: Location) {
        self.act(Action::BindMac { space: 0, mac, location });
        for address in addresses {
            let endpoint = Endpoint { mac, subnet: 0, location };
            self.act(Action::BindEndpoint { vpc: VPC, address, endpoint });
        }
    }

    fn act(&mut self, action: Action) {
        assert!(self.fabric.carry_out(&mut self.control, action, self.now).is_none());
    }

    /// Until nothing happens any more.
    fn run(&mut self) {
        loop {
            let now = self.now.as_nanos() as u64;
            let progress = self.worker.step(now, &mut Still, &mut Unobserved);
            let due = self.fabric.next_deadline().is_some_and(|due| due <= self.now);
            let heard = !self.control.exceptions().is_empty();
            if progress.is_idle() && !due && !heard {
                return;
            }
            self.events.extend(self.fabric.hear(&mut self.control, self.now));
            self.fabric.tick(&mut self.control, self.now);
        }
    }

    /// The other host answers what is asked of it.
    fn answer_arp(&mut self) -> usize {
        let asks = |frame: &Vec<u8>| frame[12..14] == [8, 6];
        let asked: Vec<Vec<u8>> = self.wire.receive().into_iter().filter(asks).collect();
        for frame in &asked {
            let headers = packet::parse(frame, frame.len() as u32).unwrap();
            let mut answer = frame.clone();
            arp::reply_in_place(&mut answer, &headers, OTHER).unwrap();
            self.wire.send(&answer);
        }
        self.run();
        asked.len()
    }
}

/// A UDP packet, with its checksum.
fn udp(macs: [MacAddr; 2], addresses: [IpAddr; 2], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut frame = [macs[1].0, macs[0].0].concat();
    let [IpAddr::V4(from), IpAddr::V4(to)] = addresses else { panic!("IPv4") };
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + length).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    let sum = Sum::of(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    let sum = pseudo_header_v4(from, to, 17, length).plus(Sum::of(&frame[34..])).finish_nonzero();
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn from_other(inner: &[u8]) -> Vec<u8> {
    let outer = vxlan::Outer::new(OTHER, [192, 0, 2, 2].into(), [192, 0, 2, 1].into(), 64).unwrap();
    let mut bytes = Vec::new();
    let per = vxlan::PerPacket {
        destination_mac: OWN,
        vni: 100,
        policy: 0,
        source_port: 50_000,
        traffic_class: 0,
        inner_length: inner.len(),
    };
    outer.append(&mut bytes, &per);
    bytes.extend_from_slice(inner);
    bytes
}

#[test]
fn a_guest_is_told_its_address_by_dhcp() {
    let mut host = Host::new();
    let mut discover = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    discover.resize(28, 0);
    discover.extend(mac(0).0);
    discover.resize(236, 0);
    // A DISCOVER that asks for the host name.
    discover.extend([99, 130, 83, 99, 53, 1, 1, 55, 1, 12, 255]);
    let addresses = [IpAddr::from([0, 0, 0, 0]), IpAddr::from([255, 255, 255, 255])];
    let question = udp([mac(0), MacAddr::BROADCAST], addresses, [68, 67], &discover);
    host.guests[0].send(&question);
    host.run();
    let offers = host.guests[0].receive();
    assert_eq!(offers.len(), 1, "{:?}", host.fabric.refusals().collect::<Vec<_>>());
    assert_eq!((&offers[0][6..12], &offers[0][58..62]), (&GATEWAY.0[..], &[10, 0, 0, 10][..]), "yiaddr");
    let name = [12, 3, b'v', b'm', b'0'];
    assert!(offers[0].windows(5).any(|option| option == name), "its port's name without the project");
    assert!(host.guests[1].receive().is_empty());
    // Another port's hardware address is refused, and counted by name.
    let mut lie = question;
    lie[42 + 28..42 + 34].copy_from_slice(&mac(1).0);
    lie[40..42].fill(0);
    host.guests[0].send(&lie);
    host.run();
    assert!(host.guests.iter_mut().all(|guest| guest.receive().is_empty()));
    let refused: Vec<_> = host.fabric.refusals().map(|(refusal, count)| (refusal.name(), count)).collect();
    assert_eq!(refused, [("foreign_hardware", 1)]);
}

#[test]
fn a_router_is_advertised_unasked_and_to_who_asks() {
    let mut host = Host::new();
    host.now += Duration::from_secs(20);
    host.run();
    for guest in &mut host.guests {
        let seen = guest.receive();
        assert_eq!((seen.len(), seen[0][54], &seen[0][22..38]), (1, 134, &link_local(GATEWAY).octets()[..]));
    }
    let source = link_local(mac(1));
    let all_routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let mut question = vec![0x33, 0x33, 0, 0, 0, 2];
    question.extend(mac(1).0);
    question.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255]);
    question.extend(source.octets());
    question.extend(all_routers.octets());
    question.extend([133, 0, 0, 0, 0, 0, 0, 0]);
    let sum = pseudo_header_v6(source, all_routers, 58, 8).plus(Sum::of(&question[54..])).finish();
    question[56..58].copy_from_slice(&sum.to_be_bytes());
    host.guests[1].send(&question);
    host.run();
    let seen = host.guests[1].receive();
    assert_eq!((seen.len(), seen[0][54], &seen[0][..6]), (1, 134, &mac(1).0[..]));
    assert!(host.guests[0].receive().is_empty());
}

#[test]
fn a_next_hop_is_asked_for_and_what_waited_for_it_goes() {
    let frame = udp([mac(0), REMOTE], [address(0)[0], address(9)[0]], [1, 2], b"first");
    let mut host = Host::new();
    assert_eq!(host.answer_arp(), 1, "asked for before anybody needs it");
    host.guests[0].send(&frame);
    host.run();
    let sent = host.wire.receive();
    assert_eq!((sent.len(), &sent[0][..6], &sent[0][50..]), (1, &OTHER.0[..], &frame[..]));
    // Nobody answered when it was set up: it failed, and use asks again.
    let mut host = Host::new();
    for _ in 0..6 {
        host.now += Duration::from_secs(2);
        host.run();
    }
    drop(host.wire.receive());
    host.guests[0].send(&frame);
    host.run();
    assert_eq!(host.answer_arp(), 1);
    let sent = host.wire.receive();
    assert_eq!((sent.len(), &sent[0][..6], &sent[0][50..]), (1, &OTHER.0[..], &frame[..]));
}

#[test]
fn a_next_hop_that_asks_from_elsewhere_is_sent_to_there_and_told_where_we_are() {
    let mut host = Host::new();
    host.answer_arp();
    drop(host.wire.receive());
    host.now += Duration::from_secs(2);
    // Its gateway function went to another machine, which looks for this host.
    let moved = MacAddr([2, 0, 0, 0, 9, 7]);
    let mut question = [MacAddr::BROADCAST.0, moved.0].concat();
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(moved.0);
    question.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    host.wire.send(&question);
    host.run();
    let sent = host.wire.receive();
    let of_arp =
        |operation: u8| sent.iter().filter(move |frame| frame[12..14] == [8, 6] && frame[21] == operation);
    let (replies, probes): (Vec<_>, Vec<_>) = (of_arp(2).collect(), of_arp(1).collect());
    assert_eq!((replies.len(), probes.len()), (1, 1), "it is answered, and asked whether it is so");
    assert_eq!((&replies[0][..6], &replies[0][22..28]), (&moved.0[..], &OWN.0[..]));
    assert_eq!(probes[0][..6], moved.0);
    host.guests[0].send(&udp([mac(0), REMOTE], [address(0)[0], address(9)[0]], [7, 7], b"hello"));
    host.run();
    assert_eq!(host.wire.receive()[0][..6], moved.0);
}

#[test]
fn an_uplink_that_becomes_another_is_used_as_that_one() {
    let mut host = Host::new();
    host.answer_arp();
    drop(host.wire.receive());
    let hello = udp([mac(0), REMOTE], [address(0)[0], address(9)[0]], [7, 7], b"hello");
    let own = MacAddr([2, 0, 0, 0, 9, 8]);
    let settings = |address: &str, gateways: &[&str]| UplinkSettings {
        link: Link {
            mac: own,
            addresses: vec![address.parse().unwrap()],
            gateways: gateways.iter().map(|gateway| gateway.parse().unwrap()).collect(),
        },
        mtu: 1500,
        kernel_answers: vec![],
    };
    // Another address and MAC address on the same link: the neighbours are told, and the next hop is where it was.
    host.fabric.change_uplink(&mut host.control, settings("192.0.2.8/24", &[]), host.now);
    host.guests[0].send(&hello);
    host.run();
    let sent = host.wire.receive();
    assert_eq!(sent[0], announce::gratuitous_arp(own, [192, 0, 2, 8].into()));
    assert_eq!((sent.len(), &sent[1][..12]), (2, &[OTHER.0, own.0].concat()[..]));
    assert_eq!((&sent[1][26..30], &sent[1][50..]), (&[192, 0, 2, 8][..], &hello[..]));
    // What comes for the new one arrives, what comes for the old one does not.
    let back = udp([REMOTE, mac(0)], [address(9)[0], address(0)[0]], [7, 7], b"back");
    let mut outer = from_other(&back);
    host.wire.send(&outer);
    host.run();
    assert!(host.guests[0].receive().is_empty());
    outer[..6].copy_from_slice(&own.0);
    outer[30..34].copy_from_slice(&[192, 0, 2, 8]);
    outer[24..26].fill(0);
    let sum = Sum::of(&outer[14..34]).finish();
    outer[24..26].copy_from_slice(&sum.to_be_bytes());
    host.wire.send(&outer);
    host.run();
    assert_eq!(host.guests[0].receive(), [back]);
    // On another link the other host is behind a router, which is asked for.
    host.fabric.change_uplink(&mut host.control, settings("198.51.100.8/24", &["198.51.100.1"]), host.now);
    host.guests[0].send(&hello);
    host.run();
    let sent = host.wire.receive();
    let asks = |frame: &Vec<u8>| frame[38..42] == [198, 51, 100, 1] && frame[28..32] == [198, 51, 100, 8];
    assert_eq!((sent.len(), sent.iter().filter(|frame| asks(frame)).count()), (2, 1));
    let next_hops: Vec<_> = host.fabric.resolver().unwrap().status().map(|(_, hop)| hop.address).collect();
    assert_eq!(next_hops, [IpAddr::from([198, 51, 100, 1])]);
}

#[test]
fn a_broadcast_reaches_all_of_its_subnet_and_nobody_twice() {
    let mut host = Host::new();
    host.answer_arp();
    drop(host.wire.receive());
    let to_all = IpAddr::from([10, 0, 0, 255]);
    let frame = udp([mac(0), MacAddr::BROADCAST], [address(0)[0], to_all], [7, 7], b"hello all");
    host.guests[0].send(&frame);
    host.run();
    assert_eq!((host.guests[0].receive().len(), host.guests[1].receive()), (0, vec![frame.clone()]));
    let outside = host.wire.receive();
    assert_eq!(outside.iter().map(|outer| &outer[50..]).collect::<Vec<_>>(), [&frame[..]]);
    // One that comes from there goes to both here, and not back.
    let frame = udp([REMOTE, MacAddr::BROADCAST], [address(9)[0], to_all], [7, 7], b"hello too");
    host.wire.send(&from_other(&frame));
    host.run();
    assert!(host.guests.iter_mut().all(|guest| guest.receive() == [frame.clone()]));
    assert!(host.wire.receive().is_empty());
}

#[test]
fn s09_the_broadcasts_of_one_host_do_not_use_up_what_others_may_have_copied() {
    let mut host = Host::new();
    host.answer_arp();
    let (third, number) = (IpAddr::from([192, 0, 2, 3]), VTEP + 1);
    host.act(Action::SetVtep { vtep: number, address: third, sources: vec![third], kind: VtepKind::Host });
    let sender = MacAddr([2, 0, 0, 0, 1, 8]);
    host.place(sender, address(8), Location::Remote(number));
    host.run();
    host.guests.iter_mut().for_each(|guest| drop(guest.receive()));
    let to_all = IpAddr::from([10, 0, 0, 255]);
    let flood = udp([REMOTE, MacAddr::BROADCAST], [address(9)[0], to_all], [7, 7], b"flood");
    let mut arrived = 0;
    for _ in 0..300 {
        // As many as workers leave to this thread in a while.
        host.now += Duration::from_millis(1);
        (0..3).for_each(|_| host.wire.send(&from_other(&flood)));
        host.run();
        arrived += host.guests[0].receive().iter().filter(|seen| **seen == flood).count();
        drop(host.guests[1].receive());
    }
    assert!((500..900).contains(&arrived), "{arrived} of 900: what it may at once, and one a millisecond");
    let other = udp([sender, MacAddr::BROADCAST], [address(8)[0], to_all], [7, 7], b"other");
    let mut outer = from_other(&other);
    outer[29] = 3;
    outer[24..26].fill(0);
    let sum = Sum::of(&outer[14..34]).finish();
    outer[24..26].copy_from_slice(&sum.to_be_bytes());
    (0..50).for_each(|_| host.wire.send(&outer));
    host.run();
    for guest in &mut host.guests {
        assert_eq!(guest.receive().iter().filter(|seen| **seen == other).count(), 50);
    }
}

#[test]
fn who_says_where_something_is_now_is_heard() {
    let mut host = Host::new();
    host.answer_arp();
    drop(host.wire.receive());
    for frame in announce::of_port(REMOTE, address(9)) {
        host.wire.send(&from_other(&frame));
    }
    host.run();
    let said = |address| Event { vpc: VPC, vtep: VTEP, mac: REMOTE, address };
    let [v4, v6] = address(9);
    assert_eq!(host.events, [said(Some(v4)), said(Some(v6)), said(None)]);
    // Of a port whose guest runs here what others say is late, or a lie; when it runs no more it has gone there.
    host.events.clear();
    let claims = |host: &mut Host| {
        for frame in announce::of_port(mac(0), address(0)) {
            host.wire.send(&from_other(&frame));
        }
        host.run();
        host.events.len()
    };
    assert_eq!(claims(&mut host), 0);
    assert!(host.fabric.set_running(PortIndex(0), false, host.now));
    assert_eq!(claims(&mut host), 3);
    // And what is here is told to who has stations of the VPC, as it was said.
    host.act(Action::Announce { port: PortIndex(0) });
    host.run();
    let told: Vec<Vec<u8>> = host.wire.receive().into_iter().map(|outer| outer[50..].to_vec()).collect();
    assert_eq!(told, announce::of_port(mac(0), address(0)));
}

#[test]
fn what_is_gone_is_not_served_any_more() {
    let mut host = Host::new();
    host.answer_arp();
    assert_eq!(host.fabric.resolver().unwrap().status().count(), 1);
    host.act(Action::UnbindMac { space: 0, mac: REMOTE });
    host.act(Action::RemoveVtep { vtep: VTEP });
    assert_eq!(host.fabric.resolver().unwrap().status().count(), 0);
    let index = PortIndex(1);
    assert!(host.fabric.carry_out(&mut host.control, Action::ClosePort { index }, host.now).is_some());
    assert!(!host.fabric.set_running(index, true, host.now), "it is not there");
    host.control.publish();
    let addresses = [address(0)[0], [10, 0, 0, 255].into()];
    host.guests[0].send(&udp([mac(0), MacAddr::BROADCAST], addresses, [7, 7], b"anybody?"));
    host.run();
    assert!(host.guests[1].receive().is_empty() && host.wire.receive().is_empty());
}

#[test]
fn s05_workers_that_leave_more_than_can_be_heard_keep_nobody_from_other_work() {
    let mut host = Host::new();
    let (pool, exceptions) = (Pool::new(512), host.control.exceptions().clone());
    let frame = udp([mac(0), MacAddr::BROADCAST], [address(0)[0], [10, 0, 0, 255].into()], [7, 7], b"all");
    for _ in 0..300 {
        let packet = pool.copy(&Frame::from_head(&frame, Offload::NONE)).unwrap();
        let punt = Punt { port: PortIndex(0), kind: PuntKind::Broadcast, origin: None, packet };
        assert!(exceptions.punts.push(punt).is_ok());
        assert!(exceptions.wanted.push(0).is_ok());
    }
    let mut left = Vec::new();
    while !exceptions.is_empty() {
        host.fabric.hear(&mut host.control, host.now);
        left.push((exceptions.punts.len(), exceptions.wanted.len()));
    }
    assert_eq!(left, [(172, 0), (44, 0), (0, 0)]);
    assert_eq!(pool.available(), 512);
}

#[test]
fn packets_for_a_port_that_came_here_are_taken_from_the_host_it_left_for_a_while() {
    let mut host = Host::new();
    host.answer_arp();
    drop(host.wire.receive());
    // The port was on the other host; somebody on a third one has not heard yet that it is here.
    let (third, number) = (IpAddr::from([192, 0, 2, 3]), VTEP + 1);
    let (sources, kind) = (vec![third], VtepKind::Host);
    host.act(Action::SetVtep { vtep: number, address: third, sources, kind });
    let sender = MacAddr([2, 0, 0, 0, 1, 8]);
    host.place(sender, address(8), Location::Remote(number));
    host.place(mac(0), address(0), Location::Remote(VTEP));
    host.run();
    let frame = udp([sender, mac(0)], [address(8)[0], address(0)[0]], [7, 7], b"late");
    let sent_on = |host: &mut Host| {
        host.wire.send(&from_other(&frame));
        host.run();
        // The gateway advertises itself now and then as well.
        host.guests[0].receive().iter().filter(|seen| **seen == frame).count()
    };
    assert_eq!(sent_on(&mut host), 0);
    host.place(mac(0), address(0), Location::Local(0));
    assert_eq!(sent_on(&mut host), 1);
    host.now += Duration::from_secs(31);
    host.run();
    assert_eq!(sent_on(&mut host), 0);
}

/// Guest 0 is under rules that let everything pass, has a block of a shared address, and a route outside; this host announces that address.
fn with_a_way_out() -> Host {
    let mut host = Host::new();
    host.answer_arp();
    drop(host.wire.receive());
    let allow = Rule {
        direction: Direction::Egress,
        action: tables::rules::Action::Allow,
        priority: 1,
        protocol: None,
        family: None,
        ports: vec![],
        icmp: None,
        remote: Remote::Any,
        log: false,
        counter: 0,
    };
    host.act(Action::StartCounters { counters: vec![0] });
    host.act(Action::SetPolicy { policy: 0, name: "all".into(), rules: vec![allow], shadow: None });
    let mut profile = PortProfile::new(0, mac(0), 1450, &address(0), &[]).in_vpc(VPC, GATEWAY, 1);
    profile.policy = Some(0);
    host.control.set_profile(PortIndex(0), profile);
    let shared = ExternalOwner::Shared { vpc: VPC, count: 1024, blocks: 63 };
    let inside = address(0)[0];
    let block = Block { address: SHARED, first: 2048, count: 1024 };
    let plan = Box::new(ExternalPlan { name: "internet".into(), gateway: ROUTER });
    let networks = vec!["10.0.0.0/16".parse().unwrap()];
    for action in [
        ExternalAction::SetExternalNetwork { network: 3, plan },
        ExternalAction::SetExit { exit: 2, vpc: VPC, network: 3, mapping: Mapping::EndpointIndependent },
        ExternalAction::SetInside { vpc: VPC, networks },
        ExternalAction::BindExternal { address: SHARED, owner: shared },
        ExternalAction::BindBlock { address: SHARED, block: 1, inside },
        ExternalAction::BindSource { exit: 2, inside, source: Source::Block(block) },
        ExternalAction::AnnounceExternal { address: SHARED },
    ] {
        host.act(Action::External(action));
    }
    let subnet = ("10.0.0.0/24".parse().unwrap(), NextHop::Subnet(0));
    let plan = vec![subnet, ("0.0.0.0/0".parse().unwrap(), NextHop::External(2))];
    host.act(Action::SetRoutes { routes: 0, plan });
    host.control.publish();
    host.run();
    host
}

const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

#[test]
fn a_guest_reaches_outside_by_the_networks_router_and_is_answered() {
    let mut host = with_a_way_out();
    let sent = host.wire.receive();
    let announced = announce::of_address(OWN, SHARED);
    assert_eq!(sent.iter().filter(|frame| **frame == announced).count(), 1);
    // The router is in none of the uplink's prefixes, and asked for on its link all the same.
    let asks: Vec<&Vec<u8>> =
        sent.iter().filter(|frame| frame[12..14] == [8, 6] && frame[38..42] == [198, 51, 100, 1]).collect();
    assert_eq!(asks.len(), 1);
    let headers = packet::parse(asks[0], asks[0].len() as u32).unwrap();
    let mut answer = asks[0].clone();
    arp::reply_in_place(&mut answer, &headers, OTHER).unwrap();
    host.wire.send(&answer);
    host.run();
    let outside = IpAddr::from([203, 0, 113, 7]);
    host.guests[0].send(&udp([mac(0), GATEWAY], [address(0)[0], outside], [5000, 53], b"question"));
    host.run();
    let sent = host.wire.receive();
    assert_eq!((sent.len(), &sent[0][..12]), (1, &[OTHER.0, OWN.0].concat()[..]));
    assert_eq!(sent[0][26..34], [198, 51, 100, 10, 203, 0, 113, 7]);
    let port = u16::from_be_bytes([sent[0][34], sent[0][35]]);
    assert!((2048..3072).contains(&port), "{port}");
    host.wire.send(&udp([OTHER, OWN], [outside, SHARED], [53, port], b"answer"));
    host.run();
    let got = host.guests[0].receive();
    assert_eq!((got.len(), &got[0][..12]), (1, &[mac(0).0, GATEWAY.0].concat()[..]));
    assert_eq!(
        (&got[0][30..34], &got[0][36..38], &got[0][42..]),
        (&[10, 0, 0, 10][..], &[0x13, 0x88][..], &b"answer"[..])
    );
}

#[test]
fn external_addresses_are_announced_twice_and_again_by_another_uplink() {
    let mut host = with_a_way_out();
    drop(host.wire.receive());
    let announced = |host: &mut Host, mac: MacAddr| {
        let said = announce::of_address(mac, SHARED);
        host.run();
        host.wire.receive().iter().filter(|frame| **frame == said).count()
    };
    host.now += Duration::from_secs(1);
    assert_eq!(announced(&mut host, OWN), 0);
    host.now += Duration::from_secs(1);
    assert_eq!(announced(&mut host, OWN), 1);
    host.now += Duration::from_secs(60);
    assert_eq!(announced(&mut host, OWN), 0);
    let own = MacAddr([2, 0, 0, 0, 9, 8]);
    let link = Link { mac: own, addresses: vec!["198.51.100.2/24".parse().unwrap()], gateways: vec![] };
    let settings = UplinkSettings { link, mtu: 1500, kernel_answers: vec![] };
    host.fabric.change_uplink(&mut host.control, settings, host.now);
    assert_eq!(announced(&mut host, own), 1);
    let routers = |host: &Host| host.control.network().external.routers.clone();
    assert_eq!(routers(&host).keys().collect::<Vec<_>>(), [&ROUTER]);
    // Another host's from now on: no announcement is left over.
    host.act(Action::External(ExternalAction::AnnounceExternal { address: SHARED }));
    host.act(Action::External(ExternalAction::WithdrawExternal { address: SHARED }));
    assert_eq!(announced(&mut host, own), 1);
    host.now += Duration::from_secs(10);
    assert_eq!(announced(&mut host, own), 0);
}

#[test]
fn nothing_is_left_of_a_way_out_that_goes() {
    let mut host = with_a_way_out();
    let exit = host.control.network().external.exits[2].clone();
    assert_eq!((exit.vpc, exit.network, exit.blocks.len(), exit.routers[0].is_some()), (VPC, 3, 1, true));
    let inside = address(0)[0];
    let floating = Source::Floating([198, 51, 100, 20].into());
    host.act(Action::External(ExternalAction::BindSource { exit: 2, inside, source: floating }));
    host.control.publish();
    assert_eq!(
        host.control.network().external.exits[2].source(inside),
        Some(floating),
        "instead of the block"
    );
    let subnet = ("10.0.0.0/24".parse().unwrap(), NextHop::Subnet(0));
    for action in [
        ExternalAction::UnbindSource { exit: 2, inside },
        ExternalAction::WithdrawExternal { address: SHARED },
        ExternalAction::UnbindBlock { address: SHARED, block: 1 },
        ExternalAction::UnbindExternal { address: SHARED },
        ExternalAction::RemoveInside { vpc: VPC },
    ] {
        host.act(Action::External(action));
    }
    host.act(Action::SetRoutes { routes: 0, plan: vec![subnet] });
    host.act(Action::External(ExternalAction::RemoveExit { exit: 2 }));
    host.act(Action::External(ExternalAction::RemoveExternalNetwork { network: 3 }));
    host.control.publish();
    let external = host.control.network().external.clone();
    assert!(external.is_empty() && external.announced.is_empty() && external.inside.is_empty());
    assert!(external.routers.is_empty());
    let next_hops = host.fabric.resolver().unwrap().status().count();
    assert_eq!(next_hops, 1, "the other host's alone");
}
