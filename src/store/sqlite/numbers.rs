//! The internal numbers of jobs, as the writer knows them, and the keys made of them.

use std::ops::RangeInclusive;

use sqlx::SqliteConnection;

use crate::model::ids::{JobId, JobMap, TaskId};
use crate::store::sqlite::columns::job_id;
use crate::store::sqlite::errors::{Fault, guard};
use crate::store::sqlite::script::Script;
use crate::store::{Batch, LaneNumber};

/// How many jobs the writer remembers. Beyond, it forgets them all and asks again: a few reads, a bounded memory.
const REMEMBERED_MAX: usize = 10_000;
/// The highest number of a job: the upper half of a key.
const NUMBER_MAX: i64 = i32::MAX as i64;
/// Places at which free numbers are looked for, once the highest one was given: so many neighbourhoods of a store that
/// is half full are all taken with a chance of one to 2^64.
const PROBES: i64 = 64;
/// The distance of places that are looked at, by the golden ratio: no two are near each other.
const PROBE_STEP: i64 = 1_327_217_885;

/// The key of something of a job: its number above, the place below. See the first migration.
pub(super) fn key(job: i64, place: u32) -> i64 {
    (job << 32) | i64::from(place)
}

/// What the writer knows of a job.
#[derive(Clone, Copy)]
struct Known {
    number: i64,
    /// How many tasks the job has.
    total: i64,
}

/// The numbers that the writer hands out, and those that it needs at hand.
pub(super) struct Numbers {
    known: JobMap<Known>,
    /// Numbers that no job has.
    free: RangeInclusive<i64>,
    next_body: i64,
}

impl Numbers {
    /// Goes on after the highest numbers that are stored.
    pub(super) async fn load(conn: &mut SqliteConnection) -> Result<Numbers, sqlx::Error> {
        let sql = "SELECT (SELECT coalesce(max(no), 0) FROM jobs), (SELECT coalesce(max(id), 0) FROM bodies)";
        let (job, body): (i64, i64) = sqlx::query_as(sql).fetch_one(conn).await?;
        Ok(Numbers { known: JobMap::default(), free: job + 1..=NUMBER_MAX, next_body: body + 1 })
    }

    /// A number for a new job. A number that a failed batch took is given again after the others.
    pub(super) async fn new_job(&mut self, script: &mut Script<'_>, id: JobId, total: usize) -> Result<i64, Fault> {
        if self.free.is_empty() {
            self.free = free_range(script.conn().await?).await?;
        }
        let none_left = || Fault::Refused("the store has as many jobs as it can number; delete some".to_owned());
        let number = self.free.next().ok_or_else(none_left)?;
        self.known.insert(id, Known { number, total: total as i64 });
        Ok(number)
    }

    /// Takes in that a job has more tasks.
    pub(super) fn set_total(&mut self, id: JobId, total: i64) {
        if let Some(known) = self.known.get_mut(&id) {
            known.total = total;
        }
    }

    /// A number for a new body.
    pub(super) fn new_body(&mut self) -> i64 {
        self.next_body += 1;
        self.next_body - 1
    }

    /// The number of a job that [`Numbers::learn`] or [`Numbers::new_job`] has seen.
    pub(super) fn job(&self, id: JobId) -> Result<i64, Fault> {
        self.find(id).map(|known| known.number)
    }

    /// How many tasks such a job has: the index after the last one.
    pub(super) fn total(&self, id: JobId) -> Result<i64, Fault> {
        self.find(id).map(|known| known.total)
    }

    fn find(&self, id: JobId) -> Result<Known, Fault> {
        self.known.get(&id).copied().ok_or_else(|| Fault::Refused(format!("job `{id}` is not in the store")))
    }

    /// The key of a task of such a job.
    pub(super) fn task(&self, id: TaskId) -> Result<i64, Fault> {
        let known = self.find(id.job)?;
        guard(i64::from(id.index) < known.total, || format!("task `{id}` is not in the store"))?;
        Ok(key(known.number, id.index))
    }

    /// The key of a lane.
    pub(super) fn lane(&self, job: JobId, lane: LaneNumber) -> Result<i64, Fault> {
        Ok(key(self.job(job)?, lane))
    }

    /// Forgets jobs that were not stored after all, or do not exist any more.
    pub(super) fn forget(&mut self, ids: impl IntoIterator<Item = JobId>) {
        for id in ids {
            self.known.remove(&id);
        }
    }

    /// Looks up the numbers of all stored jobs that the batch names.
    pub(super) async fn learn(&mut self, script: &mut Script<'_>, batch: &Batch) -> Result<(), Fault> {
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
        // A total that is no number any more is that of a job which can be deleted all the same.
        let sql =
            "SELECT id, no, CAST(total AS INTEGER) FROM jobs WHERE id IN (SELECT unhex(value) FROM json_each(?1))";
        let wanted = serde_json::to_string(&unknown)?;
        let found: Vec<(Vec<u8>, i64, i64)> = sqlx::query_as(sql).bind(wanted).fetch_all(script.conn().await?).await?;
        for (id, number, total) in found {
            self.known.insert(job_id(&id)?, Known { number, total });
        }
        Ok(())
    }

