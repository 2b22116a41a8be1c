//! `towpath doctor`

use crate::Failed;
use crate::args::Format;
use crate::output::{Column, structured, table};
use api::Client;
use api::pb::{Check, Outcome};
use std::io::Write;

/// Shows the checks; fails if one of them does.
pub(crate) async fn run(client: &mut Client, format: Format, out: &mut dyn Write) -> Result<(), Failed> {
    let checks = client.doctor().await?;
    if !structured(out, format, &checks)? {
        let columns =
            [Column::text("CHECK"), Column::text("RESULT"), Column::text("FOUND"), Column::text("REMEDY")];
        let row = |check: &Check| {
            let remedy = check.remedy.clone().unwrap_or_default();
            vec![check.name.clone(), check.outcome().word().to_owned(), check.detail.clone(), remedy]
        };
        table(out, &columns, &checks.iter().map(row).collect::<Vec<_>>())?;
    }
    match checks.iter().any(|check| check.outcome() == Outcome::Fail) {
        true => Err(Failed::Reported),
        false => Ok(()),
    }
}
