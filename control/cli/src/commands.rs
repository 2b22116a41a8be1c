//! One file for each command.

mod balancer;
mod describe;
mod doctor;
mod drops;
mod get;
mod sessions;
mod shadow;
mod status;
mod validate;
mod version;
mod workers;

use crate::Failed;
use crate::args::{Args, Command};
use api::{Client, pb};
use clap::CommandFactory;
use model::{Name, ObjectName};
use std::io::Write;
use std::path::Path;

/// Does what was typed.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failed> {
    let Args { socket, output, command } = args;
    match command {
        Command::Validate { files } => validate::run(&files, output, out),
        Command::Completion { shell } => {
            // Into memory first: the generator panics when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "towpath", &mut script);
            Ok(out.write_all(&script)?)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask(&socket, command, output, out))
        }
    }
}

/// Commands that need a daemon.
async fn ask(
    socket: &Path,
    command: Command,
    format: crate::args::Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    if let Command::Version = command {
        return version::run(socket, format, out).await;
    }
    // Names are checked before the daemon is asked: a wrong one is wrong without it too.
    let name = match &command {
        Command::Get { name, .. } | Command::Drops { port: name } | Command::Shadow { group: name } => {
            name.as_deref()
        }
        Command::Describe { name, .. } => Some(name.as_str()),
        _ => None,
    };
    let name = name.map(object).transpose()?;
    let mut client = Client::connect(socket).await?;
    match (command, name) {
        (Command::Status, _) => status::run(&mut client, format, out).await,
        (Command::Get { kind, project, .. }, name) => {
            get::run(&mut client, kind, name, project, format, out).await
        }
        (Command::Describe { kind, .. }, Some(name)) => {
            describe::run(&mut client, kind, &name, format, out).await
        }
        (Command::Workers { reset }, _) => workers::run(&mut client, reset, format, out).await,
        (Command::Doctor, _) => doctor::run(&mut client, format, out).await,
        (Command::Shadow { .. }, group) => shadow::run(&mut client, group, format, out).await,
        (Command::Sessions(wanted), _) => sessions::run(&mut client, wanted, format, out).await,
        (Command::Drops { .. }, port) => drops::run(&mut client, port, format, out).await,
        (command, _) => Err(Failed::Usage(format!("{command:?} was not understood; see towpath --help"))),
    }
}

/// Reads NAME or PROJECT/NAME.
fn object(text: &str) -> Result<ObjectName, Failed> {
    ObjectName::parse(text, &Name::default_project()).map_err(|refusal| {
        let value = model::problem::quoted(text);
        Failed::Usage(format!("\"{value}\": {}; remedy: {}", refusal.message, refusal.remedy))
    })
}

/// One resource of a kind other than Port.
async fn find_resource(
    client: &mut Client,
    kind: model::Kind,
    name: &ObjectName,
) -> Result<pb::Resource, Failed> {
    let project = (!kind.is_global()).then(|| name.project.to_string());
    let all = client.list_resources(kind.as_str(), project).await?;
    let names: Vec<String> = all.iter().map(|resource| resource.name.clone()).collect();
    match all.into_iter().find(|resource| resource.name == name.name.as_str()) {
        Some(resource) => Ok(resource),
        None => {
            let remedy = match model::suggest::nearest(name.name.as_str(), names.iter().map(String::as_str)) {
                Some(near) => format!("the nearest there is: {near}"),
                None => format!("this daemon has no {kind} there"),
            };
            Err(Failed::Refused(format!("there is no {}; remedy: {remedy}", model::Key::of(kind, name))))
        }
    }
}
