//! The pages of `haul top`. Pure: a state and a size come in, the lines of a screen go out.

use std::ops::Range;
use std::time::SystemTime;

use crate::cli::states::{self, job_state, since_from, task_state, until_from, why_at};
use crate::cli::term::bars;
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::page::Sheet;
use crate::cli::term::screen::Size;
use crate::cli::term::table::{self, Column, Row};
use crate::cli::term::words;
use crate::cli::top::keys::HELP;
use crate::cli::top::listing::{Listing, left, speed};
use crate::cli::top::state::{JobView, Order, Place, Prompt, State, TaskView};
use crate::cli::top::task;
use crate::pb;

/// Cells of the bar of a job in the list.
const BAR: usize = 10;
/// The share of the screen that the reasons why tasks wait take at most: one line in so many.
const WAITS_SHARE: usize = 4;

/// Draws what the state says, for a screen of this size.
pub(super) fn sheet(state: &State, size: Size) -> Sheet {
    let mut lines = vec![head(state, size.columns)];
    lines.extend(bar(state));
    let foot = foot(state, size.columns);
    if let Some(Prompt::Help(first)) = state.prompt {
        let help = help(size.columns);
        let room = size.rows.saturating_sub(lines.len() + 1).max(1);
        let first = first.min(help.len().saturating_sub(room));
        let foot = if help.len() > room { "j k scroll  any other key goes back" } else { "any key goes back" };
        lines.extend(help.into_iter().skip(first));
        return fitted(lines, None, Line::of(Hue::Faint, foot), size);
    }
    let (about, list) = match &state.place {
        Place::Jobs => (jobs_line(state), jobs(state)),
        Place::Job(_) => (job_lines(state, size), tasks(state)),
        Place::Task(..) => (task::lines(state, size), task::attempts(state)),
        Place::Hosts => (hosts_line(state), hosts(state)),
    };
    lines.extend(about);
    // The heading of the list and the foot of the page have a line each.
    let room = size.rows.saturating_sub(lines.len() + 2);
    let chosen = state.row();
    let Listing { columns, rows, first, empty } = list;
    let shown = window(rows.len(), chosen.saturating_sub(first), room);
    if rows.is_empty() || !state.is_loaded() {
        lines.push(if state.is_loaded() { Line::of(Hue::Faint, &empty) } else { Line::default() });
        return fitted(lines, None, foot, size);
    }
    // What is chosen may not have been read yet. Above it is the heading.
    let chosen = chosen.checked_sub(first).filter(|row| shown.contains(row)).map(|row| row - shown.start);
    let at = chosen.map(|row| lines.len() + 1 + row);
    lines.extend(table::layout(&columns, &rows[shown], Some(size)));
    fitted(lines, at, foot, size)
}

/// How many rows the list of a screen of this size shows.
pub(super) fn list_rows(size: Size) -> usize {
    size.rows.saturating_sub(4).max(1)
}

/// The rows that are shown of `count` where there is room for `room`: the chosen one is among them.
fn window(count: usize, chosen: usize, room: usize) -> Range<usize> {
    let room = room.max(1);
    let start = (chosen / room * room).min(count.saturating_sub(room));
    start..(start + room).min(count)
}

/// The lines as the screen has room for them, with the foot in its last row.
fn fitted(mut lines: Vec<Line>, chosen: Option<usize>, foot: Line, size: Size) -> Sheet {
    let room = size.rows.saturating_sub(1).max(1);
    lines.truncate(room);
    if size.rows > 1 {
        lines.resize(room, Line::default());
        lines.push(foot);
    }
    let lines = lines.into_iter().map(|line| line.cut(size.columns)).collect();
    Sheet { lines, chosen: chosen.filter(|at| *at < room) }
}

