//! What is installed: the unit, the Debian package, manifests, completions, the manual, the list of parts.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::ops::tools::{read, root, skip, tool};
use crate::support::server::{PATIENCE, command, haul};

const UNIT: &str = "deploy/systemd/haul.service";

/// Whether a program is on this machine.
fn has(program: &str) -> bool {
    let is_there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success();
    if !is_there {
        skip(&format!("there is no {program}"));
    }
    is_there
}

fn said(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[test]
fn the_unit_is_hardened() {
    if !has("systemd-analyze") {
        return;
    }
    let check = |args: &[&str]| Command::new("systemd-analyze").args(args).arg(root().join(UNIT)).output().unwrap();
    let exposure = check(&["security", "--offline=yes", "--threshold=15"]);
    assert!(exposure.status.success(), "more than 1.5 is exposed: {}", said(&exposure));
    let verified = said(&check(&["verify", "--man=no"]));
    let wrong: Vec<&str> = verified.lines().filter(|line| line.starts_with("haul.service:")).collect();
    let unit = read(UNIT);
    // Another user reaches a socket in no other place of the sandbox, and is known there by the drop-in alone.
    assert!(unit.contains("RuntimeDirectory=haul\n") && unit.contains("PrivateUsers=yes\n"), "{unit}");
    assert!(read("deploy/systemd/socket-identities.conf").contains("[Service]\nPrivateUsers=no\n"));
    // The program is where a package puts it.
    assert!(wrong.iter().all(|line| line.contains("/usr/bin/haul is not executable")), "{verified}");
}

/// A server that systemd starts says that it serves, that it is alive, and that it ends.
#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let length = loop {
            match socket.recv(&mut buffer) {
                // A child that ends elsewhere in this process interrupts the wait.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut server = command(dir.path(), &["--allow-private-networks".to_owned()])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .spawn()
        .unwrap();
    let mut all = vec![heard()];
    while all.iter().filter(|it| it.contains("WATCHDOG=1")).count() < 3 || !all.iter().any(|it| it.contains("READY=1"))
    {
        all.push(heard());
    }
    let told = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(told.success());
    while !all.last().unwrap().contains("STOPPING=1") {
        all.push(heard());
    }
    assert!(all.last().unwrap().contains("EXTEND_TIMEOUT_USEC="), "{all:?}");
    assert!(server.wait().unwrap().success());
}

#[test]
fn completions_do_in_a_shell_and_pages_are_there_for_all_commands() {
    let dir = tempfile::tempdir().unwrap();
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef haul"), ("fish", "complete -c haul")] {
        let script = said(&haul(&["completions", shell]));
        assert!(script.contains(word), "{shell}: {script:.500}");
        std::fs::write(dir.path().join(shell), script).unwrap();
    }
    // What bash offers for a word that is begun.
    let offered =
        "source \"$1\"; COMP_WORDS=(haul sub); COMP_CWORD=1; _haul haul sub haul; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let done = Command::new("bash").args(["-c", offered, "bash"]).arg(dir.path().join("bash")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "submit", "{}", said(&done));

    let man = haul(&["man", dir.path().to_str().unwrap()]);
    assert!(man.status.success(), "{}", said(&man));
    let page = std::fs::read_to_string(dir.path().join("haul-serve.1")).unwrap();
    assert!(
        page.contains(concat!(".TH haul-serve 1 \"\" \"haul ", env!("CARGO_PKG_VERSION"), "\"\n"))
            && page.contains("metrics\\-listen"),
        "{page:.800}"
    );
    assert!(dir.path().join("haul.1").exists() && dir.path().join("haul-token-create.1").exists());
    let missing = haul(&["man", "/nonexistent"]);
    assert!(!missing.status.success() && said(&missing).contains("/nonexistent"), "{}", said(&missing));
}

