//! Clients in a namespace of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use services::Refusal;
use services::neighbours::Action;
use towpath_tests::Result;
use towpath_tests::netns::Namespace;
use towpath_tests::process::Process;
use towpath_tests::scratch::Scratch;

use super::dissect::dissect;
use super::driver::{INTERFACE, IP, IP6, MAC, Port, with_port};

/// A script that clients call with what they were told; it leaves that in a file named after the event.
fn script(scratch: &Scratch, event: &str, configure: &str) -> Result<PathBuf> {
    let path = scratch.join("script");
    let folder = scratch.path().display();
    let text = format!(
        "#!/bin/sh\n{configure}\nenv >{folder}/told.new && mv {folder}/told.new \"{folder}/told.{event}\"\n"
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// What the script was told at an event.
fn told(scratch: &Scratch, event: &str) -> Option<String> {
    fs::read_to_string(scratch.join(&format!("told.{event}"))).ok()
}

/// One variable of it.
fn variable<'a>(told: &'a str, name: &str) -> Option<&'a str> {
    told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// Serves until the program has ended, and returns what it wrote.
fn finish(port: &mut Port, program: &mut Process) -> Result<String> {
    port.until("the client to end", |_| Ok(program.ended()?.map(drop)))?;
    Ok(program.log())
}

/// `udhcpc` configures the interface with what it was told, as an image's script does.
const CONFIGURE: &str = r#"
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address replace "$ip/$mask" dev "$interface" && ip link set "$interface" mtu "$mtu" || exit 1
routes=$staticroutes
set -- $staticroutes
while [ $# -ge 2 ]; do ip route replace "$1" via "$2" dev "$interface"; shift 2; done
"#;

fn udhcpc(scratch: &Scratch, namespace: &Namespace, arguments: &[&str]) -> Result<Process> {
    let script = script(scratch, "bound", CONFIGURE)?;
    let mut command = namespace.command("busybox");
    command
        .args(["udhcpc", "-f", "-n", "-t", "20", "-T", "1", "-i", INTERFACE, "-s"])
        .arg(script)
        .args(arguments);
    Process::spawn("udhcpc", &command, &scratch.join("udhcpc.log"))
}

#[test]
#[ignore = "needs root and busybox: run by `make test`"]
fn udhcpc_configures_a_guest_that_then_fetches_its_metadata() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    with_port(&namespace, |port| {
        let mut client = udhcpc(&scratch, &namespace, &["-q", "-O", "staticroutes", "-O", "mtu"])?;
        let log = finish(port, &mut client)?;
        let told = told(&scratch, "bound").with_context(|| format!("udhcpc was told nothing: {log}"))?;
        for (name, value) in [
            ("ip", "10.0.1.10"),
            ("subnet", "255.255.255.0"),
            ("router", "10.0.1.1"),
            ("dns", "10.0.1.2 10.0.1.3"),
            ("domain", "blue.internal"),
            ("mtu", "1450"),
            ("lease", "3600"),
            ("serverid", "10.0.1.1"),
            ("staticroutes", "169.254.169.254/32 10.0.1.1 0.0.0.0/0 10.0.1.1"),
        ] {
            assert_eq!(variable(&told, name), Some(value), "{name} in {told}");
        }
        assert!(namespace.run(&format!("ip link show {INTERFACE}"))?.contains("mtu 1450"));
        // The kernel's TCP against ours: a page, and an answer of a megabyte.
        for more in [0, 1_000_000] {
            if more > 0 {
                // A client that reads slowly closes its window, which is worth a warning; what came before is not.
                dissect(&scratch, &port.frames)?;
            }
            port.echo.more = more;
            let page = scratch.join("page");
            let mut command = namespace.command("busybox");
            command.args(["wget", "-q", "-O"]).arg(&page);
            command.args(["--header", "X-Towpath-Port: another", "http://169.254.169.254/latest/meta-data/"]);
            let mut wget = Process::spawn("wget", &command, &scratch.join("wget.log"))?;
            let log = finish(port, &mut wget)?;
            let page = fs::read_to_string(&page).with_context(|| format!("wget wrote nothing: {log}"))?;
            let (head, body) = page.split_once("\r\n\r\n").context("the echoed head")?;
            assert_eq!(body, ".".repeat(more));
            assert!(head.starts_with("GET /latest/meta-data/ HTTP/1."), "{head}");
            assert!(head.contains("X-Towpath-Port: vm1-eth0") && !head.contains("another"), "{head}");
            assert!(head.contains("X-Forwarded-For: 10.0.1.10"), "{head}");
        }
        assert_eq!(port.refusals, []);
        Ok(())
    })
}

#[test]
#[ignore = "needs root and busybox: run by `make test`"]
fn udhcpc_releases_and_asks_for_an_address_that_is_not_its_own() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    with_port(&namespace, |port| {
        // Asks for another address, which the offer does not give; -R releases at the end.
        let mut client = udhcpc(
            &scratch,
            &namespace,
            &["-q", "-R", "-r", "10.0.1.77", "-O", "mtu", "-x", "hostname:other"],
        )?;
        finish(port, &mut client)?;
        let told = told(&scratch, "bound").context("udhcpc was told nothing")?;
        assert_eq!((variable(&told, "ip"), variable(&told, "staticroutes")), (Some("10.0.1.10"), None));
        // The offer and the acknowledgement, more if it asked again; the release that follows needs no answer.
        assert!(port.answered.get("dhcp4").is_some_and(|answers| *answers >= 2), "{:?}", port.answered);
        assert_eq!(port.refusals, []);
        dissect(&scratch, &port.frames).map(drop)
    })
}

