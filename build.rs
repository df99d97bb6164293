//! Compiles `proto/` without `protoc` and keeps the descriptor set that reflection and the JSON of the command line use;
//! lists and compresses the files of the dashboard, which are made by `npm run build` in `web/` and kept in `web/dist/`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use brotli::enc::BrotliEncoderParams;
use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
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
    fs::write(out.join("haul.bin"), compiler.encode_file_descriptor_set())?;
    generate(&compiler, &out)?;
    embed(Path::new("web/dist"), &out)
}

/// Generates messages and clients, and apart from them the servers: these answer a watch with messages that were encoded
/// before, once for all watchers, where a client reads them as what they are.
fn generate(compiler: &protox::Compiler, out: &Path) -> Result<(), Box<dyn Error>> {
    let builder = || tonic_prost_build::configure().bytes(".").codec_path("crate::codec::BoundedCodec");
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    builder().build_server(false).compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    let servers = out.join("servers");
    fs::create_dir_all(&servers)?;
    let mut config = tonic_prost_build::Config::new();
    config.extern_path(".haul.v1", "crate::pb");
    config.extern_path(".haul.v1.WatchJobResponse", "crate::codec::Encoded");
    builder().build_client(false).out_dir(servers).compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

/// Writes `assets.rs`, the list of the files, beside their compressed bytes.
fn embed(dist: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", dist.display());
    let mut files = fs::read_dir(dist)?.map(|it| Ok(it?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    files.sort();
    let mut list = "pub(super) const EMBEDDED: &[Embedded] = &[\n".to_owned();
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let name = file.file_name().and_then(|it| it.to_str()).ok_or("a file has a name that is no text")?;
        let bytes = fs::read(&file)?;
        let mut packed = fs::File::create(out.join(format!("{name}.br")))?;
        brotli::BrotliCompress(&mut bytes.as_slice(), &mut packed, &BrotliEncoderParams::default())?;
        let tag = Sha256::digest(&bytes)[..12].iter().fold(String::new(), |tag, byte| format!("{tag}{byte:02x}"));
        let at = |root: &str, file: String| format!("include_bytes!(concat!(env!({root:?}), {file:?}))");
        let plain = at("CARGO_MANIFEST_DIR", format!("/web/dist/{name}"));
        let brotli = at("OUT_DIR", format!("/{name}.br"));
        writeln!(list, "    Embedded {{ name: {name:?}, tag: {tag:?}, plain: {plain}, brotli: {brotli} }},")?;
    }
    list.push_str("];\n");
    fs::write(out.join("assets.rs"), list)?;
    Ok(())
}
