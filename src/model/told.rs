//! What is told of the tasks of a job: as they are stored, but while the job is paused none backs off. Each is PENDING then, and
//! what is left of its wait goes on when the job is resumed.
//!
//! Whoever tells a state, counts tasks by state or chooses tasks by state asks here, so that all of it agrees.

use std::borrow::Cow;

use crate::model::counts::Counts;
use crate::model::job::JobState;
use crate::model::task::TaskState;
use crate::model::task_filter::{TaskChoice, TaskFilter};

/// Returns what is told of a task in this state.
pub fn state(job: JobState, state: TaskState) -> TaskState {
    match (job, state) {
        (JobState::Paused, TaskState::BackingOff) => TaskState::Pending,
        _ => state,
    }
}

/// Returns how many tasks are told to be in which state.
pub fn counts(job: JobState, counts: Counts) -> Counts {
    if job != JobState::Paused {
        return counts;
    }
    Counts { pending: counts.pending.saturating_add(counts.backing_off), backing_off: 0, ..counts }
}

/// Returns the filter for tasks as they are stored that fit this one as they are told; `None`: none can fit.
pub fn filter(job: JobState, filter: &TaskFilter) -> Option<Cow<'_, TaskFilter>> {
    if job != JobState::Paused || filter.states.is_empty() {
        return Some(Cow::Borrowed(filter));
    }
    let is_asked = |stored: &TaskState| filter.states.contains(&state(job, *stored));
    let states: Vec<TaskState> = TaskState::ALL.into_iter().filter(is_asked).collect();
    (!states.is_empty()).then(|| Cow::Owned(TaskFilter { states, ..filter.clone() }))
}

/// As [`filter`], of a choice of tasks.
pub fn choice(job: JobState, choice: TaskChoice) -> Option<TaskChoice> {
    match choice {
        TaskChoice::Fitting(asked) => filter(job, &asked).map(|stored| TaskChoice::Fitting(stored.into_owned())),
        choice => Some(choice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_states_counts_and_filters_agrees() {
        let mut stored = Counts::default();
        for (number, state) in (1..).zip(TaskState::ALL) {
            *stored.of(state) = number;
        }
        for job in JobState::ALL {
            let mut told = counts(job, stored);
            for asked in TaskState::ALL {
                let wish = TaskFilter { states: vec![asked], ..TaskFilter::default() };
                let fits = filter(job, &wish);
                let is_told = |it: &TaskState| state(job, *it) == asked;
                let fitting: Vec<TaskState> = TaskState::ALL.into_iter().filter(is_told).collect();
                assert_eq!(
                    fits.as_ref().map(|fits| fits.states.clone()).unwrap_or_default(),
                    fitting,
                    "{job:?} {asked:?}"
                );
                let count: u32 = fitting.iter().map(|it| *stored.of(*it)).sum();
                assert_eq!(*told.of(asked), count, "{job:?} {asked:?}");
                assert_eq!(fits.is_none(), job == JobState::Paused && asked == TaskState::BackingOff);
            }
            assert_eq!(filter(job, &TaskFilter::default()).as_deref(), Some(&TaskFilter::default()));
            assert_eq!(choice(job, TaskChoice::All), Some(TaskChoice::All));
        }
    }
}
