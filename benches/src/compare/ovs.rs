//! Open vSwitch with DPDK: a database and a daemon of our own, its two ports `dpdkvhostuserclient`.

use std::{
    io::Write,
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Pid;
use serde::Deserialize;

use super::towpathd::UNDERLAY_MTU;
use super::{
    process::{Process, output},
    switches::{Places, RULES, SESSION_LIFE, SESSIONS, Scene, Switch, Work, elsewhere, number_after, text},
};
use crate::{attach::Role, wire::Underlay};

const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const DATABASE: &str = "/usr/sbin/ovsdb-server";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const BRIDGE: &str = "br0";
/// Two port-to-port flows: the fastest it forwards.
const PORTS: &str = "ovs-port";
/// The learning switch.
const NORMAL: &str = "ovs-normal";
/// A port and a VXLAN tunnel, over a second bridge that has the wire.
pub(super) const VXLAN: &str = "ovs-vxlan";
/// Connection tracking before an established flow passes, through a meter that never limits.
pub(super) const CONNTRACK: &str = "ovs-ct";
const UNDERLAY_BRIDGE: &str = "br-underlay";

/// A running Open vSwitch.
pub(super) struct OpenVswitch {
    daemon: Process,
    _database: Process,
    folder: PathBuf,
    sockets: [PathBuf; 2],
    worker_core: usize,
    version: String,
    settings: String,
    mode: &'static str,
    scene: Scene,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<String>,
    error: Option<String>,
}

impl OpenVswitch {
    /// Starts both processes and makes a bridge with two ports that wait for our sockets.
    ///
    /// # Errors
    ///
    /// When the packages are missing or a process does not come up; its log says why.
    pub(super) fn start(places: &Places<'_>) -> anyhow::Result<Self> {
        let folder = places.folder.join("ovs");
        std::fs::create_dir(&folder)?;
        let database = folder.join("conf.db");
        output("ovsdb-tool", &["create".to_string(), text(&database), SCHEMA.to_string()], &[])
            .context("is the Debian package openvswitch-switch-dpdk installed?")?;
        let db_socket = folder.join("db.sock");
        let dirs = [("OVS_RUNDIR", folder.as_path()), ("OVS_LOGDIR", &folder), ("OVS_DBDIR", &folder)];
        let database_process = Process::start(
            "ovsdb-server",
            Path::new(DATABASE),
            &[
                text(&database),
                format!("--remote=punix:{}", text(&db_socket)),
                format!("--unixctl={}", text(&folder.join("ovsdb.ctl"))),
                "--log-file=/dev/null".to_string(),
            ],
            &dirs,
            &folder.join("ovsdb.log"),
        )?;
        wait_for(&db_socket, Duration::from_secs(10))?;
        let mut this = Self {
            daemon: Process::start(
                "ovs-vswitchd",
                // In a network of its own: no address or route of this host is in the tunnel's way, and its bridges go with it.
                Path::new("unshare"),
                &[
                    "--net".to_string(),
                    "--".to_string(),
                    DAEMON.to_string(),
                    format!("unix:{}", text(&db_socket)),
                    format!("--unixctl={}", text(&folder.join("vswitchd.ctl"))),
                    "--log-file=/dev/null".to_string(),
                ],
                &dirs,
                &folder.join("vswitchd.log"),
            )?,
            _database: database_process,
            sockets: [places.folder.join("ovs-a.sock"), places.folder.join("ovs-b.sock")],
            folder,
            worker_core: places.worker_core,
            version: String::new(),
            settings: String::new(),
            mode: "",
            scene: places.scene,
        };
        this.configure(places)?;
        match places.scene {
            Scene::Plain => this.select(PORTS)?,
            Scene::Tunnel => {
                this.mode = VXLAN;
                this.configure_tunnel().with_context(|| this.log())?;
            }
            Scene::Policy => {
                this.mode = CONNTRACK;
                this.configure_conntrack().with_context(|| this.log())?;
            }
        }
        Ok(this)
    }

    fn configure(&mut self, places: &Places<'_>) -> anyhow::Result<()> {
        // One memory segment without files behind it, so that nothing stays when the process is killed. Without large pages
        // `--legacy-mem` keeps Open vSwitch from adding `--in-memory`, which DPDK refuses then.
        let extra = if places.huge_pages {
            "--in-memory --no-pci --iova-mode=va"
        } else {
            "--no-huge --legacy-mem -m 512 --no-pci"
        };
        let mut settings = vec![
            format!("other_config:dpdk-extra=\"{extra}\""),
            format!("other_config:dpdk-lcore-mask={:#x}", 1u64 << places.other_core),
            format!("other_config:pmd-cpu-mask={:#x}", 1u64 << places.worker_core),
            "other_config:dpdk-init=true".to_string(),
        ];
        if places.huge_pages {
            settings.push("other_config:dpdk-socket-mem=512".to_string());
        }
        settings.extend(places.ovs_config.iter().map(|setting| format!("other_config:{setting}")));
        self.settings = settings.join(" ");
        self.vsctl(&["--no-wait", "init"])?;
        let mut set = vec!["--no-wait", "set", "Open_vSwitch", "."];
        set.extend(settings.iter().map(String::as_str));
        self.vsctl(&set)?;
        self.vsctl(&[
            "--timeout=30",
            "add-br",
            BRIDGE,
            "--",
            "set",
            "bridge",
            BRIDGE,
            "datapath_type=netdev",
        ])
        .with_context(|| self.log())?;
        let guests = if self.scene == Scene::Tunnel { 1 } else { 2 };
        let sockets = self.sockets.clone();
        for (port, socket) in ["p0", "p1"].into_iter().zip(&sockets).take(guests) {
            let path = format!("options:vhost-server-path={}", text(socket));
            let number = format!("ofport_request={}", if port == "p0" { 1 } else { 2 });
            let add = ["--timeout=30", "add-port", BRIDGE, port, "--", "set", "Interface", port];
            let mut add = add.to_vec();
            add.extend(["type=dpdkvhostuserclient", &path, &number]);
            self.vsctl(&add).with_context(|| self.log())?;
        }
        self.version = self.control("version", &[])?.lines().next().unwrap_or_default().to_string();
        Ok(())
    }

    /// The wire as a DPDK device on a bridge that has the tunnel's address, and a tunnel port beside the guest's.
    fn configure_tunnel(&self) -> anyhow::Result<()> {
        let Underlay { switch, wire, vni, mac } = Underlay::default();
        let device =
            format!("options:dpdk-devargs=net_vhost0,iface={},queues=1,client=1", text(&self.sockets[1]));
        let (bridge, mtu) = (UNDERLAY_BRIDGE, format!("mtu_request={UNDERLAY_MTU}"));
        self.vsctl(&[
            "--timeout=30",
            "add-br",
            bridge,
            "--",
            "set",
            "bridge",
            bridge,
            "datapath_type=netdev",
        ])?;
        let add = ["--timeout=30", "add-port", bridge, "wire", "--", "set", "Interface", "wire", "type=dpdk"];
        self.vsctl(&[&add[..], &[&device, &mtu, "ofport_request=1"]].concat())?;
        // The bridge's own port is an interface of the kernel, and its address where the tunnel begins.
        self.ip(&["address", "add", &format!("{switch}/24"), "dev", bridge])?;
        self.ip(&["link", "set", bridge, "up"])?;
        // Both can be found out by asking the kernel and the wire, which takes longer than a sample.
        let prefix = Ipv4Addr::from_bits(switch.to_bits() & 0xffff_ff00);
        self.control("ovs/route/add", &[&format!("{prefix}/24"), bridge])?;
        self.control("tnl/arp/set", &[bridge, &wire.to_string(), &mac.to_string()])?;
        let way = self.control("ovs/route/lookup", &[&wire.to_string()])?;
        if !way.contains(&format!("dev {bridge}")) {
            bail!("Open vSwitch would not send to {wire} through {bridge}, but: {}", way.trim());
        }
        let remote = [format!("options:remote_ip={wire}"), format!("options:key={vni}")];
        let add =
            ["--timeout=30", "add-port", BRIDGE, "vxlan0", "--", "set", "Interface", "vxlan0", "type=vxlan"];
        self.vsctl(&[&add[..], &[&remote[0], &remote[1], "ofport_request=2"]].concat())?;
        // Cheaper than learning addresses, whose flows are one for each pair of them.
        self.flows(bridge, &["in_port=1,actions=LOCAL", "in_port=LOCAL,actions=output:1"])?;
        self.flows(BRIDGE, &["in_port=1,actions=output:2", "in_port=2,actions=output:1"])
    }

    /// What is not established is looked for among the rules and committed; what is goes by its connection alone.
    fn configure_conntrack(&self) -> anyhow::Result<()> {
        self.vsctl(&[
            "--",
            "--id=@datapath",
            "create",
            "Datapath",
            "datapath_version=0",
            "--",
            "set",
            "Open_vSwitch",
            ".",
            "datapaths:netdev=@datapath",
        ])?;
        let life = ["udp_first", "udp_single", "udp_multiple"].map(|state| format!("{state}={SESSION_LIFE}"));
        self.vsctl(&["add-zone-tp", "netdev", "zone=1", &life[0], &life[1], &life[2]])?;
        let mut flows = vec![
            "table=0,priority=10,ip,actions=ct(table=1,zone=1)".to_string(),
            "table=0,priority=0,actions=drop".to_string(),
            "table=1,priority=65535,ip,ct_state=+trk+est,actions=meter:1,goto_table:2".to_string(),
            "table=1,priority=65535,ip,ct_state=+trk+inv,actions=drop".to_string(),
        ];
        flows.extend((1..RULES).map(|index| {
            let (priority, address) = (10 + index, elsewhere(index));
            format!("table=1,priority={priority},ip,ct_state=+trk+new,nw_src={address},actions=drop")
        }));
        flows.push(
            "table=1,priority=5,udp,ct_state=+trk+new,actions=meter:1,ct(commit,zone=1),goto_table:2"
                .to_string(),
        );
        flows.extend(
            ["table=2,in_port=1,actions=output:2", "table=2,in_port=2,actions=output:1"].map(str::to_string),
        );
        let bridge = format!("unix:{}", text(&self.folder.join(format!("{BRIDGE}.mgmt"))));
        let meter = "meter=1,pktps,stats,bands=type=drop,rate=100000000";
        let meter = ["-O", "OpenFlow13", "add-meter", &bridge, meter].map(str::to_string);
        let environment = [("OVS_RUNDIR", self.folder.as_path())];
        output("ovs-ofctl", &["-O", "OpenFlow13", "del-flows", &bridge].map(str::to_string), &environment)?;
        output("ovs-ofctl", &meter, &environment)?;
        let file = self.folder.join("flows");
        std::fs::write(&file, flows.join("\n"))?;
        let add = ["-O", "OpenFlow13", "add-flows", &bridge, &text(&file)].map(str::to_string);
        output("ovs-ofctl", &add, &environment)?;
        self.control("dpctl/ct-set-maxconns", &[&SESSIONS.to_string()]).map(|_| ())
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("vswitchd.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        format!("ovs-vswitchd's last lines: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" | "))
    }

    fn vsctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut all = vec![format!("--db=unix:{}", text(&self.folder.join("db.sock")))];
        all.extend(args.iter().map(ToString::to_string));
        output("ovs-vsctl", &all, &[("OVS_RUNDIR", &self.folder)])
    }

    /// `ip` where the daemon is.
    fn ip(&self, args: &[&str]) -> anyhow::Result<()> {
        let network = format!("--net=/proc/{}/ns/net", self.daemon.pid().as_raw_nonzero());
        let all: Vec<String> =
            [network.as_str(), "--", "ip"].iter().chain(args).map(ToString::to_string).collect();
        output("nsenter", &all, &[]).map(|_| ())
    }

    fn flows(&self, bridge: &str, flows: &[&str]) -> anyhow::Result<()> {
        let bridge = format!("unix:{}", text(&self.folder.join(format!("{bridge}.mgmt"))));
        let run = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            output("ovs-ofctl", &args, &[("OVS_RUNDIR", &self.folder)])
        };
        run(&["del-flows", &bridge])?;
        for flow in flows {
            run(&["add-flow", &bridge, flow])?;
        }
        Ok(())
    }

    /// Calls a command of the daemon, as `ovs-appctl` does, without starting a process beside the measurement.
    fn control(&self, method: &str, params: &[&str]) -> anyhow::Result<String> {
        let mut stream =
            UnixStream::connect(self.folder.join("vswitchd.ctl")).context("ovs-vswitchd's control socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = serde_json::json!({"id": 0, "method": method, "params": params});
        stream.write_all(request.to_string().as_bytes())?;
        let mut answers = serde_json::Deserializer::from_reader(&stream).into_iter::<Answer>();
        match answers.next() {
            Some(Ok(Answer { result: Some(result), .. })) => Ok(result),
            Some(Ok(Answer { error, .. })) => {
                bail!("ovs-vswitchd refused {method}: {}", error.unwrap_or_default())
            }
            Some(Err(error)) => Err(error).with_context(|| format!("ovs-vswitchd's answer to {method}")),
            None => bail!("ovs-vswitchd did not answer {method}"),
        }
    }
}

fn wait_for(path: &Path, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while UnixStream::connect(path).is_err() {
        if Instant::now() > deadline {
            bail!("nobody listens on {} after {patience:?}", path.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Switch for OpenVswitch {
    fn description(&self) -> String {
        format!("{}, {}", self.version, self.settings)
    }

    fn sockets(&self) -> [PathBuf; 2] {
        self.sockets.clone()
    }

    fn role(&self) -> Role {
        Role::Server
    }

    fn tso(&self) -> bool {
        self.settings.contains("userspace-tso-enable=true")
    }

    fn modes(&self) -> &'static [&'static str] {
        match self.scene {
            Scene::Plain => &[PORTS, NORMAL],
            Scene::Tunnel => &[VXLAN],
            Scene::Policy => &[CONNTRACK],
        }
    }

    fn select(&mut self, mode: &str) -> anyhow::Result<()> {
        if mode == self.mode {
            return Ok(());
        }
        if mode == NORMAL {
            self.flows(BRIDGE, &["actions=NORMAL"])?;
            self.mode = NORMAL;
        } else {
            self.flows(BRIDGE, &["in_port=1,actions=output:2", "in_port=2,actions=output:1"])?;
            self.mode = PORTS;
        }
        // What the datapath had cached is thrown out by threads of its own; until then frames are dropped.
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn pids(&self) -> Vec<Pid> {
        vec![self.daemon.pid()]
    }

    fn check(&mut self) -> anyhow::Result<()> {
        self.daemon.check().with_context(|| self.log())
    }

    fn state(&self) -> String {
        let flows = self.control("dpctl/dump-flows", &["-m"]).unwrap_or_default();
        format!("{}; its flows:\n{flows}", self.log())
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.control("dpif-netdev/pmd-stats-clear", &[]).map(|_| ())
    }

    fn end(&mut self) -> anyhow::Result<Work> {
        let text = self.control("dpif-netdev/pmd-stats-show", &[])?;
        worker_section(&text, self.worker_core)
            .with_context(|| format!("no PMD thread on core {} in pmd-stats-show:\n{text}", self.worker_core))
    }
}

fn worker_section(text: &str, core: usize) -> Option<Work> {
    let mine = text.get(text.find(&format!("core_id {core}:"))?..)?;
    let mine = mine.split("\nmain thread").next()?;
    Some(Work {
        busy_cycles: number_after(mine, "processing cycles").unwrap_or(0.0),
        packets: number_after(mine, "packets received")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_section_is_read() {
        let text = "pmd thread numa_id 0 core_id 1:\n  packets received: 1000\n  packet recirculations: 0\n  \
            idle cycles: 77 (10.00%)\n  processing cycles: 410000 (90.00%)\n  avg cycles per packet: 1\n\
            main thread:\n  packets received: 5\n  processing cycles: 9\n";
        let work = worker_section(text, 1).unwrap();
        assert_eq!(work.cycles_per_packet(), Some(410.0));
        assert!(worker_section(text, 2).is_none());
    }
}
