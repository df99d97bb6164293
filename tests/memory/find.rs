//! What is looked for among jobs, tasks and events.

use haul::model::event::EventKind;
use haul::model::ids::{JobId, TaskIndex};
use haul::store::{
    EventPage, JobFilter, JobOrder, JobPage, JobPlace, PAGE_BYTES_MAX, StoredEvent, TaskPage, TaskQuery,
};

use super::Rows;
use super::job::JobRows;

impl JobRows {
    fn place(&self, order: JobOrder) -> JobPlace {
        let job = &self.row().job;
        JobPlace { id: job.id, end: job.end_time.filter(|_| order == JobOrder::Ended) }
    }

    fn fits(&self, filter: &JobFilter) -> bool {
        let job = &self.row().job;
        let (search, labels) = (&filter.search, &job.spec.labels);
        let shows = search.is_in(&job.spec.title)
            || labels.values().any(|value| search.is_in(value))
            || search.begins(&job.id.to_string());
        (filter.ids.is_empty() || filter.ids.contains(&job.id))
            && (filter.states.is_empty() || filter.states.contains(&job.state))
            && filter.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && filter.created_after.is_none_or(|time| job.create_time > time)
            && filter.created_before.is_none_or(|time| job.create_time < time)
            && filter.ended_after.is_none_or(|time| job.end_time.is_some_and(|end| end > time))
            && filter.ended_before.is_none_or(|time| job.end_time.is_some_and(|end| end < time))
            && filter.created_by.is_none_or(|no| job.creator.no == no)
            && (search.is_empty() || shows)
    }

    pub(super) fn find_tasks(&self, query: &TaskQuery, limit: u32) -> TaskPage {
        let mut page = TaskPage::default();
        let mut last: Option<TaskIndex> = None;
        for (index, _) in self.tasks.range(query.from..) {
            if page.examined == query.look_max() {
                page.next = last.map(|last| last + 1);
                return page;
            }
            let Some(task) = self.task(*index) else { continue };
            let moving = &task.row.task;
            let host = self.lanes.get(&task.lane).map(|(host, _)| host.to_string()).unwrap_or_default();
            if query.filter.fits(moving.state, moving.error.as_ref(), &host) && task.shows(&query.search) {
                if page.items.len() == limit as usize {
                    page.next = last.map(|last| last + 1);
                    return page;
                }
                page.items.push(task);
            }
            (page.examined, last) = (page.examined + 1, Some(*index));
        }
        page
    }

    pub(super) fn events_before(&self, before: u64, kinds: &[EventKind], limit: u32) -> EventPage {
        let told =
            self.events.range(..before).rev().filter(|(_, (head, _))| kinds.is_empty() || kinds.contains(&head.kind));
        let told = told.map(|(sequence, (head, snapshot))| {
            let task = head.task.and_then(|index| self.told_task(index, *sequence)).map(Into::into);
            StoredEvent { head: *head, snapshot: snapshot.clone(), task }
        });
        let mut items: Vec<StoredEvent> = told.take(limit as usize + 1).collect();
        let has_more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| has_more).map(|last| last.head.sequence);
        EventPage { items, next }
    }
}

impl Rows {
    /// `bytes_of` is what a job takes of the bytes that a page may have.
    pub(super) fn find_jobs(
        &self,
        filter: &JobFilter,
        limit: u32,
        bytes_of: impl Fn(&JobRows) -> usize,
    ) -> JobPage<JobId> {
        let is_of = |rows: &&JobRows| filter.tenant.is_none_or(|no| rows.row().job.tenant.no == no);
        let visible = self.jobs.values().filter(|rows| !rows.row().deleted).filter(is_of);
        let mut all: Vec<&JobRows> = match filter.order {
            JobOrder::Created => visible.collect(),
            JobOrder::Ended => visible.filter(|rows| rows.row().job.end_time.is_some()).collect(),
        };
        let key = |place: JobPlace| (place.end, place.id);
        all.sort_unstable_by_key(|rows| std::cmp::Reverse(key(rows.place(filter.order))));
        let mut page = JobPage { items: Vec::new(), examined: 0, next: None };
        let (mut last, mut bytes) = (None, 0);
        for rows in all {
            let place = rows.place(filter.order);
            let before = filter.before.map(|it| JobPlace { end: it.end.filter(|_| place.end.is_some()), ..it });
            if before.is_some_and(|before| key(place) >= key(before)) {
                continue;
            }
            if page.examined == filter.look_max() {
                page.next = last;
                return page;
            }
            if rows.fits(filter) {
                if page.items.len() == limit as usize || bytes >= PAGE_BYTES_MAX {
                    page.next = last;
                    return page;
                }
                bytes += bytes_of(rows);
                page.items.push(place.id);
            }
            (page.examined, last) = (page.examined + 1, Some(place));
        }
        page
    }
}