#[test]
fn the_debian_package_has_everything_and_starts_nothing() {
    if !has("dpkg-deb") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = root().join("scripts/deb");
    // To pack a program with all that a debugger wants to know takes a minute.
    let made = Command::new(script)
        .arg(env!("CARGO_BIN_EXE_haul"))
        .arg(dir.path())
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let package = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let tree = dir.path().join("tree");
    let ran = |command: &mut Command| {
        let done = command.output().unwrap();
        assert!(done.status.success(), "{command:?}: {}", said(&done));
        said(&done)
    };
    ran(Command::new("dpkg-deb").arg("--raw-extract").arg(&package).arg(&tree));
    for file in [
        "usr/bin/haul",
        "lib/systemd/system/haul.service",
        "usr/lib/sysusers.d/haul.conf",
        "etc/haul/haul.toml",
        "usr/share/bash-completion/completions/haul",
        "usr/share/zsh/vendor-completions/_haul",
        "usr/share/fish/vendor_completions.d/haul.fish",
        "usr/share/man/man1/haul.1.gz",
        "usr/share/man/man1/haul-serve.1.gz",
        "usr/share/doc/haul/copyright",
        "usr/share/doc/haul/haul.rules.yml",
        "usr/share/doc/haul/socket-identities.conf",
    ] {
        assert!(tree.join(file).exists(), "{file} is missing");
    }
    assert!(
        !tree.join("etc/systemd").exists() && !tree.join("var").exists(),
        "nothing is enabled, and no data is owned"
    );
    let control = std::fs::read_to_string(tree.join("DEBIAN/control")).unwrap();
    let version = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(control.contains("Package: haul\n") && control.contains(&version), "{control}");
    assert!(control.contains("Depends: libc6 (>= "), "{control}");
    let depends = control.lines().find(|line| line.starts_with("Depends: ")).unwrap();
    let postinst = std::fs::read_to_string(tree.join("DEBIAN/postinst")).unwrap();
    for (program, package) in [("systemd-sysusers", "systemd-standalone-sysusers"), ("adduser ", "adduser")] {
        assert!(postinst.contains(program) && depends.contains(package), "{depends}");
    }
    assert_eq!(std::fs::read_to_string(tree.join("DEBIAN/conffiles")).unwrap(), "/etc/haul/haul.toml\n");
    for name in ["postinst", "prerm", "postrm"] {
        ran(Command::new("sh").arg("-n").arg(tree.join("DEBIAN").join(name)));
        let script = std::fs::read_to_string(tree.join("DEBIAN").join(name)).unwrap();
        for word in ["systemctl enable", "systemctl start", "rm -"] {
            assert!(!script.contains(word), "{name}: {word}");
        }
    }
    // The settings that it brings are settings, and the unit gives them to the program.
    assert!(read(UNIT).contains("Environment=HAUL_CONFIG=/etc/haul/haul.toml"));
    settings_do(&tree.join("etc/haul/haul.toml"), dir.path());
}

/// Starts a server with a file of settings, placed elsewhere.
fn settings_do(settings: &Path, dir: &Path) {
    let text = std::fs::read_to_string(settings).unwrap();
    let text = text.replace("/var/lib/haul", dir.to_str().unwrap()).replace(":4285", ":0");
    std::fs::write(dir.join("haul.toml"), text).unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_haul"))
        .args(["serve", "--config"])
        .arg(dir.join("haul.toml"))
        .env("HAUL_LOG", "warn")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 13];
    server.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"listening on ");
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(dir.join("data/haul.db").exists() && dir.join("downloads").exists());
}

#[test]
fn manifests_are_what_the_cluster_takes() {
    let validate = "import sys, yaml, kubernetes_validate as v\n\
        for document in yaml.safe_load_all(open(sys.argv[1])):\n\
        \x20   v.validate(document, '1.33', strict=True)\n\
        \x20   print(document['kind'])\n";
    let Some(library) = tool("kubernetes", "HAUL_KUBERNETES_VALIDATE") else { return };
    for (file, kinds) in
        [("haul.yaml", "Service\nStatefulSet\nNetworkPolicy\n"), ("first-token.yaml", "PersistentVolumeClaim\nJob\n")]
    {
        let mut python = Command::new("python3");
        python.args(["-c", validate]).arg(root().join("deploy/kubernetes").join(file)).env("PYTHONPATH", &library);
        let done = python.output().unwrap();
        assert!(done.status.success(), "{file}: {}", said(&done));
        assert_eq!(String::from_utf8_lossy(&done.stdout), kinds);
    }
}

