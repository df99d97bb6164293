//! Images and clusters: what stands in their files is what the program and the other files expect.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use haul::config::network::{INBOUND_BYTES_DEFAULT_MAX, OUTBOUND_BYTES_MAX};
use haul::engine::bounds::Bounds;

use crate::ops::tools::{read, root, tool};
use crate::support::server::haul;

const MIB: u64 = 1 << 20;
/// What is left for the program, `SQLite`'s caches and transfers under way.
const REST: u64 = 512 * MIB;

/// The commands of the comment at the head of a manifest.
fn commands(manifest: &str) -> String {
    let text = read(manifest);
    let head = text.lines().take_while(|line| line.starts_with('#'));
    let indented = head.filter_map(|line| line.strip_prefix("#   "));
    indented.collect::<Vec<_>>().join("\n")
}

/// The log of a container is stdout and stderr: the file of the token has the token alone.
#[test]
fn the_first_token_of_a_cluster_is_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let made = haul(&[
        "token",
        "create",
        "ops",
        "--grant=operator",
        "--lifetime=24h",
        "--offline",
        &format!("--data-dir={}", data.display()),
    ]);
    let (out, err) = (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    assert!(made.status.success() && !err.is_empty(), "{err}");
    std::fs::write(dir.path().join("log"), format!("{err}{out}")).unwrap();
    let kubectl = "#!/bin/sh\n[ \"$1\" != logs ] || cat log\n";
    std::fs::write(dir.path().join("kubectl"), kubectl).unwrap();
    std::fs::set_permissions(dir.path().join("kubectl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = commands("deploy/kubernetes/first-token.yaml");
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &script]).current_dir(dir.path());
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    assert!(shell.env("PATH", path).status().unwrap().success(), "{script}");
    let kept = dir.path().join("ops.token");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), out, "the token and nothing else");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o077, 0, "nobody else reads it");
}

/// Prometheus checks a name that the certificate is asked to have.
#[test]
fn the_certificate_has_the_name_that_is_scraped() {
    let monitor = read("deploy/kubernetes/podmonitor.yaml");
    let name = monitor.lines().find_map(|line| line.trim().strip_prefix("serverName: ")).unwrap();
    let words = read("deploy/kubernetes/haul.yaml").replace("\n# ", " ");
    let names = words.split("for the names ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    assert!(names.split(" and ").any(|own| own == name), "`{name}` is not among `{names}`");
}

/// What a server lets itself take fits into what it is given, so that it says OVERLOADED before it is killed.
#[test]
fn deployments_give_the_memory_that_the_server_takes() {
    let taken = |queue: u64| queue * (1 + Bounds::JOBS as u64) + INBOUND_BYTES_DEFAULT_MAX + OUTBOUND_BYTES_MAX + REST;
    let unit = read("deploy/systemd/haul.service");
    let given = unit.lines().find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('G')).unwrap();
    assert!(!unit.contains("HAUL_QUEUE_BYTES"), "it would be stronger than the operator's file");
    let own = Bounds::default().queue_bytes as u64;
    assert!(taken(own) <= given.parse::<u64>().unwrap() * 1024 * MIB, "{}", taken(own) / MIB);

    let pod = read("deploy/kubernetes/haul.yaml");
    let value = |before: &str, after: &str| -> u64 {
        let rest = pod.split(before).nth(1).unwrap_or_else(|| panic!("{before}"));
        rest.split(after).next().unwrap().parse().unwrap()
    };
    let queue = value("HAUL_QUEUE_BYTES, value: \"", "\"");
    let given = value("limits: {memory: ", "Gi}") * 1024 * MIB;
    assert!(taken(queue) <= given, "{} of {}", taken(queue) / MIB, given / MIB);
}

/// What git leaves out stays out of the image, too, and so does the history.
#[test]
fn images_are_made_of_sources() {
    let ignored = read(".dockerignore");
    let has = |pattern: &str| ignored.lines().any(|line| line == pattern);
    assert!(has(".git"));
    let folders = read(".gitignore");
    for pattern in folders.lines().filter_map(|line| line.strip_prefix('/')) {
        assert!(has(pattern), "`{pattern}` of .gitignore is not in .dockerignore");
    }
    assert!(!read("README.md").contains("> job.json"), "the README writes into the clone");
}

#[test]
fn the_image_is_made_as_the_linter_says() {
    let Some(hadolint) = tool("hadolint", "HAUL_HADOLINT") else { return };
    let done = Command::new(hadolint).arg(root().join("deploy/container/Containerfile")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}
