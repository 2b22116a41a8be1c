//! Compiles the protocol without `protoc`: protox parses, tonic generates.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(["proto/towpath/v1/towpath.proto"], ["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    let phase = "#[serde(serialize_with = \"crate::words::phase\")]";
    let outcome = "#[serde(serialize_with = \"crate::words::outcome\")]";
    tonic_prost_build::configure()
        .btree_map(".")
        .message_attribute(".", "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]")
        .field_attribute("towpath.v1.PortStatus.phase", phase)
        .field_attribute("towpath.v1.Binding.phase", phase)
        .field_attribute("towpath.v1.Check.outcome", outcome)
        .field_attribute("towpath.v1.Drop.port", "#[serde(skip_serializing_if = \"Option::is_none\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
