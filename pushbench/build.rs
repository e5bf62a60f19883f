//! Compiles the gateway's proto/rpc.proto with protox, so that no protoc is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/rpc.proto");
    let files = protox::compile(["../proto/rpc.proto"], ["../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
