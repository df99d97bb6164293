//! `haul top` in a terminal: looking, acting, and every way out.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};

use haul::pb;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::cli::terminal::{Ended, Terminal};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, haul, until, until_now};
use crate::support::spec::{fetch, group, job};

/// What another client may send to mislead whoever looks.
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[2Jevil\u{202e}txt\u{200b}\r\u{9b}1m";

fn top(server: &Server, size: (u16, u16), args: &[&str]) -> Terminal {
    let socket = format!("unix:{}", server.data().join("haul.sock").display());
    Terminal::with_keys(size.0, size.1, &[], &[&["--server", &socket, "top"][..], args].concat())
}

/// Asserts that the screen of before is back, with a cursor.
fn assert_restored(ended: &Ended) {
    let last = |sequence: &str| ended.written.rfind(sequence).unwrap_or_else(|| panic!("no {sequence:?}"));
    assert!(last("\x1b[?1049l") > last("\x1b[?1049h"), "the other screen is left");
    assert!(last("\x1b[?25h") > last("\x1b[?25l"), "the cursor is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_looks_and_acts() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    origin.reply("/gone", Reply::status(404));
    let mut spec = job(vec![fetch(origin.url("/gone")), fetch(origin.url("/hang"))]);
    spec.group = Some(group(pb::GroupMode::Collect, 0));
    let id = server.submit(pb::JobSpec { title: "mirror".into(), ..spec }).await;
    origin.reply("/good", Reply::ok("hello"));
    server.run(pb::JobSpec { title: HOSTILE.into(), ..job(vec![fetch(origin.url("/good"))]) }).await;
    let terminal = top(&server, (100, 24), &[]);
    let screen = terminal.until(|screen| screen.contents().contains("mirror"));
    assert!(screen.contents().contains("?]0;owned??[2Jevil?txt"), "{}", screen.contents());
    assert!(screen.contents().contains("running 1"), "{}", screen.contents());
    // The newest is chosen; the row below is the other.
    terminal.press("j\r");
    terminal.until(|screen| screen.contents().contains("tasks") && screen.contents().contains("/hang"));
    // A task with its attempt, and back.
    terminal.press("\r");
    terminal.until(|screen| {
        let shown = screen.contents();
        shown.contains("task 0  failed") && shown.contains("RESULT") && shown.contains("404 Not Found")
    });
    terminal.press("u");
    terminal.until(|screen| screen.contents().contains("/hang"));
    terminal.press("f");
    terminal.until(|screen| screen.contents().contains("404 Not Found"));
    terminal.press("p");
    until(async || server.job(&id).await.state() == pb::JobState::Paused).await;
    // Until the page shows it, the key would pause again.
    terminal.until(|screen| screen.contents().contains("mirror  paused"));
    terminal.press("p");
    until(async || server.job(&id).await.state() == pb::JobState::Running).await;
    terminal.until(|screen| screen.contents().contains("mirror  running"));
    terminal.press("c");
    terminal.until(|screen| screen.contents().contains("cancel 1 job?"));
    terminal.press("y");
    let ended = server.ended(&id).await;
    assert_eq!(ended.state(), pb::JobState::Cancelled);
    terminal.until(|screen| screen.contents().contains("cancelled"));
    terminal.press("gh");
    terminal.until(|screen| screen.contents().contains("RUNNING") || screen.contents().contains("no host"));
    terminal.press("q");
    let ended = terminal.end();
    assert!(ended.status.success(), "{}", ended.screen);
    assert_restored(&ended);
    for bad in ["\x1b]", "\u{202e}", "\u{9b}", "\u{200b}"] {
        assert!(!ended.written.contains(bad), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_its_server_and_any_size() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    origin.reply("/hang", Reply::hang());
    server.submit(pb::JobSpec { title: "mirror".into(), ..job(vec![fetch(origin.url("/hang"))]) }).await;
    let terminal = top(&server, (80, 24), &["@last"]);
    terminal.until(|screen| screen.contents().contains("/hang"));
    server.kill();
    terminal.until(|screen| screen.contents().contains("no connection"));
    server.launch().await;
    terminal.until(|screen| !screen.contents().contains("no connection") && screen.contents().contains("/hang"));
    for (columns, rows) in [(40, 10), (1, 1), (3, 2), (200, 60)] {
        terminal.resize(columns, rows);
        // A row that was not drawn anew would be as it was on the smaller screen.
        terminal.until(|screen| screen.contents().starts_with(if columns == 1 { "…" } else { "ha" }));
    }
    terminal.until(|screen| screen.contents().contains("? help"));
    terminal.signal("-TERM");
    let ended = terminal.end();
    assert_eq!(ended.status.code(), Some(128 + 15));
    assert_restored(&ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_and_hangup_end_it() {
    let server = Server::start().await;
    let keys = top(&server, (80, 24), &[]);
    keys.until(|screen| screen.contents().contains("no jobs yet"));
    keys.press("\x03");
    let ended = keys.end();
    assert!(ended.status.success());
    assert_restored(&ended);
    let hung_up = top(&server, (80, 24), &[]);
    hung_up.until(|screen| screen.contents().contains("no jobs yet"));
    hung_up.signal("-HUP");
    let ended = hung_up.end();
    assert_eq!(ended.status.code(), Some(128 + 1));
    assert_restored(&ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_is_gone_ends_it() {
    let server = Server::start().await;
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    tcsetwinsize(&controller, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let end = || {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        Stdio::from(rustix::fs::open(&*name, flags, Mode::empty()).unwrap())
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
    command.args(["--server", &server.address, "top"]).env("TERM", "xterm");
    let child = command.stdin(end()).stdout(end()).stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    let mut screen = File::from(controller);
    let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains("no jobs yet") {
        let count = screen.read(&mut bytes).unwrap();
        seen.extend_from_slice(&bytes[..count]);
    }
    let raw = tcgetattr(&screen).unwrap();
    assert!(!raw.local_modes.contains(LocalModes::ECHO), "keys are not echoed");
    drop(screen);
    let child = std::sync::Mutex::new(child);
    until_now(|| child.lock().unwrap().try_wait().unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_frame_is_printed_where_there_is_no_terminal() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/good", Reply::ok("hello"));
    server.run(pb::JobSpec { title: HOSTILE.into(), ..job(vec![fetch(origin.url("/good"))]) }).await;
    let printed = haul(&["--server", &server.address, "top", "--once"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success() && text.contains("succeeded") && text.contains("all jobs"), "{text}");
    assert!(!text.contains(['\x1b', '\u{202e}', '\u{9b}']), "{text:?}");
    let shown = Terminal::run(60, &[("NO_COLOR", "1")], &["--server", &server.address, "top", "--once", "@last"]);
    shown.assert_fits();
    assert!(!shown.written.contains("\x1b["), "{:?}", shown.written);
    for (args, why) in
        [(&["top"][..], "`haul top --once` prints one frame"), (&["-o", "json", "top"], "haul list -o json")]
    {
        let refused = haul(&[&["--server", &server.address][..], args].concat());
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && said.contains(why), "{said}");
    }
    let nobody = haul(&["--server", "127.0.0.1:1", "top", "--once"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("no server answers"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_colours_gets_none() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/gone", Reply::status(404));
    server.run(job(vec![fetch(origin.url("/gone"))])).await;
    for (variables, has_colours) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let terminal = Terminal::with_keys(80, 24, variables, &["--server", &server.address, "top"]);
        let screen = terminal.until(|screen| screen.contents().contains("failed"));
        terminal.press("q");
        let ended = terminal.end();
        let coloured = (0..24).any(|row| {
            (0..80).any(|column| screen.cell(row, column).is_some_and(|cell| cell.fgcolor() != vt100::Color::Default))
        });
        assert_eq!(coloured, has_colours, "{:?}", ended.written);
    }
}
