//! How programs in other languages are built and run. What is missing for a language is said, and its tests do nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What `scripts/tools` installs; `None` where it has said that it cannot, so that the client is not tested.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = root().join(".tools").join(name);
    if path.is_dir() {
        return Some(path);
    }
    let skipped = root().join(format!(".tools/{name}.skipped")).exists();
    assert!(skipped, "`{}` is missing; run scripts/tools", path.display());
    eprintln!("SKIPPED: a client is not tested, there is no {name}");
    None
}

pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

/// The text of a program in `tests/clients`.
pub(crate) fn source(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/clients").join(name)).unwrap()
}

/// Makes a command that runs a Python program with the client in `clients/python`.
pub(crate) fn python(dir: &Path, program: &str) -> Option<Command> {
    let installed = tool("python")?;
    let path = dir.join("client.py");
    std::fs::write(&path, program).unwrap();
    let mut python = Command::new("python3");
    let client = root().join("clients/python/src");
    python.env("PYTHONPATH", format!("{}:{}", installed.display(), client.display())).arg(path);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    Some(python)
}

/// The client in `clients/typescript`, built from its sources into `dir/node_modules`, where imports are looked for.
fn typescript(dir: &Path) -> Option<PathBuf> {
    tool("node")?;
    let (client, modules) = (root().join("clients/typescript"), dir.join("node_modules"));
    let built = modules.join("haul-client");
    std::fs::create_dir_all(&built).unwrap();
    let mut tsc = Command::new("node");
    tsc.arg(client.join("node_modules/typescript/bin/tsc")).arg("--project").arg(&client);
    output(tsc.arg("--outDir").arg(built.join("dist")));
    std::fs::copy(client.join("package.json"), built.join("package.json")).unwrap();
    for name in ["@bufbuild", "@connectrpc", "@types", "typescript", "undici-types"] {
        std::os::unix::fs::symlink(client.join("node_modules").join(name), modules.join(name)).unwrap();
    }
    Some(client)
}

/// Makes a command that runs a program for Node.js with the client in `clients/typescript`.
pub(crate) fn node(dir: &Path, program: &str) -> Option<Command> {
    typescript(dir)?;
    std::fs::write(dir.join("client.mjs"), program).unwrap();
    let mut node = Command::new("node");
    node.arg(dir.join("client.mjs"));
    Some(node)
}

/// Checks the types of a program in TypeScript and makes a command that runs it.
pub(crate) fn typed_node(dir: &Path, program: &str) -> Option<Command> {
    let client = typescript(dir)?;
    std::fs::write(dir.join("client.mts"), program).unwrap();
    let mut tsc = Command::new("node");
    tsc.current_dir(dir).arg(client.join("node_modules/typescript/bin/tsc")).arg("client.mts");
    output(tsc.args(["--strict", "--module", "nodenext", "--target", "es2022", "--types", "node", "--skipLibCheck"]));
    let mut node = Command::new("node");
    node.arg(dir.join("client.mjs"));
    Some(node)
}

/// Builds a Go program with the client in `clients/go` and Debian's libraries, and makes a command that runs it.
pub(crate) fn go(dir: &Path, program: &str) -> Option<Command> {
    let installed = tool("go")?;
    std::fs::create_dir_all(dir.join("gopath/src/haul")).unwrap();
    std::os::unix::fs::symlink(root().join("clients/go"), dir.join("gopath/src/haul/client")).unwrap();
    std::fs::write(dir.join("client.go"), program).unwrap();
    let goroot = installed.join("usr/lib/go-1.19");
    let paths = format!("{}:{}", dir.join("gopath").display(), installed.join("usr/share/gocode").display());
    let mut build = Command::new(goroot.join("bin/go"));
    build.current_dir(dir).args(["build", "-o", "client", "client.go"]);
    build
        .env("GOROOT", &goroot)
        .env("GOPATH", paths)
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("CGO_ENABLED", "0");
    // What is built once is kept: gRPC alone takes half a minute.
    build.env("GOCACHE", root().join("target/go-cache"));
    output(&mut build);
    Some(Command::new(dir.join("client")))
}