/// Where one is, and how much the server does.
fn head(state: &State, columns: usize) -> Line {
    let tab = |name: &str, is_here: bool| Line::of(if is_here { Hue::Strong } else { Hue::Faint }, name);
    let left = Line::from("haul  ")
        .and(tab("Jobs", state.place != Place::Hosts))
        .with(Hue::Plain, "  ")
        .and(tab("Hosts", state.place == Place::Hosts));
    let tasks = state.totals.tasks.unwrap_or_default();
    let rate = words::rate(state.totals.bytes_per_second);
    let waiting = u64::from(tasks.pending) + u64::from(tasks.backing_off);
    let right = format!("{rate}  running {}  waiting {}", words::number(tasks.running.into()), words::number(waiting));
    let gap = columns.saturating_sub(left.width() + Line::from(right.as_str()).width()).max(2);
    left.with(Hue::Plain, &" ".repeat(gap)).with(Hue::Plain, &right)
}

/// Returns the line that says why what is shown may be out of date.
fn bar(state: &State) -> Option<Line> {
    if let Some((since, why)) = &state.lost {
        let gone = state.now.duration_since(*since).unwrap_or_default();
        let gone = words::duration(gone);
        return Some(Line::of(Hue::Bad, &format!("no connection for {gone}, trying again; this is from then: {why}")));
    }
    if let Some(why) = &state.refused {
        return Some(Line::of(Hue::Bad, why));
    }
    if state.is_paused {
        return Some(Line::of(Hue::Warn, "updates are paused; `.` goes on"));
    }
    state.totals.draining.then(|| Line::of(Hue::Warn, "the server is shutting down"))
}

/// What the keys do.
fn help(columns: usize) -> Vec<Line> {
    let line = |(keys, what): &(&str, &str)| {
        let line = Line::of(Hue::Strong, &format!("  {keys:<9}")).with(Hue::Plain, &format!(" {what}"));
        line.folded(columns, 12)
    };
    HELP.iter().flat_map(line).collect()
}

/// What is asked, what was done, or the keys.
fn foot(state: &State, columns: usize) -> Line {
    match &state.prompt {
        Some(Prompt::Search) => Line::of(Hue::Strong, &format!("search: {}_", state.search)),
        Some(Prompt::Confirm(Order::Control(action, ids))) => {
            let (verb, count) = (action.words().0, words::count(ids.len() as u64, "job"));
            Line::of(Hue::Warn, &format!("{verb} {count}? y for yes, any other key for no"))
        }
        Some(Prompt::Confirm(_)) => Line::of(Hue::Warn, "cancel this task? y for yes, any other key for no"),
        Some(Prompt::Go) => Line::of(Hue::Strong, "go to: j jobs, h hosts"),
        None if !state.note.is_empty() => Line::of(Hue::Warn, &state.note),
        None | Some(Prompt::Help(_)) => Line::of(Hue::Faint, &keys(&state.place, columns)),
    }
}

/// Lists the keys of a page, as many as there is room for: `?` leads to the others.
fn keys(place: &Place, columns: usize) -> String {
    let keys: &[&str] = match place {
        Place::Jobs => &["Enter open", "/ search", "Tab view", "x select", "p pause", "c cancel", "r retry"],
        Place::Job(_) => {
            &["u back", "Enter open", "Tab view", "f failures", "/ search", "p pause", "c cancel", "r retry"]
        }
        Place::Task(..) => &["u back", "c cancel", "r retry", "p pause the job"],
        Place::Hosts => &["u back", "p end a pause"],
    };
    let last = "? help  q quit";
    let mut line = String::new();
    for key in keys {
        if line.len() + key.len() + 2 + last.len() > columns {
            break;
        }
        line += key;
        line += "  ";
    }
    line + last
}

/// Which jobs are listed.
fn jobs_line(state: &State) -> Vec<Line> {
    let view = match state.job_view {
        JobView::All => "all jobs",
        JobView::Open => "jobs that have not ended",
        JobView::Failed => "failed jobs",
    };
    let mut line = Line::of(Hue::Strong, view).with(Hue::Plain, &format!(", newest first{}", more(state)));
    if !state.search.is_empty() {
        line = line.with(Hue::Plain, &format!(", with `{}`", state.search));
    }
    if !state.selected.is_empty() {
        line = line.with(Hue::Warn, &format!(", {} selected", state.selected.len()));
    }
    vec![line]
}

/// Whether the list goes on behind what has been read of it.
fn more(state: &State) -> &'static str {
    if state.has_more { ", more than these" } else { "" }
}

