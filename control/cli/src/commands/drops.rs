//! `towpath drops [PORT]`

use crate::Failed;
use crate::args::Format;
use crate::output::{Column, structured, table};
use api::{Client, pb};
use model::ObjectName;
use std::io::Write;

/// Shows the packets dropped, by port and reason.
pub(crate) async fn run(
    client: &mut Client,
    port: Option<ObjectName>,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), Failed> {
    let drops = client.list_drops(port.as_ref().map(pb::ObjectName::from)).await?;
    if structured(out, format, &drops)? {
        return Ok(());
    }
    let columns = [
        Column::text("PORT"),
        Column::text("REASON"),
        Column::number("PACKETS"),
        Column::text("EXPLANATION"),
    ];
    let row = |drop: &pb::Drop| {
        vec![
            drop.port.clone().unwrap_or_default(),
            drop.reason.clone(),
            drop.packets.to_string(),
            drop.explanation.clone(),
        ]
    };
    table(out, &columns, &drops.iter().map(row).collect::<Vec<_>>())
}