fn dhclient(scratch: &Scratch, namespace: &Namespace, family: &str) -> Result<Process> {
    let configuration = scratch.join("dhclient.conf");
    fs::write(
        &configuration,
        "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n\
         request subnet-mask, routers, domain-name, domain-name-servers, host-name, interface-mtu, rfc3442-classless-static-routes,\n\
         dhcp6.name-servers, dhcp6.domain-search;\n\
         timeout 50;\n",
    )?;
    let script = script(scratch, "$reason", "")?;
    let mut command = namespace.command("dhclient");
    command.args([family, "-d", "-1", "-cf"]).arg(configuration).arg("-sf").arg(script);
    command.arg("-lf").arg(scratch.join("leases")).arg("-pf").arg(scratch.join("pid")).arg(INTERFACE);
    Process::spawn("dhclient", &command, &scratch.join("dhclient.log"))
}

#[test]
#[ignore = "needs root and isc-dhcp-client: run by `make test`"]
fn dhclient_gets_an_ipv4_lease() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    with_port(&namespace, |port| {
        let client = dhclient(&scratch, &namespace, "-4")?;
        let told = port.until("dhclient's lease", |_| Ok(told(&scratch, "BOUND")))?;
        drop(client);
        for (name, value) in [
            ("new_ip_address", "10.0.1.10"),
            ("new_subnet_mask", "255.255.255.0"),
            ("new_routers", "10.0.1.1"),
            ("new_domain_name_servers", "10.0.1.2 10.0.1.3"),
            ("new_domain_name", "blue.internal"),
            ("new_host_name", "vm1"),
            ("new_interface_mtu", "1450"),
            ("new_dhcp_lease_time", "3600"),
            ("new_dhcp_renewal_time", "1800"),
            ("new_dhcp_rebinding_time", "3150"),
            ("new_dhcp_server_identifier", "10.0.1.1"),
            ("new_rfc3442_classless_static_routes", "32 169 254 169 254 10 0 1 1 0 10 0 1 1"),
        ] {
            assert_eq!(variable(&told, name), Some(value), "{name} in {told}");
        }
        assert_eq!(port.refusals, []);
        dissect(&scratch, &port.frames).map(drop)
    })
}

#[test]
#[ignore = "needs root and isc-dhcp-client: run by `make test`"]
fn dhclient_gets_an_ipv6_lease() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    with_port(&namespace, |port| {
        let client = dhclient(&scratch, &namespace, "-6")?;
        let told = port.until("dhclient's lease", |_| Ok(told(&scratch, "BOUND6")))?;
        drop(client);
        for (name, value) in [
            ("new_ip6_address", IP6.to_string().as_str()),
            ("new_dhcp6_name_servers", "fd00:10:0:1::2"),
            ("new_dhcp6_domain_search", "blue.internal."),
            ("new_max_life", "3600"),
        ] {
            assert_eq!(variable(&told, name), Some(value), "{name} in {told}");
        }
        assert_eq!(port.refusals, []);
        dissect(&scratch, &port.frames).map(drop)
    })
}

/// What `systemd-networkd` is told to do; its identifiers must not depend on the machine's.
const NETWORK: &str = "[Match]
Name=tp0
[Network]
DHCP=yes
IPv6AcceptRA=yes
LinkLocalAddressing=ipv6
[DHCPv4]
ClientIdentifier=duid
DUIDType=link-layer
IAID=7
UseMTU=yes
[DHCPv6]
DUIDType=link-layer
IAID=8
";