fn jobs(state: &State) -> Listing {
    let columns = vec![
        Column::whole(""),
        Column::id("JOB"),
        Column::whole("STATE"),
        Column::optional("PROGRESS", 2),
        Column::optional("DONE", 6).number(),
        Column::optional("FAILED", 5).number(),
        Column::optional("SPEED", 4).number(),
        Column::optional("LEFT", 1).number(),
        Column::optional("AGE", 3).number(),
        Column::text("TITLE", 6),
    ];
    let row = |job: &pb::Job| {
        let counts = job.counts.unwrap_or_default();
        let progress = job.progress.unwrap_or_default();
        let failed = if counts.failed > 0 { counts.failed.to_string() } else { String::new() };
        let age = job.create_time.as_ref().map(|time| words::age(since_from(time, state.now)));
        Row::of(vec![
            Line::from(if state.selected.contains(&job.job_id) { "x" } else { " " }),
            Line::from(job.job_id.as_str()),
            job_state(job),
            bars::bar(ended(&counts), counts.total.into(), BAR),
            Line::from(format!("{}/{}", counts.succeeded, counts.total)),
            Line::of(Hue::Bad, &failed),
            Line::from(speed(&progress)),
            Line::from(left(&progress)),
            Line::from(age.unwrap_or_default()),
            Line::from(job.title.as_str()),
        ])
    };
    let empty = match (state.job_view, state.search.is_empty()) {
        (JobView::All, true) => "no jobs yet; `haul submit URL` makes one",
        _ => "no job is like that",
    };
    Listing { columns, rows: state.jobs.iter().map(row).collect(), first: 0, empty: empty.to_owned() }
}

fn ended(counts: &pb::TaskCounts) -> u64 {
    u64::from(counts.succeeded) + u64::from(counts.failed) + u64::from(counts.cancelled)
}

/// What is known of a job as a whole: its state, how far it is, what failed, and why tasks of it wait.
fn job_lines(state: &State, size: Size) -> Vec<Line> {
    let job = &state.job;
    if !state.is_loaded() {
        return Vec::new();
    }
    let counts = job.counts.unwrap_or_default();
    let progress = job.progress.unwrap_or_default();
    let title = if job.title.is_empty() { job.job_id.as_str() } else { job.title.as_str() };
    let mut lines = vec![Line::of(Hue::Strong, title).with(Hue::Plain, "  ").and(job_state(job))];
    let cells = (size.columns / 4).clamp(4, 40);
    let percent = format!(" {} %  ", bars::percent(ended(&counts), counts.total.into()));
    let figures = [states::counts(&counts), speed(&progress), left(&progress)];
    let figures: Vec<String> = figures.into_iter().filter(|figure| !figure.is_empty()).collect();
    let bar = bars::bar(ended(&counts), counts.total.into(), cells);
    lines.push(bar.with(Hue::Plain, &percent).with(Hue::Plain, &figures.join("  ")));
    if let Some(failure) = &job.failure {
        lines.push(Line::of(Hue::Bad, &states::failure(failure)));
    }
    let waits = job.waiting.iter().map(|waiting| wait(waiting, state.now));
    lines.extend(waits.take(size.rows / WAITS_SHARE));
    let view = match state.task_view {
        TaskView::All => "tasks".to_owned(),
        TaskView::Active => "tasks that run or back off".to_owned(),
        TaskView::Failures => "failures by kind; Enter lists the tasks".to_owned(),
        TaskView::OfKind => format!("tasks that failed: {}", state.kind.sample_message),
    };
    let search = if state.search.is_empty() { String::new() } else { format!(", with `{}`", state.search) };
    lines.push(Line::of(Hue::Strong, &view).with(Hue::Plain, &format!("{search}{}", more(state))));
    lines
}

/// `275,100 tasks wait: …, for 30 s`.
fn wait(waiting: &pb::WaitingTasks, now: SystemTime) -> Line {
    let why = waiting.waiting.clone().unwrap_or_default();
    let until = why.until.as_ref().map(|time| format!(", for {}", words::duration(until_from(time, now))));
    let tasks = words::count(waiting.tasks.into(), "task");
    Line::of(Hue::Warn, &format!("{tasks}: {}{}", why.message, until.unwrap_or_default()))
}

