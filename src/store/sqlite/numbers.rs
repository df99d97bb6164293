//! The internal numbers of jobs, as the writer knows them, and the keys made of them.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use crate::model::ids::{JobId, TaskId};
use crate::store::sqlite::errors::guard;
use crate::store::{Batch, LaneNumber, StoreError};

/// How many jobs the writer remembers. Beyond, it forgets them all and asks again: a few reads, a bounded memory.
const REMEMBERED_MAX: usize = 10_000;

/// The key of something of a job: its number above, the place below. See the first migration.
pub(super) fn key(job: i64, place: u32) -> i64 {
    (job << 32) | i64::from(place)
}

/// What the writer hands out, and the numbers that it needs at hand.
pub(super) struct Numbers {
    known: HashMap<JobId, i64>,
    next_job: i64,
    next_body: i64,
}

impl Numbers {
    /// Goes on after the highest numbers that are stored.
    pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Numbers, sqlx::Error> {
        let sql = "SELECT (SELECT coalesce(max(no), 0) FROM jobs), (SELECT coalesce(max(id), 0) FROM bodies)";
        let (job, body): (i64, i64) = sqlx::query_as(sql).fetch_one(conn).await?;
        Ok(Numbers { known: HashMap::new(), next_job: job + 1, next_body: body + 1 })
    }

    /// A number for a new job. A number that a failed batch took is not given again, which harms nothing.
    pub(super) fn new_job(&mut self, id: JobId) -> Result<i64, StoreError> {
        let number = self.next_job;
        guard(number <= i64::from(i32::MAX), || "the store has numbered all the jobs that it can".to_owned())?;
        self.next_job += 1;
        self.known.insert(id, number);
        Ok(number)
    }

    /// A number for a new body.
    pub(super) fn new_body(&mut self) -> i64 {
        self.next_body += 1;
        self.next_body - 1
    }

    /// The number of a job that [`Numbers::learn`] or [`Numbers::new_job`] has seen.
    pub(super) fn job(&self, id: JobId) -> Result<i64, StoreError> {
        self.known.get(&id).copied().ok_or_else(|| StoreError::Fatal(format!("job `{id}` is not in the store")))
    }

    /// The key of a task.
    pub(super) fn task(&self, id: TaskId) -> Result<i64, StoreError> {
        Ok(key(self.job(id.job)?, id.index))
    }

    /// The key of a lane.
    pub(super) fn lane(&self, job: JobId, lane: LaneNumber) -> Result<i64, StoreError> {
        Ok(key(self.job(job)?, lane))
    }

    /// Forgets jobs that were not stored after all, or are no more.
    pub(super) fn forget(&mut self, ids: impl Iterator<Item = JobId>) {
        for id in ids {
            self.known.remove(&id);
        }
    }

    /// Looks up the numbers of all stored jobs that the batch names.
    pub(super) async fn learn(&mut self, conn: &mut SqliteConnection, batch: &Batch) -> Result<(), StoreError> {
        if self.known.len() > REMEMBERED_MAX {
            self.known.clear();
        }
        let mut unknown = Vec::new();
        let mut last = None;
        for id in named_jobs(batch) {
            // Neighbours are mostly of one job.
            if last != Some(id) && !self.known.contains_key(&id) {
                unknown.push(id.0.simple().to_string());
            }
            last = Some(id);
        }
        if unknown.is_empty() {
            return Ok(());
        }
        unknown.sort_unstable();
        unknown.dedup();
        let sql = "SELECT id, no FROM jobs WHERE id IN (SELECT unhex(value) FROM json_each(?1))";
        let wanted = serde_json::to_string(&unknown)?;
        let found: Vec<(Vec<u8>, i64)> = sqlx::query_as(sql).bind(wanted).fetch_all(conn).await?;
        for (id, number) in found {
            let id = uuid::Uuid::from_slice(&id).map_err(|error| StoreError::Fatal(error.to_string()))?;
            self.known.insert(JobId(id), number);
        }
        Ok(())
    }
}

fn named_jobs(batch: &Batch) -> impl Iterator<Item = JobId> {
    let lanes = batch.new_lanes.iter().map(|lane| lane.job);
    let tasks = batch.new_tasks.iter().map(|task| task.id.job);
    let chunks = batch.new_chunks.iter().map(|(job, ..)| *job);
    let claims = batch.claims.iter().map(|claim| claim.id.job);
    let pages = batch.pages.iter().map(|page| page.id.job);
    let dropped = batch.dropped_pages.iter().map(|task| task.job);
    let moves = batch.moves.iter().map(|end| end.id.job);
    let retries = batch.retries.iter().map(|retry| retry.job);
    let sweeps = batch.sweeps.iter().map(|sweep| sweep.job);
    let events = batch.events.iter().map(|event| event.job);
    let jobs = batch.jobs.iter().chain(&batch.respecced).map(|job| job.id);
    let heads = batch.lane_heads.iter().map(|(job, ..)| *job);
    let gone = batch.deleted.iter().copied().chain(batch.purges.iter().map(|(job, _)| *job));
    // Jobs that come with the batch are unknown to the table and cost a look in it; their numbers follow.
    lanes
        .chain(tasks)
        .chain(chunks)
        .chain(claims)
        .chain(pages)
        .chain(dropped)
        .chain(moves)
        .chain(retries)
        .chain(sweeps)
        .chain(events)
        .chain(jobs)
        .chain(heads)
        .chain(gone)
}
