//! Compiles the .proto files without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["types", "session", "exchange", "job"].map(|name| format!("pulso/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".pulso.v1")
        // Payloads are handed through without a copy.
        .bytes(".pulso.v1.Rows.payload")
        // Both hold secrets: their `Debug` is written by hand.
        .skip_debug(["pulso.v1.SubmitRequest", "pulso.v1.JobDefinition"])
        .compile_fds(descriptors)?;
    Ok(())
}
