//! What `haul top` knows and where its user is. Pure: keys and answers of the server come in, wishes and orders go out.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::cli::many::Action;
use crate::pb;

/// Tasks that are read around the one that is chosen. Above the rows of any screen, so that a key seldom waits for an answer.
pub(super) const TASKS_READ: u32 = 600;
/// Rows of a list that are read at once.
pub(super) const ROWS_STEP: usize = 200;
/// The most rows that are read of a list: whoever looks for more searches.
const ROWS_MAX: usize = 10_000;

/// Where its user is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Jobs,
    /// The job of this id.
    Job(String),
    /// A task of the job of this id.
    Task(String, u32),
    Hosts,
}

/// Which jobs are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum JobView {
    #[default]
    All,
    Open,
    Failed,
}

/// What is listed of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum TaskView {
    /// Every task, in order.
    #[default]
    All,
    /// Tasks that run or back off.
    Active,
    /// Kinds of failures.
    Failures,
    /// The tasks that failed in the way that was chosen.
    OfKind,
}

/// What is to be read of the server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    /// The first `rows` jobs.
    Jobs {
        view: JobView,
        search: String,
        rows: usize,
    },
    /// A job, and the first `rows` of these tasks.
    Job {
        id: String,
        tasks: Option<pb::ListTasksRequest>,
        rows: usize,
    },
    Task {
        id: String,
        index: u32,
    },
    /// The first `rows` hosts.
    Hosts {
        rows: usize,
    },
}

/// What the server answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Jobs {
        jobs: Vec<pb::Job>,
        has_more: bool,
    },
    Job {
        job: Box<pb::Job>,
        tasks: Vec<pb::Task>,
        has_more: bool,
    },
    /// A task and its job.
    Task {
        job: Box<pb::Job>,
        task: Box<pb::Task>,
    },
    Hosts {
        hosts: Vec<pb::Host>,
        has_more: bool,
    },
    /// How much the whole server does; `None`: it did not say.
    Totals(Option<pb::ServerTotals>),
    /// The server answered, and refused.
    Refused(String),
    /// The server did not answer.
    Lost(String),
    /// What an order came to.
    Done(String),
}

/// What the user wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Quit,
    Control(Action, Vec<String>),
    /// Does something to a task of a job.
    Task(TaskAction, String, u32),
    ResumeHost(String),
}

/// What can be done to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskAction {
    Cancel,
    /// Runs it again after the job has ended.
    Retry,
    /// Ends its backoff.
    RetryNow,
}

/// What stands in front of the list and takes the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Prompt {
    Search,
    /// An order that needs a yes.
    Confirm(Order),
    /// The keys, from this line on.
    Help(usize),
    /// `g` was typed: the next key says where to.
    Go,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) place: Place,
    pub(super) job_view: JobView,
    pub(super) task_view: TaskView,
    /// What is searched for, of jobs and of tasks.
    pub(super) search: String,
    pub(super) prompt: Option<Prompt>,
    pub(super) jobs: Vec<pb::Job>,
    pub(super) has_more: bool,
    pub(super) job: pb::Job,
    pub(super) tasks: Vec<pb::Task>,
    /// The kind of failure that was chosen, as it was then: kinds change their places as they grow.
    pub(super) kind: pb::FailureCount,
    /// The task of [`Place::Task`].
    pub(super) task: pb::Task,
    pub(super) hosts: Vec<pb::Host>,
    pub(super) totals: pb::ServerTotals,
    /// Jobs that are selected, by id.
    pub(super) selected: BTreeSet<String>,
    /// The row that is chosen: its job, its task or kind, its host.
    pub(super) job_id: String,
    pub(super) row: usize,
    pub(super) host: String,
    /// The attempt that is chosen of [`Place::Task`], whose list keeps its row.
    pub(super) attempt: usize,
    /// Whether the page shows what the server said of it.
    pub(super) is_loaded: bool,
    /// Since when nothing is heard, and why.
    pub(super) lost: Option<(SystemTime, String)>,
    /// Why the server does not say what the page shows.
    pub(super) refused: Option<String>,
    /// What the last order came to.
    pub(super) note: String,
    pub(super) is_paused: bool,
    /// The time that ages are counted to.
    pub(super) now: SystemTime,
}

impl State {
    pub(super) fn new(job: Option<String>, now: SystemTime) -> State {
        let place = job.map_or(Place::Jobs, Place::Job);
        State {
            place,
            job_view: JobView::default(),
            task_view: TaskView::default(),
            search: String::new(),
            prompt: None,
            jobs: Vec::new(),
            has_more: false,
            job: pb::Job::default(),
            tasks: Vec::new(),
            kind: pb::FailureCount::default(),
            task: pb::Task::default(),
            hosts: Vec::new(),
            totals: pb::ServerTotals::default(),
            selected: BTreeSet::new(),
            job_id: String::new(),
            row: 0,
            host: String::new(),
            attempt: 0,
            is_loaded: false,
            lost: None,
            refused: None,
            note: String::new(),
            is_paused: false,
            now,
        }
    }

    /// What is to be read now.
    pub(super) fn wish(&self) -> Wish {
        match &self.place {
            Place::Jobs => Wish::Jobs { view: self.job_view, search: self.search.clone(), rows: self.rows_wished() },
            Place::Hosts => Wish::Hosts { rows: self.rows_wished() },
            Place::Job(id) => Wish::Job { id: id.clone(), tasks: self.tasks_wished(id), rows: self.rows_wished() },
            Place::Task(id, index) => Wish::Task { id: id.clone(), index: *index },
        }
    }