/// Variables that a manifest or an image sets must be ones that the program reads.
#[test]
fn what_deployments_set_are_settings() {
    let settings = said(&haul(&["serve", "--help"]));
    for path in ["deploy/kubernetes/haul.yaml", "deploy/container/Containerfile", UNIT] {
        let text = read(path);
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let words = lines.flat_map(|line| line.split(|letter: char| !(letter.is_ascii_uppercase() || letter == '_')));
        let named: Vec<&str> = words.filter(|word| word.starts_with("HAUL_")).collect();
        assert!(!named.is_empty(), "{path}");
        for name in named {
            assert!(settings.contains(&format!("[env: {name}=")), "{path}: there is no {name}");
        }
    }
    let image = read("deploy/container/Containerfile");
    for line in ["FROM scratch", "USER 65532:65532", "VOLUME /data", "ENTRYPOINT [\"/usr/bin/haul\"]"] {
        assert!(image.lines().any(|own| own == line), "{line}");
    }
}

#[test]
fn the_list_of_parts_has_every_crate_that_is_built_in() {
    let done = Command::new(root().join("scripts/sbom")).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    let list: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(list["metadata"]["component"]["name"], "haul");
    let parts = list["components"].as_array().unwrap();
    let has = |name: &str| parts.iter().any(|part| part["name"] == name);
    assert!(has("tokio") && has("ring") && has("protox"), "what runs, and what builds it");
    assert!(!has("proptest"), "and nothing of the tests");
    for part in parts {
        assert!(part["licenses"][0]["expression"].is_string() && part["hashes"][0]["content"].is_string(), "{part}");
    }
    let refs: Vec<&Value> = list["dependencies"].as_array().unwrap().iter().map(|it| &it["ref"]).collect();
    assert_eq!(refs.len(), parts.len() + 1);
}

/// Makes a database of advisories with one about this crate, last changed at this time.
fn advisories(place: &Path, name: &str, time: &str) -> PathBuf {
    let database = place.join(name);
    let folder = database.join("crates").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let head = format!("[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"{name}\"\ndate = \"2026-01-01\"\n");
    let text = format!("```toml\n{head}\n[versions]\npatched = [\">= 999.0.0\"]\n```\n\n# A flaw\n\nOf a test.\n");
    std::fs::write(folder.join("RUSTSEC-2026-0001.md"), text).unwrap();
    for args in
        [&["init", "--quiet", "--initial-branch", "main"][..], &["add", "."], &["commit", "--quiet", "--message", "x"]]
    {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=test", "-c", "user.email=test@localhost"]).args(args).current_dir(&database);
        let done = git.env("GIT_COMMITTER_DATE", time).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
    }
    database
}

