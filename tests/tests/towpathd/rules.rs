//! What an operator sees of rules and sessions in the real daemon.

use anyhow::ensure;
use serde_json::{Value, json};
use towpath_tests::frontend::udp;
use towpath_tests::manifests::{network, resource};
use towpath_tests::{Result, wait};

use crate::{LIMIT, Setting};

/// The VPC, its subnet, and its group `default` with shadow rules.
fn with_shadow(shadow: &Value) -> Vec<Value> {
    let rules = json!([
        {"direction": "egress", "action": "allow", "remote": {"any": true}},
        {"direction": "ingress", "action": "allow", "remote": {"group": "default"}},
    ]);
    let mut resources = network();
    resources.push(resource(
        "SecurityGroup",
        "default",
        &json!({"vpc": "blue", "rules": rules, "shadow": shadow}),
    ));
    resources
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn shadow_rules_say_what_they_would_cut_and_sessions_are_listed_while_they_live() -> Result<()> {
    let mut setting = Setting::<2>::start_with(|port| port.unfiltered = false)?;
    let (mut one, mut other) = (setting.attach(0)?, setting.attach(1)?);
    let [from, to] = &setting.ports.clone();
    let (there, back) = (udp(from, to, b"question")?, udp(to, from, b"answer")?);
    let mut talk = || -> Result<()> {
        one.send(&there)?;
        ensure!(other.receive_other(LIMIT)? == there);
        other.send(&back)?;
        ensure!(one.receive_other(LIMIT)? == back);
        Ok(())
    };
    (0..3).try_for_each(|_| talk())?;
    let listed = |filter: &[&str]| setting.daemon.towpath_json(&[&["sessions"], filter].concat());
    let all = listed(&[])?;
    let session = &all[0];
    ensure!(all.as_array().is_some_and(|all| all.len() == 1), "{all}");
    ensure!(session["protocol"] == "udp" && session["halfOpen"] == false, "{session}");
    let (own, peer) = (format!("default/{}", from.name), format!("default/{}", to.name));
    ensure!(session["owner"] == json!(own) && session["initiator"]["vpc"] == "default/blue", "{session}");
    for (flow, port) in [("initiator", &own), ("responder", &peer)] {
        ensure!(session[flow]["port"] == json!(port) && session[flow]["packets"] == 3, "{session}");
    }
    for (filter, count) in [
        (["--port", to.name.as_str()], 1),
        (["--vpc", "blue"], 1),
        (["--address", "10.0.1.11"], 1),
        (["--address", "10.0.2.0/24"], 0),
        (["--protocol", "17"], 1),
        (["--protocol", "tcp"], 0),
    ] {
        let found = listed(&filter)?;
        ensure!(found.as_array().is_some_and(|found| found.len() == count), "{filter:?}: {found}");
    }
    ensure!(setting.daemon.port(&from.name)?["status"]["sessions"]["sessions"] == 1);
    // Candidates that would cut it: nothing is cut, and it is said.
    ensure!(setting.daemon.towpath_json(&["shadow"])? == json!([]));
    setting.daemon.write_network(&with_shadow(&json!([])))?;
    setting.daemon.reload()?;
    let shadow = wait::until("the live session to be compared", LIMIT, || {
        talk()?;
        let found = setting.daemon.towpath_json(&["shadow", "default.blue"])?;
        Ok((found[0]["total"]["wouldDeny"] != 0).then(|| found[0].clone()))
    })?;
    ensure!(shadow["total"]["wouldDeny"] == 1 && shadow["total"]["wouldAllow"] == 0, "{shadow}");
    ensure!(shadow["live"][1]["wouldDeny"] == 1, "the rule that lets it in: {shadow}");
    let flow = &shadow["flows"][0];
    let verdicts = [
        &flow["live"]["allowed"],
        &flow["live"]["rule"],
        &flow["shadow"]["allowed"],
        &flow["shadow"]["rule"],
    ];
    ensure!(
        verdicts == [&json!(true), &json!("default/default.blue rules[1]"), &json!(false), &Value::Null],
        "{flow}"
    );
    ensure!(
        flow["port"] == json!(peer) && flow["direction"] == "ingress" && flow["source"] == "10.0.1.10",
        "{flow}"
    );
    talk()?;
    let metrics = setting.daemon.metrics()?;
    for line in [
        "towpath_sessions{family=\"IPv4\"} 1",
        "towpath_sessions_created_total{} 1",
        "towpath_sessions_alarm{family=\"IPv4\"} 0",
        "towpath_port_sessions{port=\"default/vm0-eth0\"} 1",
        "towpath_shadow_flows_total{group=\"default/default.blue\",outcome=\"would_deny\"} 1",
        "towpath_rules_not_shown{} 0",
    ] {
        ensure!(
            metrics.lines().any(|found| found == line || found == format!("{line}.0")),
            "{line}: {metrics}"
        );
    }
    // In force they do what was foretold.
    let mut resources = network();
    resources.push(resource("SecurityGroup", "default", &json!({"vpc": "blue", "rules": []})));
    setting.daemon.write_network(&resources)?;
    setting.daemon.reload()?;
    one.send(&there)?;
    wait::until("the session to be cut", LIMIT, || {
        Ok((setting.daemon.drops(&from.name, "policy_denied")? == 1).then_some(()))
    })?;
    ensure!(setting.daemon.towpath_json(&["sessions"])? == json!([]));
    Ok(())
}
