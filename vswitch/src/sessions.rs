//! Live sessions, for people. The table is read beside the workers, by the thread that asks and in small steps: it takes no lock, and nobody waits for it.

use crate::host::Host;
use crate::worker::boot_time;
use api::{Failure, SessionFilter, pb};
use ipnet::IpNet;
use model::ObjectName;
use model::security_group::Protocol;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tables::sessions::{Listed, Sessions, TcpState, UNDERLAY, attachment_of_port};

/// Records that are looked at before others have their turn, and for one answer.
const STEP: u32 = 4096;
const LOOKS: u32 = 1 << 20;

/// What it takes to list sessions without the control thread.
pub(crate) struct Listing {
    table: Arc<Sessions>,
    /// Names of ports, and the numbers of their VPCs.
    ports: BTreeMap<u16, (String, u16)>,
    /// Names of VPCs.
    vpcs: BTreeMap<u16, String>,
    wanted: Wanted,
    now: u32,
}

/// A filter, in numbers.
struct Wanted {
    port: Option<u16>,
    vpc: Option<u16>,
    network: Option<IpNet>,
    protocol: Option<u8>,
}

impl Listing {
    /// Makes one on the control thread; `None` if the port is not on this host, so that it has no sessions here.
    ///
    /// # Errors
    ///
    /// No port of this host is in the VPC.
    pub(crate) fn of(host: &Host, filter: &SessionFilter) -> Result<Option<Self>, Failure> {
        let vpcs = host.fabric.vpcs().map(|(number, plan)| (number, plan.name.clone())).collect();
        let ports = host.ports.iter().map(|(index, port)| {
            let vpc = port.plan.profile.vpc;
            (index.0, (port.plan.name.clone(), vpc))
        });
        let ports: BTreeMap<u16, (String, u16)> = ports.collect();
        let port = match &filter.port {
            Some(name) => match host.port_named(name) {
                Some(port) => Some(port.index.0),
                None => return Ok(None),
            },
            None => None,
        };
        let vpc = match &filter.vpc {
            Some(name) => Some(number_of(&vpcs, name)?),
            None => None,
        };
        let wanted = Wanted { port, vpc, network: filter.network, protocol: filter.protocol };
        Ok(Some(Self {
            table: host.control.sessions().clone(),
            ports,
            vpcs,
            wanted,
            now: (boot_time() / 1_000_000) as u32,
        }))
    }

    /// A page of what is wanted.
    pub(crate) async fn page(&self, filter: &SessionFilter) -> pb::ListSessionsReply {
        let (mut sessions, mut next) = (Vec::new(), Some(filter.from));
        for _ in 0..LOOKS / STEP {
            let Some(from) = next.filter(|_| sessions.len() < filter.limit) else { break };
            let most = filter.limit - sessions.len();
            let (found, more) =
                self.table.page(from, STEP, (self.now, most), |session| self.is_wanted(session));
            sessions.extend(found.iter().map(|session| self.show(session)));
            next = more;
            tokio::task::yield_now().await;
        }
        pb::ListSessionsReply { sessions, next }
    }

    fn is_wanted(&self, session: &Listed) -> bool {
        let Wanted { port, vpc, network, protocol } = &self.wanted;
        let attachments = [session.attachment, session.answers];
        let is_port = |port: &u16| session.owner == *port || attachments.contains(&attachment_of_port(*port));
        let is_vpc = |vpc: &u16| attachments.iter().any(|at| self.vpc_of(*at) == Some(*vpc));
        let [from, to] = session.answer;
        let is_in = |network: &IpNet| {
            [session.initiator, session.responder, from, to]
                .iter()
                .any(|(address, _)| network.contains(address))
        };
        port.as_ref().is_none_or(is_port)
            && vpc.as_ref().is_none_or(is_vpc)
            && network.as_ref().is_none_or(is_in)
            && protocol.is_none_or(|protocol| protocol == session.protocol)
    }

    fn vpc_of(&self, attachment: u32) -> Option<u16> {
        match attachment & UNDERLAY {
            0 => self.ports.get(&(attachment as u16)).map(|(_, vpc)| *vpc),
            _ => Some(attachment as u16),
        }
    }

    fn show(&self, session: &Listed) -> pb::Session {
        let [initiator, responder] = session.counts;
        let seconds = |milliseconds: u32| f64::from(milliseconds) / 1000.0;
        pb::Session {
            protocol: Protocol(session.protocol).to_string(),
            state: session.state.map(|state| word(state).to_owned()),
            half_open: session.half_open,
            initiator: Some(self.flow(session.attachment, [session.initiator, session.responder], initiator)),
            responder: Some(self.flow(session.answers, session.answer, responder)),
            owner: self.ports.get(&session.owner).map(|(name, _)| name.clone()).unwrap_or_default(),
            age_seconds: session.age as f64 / 1000.0,
            idle_seconds: seconds(session.idle),
            timeout_seconds: seconds(session.idle.saturating_add(session.left)),
        }
    }

    fn flow(
        &self,
        attachment: u32,
        [source, destination]: [(IpAddr, u16); 2],
        (packets, bytes): (u64, u64),
    ) -> pb::SessionFlow {
        let port = (attachment & UNDERLAY == 0).then(|| self.ports.get(&(attachment as u16))).flatten();
        let vpc = self.vpc_of(attachment).and_then(|vpc| self.vpcs.get(&vpc));
        pb::SessionFlow {
            port: port.map(|(name, _)| name.clone()),
            vpc: vpc.cloned().unwrap_or_default(),
            source: source.0.to_string(),
            source_port: source.1.into(),
            destination: destination.0.to_string(),
            destination_port: destination.1.into(),
            packets,
            bytes,
        }
    }
}

/// The number of a VPC here.
fn number_of(vpcs: &BTreeMap<u16, String>, name: &ObjectName) -> Result<u16, Failure> {
    let text = name.to_string();
    let found = vpcs.iter().find(|(_, other)| **other == text).map(|(number, _)| *number);
    found.ok_or_else(|| {
        let near = model::suggest::nearest(&text, vpcs.values().map(String::as_str));
        let remedy = near.map_or_else(String::new, |near| format!("; remedy: the nearest there is: {near}"));
        Failure::Refused(format!("there is no Vpc {text} on this host{remedy}"))
    })
}

/// The state of a TCP connection, as RFC 9293 and conntrack name it.
fn word(state: TcpState) -> &'static str {
    match state {
        TcpState::SynSent => "SYN_SENT",
        TcpState::SynSent2 => "SYN_SENT2",
        TcpState::SynReceived => "SYN_RECV",
        TcpState::Unanswered => "UNANSWERED",
        TcpState::Established => "ESTABLISHED",
        TcpState::FinWait => "FIN_WAIT",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::LastAck => "LAST_ACK",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Closed => "CLOSE",
    }
}
