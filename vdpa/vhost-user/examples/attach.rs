//! Attaches one front end and takes whatever its guest sends: shows that queues become ready and packets arrive.
//!
//! `cargo run -p towpath-vhost-user --example attach -- [--client] SOCKET [SECONDS]` prints events as they come, and at
//! the end the features in words, packets and bytes taken, and what was refused. Exits with 1 if no queue ever ran.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use buf::Burst;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use towpath_vhost_user::{
    Connector, Device, DeviceEvent, Endpoint, ListenError, ListenOptions, Listener, ReadyQueue, Role,
    SessionConfig, features,
};
use virtqueue::{DeviceRing, Headers, Notifier};

#[derive(Default)]
struct Totals {
    packets: u64,
    bytes: u64,
    queues: usize,
    features: u64,
}

fn role(client: bool, path: &str) -> Result<Role, ListenError> {
    if client {
        return Ok(Role::Client(Connector::new(path)));
    }
    Listener::bind(&ListenOptions::new(path)).map(Role::Server)
}

/// Takes what one queue of the guest's sends, and gives the buffers back.
fn drain(queue: &mut ReadyQueue, totals: &mut Totals) {
    let memory = queue.ring.memory().clone();
    let mut burst = Burst::new();
    let mut headers = Headers::new();
    let taken = queue.ring.take(&memory, &mut burst, &mut headers).unwrap_or(0);
    totals.packets += taken as u64;
    for index in 0..taken {
        totals.bytes += burst.packet(index).map_or(0, |packet| packet.len() as u64);
    }
    queue.ring.return_taken();
    if queue.ring.interrupt_due()
        && let Some(call) = &queue.call
    {
        call.notify();
    }
}

fn on_event(
    event: DeviceEvent,
    device: &mut Device,
    queues: &mut BTreeMap<u16, ReadyQueue>,
    totals: &mut Totals,
) {
    match event {
        DeviceEvent::QueueReady(mut queue) => {
            println!("queue {} ready: {:?}", queue.index, queue.ring.features());
            queue.ring.suppress_kicks();
            queues.insert(queue.index, *queue);
            totals.queues = totals.queues.max(queues.len());
        }
        DeviceEvent::StopQueue { index } => {
            if let Some(mut queue) = queues.remove(&index) {
                let base = queue.ring.base();
                println!("queue {index} stopped at {base:#x}: {:?}", queue.ring.stats());
                drop(queue);
                device.queue_stopped(index, base);
            }
        }
        DeviceEvent::CallChanged { index, call } => {
            if let Some(queue) = queues.get_mut(&index) {
                queue.call = call;
            }
        }
        DeviceEvent::FeaturesSettled { features } => {
            println!("features {features:#x}: {}", features::names(features).join(", "));
            totals.features = features;
        }
        other => println!("{other:?}"),
    }
}

fn wait(device: &Device, busy: bool, now: Duration) {
    let endpoint = device.endpoint();
    let mut fds: Vec<PollFd<'_>> = Vec::new();
    for (socket, interest) in endpoint.sockets() {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.read);
        flags.set(PollFlags::OUT, interest.write);
        fds.push(PollFd::from_borrowed_fd(socket, flags));
    }
    let longest = if busy { Duration::ZERO } else { Duration::from_millis(20) };
    let sleep = endpoint.deadline().map_or(longest, |deadline| deadline.saturating_sub(now).min(longest));
    let timeout = Timespec { tv_sec: 0, tv_nsec: sleep.subsec_nanos().into() };
    let _interrupted = poll(&mut fds, Some(&timeout));
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let client = args.iter().position(|arg| arg == "--client").map(|place| args.remove(place)).is_some();
    let Some(path) = args.first() else {
        eprintln!("usage: attach [--client] SOCKET [SECONDS]");
        return ExitCode::from(2);
    };
    let seconds = args.get(1).and_then(|arg| arg.parse().ok()).unwrap_or(10);
    let role = match role(client, path) {
        Ok(role) => role,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut device = Device::new(Endpoint::new(role, SessionConfig::default()));
    let (mut queues, mut totals) = (BTreeMap::new(), Totals::default());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        let before = totals.packets;
        for queue in queues.values_mut().filter(|queue: &&mut ReadyQueue| queue.index % 2 == 1) {
            drain(queue, &mut totals);
        }
        device.on_ready(start.elapsed());
        while let Some(event) = device.next_event() {
            on_event(event, &mut device, &mut queues, &mut totals);
        }
        device.on_ready(start.elapsed());
        wait(&device, totals.packets != before, start.elapsed());
    }
    println!("features: {}", features::names(totals.features).join(", "));
    println!("queues: {}, packets: {}, bytes: {}", totals.queues, totals.packets, totals.bytes);
    for (refusal, count) in device.endpoint().refusals().iter() {
        println!("refused {}: {count}", refusal.name());
    }
    if totals.queues > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