    /// How many rows of a list are to be read: a step beyond the one with the chosen row, so that whoever goes down the list
    /// seldom waits.
    fn rows_wished(&self) -> usize {
        (self.row() / ROWS_STEP + 2).saturating_mul(ROWS_STEP).min(ROWS_MAX)
    }

    fn tasks_wished(&self, id: &str) -> Option<pb::ListTasksRequest> {
        let list = pb::ListTasksRequest {
            job_id: id.to_owned(),
            page_size: TASKS_READ as i32,
            search: self.search.clone(),
            ..Default::default()
        };
        match self.task_view {
            TaskView::Failures => None,
            TaskView::All if self.search.is_empty() => {
                // In steps, so that not every key asks for other tasks.
                let half = TASKS_READ / 2;
                let first = (self.row as u32 / half).saturating_sub(1).saturating_mul(half);
                Some(pb::ListTasksRequest { first_task_index: Some(first), ..list })
            }
            TaskView::All => Some(list),
            TaskView::Active => {
                let states = vec![pb::TaskState::Running.into(), pb::TaskState::BackingOff.into()];
                Some(pb::ListTasksRequest { states, ..list })
            }
            TaskView::OfKind => {
                let kind = &self.kind;
                let named = |number: u32| (number > 0).then_some(number).into_iter().collect();
                let reasons = if kind.reason > 0 { vec![kind.reason] } else { Vec::new() };
                Some(pb::ListTasksRequest {
                    states: vec![pb::TaskState::Failed.into()],
                    reasons,
                    http_statuses: named(kind.http_status),
                    host: kind.host.clone(),
                    ..list
                })
            }
        }
    }

    /// Takes in what was read. What belongs to a page that was left is dropped.
    pub(super) fn take(&mut self, answer: Answer, now: SystemTime) {
        match answer {
            Answer::Lost(why) => {
                self.lost = Some(match self.lost.take() {
                    Some((since, _)) => (since, why),
                    None => (now, why),
                });
            }
            Answer::Done(note) => self.note = note,
            // What was answered is not shown, but that the server answers is.
            _ if self.is_paused => self.answered(),
            Answer::Refused(why) => {
                self.answered();
                self.refused = Some(why);
            }
            Answer::Totals(totals) => {
                self.answered();
                self.totals = totals.unwrap_or_default();
            }
            Answer::Jobs { jobs, has_more } if self.place == Place::Jobs => {
                self.heard();
                (self.jobs, self.has_more) = (jobs, has_more);
                self.selected.retain(|id| self.jobs.iter().any(|job| job.job_id == *id));
            }
            Answer::Job { job, tasks, has_more } if self.place == Place::Job(job.job_id.clone()) => {
                self.heard();
                (self.job, self.tasks, self.has_more) = (*job, tasks, has_more);
            }
            Answer::Task { job, task } if self.place == Place::Task(job.job_id.clone(), task.task_index) => {
                self.heard();
                (self.job, self.task) = (*job, *task);
            }
            Answer::Hosts { hosts, has_more } if self.place == Place::Hosts => {
                self.heard();
                (self.hosts, self.has_more) = (hosts, has_more);
            }
            Answer::Jobs { .. } | Answer::Job { .. } | Answer::Task { .. } | Answer::Hosts { .. } => {}
        }
        self.now = now;
    }

    fn heard(&mut self) {
        self.answered();
        (self.refused, self.is_loaded) = (None, true);
    }

    /// Notes that the server answers: that it did not, which an order may have met too, is over.
    fn answered(&mut self) {
        if self.lost.take().is_some() {
            self.note.clear();
        }
    }

    /// Returns whether the page shows what the server said of it.
    pub(super) fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// How many rows the list has.
    pub(super) fn len(&self) -> usize {
        match (&self.place, self.task_view) {
            (Place::Jobs, _) => self.jobs.len(),
            (Place::Hosts, _) => self.hosts.len(),
            (Place::Task(..), _) => self.task.attempt_log.len(),
            (Place::Job(_), TaskView::All) if self.search.is_empty() => {
                self.job.counts.unwrap_or_default().total as usize
            }
            (Place::Job(_), TaskView::Failures) => self.job.failures.len(),
            (Place::Job(_), _) => self.tasks.len(),
        }
    }

    /// The row that is chosen: it stays with what it showed while the list changes.
    pub(super) fn row(&self) -> usize {
        let found = match &self.place {
            Place::Jobs => self.jobs.iter().position(|job| job.job_id == self.job_id),
            Place::Hosts => self.hosts.iter().position(|host| host.host == self.host),
            Place::Task(..) => Some(self.attempt),
            Place::Job(_) => None,
        };
        found.unwrap_or(self.row).min(self.len().saturating_sub(1))
    }

    pub(super) fn choose(&mut self, row: usize) {
        if matches!(self.place, Place::Task(..)) {
            self.attempt = row.min(self.len().saturating_sub(1));
            return;
        }
        self.row = row.min(self.len().saturating_sub(1));
        self.job_id = self.jobs.get(self.row).map(|job| job.job_id.clone()).unwrap_or_default();
        self.host = self.hosts.get(self.row).map(|host| host.host.clone()).unwrap_or_default();
    }
}