#[test]
fn a_release_is_summed_and_signed_and_none_is_made_with_known_flaws() {
    if !["git", "ssh-keygen", "dpkg-deb"].into_iter().all(has) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let release = |database: &Path| {
        let mut script = Command::new(root().join("scripts/release"));
        script.arg(dir.path().join("out")).arg(env!("CARGO_BIN_EXE_haul"));
        script.env("HAUL_ADVISORIES", database).env("HAUL_SIGNING_KEY", &key);
        script.env("DPKG_DEB_COMPRESSOR_TYPE", "none").output().unwrap()
    };
    let now = format!("@{} +0000", std::fs::metadata(&key).unwrap().mtime());
    let flawed = release(&advisories(dir.path(), "tokio", &now));
    assert!(!flawed.status.success() && said(&flawed).contains("RUSTSEC-2026-0001"), "{}", said(&flawed));
    let old = release(&advisories(dir.path(), "old-crate", "@1700000000 +0000"));
    assert!(!old.status.success() && said(&old).contains("advisories of 2023-11-14"), "{}", said(&old));
    assert!(!dir.path().join("out/haul").exists());

    let good = release(&advisories(dir.path(), "other-crate", &now));
    assert!(good.status.success(), "{}", said(&good));
    let out = dir.path().join("out");
    let sums = std::fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    let names: Vec<&str> = sums.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert!(matches!(names[..], ["haul", package, "haul.cdx.json"] if package.starts_with("haul_")), "{sums}");
    let signers = dir.path().join("signers");
    std::fs::write(&signers, format!("us {}", std::fs::read_to_string(key.with_extension("pub")).unwrap())).unwrap();
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "verify", "-n", "haul-release", "-I", "us", "-f"]).arg(&signers).arg("-s");
    verify.arg(out.join("SHA256SUMS.sig")).stdin(std::fs::File::open(out.join("SHA256SUMS")).unwrap());
    let verified = verify.output().unwrap();
    assert!(verified.status.success(), "{}", said(&verified));
}

#[test]
fn scripts_say_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let ran = |script: &str, args: &[&str], path: Option<&Path>| {
        let mut command = Command::new("bash");
        command.arg(root().join("scripts").join(script)).args(args).current_dir(dir.path());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let done = command.output().unwrap();
        assert!(!done.status.success(), "{}", said(&done));
        said(&done)
    };
    // A folder with what the scripts need to begin, and nothing else.
    let few = dir.path().join("bin");
    std::fs::create_dir(&few).unwrap();
    for tool in ["bash", "dirname", "realpath"] {
        let found = Command::new("bash").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        std::os::unix::fs::symlink(String::from_utf8(found.stdout).unwrap().trim(), few.join(tool)).unwrap();
    }
    assert!(ran("deb", &["/nonexistent"], None).contains("scripts/build"));
    assert!(ran("deb", &[env!("CARGO_BIN_EXE_haul")], Some(&few)).contains("apt install dpkg binutils"));
    assert!(ran("release", &["out", "/nonexistent"], Some(&few)).contains("there is no dpkg-deb"));
    assert!(!dir.path().join("out").exists(), "nothing is made");
}

#[test]
fn scripts_are_shell_that_can_be_read() {
    let scripts = [
        "advisories",
        "build",
        "deb",
        "release",
        "static",
        "stubs",
        "tools",
        "test",
        "test-deb",
        "test-rest",
        "test-web",
    ];
    for name in scripts {
        let done = Command::new("bash").arg("-n").arg(root().join("scripts").join(name)).output().unwrap();
        assert!(done.status.success(), "{name}: {}", said(&done));
    }
}

/// The log of a container is both streams, so the token is picked out of it; the pipe of the manifest is run as it stands there.
#[test]
fn the_first_token_is_picked_from_all_that_is_said() {
    let manifest = read("deploy/kubernetes/first-token.yaml");
    let line = manifest.lines().find(|line| line.contains("kubectl logs")).unwrap();
    let pipe = line.split('|').nth(1).unwrap().split('>').next().unwrap().trim();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let made = haul(&["token", "create", "ops", "--grant=operator", "--offline", "--data-dir", data.to_str().unwrap()]);
    assert!(made.status.success(), "{}", said(&made));
    std::fs::write(dir.path().join("log"), said(&made)).unwrap();
    let picked = Command::new("sh").args(["-c", &format!("{pipe} < log")]).current_dir(dir.path()).output().unwrap();
    assert_eq!(picked.stdout, made.stdout, "the token with its line end, and nothing else");
}

#[test]
fn nothing_of_the_tour_or_of_keys_comes_into_an_image() {
    let ignored = read(".containerignore");
    for name in [".git", "target", "haul-data", "job.json", "**/*.key"] {
        assert!(ignored.lines().any(|line| line == name), "{name}");
    }
    assert!(read(".gitignore").lines().any(|line| line == "/job.json"));
}
