//! How long until a worker judges by a changed rule, or by a changed group.

use std::{net::IpAddr, time::Instant};

use ipnet::IpNet;
use tables::rules::{Direction, Remote, Rule};

use super::{
    PolicyArgs, Row, Wanted,
    site::{Packet, Site, UDP, VPC, address, allow},
};

const MEMBERS: u32 = 10_000;
const GROUP: u16 = 5;
/// Of the session table.
const ROOM: u32 = 1 << 16;
/// Milliseconds, p99.
const WANTED: f64 = 10.0;
/// The rules of the group, of which one changes.
const RULES: u32 = 1_000;

fn rules(port: u16) -> Vec<Rule> {
    let rule = |number: u32, port: u16| Rule {
        protocol: Some(UDP),
        ports: vec![port..=port],
        remote: Remote::Group(GROUP),
        counter: number,
        ..allow(Direction::Ingress)
    };
    (2..=RULES).map(|number| rule(number, 1_000 + number as u16)).chain([rule(1, port)]).collect()
}

/// Milliseconds until packets of a live connection pass, or do not.
fn until(site: &mut Site, pass: bool, start: Instant) -> anyhow::Result<f64> {
    let packet = Packet::udp(1, [40_000, 53]);
    loop {
        site.now += 1_000;
        site.send(0, &[packet])?;
        while site.one_step().0 == 0 {}
        if (site.receive(1)? == 1) == pass {
            return Ok(start.elapsed().as_secs_f64() * 1e3);
        }
        if start.elapsed().as_secs() > 5 {
            anyhow::bail!("five seconds after a change packets are still judged as before it");
        }
    }
}

pub(super) fn rows(args: &PolicyArgs) -> anyhow::Result<Vec<Row>> {
    let mut site = Site::new(&[Some(vec![allow(Direction::Egress)]), Some(rules(53))], ROOM)?;
    let me = IpNet::from(IpAddr::V4(address(0)));
    for number in 0..MEMBERS - 1 {
        let other = IpAddr::V4((0x0a01_0000 + number).into());
        site.control.set_member(VPC, other.into(), &[GROUP])?;
    }
    site.control.set_member(VPC, me, &[GROUP])?;
    until(&mut site, true, Instant::now())?;
    let (mut rule, mut member) = (Vec::new(), Vec::new());
    for turn in 0..args.changes {
        let pass = turn % 2 == 1;
        let start = Instant::now();
        site.set_rules(1, rules(if pass { 53 } else { 54 }))?;
        rule.push(until(&mut site, pass, start)?);
        if !pass {
            continue;
        }
        for pass in [false, true] {
            let start = Instant::now();
            if pass {
                site.control.set_member(VPC, me, &[GROUP])?;
            } else {
                site.control.remove_member(VPC, me);
            }
            member.push(until(&mut site, pass, start)?);
        }
        site.control.reclaim();
    }
    let row = |name: &str, times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).or(times.last()).copied();
        let [median, p99, most] = [0.5, 0.99, 1.0].map(|share| at(share).unwrap_or(f64::NAN));
        Row::new(name, "ms", [median, p99, most], p99).wanted(Wanted::AtMost(WANTED)).note(
            "median, p99 and highest, from the change (rules are compiled in it) to the first packet judged by it; worker and control side on one core",
        )
    };
    Ok(vec![
        row("one of 1,000 rules changed, group of 10,000 members (p99)", &mut rule),
        row("one of 10,000 members removed or put back (p99)", &mut member),
    ])
}
