//! What keys do in `haul top`: where its user goes, what is chosen, and what is ordered.

use crate::cli::top::keys::{HELP, Key};
use crate::cli::top::state::{JobView, Order, Place, Prompt, State, TaskView};
use crate::pb;

/// The most bytes of a text that is searched for; the server takes no more.
const SEARCH_BYTES_MAX: usize = 128;

impl State {
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
