//! What a start needs of this machine: `haul serve --check` and a start say the same of it, and neither waits.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::support::server::{Server, binary, until_now};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// A start with these flags, where `serve` has to end by itself. Its own flags come first, so that these win.
fn serve(dir: &Path, flags: &[&OsStr]) -> Command {
    let mut command = Command::new(program(dir));
    command.args(["serve", "--data-dir"]).arg(dir.join("data")).arg("--download-dir").arg(dir.join("downloads"));
    if !flags.iter().any(|flag| *flag == "--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(flags).stdin(Stdio::null()).current_dir(dir);
    command
}

/// The binary under test: the one in `dir`, if there is one, which every user can reach.
fn program(dir: &Path) -> PathBuf {
    let own = dir.join("haul");
    if own.exists() { own } else { binary() }
}

/// Runs a command to its end. Returns its exit code and what it says.
fn ended(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

/// Asserts that the check and the start both refuse these settings, and say why.
fn both_refuse(dir: &Path, flags: &[&str], user: Option<u32>, part: &str) {
    let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    let as_user = |mut command: Command| {
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        ended(command)
    };
    let check = as_user(serve(dir, &[&flags[..], &[OsStr::new("--check")]].concat()));
    let start = as_user(serve(dir, &flags));
    assert!(check.0 == 2 && check.1.contains(part), "{flags:?}: {check:?}");
    assert!(start.0 != 0 && start.1.contains(part), "{flags:?}: {start:?}");
}

/// Asserts that the check finds nothing wrong with these settings for a user.
fn accepts(dir: &Path, flags: &[&str], user: u32) {
    let flags: Vec<&OsStr> = flags.iter().chain(&["--check"]).map(OsStr::new).collect();
    let mut command = serve(dir, &flags);
    command.uid(user).gid(user);
    let (code, said) = ended(command);
    assert_eq!(code, 0, "{flags:?}: {said}");
}

#[test]
fn places_that_cannot_be_are_refused_by_the_check_and_by_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (here, any) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{port},0.0.0.0:{port}"));
    both_refuse(dir, &["--listen", &any, "--insecure-listen", "open"], None, "takes the port of the other");
    both_refuse(dir, &["--listen", &here, "--metrics-listen", &here], None, "choose another port");
    let elsewhere = format!("192.0.2.1:{port}");
    both_refuse(dir, &["--listen", &elsewhere, "--insecure-listen", "open"], None, "cannot listen on `192.0.2.1:");
    assert!(!dir.join("data").exists(), "nothing was made");
}

#[test]
fn a_data_directory_whose_name_is_no_text_is_refused_by_both() {
    let dir = tempfile::tempdir().unwrap();
    for check in [&[][..], &["--check"]] {
        let mut command = Command::new(binary());
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(check).current_dir(dir.path());
        let (code, said) = ended({
            command.env("HAUL_DATA_DIR", OsStr::from_bytes(b"\xff"));
            command
        });
        assert!(code == 2 && said.contains("`data_dir` is") && said.contains("not UTF-8"), "{check:?}: {code} {said}");
    }
}

#[test]
fn a_named_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RWXU).unwrap();
    let (pipe, key) = (pipe.to_str().unwrap(), format!("file:{}", pipe.display()));
    both_refuse(dir.path(), &["--data-key", &key], None, "it is a named pipe");
    both_refuse(dir.path(), &["--config", pipe], None, "it is a named pipe");
    both_refuse(dir.path(), &["--tls-cert", pipe, "--tls-key", pipe], None, "it is a named pipe");
    let mut list = Command::new(binary());
    list.args(["--server", "127.0.0.1:1", "--token-file", pipe, "list"]);
    let (code, said) = ended(list);
    assert!(code == 2 && said.contains("it is a named pipe"), "{code} {said}");
}

#[test]
fn a_link_that_leads_nowhere_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    symlink("nowhere", data.join("haul.db")).unwrap();
    both_refuse(dir.path(), &[], None, "is a link to a file that is not there");
}

