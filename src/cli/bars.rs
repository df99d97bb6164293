//! What `haul get` shows: a bar for each file that runs, a total, and a line that stays for each that ended. Without a
//! terminal only the lines.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::cli::output;
use crate::engine::hub::Active;
use crate::model::ids::TaskIndex;
use crate::model::outcome::Outcome;
use crate::model::progress::Progress;
use crate::model::secret;

/// A task as it ended, as the engine tells of it.
type Ended = crate::engine::hub::EndedTask;

/// How often a rate is measured anew.
const RATE_WINDOW: Duration = Duration::from_millis(250);

/// The bar of one file.
struct FileBar {
    bar: ProgressBar,
    pace: Pace,
}

/// How fast bytes come, by what came and not by what is there: bytes of an earlier run are no speed.
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

/// All bars of a run.
pub(crate) struct Bars {
    screen: Option<MultiProgress>,
    files: HashMap<TaskIndex, FileBar>,
    sum: Option<ProgressBar>,
    total: usize,
    ended: usize,
}

impl Bars {
    pub(crate) fn new(total: usize) -> Bars {
        let screen = std::io::stderr().is_terminal().then(MultiProgress::new);
        let sum = screen.as_ref().map(|screen| {
            let bar = screen.add(ProgressBar::new(0));
            bar.set_style(style("{msg}"));
            bar
        });
        Bars { screen, files: HashMap::new(), sum, total, ended: 0 }
    }

    /// Draws how far the running files are.
    pub(crate) fn show(&mut self, active: &[(TaskIndex, Active)], progress: Progress) {
        let (Some(screen), Some(sum)) = (&self.screen, &self.sum) else { return };
        self.files.retain(|index, file| {
            let runs = active.iter().any(|(other, _)| other == index);
            if !runs {
                file.bar.finish_and_clear();
            }
            runs
        });
        let now = Instant::now();
        for (index, active) in active {
            let meter = &active.meter;
            let file = self.files.entry(*index).or_insert_with(|| {
                let bar = screen.insert_before(sum, ProgressBar::new(0));
                bar.set_style(style("{wide_msg} {bar:20} {prefix}"));
                bar.set_message(short(active.spec.work.url()));
                FileBar { bar, pace: Pace::new(now, meter.received_bytes()) }
            });
            // A retry counts from 0 again.
            if meter.received_bytes() < file.pace.received {
                file.pace = Pace::new(now, meter.received_bytes());
            }
            let rate = file.pace.measure(now, meter.received_bytes());
            let (done, total) = (meter.done(), meter.total());
            // A size that is not known is a bar that stays empty.
            file.bar.set_length(total.max(1));
            file.bar.set_position(done.min(total));
            file.bar.set_prefix(far(done, total, rate));
        }
        let Progress { done_bytes, total_bytes, bytes_per_second } = progress;
        sum.set_message(format!(
            "{} of {} files, {}",
            self.ended,
            self.total,
            far(done_bytes, total_bytes, bytes_per_second)
        ));
    }

    /// Says how a file ended, in a line that stays.
    pub(crate) fn ended(&mut self, task: &Ended) {
        self.ended += 1;
        if let Some(file) = self.files.remove(&task.index) {
            file.bar.finish_and_clear();
        }
        let url = secret::redacted_text(task.spec.work.url());
        match (&task.row.outcome, &task.row.task.error) {
            (Some(Outcome::Download(download)), _) => {
                let how = if download.skipped {
                    ", was there already".to_owned()
                } else if download.resumed_bytes > 0 {
                    format!(", {} of it from before", output::size(download.resumed_bytes))
                } else {
                    String::new()
                };
                self.say(&format!("{} ({}{how})", download.path, output::size(download.bytes)));
            }
            (_, Some(error)) => self.say(&format!("failed: {url}: {}", error.message)),
            _ => self.say(&url),
        }
    }

    /// Takes the bars away.
    pub(crate) fn close(&self, interrupted: bool) {
        if let Some(sum) = &self.sum {
            sum.finish_and_clear();
        }
        if interrupted {
            self.say("interrupted; what came so far is kept, run the same command again to go on");
        }
    }

    fn say(&self, text: &str) {
        let text = output::plain(text);
        match &self.screen {
            Some(screen) => screen.suspend(|| output::say(&text)),
            None => output::say(&text),
        }
    }
}

/// `3.00 MiB of 12.00 MiB, 1.50 MiB/s, 6s left`, as far as it is known.
fn far(done: u64, total: u64, bytes_per_second: u64) -> String {
    let mut text = output::size(done);
    if total > 0 {
        text += &format!(" of {}", output::size(total));
    }
    if bytes_per_second > 0 {
        text += &format!(", {}/s", output::size(bytes_per_second));
        if total > done {
            let left = Duration::from_secs((total - done).div_ceil(bytes_per_second));
            text += &format!(", {:#} left", HumanDuration(left));
        }
    }
    text
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The end of a URL, which tells files apart.
fn short(url: &str) -> String {
    let seen = secret::redacted_text(url);
    seen.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&seen).to_owned()
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
        assert_eq!(far(3 << 20, 12 << 20, 3 << 19), "3.00 MiB of 12.00 MiB, 1.50 MiB/s, 6s left");
        assert_eq!(far(5, 0, 0), "5 B");
    }
}