#[test]
#[ignore = "needs root and systemd: run by `make test`"]
fn systemd_networkd_configures_both_families() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    // Its own /run; and with a /sys that is not written to it does not wait for udev, as in a container.
    namespace.run_all(
        "mount -t tmpfs tmpfs /run
         mkdir -p /run/systemd/network /run/systemd/netif
         mount -o remount,ro /sys",
    )?;
    let configuration = scratch.join("network");
    fs::write(&configuration, NETWORK)?;
    namespace.run(&format!("cp {} /run/systemd/network/10-guest.network", configuration.display()))?;
    with_port(&namespace, |port| {
        let command = namespace.command("/lib/systemd/systemd-networkd");
        let client = Process::spawn("systemd-networkd", &command, &scratch.join("networkd.log"))?;
        let (v4, v6) = (format!("inet {IP}/24"), format!("inet6 {IP6}/128"));
        let found = port.until("both addresses", |_| {
            let addresses = namespace.run(&format!("ip address show dev {INTERFACE}"))?;
            Ok((addresses.contains(&v4) && addresses.contains(&v6)).then_some(addresses))
        });
        let addresses = found.with_context(|| format!("networkd says: {}", client.log()))?;
        assert!(addresses.contains("mtu 1450"), "{addresses}");
        assert_eq!(addresses.matches("scope global").count(), 2, "no address is made up: {addresses}");
        let routes = port.until("the routes", |_| {
            let routes = namespace.run("ip route show")? + &namespace.run("ip -6 route show")?;
            let all = ["default via 10.0.1.1", "169.254.169.254 via 10.0.1.1", "default via fe80::ff:fe00:1"];
            Ok(all.iter().all(|route| routes.contains(route)).then_some(routes))
        });
        routes.with_context(|| format!("networkd says: {}", client.log()))?;
        assert_eq!(port.refusals, []);
        dissect(&scratch, &port.frames).map(drop)
    })
}

#[test]
#[ignore = "needs root and ndisc6: run by `make test`"]
fn rdisc6_reads_the_router_advertisement() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    with_port(&namespace, |port| {
        let mut command = namespace.command("rdisc6");
        command.args(["-1", "-r", "10", INTERFACE]);
        let mut client = Process::spawn("rdisc6", &command, &scratch.join("rdisc6.log"))?;
        let said = finish(port, &mut client)?;
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for line in [
            "Hop limit : 64",
            "Stateful address conf. : Yes",
            "Stateful other conf. : Yes",
            "Router lifetime : 1800",
            "Source link-layer address: 02:00:00:00:00:01",
            "MTU : 1450 bytes",
            "Prefix : fd00:10:0:1::/64",
            "On-link : Yes",
            "Autonomous address conf.: No",
            "Recursive DNS server : fd00:10:0:1::2",
            "DNS search list : blue.internal",
            "from fe80::ff:fe00:1",
        ] {
            assert!(words.contains(line), "{line} in {said}");
        }
        assert_eq!(port.refusals, []);
        dissect(&scratch, &port.frames).map(drop)
    })
}

#[test]
#[ignore = "needs root: run by `make test`"]
fn the_kernel_takes_the_gateway_as_its_router_and_makes_up_no_address() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    with_port(&namespace, |port| {
        let route = port.until("a default route", |_| {
            let routes = namespace.run("ip -6 route show default")?;
            Ok(routes.contains("proto ra").then_some(routes))
        })?;
        assert!(route.contains("via fe80::ff:fe00:1"), "{route}");
        let prefix = namespace.run("ip -6 route show fd00:10:0:1::/64")?;
        assert!(prefix.contains("proto") && prefix.contains(INTERFACE), "{prefix}");
        let mtu = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/mtu"))?;
        assert_eq!(mtu.trim(), "1450");
        let addresses = namespace.run(&format!("ip -6 address show dev {INTERFACE} scope global"))?;
        assert_eq!(addresses.trim(), "", "addresses come from DHCPv6");
        assert_eq!(port.refusals, []);
        dissect(&scratch, &port.frames).map(drop)
    })
}

#[test]
#[ignore = "needs root: run by `make test`"]
fn the_kernel_answers_the_resolver_and_is_found_gone() -> Result<()> {
    let scratch = Scratch::new()?;
    let namespace = Namespace::new(&scratch, "guest")?;
    with_port(&namespace, |port| {
        namespace.run_all(&format!(
            "ip address add {IP}/24 dev {INTERFACE}
             ip address add {IP6}/64 dev {INTERFACE} nodad"
        ))?;
        let now = port.now();
        let resolver = &mut port.resolver;
        let mut ids = [resolver.resolve(IP.into(), now)?, resolver.resolve(IP6.into(), now)?];
        let missing = resolver.resolve("10.0.1.99".parse()?, now)?;
        port.until("both answers and the failure", |port| Ok((port.resolved.len() >= 3).then_some(())))?;
        let mut found: Vec<_> = port.resolved.drain(..).collect();
        ensure!(found.pop() == Some(Action::Failed { id: missing }), "the failure comes last: {found:?}");
        found.sort_by_key(|action| if let Action::Reachable { id, .. } = action { *id } else { missing });
        ids.sort();
        assert_eq!(found, ids.map(|id| Action::Reachable { id, mac: MAC }));
        assert!(
            port.resolver
                .status()
                .filter(|(id, _)| *id != missing)
                .all(|(_, status)| status.state == "reachable")
        );
        assert!(port.refusals.iter().all(|(_, refusal)| *refusal != Refusal::Checksum));
        dissect(&scratch, &port.frames).map(drop)
    })
}