#[test]
fn the_check_of_an_empty_database_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("haul.db"), "").unwrap();
    let (code, said) = ended(serve(dir.path(), &[OsStr::new("--check")]));
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "{said}");
    for command in ["check", "backup"] {
        let mut looked = Command::new(binary());
        looked.arg(command).arg("--data-dir").arg(&data);
        if command == "backup" {
            looked.arg(dir.path().join("copy"));
        }
        let (code, said) = ended(looked);
        assert!(
            code == 1 && said.contains("is empty: no server has stored anything in it"),
            "{command}: {code} {said}"
        );
    }
}

/// Somebody may have put it there, and a start removes only what an earlier one has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_the_own_socket_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("data/haul.sock");
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(&socket, "text").unwrap();
    let (code, said) = ended(serve(dir.path(), &[OsStr::new("--check")]));
    assert!(code == 0 && said.contains("what is there is not a socket"), "{code} {said}");
    let server = Server::over(dir, &[]).await;
    assert_eq!(fs::read_to_string(server.data().join("haul.sock")).unwrap(), "text");
    until_now(|| server.log().contains("what is there is not a socket"));
}

/// Everything below a directory is given to a user.
fn give(dir: &Path, user: u32) {
    chown(dir, Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            give(&path, user);
        } else if path.file_name() != Some(OsStr::new("haul")) {
            chown(&path, Some(user), Some(user)).unwrap();
        }
    }
}

/// A data directory that a server was killed over.
async fn left_behind() -> tempfile::TempDir {
    let mut server = Server::start().await;
    server.submit(crate::support::spec::job(vec![crate::support::spec::fetch("http://127.0.0.1:1/".to_owned())])).await;
    server.kill();
    let left = tempfile::tempdir().unwrap();
    fs::set_permissions(left.path(), Permissions::from_mode(0o755)).unwrap();
    fs::rename(server.data(), left.path().join("data")).unwrap();
    fs::create_dir(left.path().join("downloads")).unwrap();
    let program = left.path().join("haul");
    if fs::hard_link(binary(), &program).is_err() {
        fs::copy(binary(), &program).unwrap();
    }
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_user_may_not_do_is_told_as_such() {
    // Only root becomes another user, as where the tests run for every change.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = left_behind().await;
    let (data, downloads) = (dir.path().join("data"), dir.path().join("downloads"));
    give(dir.path(), NOBODY);
    let group = ["--listen", "unix:a.sock", "--socket-group", "0"];
    both_refuse(dir.path(), &group, Some(NOBODY), "`socket_group` is a group that this user is not in (gid 0)");

    // What is made in such a directory is of its group, whoever makes it.
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(NOBODY), Some(5555)).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o2770)).unwrap();
    accepts(dir.path(), &["--listen", "unix:shared/a.sock", "--socket-group", "5555"], NOBODY);

    fs::set_permissions(&downloads, Permissions::from_mode(0o000)).unwrap();
    both_refuse(dir.path(), &[], Some(NOBODY), "could not open the download directory");
    // Fetches need none.
    fs::set_permissions(&downloads, Permissions::from_mode(0o555)).unwrap();
    accepts(dir.path(), &[], NOBODY);
    fs::set_permissions(&downloads, Permissions::from_mode(0o755)).unwrap();

    fs::set_permissions(data.join("haul.db"), Permissions::from_mode(0o444)).unwrap();
    both_refuse(dir.path(), &[], Some(NOBODY), "haul.db` cannot be written to");
    fs::set_permissions(data.join("haul.db"), Permissions::from_mode(0o600)).unwrap();

    for name in ["haul.db-wal", "haul.db-shm"] {
        let file = data.join(name);
        chown(&file, Some(0), Some(0)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        both_refuse(dir.path(), &[], Some(NOBODY), &format!("{name}` cannot be read (Permission denied"));
        let mut check = Command::new(program(dir.path()));
        check.arg("check").arg("--data-dir").arg(&data).uid(NOBODY).gid(NOBODY);
        let (code, said) = ended(check);
        assert!(code == 1 && said.contains("Permission denied") && !said.contains("damaged"), "{name}: {said}");
        chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    }

    chown(&data, Some(0), Some(0)).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    both_refuse(dir.path(), &[], Some(NOBODY), "belongs to another user (uid 0) and is open to others");
}
