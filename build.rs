//! Turns `src/pb/*.proto` into Rust at build time. `protox` compiles the files, so no protoc has to be installed.

use std::error::Error;

const FILES: [&str; 3] = ["src/pb/kv.proto", "src/pb/rpc.proto", "src/pb/health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["src/pb"])?;
    prost_build::Config::new()
        // Keys and values are slices of the buffer they arrived in.
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
