//! Compiles `proto/` without `protoc` and keeps the descriptor set that reflection and the JSON of the command line use.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "haul/v1/job_service.proto",
        "haul/v1/content_service.proto",
        "haul/v1/admin_service.proto",
        "haul/v1/access_service.proto",
    ];
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // As bytes of its own: the types of the generator do not know the routes of methods, and would leave them out.
    std::fs::write(out.join("haul.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().bytes(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
