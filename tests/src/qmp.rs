//! QEMU's machine protocol: one JSON object per line over a Unix socket (docs/interop/qmp-spec.txt).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::Result;

/// QEMU answers at once; what takes long is asked about again.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connect and leave the negotiation behind.
    ///
    /// # Errors
    /// Nobody listens there, or it is not QEMU.
    pub fn connect(socket: &Path) -> Result<Self> {
        let writer =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        writer.set_read_timeout(Some(ANSWER))?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut qmp = Self { reader, writer };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greeted with {greeting}");
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Run a command and return what it returned. Events on the way are passed over.
    ///
    /// # Errors
    /// QEMU refuses it, does not answer or is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = serde_json::to_vec(&json!({"execute": command, "arguments": arguments}))?;
        line.push(b'\n');
        self.writer.write_all(&line).with_context(|| format!("send {command} to QEMU"))?;
        loop {
            let mut answer = self.read().with_context(|| format!("after {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {}", error["desc"].as_str().unwrap_or("without a reason"));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).context("read from QEMU")? == 0 {
            bail!("QEMU closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU wrote {line:?}"))
    }
}
