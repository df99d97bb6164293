//! What `haul get` shows: a row for each file that runs or waits and a sum below them, a line that stays for each that
//! ended, and a summary. Without a screen the lines alone, and how far it is when nothing was said for long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use crate::cli::term::bars::{self, Transfer};
use crate::cli::term::line::{Hue, Line};
use crate::cli::term::live::Live;
use crate::cli::term::screen;
use crate::cli::term::words;
use crate::engine::feed::Active;
use crate::engine::hub::{EndedTask, Notice};
use crate::model::ids::TaskIndex;
use crate::model::outcome::{DownloadResult, Outcome};
use crate::model::progress::Progress;
use crate::model::secret;
use crate::model::time::Timestamp;

/// How often a rate is measured anew.
const RATE_WINDOW: Duration = Duration::from_millis(250);
/// How long nothing may be said where there is no screen.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// Failures that the summary repeats.
const REPEATED_MAX: usize = 20;

/// How fast bytes arrive. Bytes of an earlier run are no speed.
struct Pace {
    measured: Instant,
    received: u64,
    bytes_per_second: f64,
}

impl Pace {
    fn new(now: Instant, received: u64) -> Pace {
        Pace { measured: now, received, bytes_per_second: 0.0 }
    }

    fn measure(&mut self, now: Instant, received: u64) -> u64 {
        let passed = now.saturating_duration_since(self.measured);
        if passed >= RATE_WINDOW {
            let fresh = received.saturating_sub(self.received) as f64 / passed.as_secs_f64();
            let is_first = self.bytes_per_second == 0.0;
            self.bytes_per_second = if is_first { fresh } else { f64::midpoint(self.bytes_per_second, fresh) };
            (self.measured, self.received) = (now, received);
        }
        self.bytes_per_second as u64
    }
}

/// A file that waits for its next attempt.
struct Wait {
    name: String,
    error: String,
    due: Option<Timestamp>,
    /// The number of the next attempt.
    attempt: u32,
}

/// All of a run.
pub(crate) struct Report {
    live: Live,
    paces: BTreeMap<TaskIndex, Pace>,
    waits: BTreeMap<TaskIndex, Wait>,
    /// Why nothing runs, when nothing does.
    idle: Option<String>,
    ended: BTreeSet<TaskIndex>,
    total: usize,
    attempts: u32,
    succeeded: usize,
    failures: Vec<String>,
    received_bytes: u64,
    started: Instant,
    said: Instant,
}

impl Report {
    /// Begins the report on `total` files, each of which has so many attempts.
    pub(crate) fn new(total: usize, attempts: u32) -> Report {
        let now = Instant::now();
        Report {
            live: Live::default(),
            paces: BTreeMap::new(),
            waits: BTreeMap::new(),
            idle: None,
            ended: BTreeSet::new(),
            total,
            attempts,
            succeeded: 0,
            failures: Vec::new(),
            received_bytes: 0,
            started: now,
            said: now,
        }
    }

    /// Takes in what is not durable: starts and waits.
    pub(crate) fn notice(&mut self, notice: &Notice, now: Timestamp) {
        let task = match notice {
            Notice::Started(task) => {
                // The start of the attempt that the wait came after may arrive behind it.
                self.waits.retain(|index, wait| *index != task.index || wait.attempt > task.row.task.attempts);
                return;
            }
            Notice::BackingOff(task) => task,
        };
        let wait = Wait {
            name: short(task.spec.work.url()),
            error: task.row.task.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            due: task.row.task.due,
            attempt: task.row.task.attempts + 1,
        };
        if screen::stderr_size().is_none() {
            self.say(Line::from(format!("{}: {}", wait.name, self.wait_text(&wait, now))));
        }
        self.waits.insert(task.index, wait);
    }

    /// At most `limit` files that have not ended.
    pub(crate) fn open(&self, limit: usize) -> Vec<TaskIndex> {
        (0..self.total as TaskIndex).filter(|index| !self.ended.contains(index)).take(limit).collect()
    }

    /// Notes why nothing runs. Where there is no screen, it is said once.
    pub(crate) fn idle(&mut self, why: Option<String>) {
        if let Some(why) = why.as_ref().filter(|why| self.idle.as_ref() != Some(*why) && self.waits.is_empty())
            && screen::stderr_size().is_none()
        {
            self.say(Line::of(Hue::Warn, "waiting").with(Hue::Plain, &format!(": {why}")));
        }
        self.idle = why;
    }

    /// Shows how far the files are.
    pub(crate) fn show(&mut self, active: &[(TaskIndex, Active)], progress: Progress, now: Timestamp) {
        if !active.is_empty() {
            self.idle = None;
        }
        let Some(size) = screen::stderr_size() else {
            if self.said.elapsed() >= QUIET_MAX {
                self.say(self.sum(progress, active.len()));
            }
            return;
        };
        let clock = Instant::now();
        self.paces.retain(|index, _| active.iter().any(|(other, _)| other == index));
        let mut transfers: BTreeMap<TaskIndex, Transfer> = BTreeMap::new();
        for (index, wait) in &self.waits {
            let waits = Some(self.wait_text(wait, now));
            transfers.insert(*index, Transfer { name: wait.name.clone(), waits, ..Transfer::default() });
        }
        for (index, active) in active {
            let meter = &active.meter;
            let pace = self.paces.entry(*index).or_insert_with(|| Pace::new(clock, meter.received_bytes()));
            // A retry counts from 0 again.
            if meter.received_bytes() < pace.received {
                *pace = Pace::new(clock, meter.received_bytes());
            }
            let transfer = Transfer {
                name: short(active.task.spec.work.url()),
                done: meter.done(),
                total: meter.total(),
                bytes_per_second: pace.measure(clock, meter.received_bytes()),
                waits: None,
            };
            transfers.insert(*index, transfer);
        }
        let transfers: Vec<Transfer> = transfers.into_values().collect();
        self.live.draw(bars::frame(&transfers, self.sum(progress, active.len()), size), size);
    }

