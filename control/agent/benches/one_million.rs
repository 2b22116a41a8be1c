//! A million endpoints: from decoded changes in memory to the actions that make them visible; and one change among a million.
//!
//! What is decoded is what a store would hand over: resources, each on its own, not yet a set.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use model::fields::Parsed;
use model::{Difference, EndpointSpec, Environment, Key, Kind, Metadata, Name, ObjectName, Owner, Resource};
use model::{ResourceSet, Spec, Uid, load_text};
use packet::MacAddr;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use towpath_agent::Agent;

const ENDPOINTS: u32 = 1_000_000;

/// A VPC with one port here and room for the rest; four subnets, sixteen other hosts' worth of tunnels.
fn base() -> ResourceSet {
    let mut text = String::from(
        "kind: Host\nmetadata: {name: node-a}\nspec: {vteps: [192.0.2.1]}\n---\n\
         kind: Vpc\nmetadata: {name: blue}\nspec: {vni: 100, cidrs: [10.0.0.0/8]}\n",
    );
    for subnet in 0..4 {
        let cidr = format!("10.{}.0.0/14", 4 * subnet);
        text += &format!(
            "---\nkind: Subnet\nmetadata: {{name: s{subnet}}}\nspec: {{vpc: blue, cidrs: [{cidr}]}}\n"
        );
    }
    text += "---\nkind: Port\nmetadata: {name: here}\nspec: {subnet: s0, host: node-a, ips: [10.3.255.9], unfiltered: true}\n";
    load_text(&text, "base", &Environment::default()).unwrap_or_else(|problems| fail(&problems))
}

fn fail<T>(problems: &[model::Problem]) -> T {
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    unreachable!("{}", words.join("\n"))
}

fn valid<T>(parsed: Parsed<T>) -> T {
    parsed.unwrap_or_else(|refusal| unreachable!("{}", refusal.message))
}

/// One endpoint as a store's decoder makes it: nothing shared with another.
fn decoded(number: u32, version: u32) -> Arc<Resource> {
    let project = Name::default_project();
    let name = valid(Name::parse(&format!("e{number:07}")));
    let key = Key { kind: Kind::Endpoint, project: Some(project.clone()), name };
    let uid = Uid::derived(&key);
    let meta = Metadata { key, uid, labels: BTreeMap::new(), shared_with: Vec::new(), owner: Owner::Api };
    let subnet = valid(ObjectName::parse(&format!("s{}", number % 4), &project));
    let address = 10 << 24 | (number % 4) << 18 | (number / 4 + 16);
    let [a, b, c, d] = number.to_be_bytes();
    let spec = EndpointSpec {
        subnet,
        ips: vec![IpAddr::from(address.to_be_bytes())],
        mac: MacAddr([2, 1, a, b, c, d]),
        vtep: IpAddr::from([192, 0, 2, 100 + ((number + version) % 16) as u8]),
    };
    Arc::new(Resource { meta, spec: Spec::Endpoint(spec) })
}

fn added() -> Vec<Difference> {
    (0..ENDPOINTS).map(|number| Difference { old: None, new: Some(decoded(number, 0)) }).collect()
}

fn agent() -> Agent {
    Agent::new(valid(Name::parse("node-a")))
}

fn one_million(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("agent");
    group.sample_size(10);
    let base = base();
    let changes = added();
    // The first application: the set is made and all of it is bound.
    group.bench_function("1 M decoded endpoints to actions", |bencher| {
        bencher.iter_batched(
            || (agent(), changes.clone()),
            |(mut agent, changes)| {
                let set = base.changed(changes);
                let (actions, _) = agent.apply(&set);
                assert!(actions.len() >= 2 * ENDPOINTS as usize);
                (agent, set, actions)
            },
            BatchSize::PerIteration,
        );
    });
    // The same into a VPC that is realized already: each is a change by itself.
    group.bench_function("1 M decoded endpoints to actions, VPC known", |bencher| {
        bencher.iter_batched(
            || {
                let mut agent = agent();
                agent.apply(&base);
                (agent, changes.clone())
            },
            |(mut agent, changes)| {
                let set = base.changed(changes);
                let (actions, _) = agent.apply(&set);
                assert!(actions.len() >= 2 * ENDPOINTS as usize);
                (agent, set, actions)
            },
            BatchSize::PerIteration,
        );
    });
    let set = base.changed(changes);
    let mut agent = agent();
    agent.apply(&set);
    let (mut set, mut version) = (set, 0);
    group.bench_function("one change among 1 M", |bencher| {
        bencher.iter(|| {
            version += 1;
            let key = decoded(500_000, 0).meta.key.clone();
            let change = Difference { old: set.get(&key).cloned(), new: Some(decoded(500_000, version)) };
            set = set.changed(vec![change]);
            black_box(agent.apply(&set))
        });
    });
    group.finish();
}

criterion_group!(benches, one_million);
criterion_main!(benches);
