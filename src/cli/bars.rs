//! What `haul get` shows: a bar for each file that runs, a total, and a line that stays for each that ended. Without a
//! terminal only the lines.

use std::collections::HashMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::output;
use crate::engine::hub::Active;
use crate::model::ids::TaskIndex;
use crate::model::outcome::Outcome;
use crate::model::progress::Progress;
use crate::model::secret;

/// A task as it ended, as the engine tells of it.
type Ended = crate::engine::hub::EndedTask;

/// All bars of a run.
pub(crate) struct Bars {
    screen: Option<MultiProgress>,
    files: HashMap<TaskIndex, ProgressBar>,
    sum: Option<ProgressBar>,
    total: usize,
    ended: usize,
}

impl Bars {
    pub(crate) fn new(total: usize) -> Bars {
        let screen = std::io::stderr().is_terminal().then(MultiProgress::new);
        let sum = screen.as_ref().map(|screen| {
            let bar = screen.add(ProgressBar::new(0));
            bar.set_style(style("{prefix} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left"));
            bar
        });
        Bars { screen, files: HashMap::new(), sum, total, ended: 0 }
    }

    /// Draws how far the running files are.
    pub(crate) fn show(&mut self, active: &[(TaskIndex, Active)], progress: Progress) {
        let (Some(screen), Some(sum)) = (&self.screen, &self.sum) else { return };
        self.files.retain(|index, bar| {
            let runs = active.iter().any(|(other, _)| other == index);
            if !runs {
                bar.finish_and_clear();
            }
            runs
        });
        for (index, active) in active {
            let bar = self.files.entry(*index).or_insert_with(|| {
                let bar = screen.insert_before(sum, ProgressBar::new(0));
                bar.set_style(style("{wide_msg} {bytes}/{total_bytes} {bar:20} {binary_bytes_per_sec} {eta}"));
                bar.set_message(short(active.spec.work.url()));
                // What was there before must not count as speed.
                bar.with_position(active.meter.done())
            });
            bar.set_length(active.meter.total().max(active.meter.done()));
            bar.set_position(active.meter.done());
        }
        sum.set_prefix(format!("{} of {} files,", self.ended, self.total));
        sum.set_length(progress.total_bytes);
        sum.set_position(progress.done_bytes);
    }

    /// Says how a file ended, in a line that stays.
    pub(crate) fn ended(&mut self, task: &Ended) {
        self.ended += 1;
        if let Some(bar) = self.files.remove(&task.index) {
            bar.finish_and_clear();
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

    #[allow(clippy::print_stderr)] // Lines for people; stdout is for what was asked for.
    fn say(&self, text: &str) {
        match &self.screen {
            Some(screen) => screen.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The end of a URL, which tells files apart.
fn short(url: &str) -> String {
    let seen = secret::redacted_text(url);
    seen.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&seen).to_owned()
}
