//! A terminal of a given size with the command in it: what a person would see on its screen.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::server::{PATIENCE, binary};

/// What a command wrote to its terminal, and what the screen shows of it.
struct State {
    parser: vt100::Parser,
    written: Vec<u8>,
    /// How much of it the parser has.
    parsed: usize,
    /// Rows that did not fit into the columns at some time, as they were then.
    wrapped: Vec<String>,
}

/// A command that runs in a terminal.
pub(crate) struct Terminal {
    child: Child,
    /// The side of the terminal on which a person sits.
    person: File,
    state: Arc<(Mutex<State>, Condvar)>,
    reader: JoinHandle<()>,
}

/// What is left of a command that ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The lines of the screen, without those at its bottom that are empty.
    pub(crate) screen: String,
    /// All that was written.
    pub(crate) written: String,
    wrapped: Vec<String>,
}

impl Terminal {
    /// Starts `haul` with these arguments in a terminal of `columns` by `rows`, which has no keyboard.
    pub(crate) fn start(columns: u16, rows: u16, variables: &[(&str, &str)], args: &[&str]) -> Terminal {
        Terminal::spawn((columns, rows), false, variables, args)
    }

    /// As [`Terminal::start`], with a keyboard.
    pub(crate) fn with_keys(columns: u16, rows: u16, variables: &[(&str, &str)], args: &[&str]) -> Terminal {
        Terminal::spawn((columns, rows), true, variables, args)
    }

    fn spawn((columns, rows): (u16, u16), has_keys: bool, variables: &[(&str, &str)], args: &[&str]) -> Terminal {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let end = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            Stdio::from(rustix::fs::open(&*name, flags, Mode::empty()).unwrap())
        };
        let mut command = Command::new(binary());
        command.args(args).env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(variables.iter().copied());
        let keys = if has_keys { end() } else { Stdio::null() };
        let child = command.stdin(keys).stdout(end()).stderr(end()).spawn().unwrap();
        // The ends that the command holds are the only ones now, so that its exit is the end of what is read.
        drop(command);
        let [rows, columns] = [rows, columns].map(|cells| NonZeroU16::new(cells).unwrap());
        let parser = vt100::Parser::new(rows, columns, 0);
        let state = Arc::new((
            Mutex::new(State { parser, written: Vec::new(), parsed: 0, wrapped: Vec::new() }),
            Condvar::new(),
        ));
        let person = File::from(controller);
        let reader = std::thread::spawn({
            let (state, mut output) = (state.clone(), person.try_clone().unwrap());
            move || {
                let mut bytes = [0; 4096];
                // Linux says EIO when the last other end is closed.
                while let Ok(count @ 1..) = output.read(&mut bytes) {
                    state.0.lock().unwrap().take(&bytes[..count]);
                    state.1.notify_all();
                }
            }
        });
        Terminal { child, person, state, reader }
    }

    /// Runs `haul` with these arguments to its end.
    pub(crate) fn run(columns: u16, variables: &[(&str, &str)], args: &[&str]) -> Ended {
        Terminal::start(columns, 100, variables, args).end()
    }

    /// Waits until the screen is as it should be, and returns it.
    pub(crate) fn until(&self, is_right: impl Fn(&vt100::Screen) -> bool) -> vt100::Screen {
        let state = self.state.0.lock().unwrap();
        let is_wrong = |state: &mut State| !is_right(state.parser.screen());
        let (state, waited) = self.state.1.wait_timeout_while(state, PATIENCE, is_wrong).unwrap();
        let screen = state.parser.screen().clone();
        drop(state);
        assert!(!waited.timed_out(), "the screen never was as it should be:\n{}", screen.contents());
        screen
    }

    /// Types Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.signal("-INT");
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Presses keys.
    pub(crate) fn press(&self, keys: &str) {
        (&self.person).write_all(keys.as_bytes()).unwrap();
    }

    /// Changes the size.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let [rows, columns] = [rows, columns].map(|cells| NonZeroU16::new(cells).unwrap());
        self.state.0.lock().unwrap().parser.screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.person, size).unwrap();
        // It is not the terminal of its session, so the kernel says nothing.
        self.signal("-WINCH");
    }

    /// Waits for the end of the command.
    pub(crate) fn end(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let state = self.state.0.lock().unwrap();
        Ended {
            status,
            screen: state.parser.screen().contents().trim_end().to_owned(),
            written: String::from_utf8(state.written.clone()).unwrap(),
            wrapped: state.wrapped.clone(),
        }
    }
}

impl Ended {
    /// Asserts that nothing was wider than the screen at any time.
    pub(crate) fn assert_fits(&self) {
        assert!(self.wrapped.is_empty(), "these rows wrapped: {:#?}", self.wrapped);
    }
}

impl State {
    fn take(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        let fresh = &self.written[self.parsed..];
        let whole = std::str::from_utf8(fresh).map_or_else(|error| error.valid_up_to(), str::len);
        // The parser takes the replacement character for bytes that it could not read, and shows nothing.
        let text = String::from_utf8_lossy(&fresh[..whole]).replace('\u{fffd}', "?");
        self.parsed += whole;
        self.parser.process(text.as_bytes());
        let screen = self.parser.screen();
        let (rows, columns) = screen.size();
        let wrapped = screen.rows(0, columns.get()).take(rows.get().into()).enumerate();
        let wrapped: Vec<String> =
            wrapped.filter(|(at, _)| screen.row_wrapped(*at as u16)).map(|(_, row)| row).collect();
        self.wrapped.extend(wrapped);
    }
}

/// The column in which the first of these characters stands, in each row that has one.
pub(crate) fn columns_of(screen: &vt100::Screen, letter: &str) -> Vec<u16> {
    let (rows, columns) = screen.size();
    let first = |row| (0..columns.get()).find(|column| screen.cell(row, *column).unwrap().contents() == letter);
    (0..rows.get()).filter_map(first).collect()
}

/// Asserts that text has no sequence but those that the command line itself uses, and no character that hides or reorders
/// others.
pub(crate) fn assert_harmless(written: &str) {
    let mut rest = written;
    while let Some(at) = rest.find('\x1b') {
        let sequence = &rest[at + 1..];
        let end = sequence.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(0);
        let is_own = sequence.starts_with('[')
            && sequence[1..end].chars().all(|letter| letter.is_ascii_digit())
            && matches!(&sequence[end..=end], "m" | "K" | "J" | "A");
        assert!(is_own, "a sequence of others: {:?}", &rest[at..]);
        rest = &sequence[end + 1..];
    }
    let is_bad = |letter: char| {
        letter.is_control() && !"\r\n\x1b".contains(letter)
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    assert!(!written.contains(is_bad), "a hidden character: {written:?}");
}
