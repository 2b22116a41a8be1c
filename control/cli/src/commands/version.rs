//! `towpath version`

use crate::Failed;
use crate::args::Format;
use crate::output::{pairs, structured};
use api::Client;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Shows the versions of this command and of the daemon. Without a daemon it says so and succeeds.
pub(crate) async fn run(socket: &Path, format: Format, out: &mut dyn Write) -> Result<(), Failed> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = match Client::connect(socket).await {
        Ok(mut client) => client.status().await.map(|status| status.version),
        Err(error) => Err(error),
    };
    let value = json!({ "towpath": own, "towpathd": daemon.as_ref().ok() });
    if structured(out, format, &value)? {
        return Ok(());
    }
    let daemon = daemon.unwrap_or_else(|error| error.to_string());
    pairs(out, &[("towpath", own.to_owned()), ("towpathd", daemon)])
}
