//! Compiles `proto/` without `protoc` and keeps the descriptor set that reflection and the JSON of the command line use.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "haul/v1/job_service.proto",
        "haul/v1/content_service.proto",
        "haul/v1/admin_service.proto",
        "haul/v1/access_service.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("haul.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