fn tasks(state: &State) -> Listing {
    if state.task_view == TaskView::Failures {
        return failures(state);
    }
    let columns = vec![
        Column::whole("TASK").number(),
        Column::whole("STATE"),
        Column::optional("TRIES", 2).number(),
        Column::optional("BYTES", 3).number(),
        Column::optional("SPEED", 1).number(),
        Column::name("URL", 12),
        Column::text("WHY", 8),
    ];
    let row = |task: &pb::Task| {
        let progress = task.progress.unwrap_or_default();
        let bytes = match progress.bytes_total {
            0 if progress.bytes_done == 0 => String::new(),
            0 => words::size(progress.bytes_done),
            total => format!("{} %", bars::percent(progress.bytes_done, total)),
        };
        Row::of(vec![
            Line::from(task.task_index.to_string()),
            task_state(task),
            Line::from(task.attempts.to_string()),
            Line::from(bytes),
            Line::from(speed(&progress)),
            Line::from(task.url.as_str()),
            Line::from(why_at(task, state.now)),
        ])
    };
    let is_whole = state.task_view == TaskView::All && state.search.is_empty();
    let first = state.tasks.first().filter(|_| is_whole).map_or(0, |task| task.task_index as usize);
    let rows = state.tasks.iter().map(row).collect();
    Listing { columns, rows, first, empty: "no task is like that".to_owned() }
}

fn failures(state: &State) -> Listing {
    let columns = vec![
        Column::whole("TASKS").number(),
        Column::optional("STATUS", 1).number(),
        Column::name("HOST", 10),
        Column::text("WHAT", 12),
    ];
    let row = |kind: &pb::FailureCount| {
        let what = match kind.sample_message.as_str() {
            "" => words::state(kind.reason().as_str_name(), "FAILURE_REASON_"),
            message => message.to_owned(),
        };
        let status = if kind.http_status > 0 { kind.http_status.to_string() } else { String::new() };
        Row::of(vec![
            Line::of(Hue::Bad, &words::number(kind.count.into())),
            Line::from(status),
            Line::from(kind.host.as_str()),
            Line::from(what),
        ])
    };
    let rows = state.job.failures.iter().map(row).collect();
    Listing { columns, rows, first: 0, empty: "no task of this job has failed".to_owned() }
}

fn hosts_line(state: &State) -> Vec<Line> {
    let first = Line::from(format!("the first {}", words::count(state.hosts.len() as u64, "host")));
    if state.has_more { vec![first.with(Hue::Plain, more(state))] } else { Vec::new() }
}

fn hosts(state: &State) -> Listing {
    let columns = vec![
        Column::name("HOST", 12),
        Column::whole("RUNNING").number(),
        Column::optional("WAITING", 4).number(),
        Column::optional("SPEED", 3).number(),
        Column::optional("FAILED", 2).number(),
        Column::whole("STATE"),
        Column::text("WHY", 10),
    ];
    let row = |host: &pb::Host| {
        let most = host.limits.as_ref().map_or(0, |limits| limits.max_concurrent);
        let paused = host.paused_until.as_ref().map(|until| words::duration(until_from(until, state.now)));
        let why = if host.pause_reason.is_empty() { &host.recent_error } else { &host.pause_reason };
        let failed = if host.recent_failures > 0 { host.recent_failures.to_string() } else { String::new() };
        let rate = if host.bytes_per_second > 0 { words::rate(host.bytes_per_second) } else { String::new() };
        Row::of(vec![
            Line::from(host.host.as_str()),
            Line::from(format!("{}/{most}", host.running)),
            Line::from(words::number(host.waiting.into())),
            Line::from(rate),
            Line::of(Hue::Bad, &failed),
            paused.map_or_else(|| Line::from("ok"), |left| Line::of(Hue::Warn, &format!("paused for {left}"))),
            Line::from(why.as_str()),
        ])
    };
    let empty = "no host has work or a pause".to_owned();
    Listing { columns, rows: state.hosts.iter().map(row).collect(), first: 0, empty }
}
