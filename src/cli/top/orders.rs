//! What the keys of `haul top` have done to jobs, tasks and hosts.

use crate::cli::many::Action;
use crate::cli::states::is_ended;
use crate::cli::term::words;
use crate::cli::top::state::{Order, Place, Prompt, State, TaskAction};
use crate::pb;

impl State {
    /// The jobs that are meant: those that are selected, else the one that is chosen or open.
    fn meant(&self) -> Vec<&pb::Job> {
        match &self.place {
            Place::Jobs if self.selected.is_empty() => self.jobs.get(self.row()).into_iter().collect(),
            Place::Jobs => self.jobs.iter().filter(|job| self.selected.contains(&job.job_id)).collect(),
            Place::Job(_) | Place::Task(..) if self.is_loaded() => vec![&self.job],
            Place::Job(_) | Place::Task(..) | Place::Hosts => Vec::new(),
        }
    }

    pub(super) fn pause_or_resume(&mut self) -> Option<Order> {
        if self.place == Place::Hosts {
            let host = self.hosts.get(self.row())?;
            if host.paused_until.is_none() {
                "this host is not paused".clone_into(&mut self.note);
                return None;
            }
            return Some(Order::ResumeHost(host.host.clone()));
        }
        let runs = |job: &&pb::Job| matches!(job.state(), pb::JobState::Pending | pb::JobState::Running);
        let action = if self.meant().iter().any(runs) { Action::Pause } else { Action::Resume };
        self.order(action)
    }

    pub(super) fn cancel(&mut self) {
        let order = match &self.place {
            Place::Task(id, index) => {
                let has_ended = matches!(
                    self.task.state(),
                    pb::TaskState::Succeeded | pb::TaskState::Failed | pb::TaskState::Cancelled
                );
                if has_ended {
                    self.note = format!("this task is {}: it cannot be cancelled", state_of_task(&self.task));
                    return;
                }
                Some(Order::Task(TaskAction::Cancel, id.clone(), *index))
            }
            _ => self.order(Action::Cancel),
        };
        self.prompt = order.map(Prompt::Confirm);
    }

    pub(super) fn retry(&mut self) -> Option<Order> {
        let Place::Task(id, index) = &self.place else { return self.order(Action::Retry) };
        let (id, index) = (id.clone(), *index);
        match self.task.state() {
            pb::TaskState::BackingOff => Some(Order::Task(TaskAction::RetryNow, id, index)),
            pb::TaskState::Failed | pb::TaskState::Cancelled if is_ended(self.job.state()) => {
                Some(Order::Task(TaskAction::Retry, id, index))
            }
            pb::TaskState::Failed | pb::TaskState::Cancelled => {
                "it can be retried when the job has ended".clone_into(&mut self.note);
                None
            }
            _ => {
                self.note = format!("this task is {}: it cannot be retried", state_of_task(&self.task));
                None
            }
        }
    }

    /// An order to those of the jobs that can follow it.
    fn order(&mut self, action: Action) -> Option<Order> {
        let can = |state: pb::JobState| match action {
            Action::Pause => matches!(state, pb::JobState::Pending | pb::JobState::Running),
            Action::Resume => state == pb::JobState::Paused,
            Action::Cancel => !is_ended(state) && state != pb::JobState::Cancelling,
            Action::Retry => matches!(state, pb::JobState::Failed | pb::JobState::Cancelled),
            Action::Delete => is_ended(state),
        };
        let meant = self.meant();
        let ids: Vec<String> = meant.iter().filter(|job| can(job.state())).map(|job| job.job_id.clone()).collect();
        if ids.is_empty() {
            let done = action.words().1;
            self.note = match meant[..] {
                [] => String::new(),
                [job] => format!("this job is {}: it cannot be {done}", state_of(job)),
                _ => format!("none of these jobs can be {done}"),
            };
            return None;
        }
        Some(Order::Control(action, ids))
    }
}

fn state_of(job: &pb::Job) -> String {
    words::state(job.state().as_str_name(), "JOB_STATE_")
}

fn state_of_task(task: &pb::Task) -> String {
    words::state(task.state().as_str_name(), "TASK_STATE_")
}
