//! Our side: the model, the agent, the fabric and the switch's pipeline as the daemon drives them, in this process and with a clock that stands still.

use agent::{Action, Agent};
use anyhow::{Context, anyhow, ensure};
use buf::{Burst, Frame, Offload, Pool};
use engine::{PortIndex, RxQueue, TxQueue, Unobserved};
use fabric::Fabric;
use ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use serde_json::Value;
use services::metadata::{Broken, Read, StreamId, Upstream};
use std::collections::BTreeMap;
use std::time::Duration;
use switch::{Clock, Control, SwitchConfig, Worker};
use towpath_tests::Result;

use crate::hosts::{HOSTS, mac};
use crate::linux::Delivered;
use crate::rules::Groups;

const NOW: Duration = Duration::from_secs(1000);

struct Still;

impl Clock for Still {
    fn cycles(&mut self) -> u64 {
        0
    }
}

/// No service anywhere.
struct Nowhere;

impl Upstream for Nowhere {
    fn open(&mut self, _: StreamId, _: &str) -> std::result::Result<(), Broken> {
        Err(Broken)
    }
    fn write(&mut self, _: StreamId, _: &[u8]) -> std::result::Result<usize, Broken> {
        Err(Broken)
    }
    fn read(&mut self, _: StreamId, _: &mut [u8]) -> std::result::Result<Read, Broken> {
        Err(Broken)
    }
    fn close(&mut self, _: StreamId) {}
}

struct Guest {
    sends: LoopbackTx,
    receives: LoopbackRx,
    index: PortIndex,
}

pub(crate) struct Ours {
    control: Control,
    worker: Worker,
    guests: Vec<Guest>,
    gateways: [[u8; 6]; 2],
}

impl Ours {
    pub(crate) fn new(groups: &Groups) -> Result<Self> {
        let config = SwitchConfig {
            workers: 1,
            pool_chunks: 4096,
            secret: [1, 2],
            sessions: 4096,
            timeouts: tables::sessions::Timeouts::default(),
            huge_pages: false,
            now: NOW.as_nanos() as u64,
        };
        let (mut control, mut workers) = Control::new(&config)?;
        let worker = workers.pop().context("a worker")?;
        let text = groups.resources().iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
        let set = model::load_text(&text, "groups.yaml", &model::Environment::default())
            .map_err(|problems| anyhow!("{problems:?}"))?;
        let name = model::Name::parse("node-a").map_err(|refused| anyhow!("{refused:?}"))?;
        let (actions, exhausted) = Agent::new(name).apply(&set);
        ensure!(exhausted.is_empty(), "no room for {exhausted:?}");
        let mut fabric = Fabric::new(7, Nowhere);
        let mut guests: BTreeMap<usize, Guest> = BTreeMap::new();
        let mut gateways = [[0; 6]; 2];
        for action in actions {
            if let Some(Action::OpenPort { index, plan }) = fabric.carry_out(&mut control, action, NOW) {
                let host: usize = plan.name.rsplit('h').next().context("a name")?.parse()?;
                gateways[crate::hosts::side(host)] = plan.profile.gateway_mac.0;
                control.add_port(index, plan.profile);
                guests.insert(host, attach(&mut control, index)?);
            }
        }
        control.publish();
        ensure!(fabric.refused_rules().next().is_none(), "{:?}", fabric.refused_rules().next());
        ensure!(guests.len() == HOSTS, "{} ports of {HOSTS}", guests.len());
        let mut ours = Self { control, worker, guests: guests.into_values().collect(), gateways };
        ours.step();
        Ok(ours)
    }

    fn step(&mut self) {
        let mut idle = 0;
        while idle < 2 {
            let now = NOW.as_nanos() as u64;
            let all = self.worker.step(now, &mut Still, &mut Unobserved).is_idle();
            idle = if all { idle + 1 } else { 0 };
        }
    }

    /// What becomes of a packet of a host: who is sent what. What the switch answers itself, to the sender, is no matter.
    pub(crate) fn judge(&mut self, from: usize, packet: &[u8]) -> Result<Vec<Delivered>> {
        let kind = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        let gateway = self.gateways[crate::hosts::side(from)];
        let frame = [&gateway[..], &mac(from), &kind, packet].concat();
        let guest = &mut self.guests[from];
        let sent = guest.sends.send(&[Frame::from_head(&frame, Offload::NONE)]).sent;
        ensure!(sent == 1, "the port takes no frame");
        guest.sends.flush();
        self.step();
        let mut delivered = Vec::new();
        for host in 0..HOSTS {
            for frame in self.receive(host)? {
                if host != from {
                    delivered.push((host, frame.get(14..).context("a frame")?.to_vec()));
                }
            }
        }
        Ok(delivered)
    }

    fn receive(&mut self, host: usize) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let receives = &mut self.guests[host].receives;
        loop {
            let mut burst = Burst::new();
            receives.poll(&mut burst);
            if burst.is_empty() {
                return Ok(frames);
            }
            for index in 0..burst.len() {
                frames.push(burst.frame(index).context("a frame")?.to_vec());
            }
            receives.complete();
        }
    }

    /// Why packets of a host ended, and how many.
    pub(crate) fn drops(&self, host: usize) -> Vec<(&'static str, u64)> {
        let counters = self.control.counters(self.guests[host].index);
        let drops = counters.map(|counters| counters.drops).unwrap_or_default();
        drops
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name(), count))
            .collect()
    }

    /// States of the sessions that there are, and how many are in each.
    pub(crate) fn states(&self) -> BTreeMap<String, usize> {
        let mut states = BTreeMap::new();
        for session in self.control.sessions().list(NOW.as_millis() as u32, usize::MAX, |_| true) {
            let state = session.state.map_or("without", tables::sessions::TcpState::name);
            *states.entry(state.to_owned()).or_default() += 1;
        }
        states
    }
}

fn attach(control: &mut Control, index: PortIndex) -> Result<Guest> {
    let pool = Pool::new(512);
    let ((rx, sends), (receives, tx)) = (loopback(&pool, 64, || {}), loopback(&pool, 64, || {}));
    control.attach_rx(index, 0, Box::new(rx)).context("a receive queue")?;
    control.attach_tx(index, 0, Box::new(tx)).context("a transmit queue")?;
    Ok(Guest { sends, receives, index })
}