    /// Says how a file ended, in a line that stays.
    pub(crate) fn ended(&mut self, task: &EndedTask) {
        self.waits.remove(&task.index);
        self.ended.insert(task.index);
        let url = secret::redacted_text(task.spec.work.url());
        match (task.row.outcome.as_deref(), &task.row.task.error) {
            (Some(Outcome::Download(download)), _) => {
                self.succeeded += 1;
                if !download.skipped {
                    self.received_bytes += download.bytes.saturating_sub(download.resumed_bytes);
                }
                self.say(success(download));
            }
            (_, Some(error)) => {
                let failure = format!("{url}: {}", error.message);
                self.say(Line::of(Hue::Bad, "failed").with(Hue::Plain, &format!(": {failure}")));
                self.failures.push(failure);
            }
            _ => self.say(Line::from(url)),
        }
    }

    /// Takes the rows off the screen, and says what came of the run.
    pub(crate) fn close(&mut self, interrupted: bool) {
        self.live.clear();
        if self.total > 1 {
            let passed = self.started.elapsed();
            let rate = (self.received_bytes as f64 / passed.as_secs_f64().max(0.001)) as u64;
            let received =
                format!("; {} in {}, {}", words::size(self.received_bytes), words::duration(passed), words::rate(rate));
            self.say(self.counts().with(Hue::Plain, &received));
            // Among many lines of success they have scrolled away.
            if self.failures.len() < self.succeeded || self.failures.len() > 1 {
                for failure in self.failures.iter().take(REPEATED_MAX) {
                    screen::say(Line::of(Hue::Bad, "  failed").with(Hue::Plain, &format!(": {failure}")));
                }
            }
            let more = self.failures.len().saturating_sub(REPEATED_MAX);
            if more > 0 {
                screen::say(format!("  and {more} more"));
            }
        }
        if interrupted {
            self.say(
                Line::of(Hue::Warn, "interrupted")
                    .with(Hue::Plain, "; what can be continued is kept: run the same command again to resume"),
            );
        }
    }

    /// `3 of 6 files, 1 failed`.
    fn counts(&self) -> Line {
        let files = if self.total == 1 { "file" } else { "files" };
        let line = Line::from(format!("{} of {} {files}", self.succeeded, self.total));
        let failed = self.failures.len();
        if failed > 0 { line.with(Hue::Bad, &format!(", {failed} failed")) } else { line }
    }

    fn sum(&self, progress: Progress, running: usize) -> Line {
        let Progress { done_bytes, total_bytes, bytes_per_second } = progress;
        let has_begun_all = self.ended.len() + self.waits.len() + running >= self.total;
        let bytes = bars::phrase(done_bytes, total_bytes, bytes_per_second, has_begun_all);
        let line = self.counts().with(Hue::Plain, &format!(", {bytes}"));
        match &self.idle {
            Some(why) => line.with(Hue::Warn, &format!("; waiting: {why}")),
            None => line,
        }
    }

    fn wait_text(&self, wait: &Wait, now: Timestamp) -> String {
        let left = wait.due.map(|due| due.since(now)).unwrap_or_default();
        // A part of a second is a second still.
        let left = Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0));
        let (attempt, attempts) = (wait.attempt, self.attempts);
        format!("attempt {attempt} of {attempts} in {}: {}", words::duration(left), wait.error)
    }

    fn say(&mut self, line: Line) {
        self.live.clear();
        self.said = Instant::now();
        screen::say(line);
    }
}

/// How a file is there.
fn success(download: &DownloadResult) -> Line {
    let size = words::size(download.bytes);
    let how = if download.skipped {
        format!(" ({size}, complete already)")
    } else if download.resumed_bytes > 0 {
        format!(" ({size}, resumed at {})", words::size(download.resumed_bytes))
    } else {
        format!(" ({size})")
    };
    Line::of(Hue::Good, &download.path).with(Hue::Plain, &how)
}

/// Returns the end of a URL, which tells files apart, as people write it.
fn short(url: &str) -> String {
    let seen = secret::redacted_text(url);
    let path = seen.split(['?', '#']).next().unwrap_or(&seen);
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path);
    percent_decode_str(name).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_no_speed() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(start, 0);
        assert_eq!(pace.measure(at(100), 1000), 0, "too early to tell");
        assert_eq!(pace.measure(at(500), 1000), 2000);
        assert_eq!(pace.measure(at(1500), 1000), 1000, "it slows down");
    }

    #[test]
    fn names_are_the_ends_of_urls() {
        assert_eq!(short("http://a/b/c.bin?token=x#y"), "c.bin");
        assert_eq!(short("http://a/"), "a");
        assert_eq!(short("http://a/%E6%97%A5%20x.bin"), "日 x.bin");
    }
}
