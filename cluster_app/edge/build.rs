//! Rust types of both contracts, from the same `proto/` that the Python side is made from.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../..");
    let files = ["proto/balance.proto", "proto/ledger.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
    }
    // protox, not a protoc binary: cargo is all that a build needs
    let contracts = protox::compile(files, [root])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(contracts)?;
    Ok(())
}
