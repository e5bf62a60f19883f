//! Compiles proto/ with protox, so that no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/rpc.proto", "proto/record.proto", "proto/order.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), files.encode_to_vec())?;
    // boxed, so that a push's record does not have to make room for them
    tonic_prost_build::configure()
        .bytes(".oxipush")
        .boxed(".oxipush.Record.disconnect")
        .boxed(".oxipush.Record.rebalance")
        .boxed(".oxipush.Record.presence")
        .compile_fds(files)?;
    let etcd = protox::compile(["proto/etcd.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(etcd)?;
    let peers = protox::compile(["proto/peers.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".oxipush.peers").compile_fds(peers)?;
    // gopusher's own definition, for the test that a client generated from it works unchanged
    println!("cargo:rerun-if-changed=tests/proto");
    let theirs = protox::compile(["tests/proto/gopusher.proto"], ["tests/proto"])?;
    let gopusher = out.join("gopusher");
    fs::create_dir_all(&gopusher)?;
    tonic_prost_build::configure().build_server(false).out_dir(gopusher).compile_fds(theirs)?;
    Ok(())
}
