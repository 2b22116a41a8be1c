//! `towpath workers [--reset]`

use crate::Failed;
use crate::args::Format;
use crate::output::{Column, structured, table};
use api::{Client, pb};
use std::io::Write;

/// Shows the workers, after starting their counts from zero if that is wanted.
pub(crate) async fn run(
    client: &mut Client,
    reset: bool,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    if reset {
        client.reset_workers().await?;
    }
    let workers = client.list_workers().await?;
    if structured(out, format, &workers)? {
        return Ok(());
    }
    let columns = [
        Column::number("WORKER"),
        Column::number("CORE"),
        Column::number("QUEUES"),
        Column::number("PACKETS"),
        Column::number("CYCLES/PACKET"),
        Column::number("IDLE"),
    ];
    table(out, &columns, &workers.iter().map(row).collect::<Vec<_>>())
}

fn row(worker: &pb::Worker) -> Vec<String> {
    vec![
        worker.worker.to_string(),
        worker.core.to_string(),
        worker.queues.to_string(),
        worker.packets.to_string(),
        worker.busy_cycles_per_packet.map(|cycles| format!("{cycles:.1}")).unwrap_or_default(),
        format!("{:.1} %", worker.idle_percent),
    ]
}
