//! The whole screen of a terminal: drawn in full, and given back as it was on every way out.

use std::io::{self, Stdout, Write as _};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::Show;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{ExecutableCommand as _, QueueableCommand as _};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::{Terminal, TerminalOptions, Viewport};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::cli::term::line::{Hue, Line};
use crate::cli::term::screen::{self, Size};

/// What a page shows: a line for each row of the screen, from the top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sheet {
    /// The lines, none wider than the screen.
    pub(crate) lines: Vec<Line>,
    /// The line that the cursor of the list stands on.
    pub(crate) chosen: Option<usize>,
}

/// Whether the terminal is as we need it, and has to be given back.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// A terminal that is drawn on. Dropping it gives the terminal back, and so does a panic.
pub(crate) struct Page {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    area: Rect,
    colours: bool,
}

impl Page {
    /// Takes the terminal.
    pub(crate) fn open() -> io::Result<Page> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // The message would be lost with the other screen.
            restore();
            before(panic);
        }));
        IS_TAKEN.store(true, Ordering::SeqCst);
        let opened = enable_raw_mode().and_then(|()| {
            io::stdout().execute(EnterAlternateScreen)?;
            let viewport = Viewport::Fixed(Rect::default());
            Terminal::with_options(CrosstermBackend::new(io::stdout()), TerminalOptions { viewport })
        });
        match opened {
            Ok(terminal) => Ok(Page { terminal, area: Rect::default(), colours: screen::has_stdout_colours() }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Draws what `sheet` makes for the size of the screen, and writes what differs from before.
    pub(crate) fn draw(&mut self, sheet: impl FnOnce(Size) -> Sheet) -> io::Result<()> {
        // The terminal that is drawn on is asked; crossterm would ask that of the session, which may be another.
        let size = screen::stdout_size().unwrap_or(Size { columns: 0, rows: 0 });
        let area = Rect::new(0, 0, size.columns as u16, size.rows as u16);
        if area != self.area {
            self.terminal.resize(area)?;
            self.area = area;
        }
        draw(&mut self.terminal, self.colours, sheet)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        restore();
    }
}

/// What was typed, in pieces as the terminal sends them. The end of it is that of the terminal.
///
/// A thread reads them: a read of a terminal cannot be given up, and to make the terminal not block would change it for whoever
/// shares it. The thread ends within a moment of the receiver, or with the process. crossterm's own reader is not used since
/// it never returns from a terminal that is gone.
pub(crate) fn typed() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    /// Pieces that wait for whoever reads them.
    const PIECES_MAX: usize = 16;
    let (pieces, typed) = mpsc::channel(PIECES_MAX);
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
        let stdin = io::stdin();
        let moment = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        while !pieces.is_closed() {
            let mut asked = [PollFd::new(&stdin, PollFlags::IN)];
            match rustix::event::poll(&mut asked, Some(&moment)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            let mut piece = [0; 256];
            match rustix::io::read(&stdin, &mut piece) {
                Ok(count @ 1..) if pieces.blocking_send(piece[..count].to_vec()).is_ok() => {}
                Err(Errno::INTR) => {}
                _ => return,
            }
        }
    })?;
    Ok(typed)
}

/// Draws on any terminal of ratatui.
fn draw<B: Backend>(
    terminal: &mut Terminal<B>,
    colours: bool,
    sheet: impl FnOnce(Size) -> Sheet,
) -> Result<(), B::Error> {
    let drawn = terminal.draw(|frame| {
        let area = frame.area();
        let size = Size { columns: area.width.into(), rows: area.height.into() };
        paint(&sheet(size), area, frame.buffer_mut(), colours);
    });
    drawn.map(drop)
}

/// Gives the terminal back, once. A terminal that is gone has nothing to give back.
fn restore() {
    if !IS_TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = disable_raw_mode();
    let mut stdout = io::stdout();
    let _ = stdout.queue(LeaveAlternateScreen).and_then(|stdout| stdout.queue(Show)).map(drop);
    let _ = stdout.flush();
}

fn paint(sheet: &Sheet, area: Rect, buffer: &mut Buffer, colours: bool) {
    for (at, line) in sheet.lines.iter().take(area.height.into()).enumerate() {
        let row = area.y.saturating_add(at as u16);
        let (mut column, end) = (area.x, area.right());
        for (hue, text) in line.pieces() {
            if column < end {
                (column, _) = buffer.set_stringn(column, row, text, usize::from(end - column), style(hue, colours));
            }
        }
        if sheet.chosen == Some(at) {
            // Not a colour: it is seen by those who want none, too.
            buffer.set_style(Rect { y: row, height: 1, ..area }, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

fn style(hue: Hue, colours: bool) -> Style {
    match hue {
        _ if !colours => Style::new(),
        Hue::Plain => Style::new(),
        Hue::Strong => Style::new().add_modifier(Modifier::BOLD),
        Hue::Faint => Style::new().add_modifier(Modifier::DIM),
        Hue::Good => Style::new().fg(Color::Green),
        Hue::Warn => Style::new().fg(Color::Yellow),
        Hue::Bad => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    /// The cells of a screen of this size with a sheet on it, row by row.
    pub(crate) fn screen(size: Size, sheet: impl FnOnce(Size) -> Sheet) -> String {
        let backend = TestBackend::new(size.columns as u16, size.rows as u16);
        let mut terminal = Terminal::new(backend).unwrap();
        draw(&mut terminal, true, sheet).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn colours_are_for_those_who_want_them_and_the_cursor_is_for_all() {
        let sheet = Sheet { lines: vec![Line::of(Hue::Bad, "no"), Line::of(Hue::Good, "日本")], chosen: Some(1) };
        for colours in [true, false] {
            let area = Rect::new(0, 0, 3, 2);
            let mut buffer = Buffer::empty(area);
            paint(&sheet, area, &mut buffer, colours);
            assert_eq!(buffer[(0, 0)].fg == Color::Red, colours);
            assert!(buffer[(2, 1)].modifier.contains(Modifier::REVERSED));
            assert_eq!(buffer[(0, 1)].symbol(), "日", "half of the second would not fit");
        }
    }
}
