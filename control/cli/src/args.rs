//! What can be typed.

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use model::Kind;
use std::path::PathBuf;

/// Talks to towpathd, the virtual switch of this host.
///
/// Exit status: 0 done, 1 refused or failed, 2 usage, 3 daemon unreachable.
#[derive(Debug, Parser)]
#[command(name = "towpath", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", env = api::SOCKET_VARIABLE, default_value = api::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,

    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table.
    Table,
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the daemon: version, uptime, ports by phase, where its configuration comes from.
    Status,
    /// Lists resources of a kind, or shows one.
    Get {
        /// ports, endpoints, subnets, securitygroups, routetables, peerings, vpcs or hosts.
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        /// Its name, as NAME or PROJECT/NAME.
        name: Option<String>,
        /// Only resources of this project.
        #[arg(short, long, value_name = "PROJECT", conflicts_with = "name")]
        project: Option<String>,
    },
    /// Shows everything about one resource.
    Describe {
        /// port, endpoint, subnet, securitygroup, routetable, peering, vpc or host.
        #[arg(value_parser = parse_kind)]
        kind: Kind,
        /// Its name, as NAME or PROJECT/NAME.
        name: String,
    },
    /// Shows what the shadow rules of security groups would change; of one group with its rules and the flows concerned.
    Shadow {
        /// Only this security group, as NAME or PROJECT/NAME.
        #[arg(value_name = "GROUP")]
        group: Option<String>,
    },
    /// Lists live sessions.
    Sessions(SessionArgs),
    /// Shows the workers: packets, busy cycles for each, idle time; since they started or since the last reset.
    Workers {
        /// Starts the counts of all workers from zero.
        #[arg(long)]
        reset: bool,
    },
    /// Checks the host and the daemon; fails if a check fails.
    Doctor,
    /// Shows the packets dropped, by port and reason.
    Drops {
        /// Only those of this port, as NAME or PROJECT/NAME.
        #[arg(value_name = "PORT")]
        port: Option<String>,
    },
    /// Validates manifests, all of them as one set, without a daemon. Reports every problem.
    Validate {
        /// Files, folders, or - for standard input.
        #[arg(short = 'f', long = "file", value_name = "PATH", required = true, num_args = 1..)]
        files: Vec<PathBuf>,
    },
    /// Shows the versions of this command and of the daemon, if one answers.
    Version,
    /// Writes a completion script for a shell.
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Which sessions to list.
#[derive(Debug, clap::Args)]
pub(crate) struct SessionArgs {
    /// Only those that this port has an end of, or pays for.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Only those of this VPC.
    #[arg(long, value_name = "VPC")]
    pub(crate) vpc: Option<String>,
    /// Only those with this address, or one of this network, at either end.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<String>,
    /// Only those of this protocol: tcp, udp, icmp, icmpv6, sctp or a number.
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000)]
    pub(crate) limit: u32,
}

/// Reads a kind as people type it: `port`, `ports`, `Port`.
fn parse_kind(text: &str) -> Result<Kind, String> {
    let lower = text.to_lowercase();
    let singular = lower.strip_suffix('s').unwrap_or(&lower);
    if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str().to_lowercase() == singular) {
        return Ok(kind);
    }
    Kind::parse(text.strip_suffix('s').unwrap_or(text))
        .map_err(|refusal| format!("{}; {}", refusal.message, refusal.remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn kinds_as_people_type_them() {
        for text in ["port", "ports", "Port", "PORTS"] {
            assert_eq!(parse_kind(text), Ok(Kind::Port), "{text}");
        }
        assert_eq!(parse_kind("routetables"), Ok(Kind::RouteTable));
        assert_eq!(parse_kind("securityGroups"), Ok(Kind::SecurityGroup));
        assert_eq!(parse_kind("Endpoints"), Ok(Kind::Endpoint));
        assert!(parse_kind("prots").unwrap_err().contains("nearest known kind: Port"));
        assert_eq!(parse_kind("loadbalancers"), Ok(Kind::LoadBalancer));
        assert_eq!(parse_kind("FloatingIps"), Ok(Kind::FloatingIp));
        assert!(parse_kind("QosPolicy").unwrap_err().contains("not supported by this version"));
    }
}
