//! The page of one task in `haul top`: what it does, what came of it, and each attempt.

use crate::cli::states::{task_state, why_at};
use crate::cli::task;
use crate::cli::term::bars;
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::screen::Size;
use crate::cli::term::words;
use crate::cli::top::listing::{Listing, left, speed};
use crate::cli::top::state::{Place, State};

/// The share of the screen that the texts above the attempts take at most: one line in so many.
const TEXT_SHARE: usize = 2;

/// What is known of a task as a whole.
pub(super) fn lines(state: &State, size: Size) -> Vec<Line> {
    let Place::Task(_, index) = &state.place else { return Vec::new() };
    if !state.is_loaded() {
        return Vec::new();
    }
    let (of, job) = (&state.task, &state.job);
    let name = if job.title.is_empty() { job.job_id.as_str() } else { job.title.as_str() };
    let head = Line::of(Hue::Strong, &format!("task {index}")).with(Hue::Plain, "  ").and(task_state(of));
    let mut lines = vec![head.with(Hue::Faint, "  of ").with(Hue::Faint, name)];
    let mut about = Line::from(of.url.as_str()).folded(size.columns, 2);
    if let Some(progress) = of.progress.filter(|progress| progress.bytes_total > 0) {
        let cells = (size.columns / 4).clamp(4, 40);
        let percent = bars::percent(progress.bytes_done, progress.bytes_total);
        let sizes = format!("{} of {}", words::size(progress.bytes_done), words::size(progress.bytes_total));
        let figures = [format!(" {percent} %"), sizes, speed(&progress), left(&progress)];
        let figures: Vec<String> = figures.into_iter().filter(|figure| !figure.is_empty()).collect();
        about.push(bars::bar(progress.bytes_done, progress.bytes_total, cells).with(Hue::Plain, &figures.join("  ")));
    }
    let why = why_at(of, state.now);
    if !why.is_empty() {
        let hue = if of.error.is_some() { Hue::Bad } else { Hue::Warn };
        about.extend(Line::of(hue, &why).folded(size.columns, 2));
    }
    for (name, value) in task::facts(of) {
        about.extend(Line::of(Hue::Faint, &format!("{name}  ")).with(Hue::Plain, &value).folded(size.columns, 2));
    }
    about.truncate((size.rows / TEXT_SHARE).max(1));
    lines.extend(about);
    lines
}

/// Each attempt, the first first.
pub(super) fn attempts(state: &State) -> Listing {
    let rows = task::rows(&state.task, state.now);
    Listing { columns: task::columns(), rows, first: 0, empty: "no attempt has been made yet".to_owned() }
}
