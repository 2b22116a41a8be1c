//! What a change of rules or members costs the control thread where a group has 10,000 members: the set, the agent, compilation, and the switch's tables.
//!
//! `cargo bench -p towpath-fabric --bench rules`
#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use agent::{Action, Agent};
use fabric::Fabric;
use model::security_group::PortRange;
use model::{Difference, Environment, Key, Kind, Name, ObjectName, Resource, ResourceSet, Spec, load_text};
use services::metadata::{Broken, Read, StreamId, Upstream};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use switch::{Control, SwitchConfig};
use tables::sessions::Timeouts;
use towpath_fabric as fabric;

const MEMBERS: u32 = 10_000;
const RULES: u32 = 1_000;
const TURNS: usize = 100;

struct NoServices;

impl Upstream for NoServices {
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

struct Site {
    set: ResourceSet,
    agent: Agent,
    fabric: Fabric<NoServices>,
    control: Control,
}

impl Site {
    /// A VPC whose ports, `local` of them here, are all in one group.
    fn new(local: u32) -> Self {
        let mut text = String::from(
            "kind: Vpc\nmetadata: {name: v}\nspec: {vni: 1, cidrs: [10.0.0.0/8]}\n---\n\
             kind: Subnet\nmetadata: {name: s}\nspec: {vpc: v, cidrs: [10.0.0.0/8]}\n---\n\
             kind: SecurityGroup\nmetadata: {name: other}\nspec: {vpc: v, rules: []}\n---\n\
             kind: SecurityGroup\nmetadata: {name: web}\nspec:\n  vpc: v\n  rules:\n  - {direction: egress, action: allow, remote: {any: true}}\n",
        );
        for rule in 1..RULES {
            let port = 1_000 + rule;
            writeln!(text, "  - {{direction: ingress, action: allow, protocol: tcp, ports: '{port}', remote: {{group: web}}}}").unwrap();
        }
        for port in 0..MEMBERS {
            let host = if port < local { "here" } else { "there" };
            let [_, a, b, c] = (port + 256).to_be_bytes();
            writeln!(text, "---\nkind: Port\nmetadata: {{name: p{port}}}\nspec: {{subnet: s, host: {host}, mac: '02:00:00:{a:02x}:{b:02x}:{c:02x}', ips: [10.{a}.{b}.{c}], securityGroups: [web]}}").unwrap();
        }
        for (host, vtep) in [("here", "192.0.2.1"), ("there", "192.0.2.2")] {
            writeln!(text, "---\nkind: Host\nmetadata: {{name: {host}}}\nspec: {{vteps: [{vtep}]}}").unwrap();
        }
        let set = load_text(&text, "bench", &Environment::default()).unwrap();
        let config = SwitchConfig {
            workers: 1,
            pool_chunks: 64,
            secret: [1, 2],
            sessions: 1024,
            huge_pages: false,
            timeouts: Timeouts::default(),
            now: 0,
        };
        let (control, _workers) = Control::new(&config).unwrap();
        let agent = Agent::new(Name::parse("here").unwrap());
        let mut site =
            Self { set: ResourceSet::default(), agent, fabric: Fabric::new(1, NoServices), control };
        site.take_up(set);
        site
    }

    fn take_up(&mut self, set: ResourceSet) -> (Duration, Duration) {
        let start = Instant::now();
        let (actions, _) = self.agent.apply(&set);
        let planned = start.elapsed();
        for action in actions {
            match self.fabric.carry_out(&mut self.control, action, Duration::ZERO) {
                Some(Action::OpenPort { index, plan }) => self.control.add_port(index, plan.profile.clone()),
                Some(Action::ChangePort { index, plan }) => {
                    self.control.set_profile(index, plan.profile.clone());
                }
                _ => {}
            }
        }
        self.control.publish();
        self.set = set;
        (planned, start.elapsed())
    }

    fn change(&mut self, kind: Kind, name: &str, change: impl Fn(&mut Spec)) -> (Duration, Duration) {
        let name = ObjectName::parse(name, &Name::default_project()).unwrap();
        let old = self.set.get(&Key::of(kind, &name)).unwrap().clone();
        let mut new = Resource::clone(&old);
        change(&mut new.spec);
        let set = self.set.changed(vec![Difference { old: Some(old), new: Some(Arc::new(new)) }]);
        let times = self.take_up(set);
        self.control.reclaim();
        times
    }
}

fn row(name: &str, mut once: impl FnMut(usize) -> (Duration, Duration)) {
    let mut times: Vec<(Duration, Duration)> = (0..TURNS).map(&mut once).collect();
    times.sort_by_key(|(_, all)| *all);
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let at = |at: usize| milliseconds(times[at].1);
    let agent = times.iter().map(|(planned, _)| milliseconds(*planned)).sum::<f64>() / TURNS as f64;
    println!(
        "{name:60} median {:8.3} ms  p99 {:8.3} ms  (agent {agent:.3} ms)",
        at(TURNS / 2),
        at(TURNS * 99 / 100)
    );
}

fn main() {
    for local in [100, MEMBERS] {
        println!("{MEMBERS} members, {local} of them on this host, {RULES} rules");
        let start = Instant::now();
        let mut site = Site::new(local);
        println!("{:60} {:8.3} s", "  all of it (with reading the manifests)", start.elapsed().as_secs_f64());
        row("  one rule changed", |turn| {
            site.change(Kind::SecurityGroup, "web", |spec| {
                let Spec::SecurityGroup(group) = spec else { return };
                let port = if turn % 2 == 0 { 7 } else { 8 };
                group.rules[500].ports = vec![PortRange { first: port, last: port }];
            })
        });
        row("  one member less or more", |turn| {
            site.change(Kind::Port, "p9999", |spec| {
                let Spec::Port(port) = spec else { return };
                let group = if turn % 2 == 0 { "other" } else { "web" };
                port.security_groups = vec![ObjectName::parse(group, &Name::default_project()).unwrap()];
            })
        });
        row("  a rule names a group that none did, or does no more", |turn| {
            site.change(Kind::SecurityGroup, "web", |spec| {
                let Spec::SecurityGroup(group) = spec else { return };
                let group_name = if turn % 2 == 0 { "other" } else { "web" };
                let reference = ObjectName::parse(group_name, &Name::default_project()).unwrap();
                group.rules[400].remote = model::security_group::Remote::Group(reference);
            })
        });
    }
}