    /// Keeps memory bounded; to be called between batches.
    pub(super) fn trim(&mut self) {
        if self.known.len() > REMEMBERED_MAX {
            self.known.clear();
        }
    }
}

/// An empty range.
const fn none_free() -> RangeInclusive<i64> {
    RangeInclusive::new(1, 0)
}

/// Numbers that purged jobs had, in a row. Looked for at places all over the range, so that it does not matter where the
/// jobs are that are kept.
async fn free_range(conn: &mut SqliteConnection) -> Result<RangeInclusive<i64>, Fault> {
    for probe in 0..PROBES {
        let first = 1 + probe * PROBE_STEP % NUMBER_MAX;
        let sql = "SELECT min(no) FROM jobs WHERE no >= ?1";
        let taken: Option<i64> = sqlx::query_scalar(sql).bind(first).fetch_one(&mut *conn).await?;
        let free = first..=taken.map_or(NUMBER_MAX, |taken| taken - 1);
        if !free.is_empty() {
            return Ok(free);
        }
    }
    Ok(none_free())
}

fn named_jobs(batch: &Batch) -> impl Iterator<Item = JobId> {
    let additions = batch.additions.iter().map(|addition| addition.job);
    let claims = batch.claims.iter().map(|claim| claim.id.job);
    let pages = batch.pages.iter().map(|page| page.id.job).chain(batch.dropped_pages.iter().map(|id| id.job));
    let moves = batch.moves.iter().map(|end| end.id.job);
    let retries = batch.retries.iter().map(|retry| retry.job);
    let sweeps = batch.sweeps.iter().map(|sweep| sweep.job).chain(batch.hastens.iter().map(|hasten| hasten.job));
    let events = batch.events.iter().map(|event| event.job);
    let jobs = batch.jobs.iter().chain(&batch.respecced).map(|job| job.id);
    let heads = batch.lane_heads.iter().map(|(job, ..)| *job);
    let gone = batch.deletions.iter().copied().chain(batch.purges.iter().map(|(job, _)| *job));
    // Jobs that come with the batch are unknown to the table and cost a look in it; their numbers follow.
    additions
        .chain(claims)
        .chain(pages)
        .chain(moves)
        .chain(retries)
        .chain(sweeps)
        .chain(events)
        .chain(jobs)
        .chain(heads)
        .chain(gone)
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;

    fn id(number: u128) -> JobId {
        JobId(uuid::Uuid::from_u128(number))
    }

    async fn with_numbers(numbers: &[i64]) -> SqliteConnection {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let sql = "CREATE TABLE jobs (no INTEGER PRIMARY KEY); CREATE TABLE bodies (id INTEGER PRIMARY KEY)";
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        for number in numbers {
            sqlx::query("INSERT INTO jobs (no) VALUES (?1)").bind(number).execute(&mut conn).await.unwrap();
        }
        conn
    }

    #[tokio::test]
    async fn numbers_of_purged_jobs_are_given_again() {
        // The jobs 3 to 9 were purged, and so was everything between 10 and the last number.
        let mut conn = with_numbers(&[1, 2, 10, NUMBER_MAX - 1]).await;
        let mut numbers = Numbers::load(&mut conn).await.unwrap();
        assert_eq!(numbers.new_job(&mut Script::new(&mut conn), id(1), 0).await.unwrap(), NUMBER_MAX, "the last one");
        sqlx::query("INSERT INTO jobs (no) VALUES (?1)").bind(NUMBER_MAX).execute(&mut conn).await.unwrap();
        let again = numbers.new_job(&mut Script::new(&mut conn), id(2), 0).await.unwrap();
        assert_eq!(again, 1 + PROBE_STEP % NUMBER_MAX, "the neighbourhood of 1 is taken");
        assert_eq!(numbers.new_job(&mut Script::new(&mut conn), id(3), 0).await.unwrap(), again + 1);
        // Every number that is given is free.
        numbers.free = NUMBER_MAX - 2..=NUMBER_MAX - 2;
        numbers.new_job(&mut Script::new(&mut conn), id(4), 0).await.unwrap();
        let range = free_range(&mut conn).await.unwrap();
        assert!([1, 2, 10, NUMBER_MAX - 1, NUMBER_MAX].iter().all(|taken| !range.contains(taken)), "{range:?}");
    }

    #[tokio::test]
    async fn a_store_without_numbers_refuses_the_job_alone() {
        // Wherever a free number is looked for, there is a job.
        let probes: Vec<i64> = (0..PROBES).map(|probe| 1 + probe * PROBE_STEP % NUMBER_MAX).collect();
        let mut conn = with_numbers(&probes).await;
        let mut numbers = Numbers::load(&mut conn).await.unwrap();
        numbers.free = none_free();
        assert!(matches!(numbers.new_job(&mut Script::new(&mut conn), id(1), 0).await, Err(Fault::Refused(_))));
    }
}
