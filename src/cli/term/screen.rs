//! Stdout and stderr: the only place that writes to them.

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::cli::term::line::Line;
use crate::model::text;

/// The size of a terminal, in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// The size that is taken for that of a terminal which does not know its own.
const SIZE_DEFAULT: Size = Size { columns: 80, rows: 24 };

/// Spaces before what continues a line.
const FOLD_INDENT: usize = 2;

/// The exit code of the process when nobody reads its stdout any more, or [`GOES_ON`].
static UNREAD: AtomicI32 = AtomicI32::new(0);
/// What was begun goes on to its end although nobody reads what is printed.
const GOES_ON: i32 = -1;
/// The exit code of a process that SIGPIPE ended, as shells report it.
const SIGPIPE_CODE: i32 = 141;

/// Lets the process do what it was asked for although nobody reads its stdout any more: what it prints is not all that it does.
pub(crate) fn go_on_unread() {
    UNREAD.store(GOES_ON, Ordering::Relaxed);
}

/// Lets the process fail when nobody reads its stdout any more: its exit code says how something ended, and it does not wait
/// for that.
pub(crate) fn fail_unread() {
    UNREAD.store(SIGPIPE_CODE, Ordering::Relaxed);
}

/// Returns the size of the terminal that stdout is, `None` when it is not a terminal.
pub(crate) fn stdout_size() -> Option<Size> {
    size(&io::stdout())
}

/// Returns the size of the terminal that stderr is and that lines can be drawn on again and again, `None` when there is none:
/// a dumb terminal cannot move its cursor back.
pub(crate) fn stderr_size() -> Option<Size> {
    size(&io::stderr()).filter(|_| !is_dumb())
}

/// Prints a line, folded where it is wider than the screen. See [`bytes()`].
pub(crate) fn line(line: impl Into<Line>) {
    lines(&folded(&line.into(), stdout_size()));
}

/// Prints lines in one piece. See [`bytes()`].
pub(crate) fn lines(lines: &[Line]) {
    let colours = has_colours(&io::stdout());
    let text: String = lines.iter().map(|line| line.rendered(colours) + "\n").collect();
    bytes(text.as_bytes());
}

/// Prints a JSON document on a line of its own.
pub(crate) fn document(json: &str) {
    bytes(format!("{}\n", text::json_escaped(json)).as_bytes());
}

/// Prints bytes as they are. A closed pipe ends the process quietly: whoever read has seen enough. A command that does more than
/// print has said so by [`go_on_unread`] or [`fail_unread`]. Anything else that goes wrong (a full disk under a redirect) must not
/// look like success.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => match UNREAD.load(Ordering::Relaxed) {
            GOES_ON => {}
            code => std::process::exit(code),
        },
        Err(error) => {
            say(format!("haul: cannot write to stdout: {error}"));
            std::process::exit(1);
        }
    }
}

/// Writes a line to stderr, beside what is printed, folded where it is wider than the screen. An error is ignored: that a
/// message cannot be read is no reason to stop.
pub(crate) fn say(line: impl Into<Line>) {
    let colours = has_stderr_colours();
    let lines = folded(&line.into(), size(&io::stderr()));
    draw(&lines.iter().map(|line| line.rendered(colours) + "\n").collect::<String>());
}

fn folded(line: &Line, size: Option<Size>) -> Vec<Line> {
    line.folded(size.map_or(usize::MAX, |size| size.columns), FOLD_INDENT)
}

/// Writes what was rendered already to stderr, in one piece.
pub(crate) fn draw(rendered: &str) {
    let _ = io::stderr().lock().write_all(rendered.as_bytes());
}

/// Returns whether stdout shows colours.
pub(crate) fn has_stdout_colours() -> bool {
    has_colours(&io::stdout())
}

/// Returns whether a page can be drawn and keys can be read: stdin and stdout are one terminal that can move its cursor.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb()
}

/// Returns whether stderr shows colours.
pub(crate) fn has_stderr_colours() -> bool {
    has_colours(&io::stderr())
}

/// Colours are for terminals whose user did not ask to stay without (<https://no-color.org>).
fn has_colours(stream: &impl IsTerminal) -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_set("NO_COLOR") && !is_dumb()
}

fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn size(stream: &(impl IsTerminal + AsFd)) -> Option<Size> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stream.as_fd()).ok();
    let size = size.map(|size| Size { columns: size.ws_col.into(), rows: size.ws_row.into() });
    Some(size.filter(|size| size.columns > 0 && size.rows > 0).unwrap_or(SIZE_DEFAULT))
}
