//! What `haul top` knows and where its user is. Pure: keys and answers of the server come in, wishes and orders go out.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::cli::many::Action;
use crate::cli::top::keys::{HELP, Key};
use crate::pb;

/// Tasks that are read around the one that is chosen. Above the rows of any screen, so that a key seldom waits for an answer.
pub(super) const TASKS_READ: u32 = 600;
/// Rows of a list that are read at once.
pub(super) const ROWS_STEP: usize = 200;
/// The most rows that are read of a list: whoever looks for more searches.
const ROWS_MAX: usize = 10_000;
/// The most bytes of a text that is searched for; the server takes no more.
const SEARCH_BYTES_MAX: usize = 128;

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
    job_id: String,
    row: usize,
    host: String,
    /// The attempt that is chosen of [`Place::Task`], whose list keeps its row.
    attempt: usize,
    /// Whether the page shows what the server said of it.
    is_loaded: bool,
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

    fn choose(&mut self, row: usize) {
        if matches!(self.place, Place::Task(..)) {
            self.attempt = row.min(self.len().saturating_sub(1));
            return;
        }
        self.row = row.min(self.len().saturating_sub(1));
        self.job_id = self.jobs.get(self.row).map(|job| job.job_id.clone()).unwrap_or_default();
        self.host = self.hosts.get(self.row).map(|host| host.host.clone()).unwrap_or_default();
    }

    /// Takes a key. `rows` is how many rows a screen moves.
    pub(super) fn press(&mut self, key: Key, rows: usize) -> Option<Order> {
        if key == Key::Interrupt {
            return Some(Order::Quit);
        }
        self.note.clear();
        match self.prompt.take() {
            Some(Prompt::Search) => {
                self.type_search(key);
                return None;
            }
            Some(Prompt::Confirm(order)) => return matches!(key, Key::Char('y' | 'Y')).then_some(order),
            Some(Prompt::Go) => {
                match key {
                    Key::Char('j') => self.go(Place::Jobs),
                    Key::Char('h') => self.go(Place::Hosts),
                    _ => {}
                }
                return None;
            }
            Some(Prompt::Help(line)) => {
                self.prompt = scrolled(key, line, rows).map(Prompt::Help);
                return None;
            }
            None => {}
        }
        self.command(key, rows)
    }

    fn command(&mut self, key: Key, rows: usize) -> Option<Order> {
        let row = self.row();
        let moved = |by: i64| usize::try_from((row as i64).saturating_add(by)).unwrap_or(0);
        match key {
            Key::Char('q') => return Some(Order::Quit),
            Key::Char('j') => self.choose(moved(1)),
            Key::Char('k') => self.choose(moved(-1)),
            Key::Rows(by) => self.choose(moved(by)),
            Key::Screens(by) => self.choose(moved(by.saturating_mul(rows as i64))),
            Key::Home => self.choose(0),
            Key::End => self.choose(usize::MAX),
            Key::Char('g') => self.prompt = Some(Prompt::Go),
            Key::Char('u') => self.up(),
            Key::Char('/') if matches!(self.place, Place::Jobs | Place::Job(_)) => self.prompt = Some(Prompt::Search),
            Key::Char('?') => self.prompt = Some(Prompt::Help(0)),
            Key::Char('.') => self.is_paused = !self.is_paused,
            Key::Char('x') => self.select(row),
            Key::Char('f') => self.failures(),
            Key::Char('p') => return self.pause_or_resume(),
            Key::Char('c') => self.cancel(),
            Key::Char('r') => return self.retry(),
            Key::Tab => self.next_view(),
            Key::Enter => self.open(row),
            Key::Escape => self.close(),
            _ => {}
        }
        None
    }

    fn type_search(&mut self, key: Key) {
        match key {
            Key::Escape => self.search.clear(),
            Key::Enter => return,
            Key::Backspace => drop(self.search.pop()),
            Key::Char(letter) if self.search.len() + letter.len_utf8() <= SEARCH_BYTES_MAX => self.search.push(letter),
            _ => {}
        }
        self.row = 0;
        self.prompt = (key != Key::Escape).then_some(Prompt::Search);
    }

    /// Goes to a page, from its beginning; back in the list of jobs, to the job that one came from.
    fn go(&mut self, place: Place) {
        if place == self.place {
            return;
        }
        if let Place::Job(id) | Place::Task(id, _) = &self.place {
            self.job_id.clone_from(id);
        }
        (self.place, self.task_view, self.row) = (place, TaskView::All, 0);
        (self.is_loaded, self.refused) = (self.place == Place::Jobs && !self.jobs.is_empty(), None);
        (self.job, self.tasks) = Default::default();
        self.search.clear();
    }

    /// Goes to the list that the page was opened from. That of the tasks is as it was left.
    fn up(&mut self) {
        match &self.place {
            Place::Task(id, _) => {
                self.place = Place::Job(id.clone());
                self.refused = None;
            }
            _ => self.go(Place::Jobs),
        }
    }

    fn open(&mut self, row: usize) {
        match (&self.place, self.task_view) {
            (Place::Jobs, _) => {
                if let Some(job) = self.jobs.get(row) {
                    self.go(Place::Job(job.job_id.clone()));
                }
            }
            (Place::Job(_), TaskView::Failures) => {
                if let Some(kind) = self.job.failures.get(row) {
                    self.kind = kind.clone();
                    self.view(TaskView::OfKind);
                }
            }
            (Place::Job(id), view) if view != TaskView::Failures => {
                if let Some(task) = self.task_at(row) {
                    let (place, task) = (Place::Task(id.clone(), task.task_index), task.clone());
                    (self.place, self.task, self.attempt, self.refused) = (place, task, 0, None);
                }
            }
            _ => {}
        }
    }

    /// The task in a row of the list, where it has been read.
    fn task_at(&self, row: usize) -> Option<&pb::Task> {
        if self.task_view == TaskView::All && self.search.is_empty() {
            return self.tasks.iter().find(|task| task.task_index as usize == row);
        }
        self.tasks.get(row)
    }

    fn close(&mut self) {
        if matches!(self.place, Place::Task(..)) {
            self.up();
        } else if !self.search.is_empty() || !self.selected.is_empty() {
            self.search.clear();
            self.selected.clear();
        } else if self.task_view == TaskView::OfKind {
            self.view(TaskView::Failures);
        } else {
            self.go(Place::Jobs);
        }
    }

    fn view(&mut self, view: TaskView) {
        (self.task_view, self.row) = (view, 0);
        self.tasks.clear();
    }

    fn next_view(&mut self) {
        match (&self.place, self.task_view) {
            (Place::Jobs, _) => {
                self.job_view = match self.job_view {
                    JobView::All => JobView::Open,
                    JobView::Open => JobView::Failed,
                    JobView::Failed => JobView::All,
                };
            }
            (Place::Job(_), TaskView::All) => self.view(TaskView::Active),
            (Place::Job(_), TaskView::Active) => self.view(TaskView::Failures),
            (Place::Job(_), _) => self.view(TaskView::All),
            (Place::Hosts | Place::Task(..), _) => {}
        }
    }

    fn failures(&mut self) {
        if self.place == Place::Jobs {
            self.open(self.row());
        }
        if matches!(self.place, Place::Job(_)) {
            self.view(TaskView::Failures);
        }
    }

    fn select(&mut self, row: usize) {
        if let (Place::Jobs, Some(job)) = (&self.place, self.jobs.get(row))
            && !self.selected.remove(&job.job_id)
        {
            self.selected.insert(job.job_id.clone());
        }
    }
}

/// Returns the first line of the help after a key, or `None` if the key leaves it.
fn scrolled(key: Key, line: usize, rows: usize) -> Option<usize> {
    let by = match key {
        Key::Char('j') => 1,
        Key::Char('k') => -1,
        Key::Rows(by) => by,
        Key::Screens(by) => by.saturating_mul(rows as i64),
        _ => return None,
    };
    Some(usize::try_from((line as i64).saturating_add(by)).unwrap_or(0).min(HELP.len()))
}
