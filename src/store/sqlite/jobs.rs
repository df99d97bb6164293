//! Jobs, their specs, labels and requests; lanes and limits with them.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use sqlx::SqliteConnection;

use crate::model::bag::erase;
use crate::model::host::Host;
use crate::model::ids::{JobId, TaskIndex};
use crate::model::job::Job;
use crate::model::limits::LimitsPatch;
use crate::model::spec::Work;
use crate::model::tenant::{Party, TenantNo};
use crate::model::time::Timestamp;
use crate::store::sqlite::columns::{blob, digest_of, job_id, keyed_blob};
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::insert::{Insert, Values};
use crate::store::sqlite::lines;
use crate::store::sqlite::numbers::{Numbers, key};
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::{self, job_text, json_value};
use crate::store::sqlite::script::{Refusal, Script};
use crate::store::sqlite::sealed::{self, Place};
use crate::store::sqlite::tasks::{self, NewTask};
use crate::store::sqlite::text::Text;
use crate::store::{LaneNumber, StoreError, Submission, Submitted};
use crate::vault::Vault;

static JOBS: Insert = Insert::new(
    "jobs (no, id, state, total, downloads, create_time, end_time, expire_time, moving, created_by, tenant)",
    11,
    "",
);
static SPECS: Insert = Insert::new("job_specs (job, spec, sealed)", 3, "");
static LABELS: Insert = Insert::new("job_labels (tenant, key, value, id)", 4, "");
static REQUESTS: Insert =
    Insert::new("requests (job, id, principal, tenant, digest)", 5, "ON CONFLICT (id, principal, tenant) DO NOTHING");
static LANES: Insert = Insert::new("lanes (id, host, head)", 3, "");

/// Inserts jobs with all that came with them, except those whose request id is known.
pub(super) async fn submit(
    script: &mut Script<'_>,
    numbers: &mut Numbers,
    vault: &Vault,
    submissions: &[Submission],
) -> Result<Vec<Submitted>, Fault> {
    let mut answers = vec![Submitted::Stored; submissions.len()];
    if submissions.is_empty() {
        return Ok(answers);
    }
    let mut new: Vec<(i64, &Submission)> = Vec::with_capacity(submissions.len());
    for submission in submissions {
        new.push((numbers.new_job(script, submission.job.id, submission.tasks.len()).await?, submission));
    }
    let known = known_requests(script, vault, &new).await?;
    if !known.is_empty() {
        for (answer, (no, submission)) in answers.iter_mut().zip(&new) {
            if let Some((job, digest)) = known.get(no) {
                *answer = Submitted::Known { job: *job, digest: *digest };
                numbers.forget([submission.job.id]);
            }
        }
        new.retain(|(no, _)| !known.contains_key(no));
    }
    insert(script, vault, &new).await?;
    Ok(answers)
}

/// The number of a job, the id of its request, whose that is, the digest of the request.
type Request<'a> = (i64, &'a String, (i64, i64), &'a [u8; 32]);

/// Remembers request ids. Returns those that stood for another job already, by the number of the job that came too late.
async fn known_requests(
    script: &mut Script<'_>,
    vault: &Vault,
    new: &[(i64, &Submission)],
) -> Result<HashMap<i64, (JobId, [u8; 32])>, Fault> {
    let requests: Vec<_> = new
        .iter()
        .filter_map(|(no, new)| {
            let whose = (new.job.creator.no as i64, i64::from(new.job.tenant.no));
            new.request.as_ref().map(|(id, digest)| (*no, id, whose, digest))
        })
        .collect();
    let bind = |row: &mut Values, (no, id, (principal, tenant), digest): &Request<'_>| {
        row.add(*no)?.add(id.as_str())?.add(*principal)?.add(*tenant)?.add(keyed_blob(digest)).map(drop)
    };
    let inserted = script.insert_now(&REQUESTS, &requests, bind).await?;
    if inserted == requests.len() as u64 {
        return Ok(HashMap::new());
    }
    let mut known = HashMap::new();
    for (no, id, (principal, tenant), _) in requests {
        let sql = "SELECT r.job, r.digest, j.id FROM requests r LEFT JOIN jobs j ON j.no = r.job \
                   WHERE r.id = ?1 AND r.principal = ?2 AND r.tenant = ?3";
        let (first, digest, job): (i64, Vec<u8>, Option<Vec<u8>>) =
            sqlx::query_as(sql).bind(id.as_str()).bind(principal).bind(tenant).fetch_one(script.conn().await?).await?;
        if first == no {
            continue;
        }
        // The first one may be of this very batch, and is not inserted yet.
        let of_batch = || new.iter().find(|(no, _)| *no == first).map(|(_, new)| new.job.id);
        let job = match job {
            Some(job) => Some(job_id(&job)?),
            None => of_batch(),
        };
        let job =
            job.ok_or_else(|| Fault::Refused(format!("request id `{id}` stands for a job that does not exist")))?;
        known.insert(no, (job, digest_of(vault, &digest)?));
    }
    Ok(known)
}

async fn insert(script: &mut Script<'_>, vault: &Vault, new: &[(i64, &Submission)]) -> Result<(), Fault> {
    let bind = |row: &mut Values, (no, Submission { job, tasks, .. }): &(i64, &Submission)| {
        let total = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let downloads = tasks.iter().any(|(_, spec)| matches!(spec.work, Work::Download(_)));
        row.add(*no)?.add(blob(job.id))?.add(job.state as i64)?.add(i64::from(total))?.add(downloads)?;
        row.add(job.create_time.0)?.add(job.end_time.map(|time| time.0))?;
        row.add(job.expire_time().map(|time| time.0))?.add(rows::moving(job)?)?;
        row.add(job.creator.no as i64)?.add(i64::from(job.tenant.no)).map(drop)
    };
    script.insert(&JOBS, new, bind, None).await?;
    let bind = |row: &mut Values, (no, new): &(i64, &Submission)| {
        let (spec, bag) = sealed::row(vault, Place::Job(new.job.id), &*new.job.spec)?;
        row.add(*no)?.add(spec)?.add(bag).map(drop)
    };
    script.insert(&SPECS, new, bind, None).await?;
    insert_labels(script, new.iter().map(|(_, new)| &new.job)).await?;
    let lanes: Vec<(i64, &Host)> = new
        .iter()
        .flat_map(|(no, new)| (0..).zip(&new.lanes).map(move |(lane, host)| (key(*no, lane), host)))
        .collect();
    script.insert(&LANES, &lanes, |row, (id, host)| bind_lane(row, *id, host), None).await?;
    let tasks: Vec<NewTask<'_>> = new
        .iter()
        .flat_map(|(no, new)| {
            let (no, job) = (*no, new.job.id);
            (0..).zip(&new.tasks).map(move |(index, (lane, spec))| NewTask { no, job, index, lane: *lane, spec })
        })
        .collect();
    tasks::insert(script, vault, &tasks).await
}

fn bind_lane(row: &mut Values, id: i64, host: &Host) -> Result<(), Fault> {
    row.add(id)?.add(host.as_str())?.add(0_i64).map(drop)
}

async fn insert_labels<'a>(script: &mut Script<'_>, jobs: impl Iterator<Item = &'a Job>) -> Result<(), Fault> {
    let labels: Vec<_> = jobs.flat_map(|job| job.spec.labels.iter().map(move |label| (job, label))).collect();
    let bind = |row: &mut Values, (job, (key, value)): &(&Job, (&String, &String))| {
        row.add(i64::from(job.tenant.no))?.add(key.as_str())?.add(value.as_str())?.add(blob(job.id)).map(drop)
    };
    script.insert(&LABELS, &labels, bind, None).await
}

/// What of a job an update writes.
#[derive(Serialize)]
struct JobUpdate(i64, i64, Option<Timestamp>, Option<Timestamp>, String);

pub(super) fn update(script: &mut Script<'_>, numbers: &Numbers, jobs: &[Arc<Job>]) -> Result<(), Fault> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut updates = Vec::with_capacity(jobs.len());
    for job in jobs {
        let no = numbers.job(job.id)?;
        updates.push(JobUpdate(no, job.state as i64, job.end_time, job.expire_time(), rows::moving(job)?));
    }
    // Secrets may have been erased since the job was read: that stays noted, and no retry begins without them.
    let sql = concat!(
        "UPDATE jobs SET state = value ->> 1, end_time = value ->> 2, expire_time = value ->> 3, \
         moving = CASE WHEN end_time IS NOT NULL AND ",
        json_value!("moving", "$.secrets_gone"),
        " THEN json_set(value ->> 4, '$.secrets_gone', json('true')) ELSE value ->> 4 END \
         FROM json_each(?) WHERE no = value ->> 0 AND deleted = 0 AND (end_time IS NULL \
         OR value ->> 2 IS NOT NULL OR NOT coalesce(",
        json_value!("moving", "$.secrets_gone"),
        ", 0))"
    );
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    script.statement(sql, serde_json::to_string(&updates)?)?;
    let refusal: Refusal = Box::new(move || {
        let names: Vec<String> = ids.iter().map(JobId::to_string).collect();
        format!(
            "one of these jobs is deleted, is tried again without its secrets, or is in the batch twice: {}",
            names.join(", ")
        )
    });
    script.guard(jobs.len(), refusal)
}

pub(super) async fn update_specs(
    script: &mut Script<'_>,
    numbers: &Numbers,
    vault: &Vault,
    jobs: &[Arc<Job>],
) -> Result<(), Fault> {
    for job in jobs {
        let no = numbers.job(job.id)?;
        let mut spec = job.spec.clone();
        let sql = concat!(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE no = ?1 AND ",
            json_value!("moving", "$.secrets_gone"),
            ")"
        );
        if sqlx::query_scalar(sql).bind(no).fetch_one(script.conn().await?).await? {
            // They were erased since the job was read.
            erase(Arc::make_mut(&mut spec));
        }
        let (spec, bag) = sealed::row(vault, Place::Job(job.id), &*spec)?;
        sqlx::query("UPDATE job_specs SET spec = ?2, sealed = ?3 WHERE job = ?1")
            .bind(no)
            .bind(spec)
            .bind(bag)
            .execute(script.conn().await?)
            .await?;
        sqlx::query("DELETE FROM job_labels WHERE id = ?1").bind(blob(job.id)).execute(script.conn().await?).await?;
        insert_labels(script, std::iter::once(&**job)).await?;
    }
    Ok(())
}

/// Hides ended jobs, whose request ids are free from then on, and those that cannot be read. They do not expire any more, so they
/// leave that index too. Returns which were there to be hidden.
pub(super) async fn delete(
    script: &mut Script<'_>,
    numbers: &Numbers,
    jobs: &[JobId],
    unreadable: &[JobId],
) -> Result<Vec<bool>, Fault> {
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        let Ok(no) = numbers.job(*job) else {
            answers.push(false);
            continue;
        };
        let sql = "UPDATE jobs SET deleted = 1, expire_time = NULL WHERE no = ?1 AND deleted = 0 AND (state > 4 OR ?2)";
        let conn = script.conn().await?;
        let is_hidden =
            sqlx::query(sql).bind(no).bind(unreadable.contains(job)).execute(&mut *conn).await?.rows_affected() == 1;
        if is_hidden {
            sqlx::query("DELETE FROM requests WHERE job = ?1").bind(no).execute(&mut *conn).await?;
        }
        answers.push(is_hidden);
    }
    Ok(answers)
}

pub(super) async fn insert_lanes(
    conn: &mut SqliteConnection,
    no: i64,
    lanes: &[(LaneNumber, Host)],
) -> Result<(), Fault> {
    LANES.run(conn, lanes, |row, (lane, host)| bind_lane(row, key(no, *lane), host)).await?;
    Ok(())
}

pub(super) fn move_heads(
    script: &mut Script<'_>,
    numbers: &Numbers,
    heads: &[(JobId, LaneNumber, TaskIndex)],
) -> Result<(), Fault> {
    if heads.is_empty() {
        return Ok(());
    }
    let mut keyed = Vec::with_capacity(heads.len());
    for (job, lane, head) in heads {
        keyed.push((numbers.lane(*job, *lane)?, *head));
    }
    let sql = "UPDATE lanes SET head = value ->> 1 FROM json_each(?) WHERE lanes.id = value ->> 0";
    script.statement(sql, serde_json::to_string(&keyed)?)
}

pub(super) async fn set_limits(conn: &mut SqliteConnection, limits: &LimitsPatch) -> Result<(), Fault> {
    // What cannot be read any more is replaced.
    const MERGE: &str = "INSERT INTO settings (key, value) VALUES ('limits', ?1) ON CONFLICT (key) DO UPDATE SET \
         value = json_patch(CASE WHEN json_valid(value) THEN value ELSE '{}' END, excluded.value)";
    sqlx::query(MERGE).bind(serde_json::to_string(limits)?).execute(conn).await?;
    Ok(())
}

pub(super) async fn limits(reader: &Reader) -> Result<Option<LimitsPatch>, StoreError> {
    let found: Option<(Text,)> = reader.first(Ask::new("SELECT value FROM settings WHERE key = 'limits'")).await?;
    found.map(|(text,)| lines::parse(&text, "limits")).transpose()
}

pub(super) async fn job(reader: &Reader, id: JobId) -> Result<Option<Job>, StoreError> {
    let sql = concat!(
        "SELECT ",
        job_text!(),
        " FROM jobs j JOIN job_specs p ON p.job = j.no WHERE j.id = ?1 AND j.deleted = 0"
    );
    let found: Option<(Text,)> = reader.first(Ask::new(sql).bind(blob(id))).await?;
    let read = |(text,): (Text,)| lines::parse::<rows::JobLine>(&text, format_args!("job `{id}`"));
    found.map(read).transpose()?.map(|line| line.into_job(&reader.vault)).transpose()
}

pub(super) async fn request(
    reader: &Reader,
    of: Party,
    request_id: &str,
) -> Result<Option<(JobId, [u8; 32])>, StoreError> {
    let sql = "SELECT j.id, r.digest FROM requests r JOIN jobs j ON j.no = r.job \
               WHERE r.id = ?1 AND r.principal = ?2 AND r.tenant = ?3";
    let ask = Ask::new(sql).bind(request_id).bind(of.principal as i64).bind(of.tenant);
    let found: Option<(Vec<u8>, Vec<u8>)> = reader.first(ask).await?;
    found.map(|(id, digest)| Ok((job_id(&id)?, digest_of(&reader.vault, &digest)?))).transpose()
}

pub(super) async fn expired(reader: &Reader, now: Timestamp, limit: u32) -> Result<Vec<(JobId, TenantNo)>, StoreError> {
    // What is no job of a tenant, since its row is damaged, is left out: it holds no other.
    let sql = "SELECT id, tenant FROM jobs WHERE expire_time IS NOT NULL AND expire_time <= ?1 AND deleted = 0 \
               AND typeof(id) = 'blob' AND length(id) = 16 AND typeof(tenant) = 'integer' \
               AND tenant BETWEEN 0 AND 4294967295 ORDER BY expire_time LIMIT ?2 + 0";
    let found: Vec<(Vec<u8>, TenantNo)> = reader.all(Ask::new(sql).bind(now.0).bind(limit)).await?;
    found.iter().map(|(id, tenant)| Ok((job_id(id)?, *tenant))).collect()
}

pub(super) async fn deleted(reader: &Reader, limit: u32) -> Result<Vec<JobId>, StoreError> {
    let sql =
        "SELECT id FROM jobs WHERE deleted = 1 AND typeof(id) = 'blob' AND length(id) = 16 ORDER BY no LIMIT ?1 + 0";
    let ids: Vec<(Vec<u8>,)> = reader.all(Ask::new(sql).bind(limit)).await?;
    ids.iter().map(|(id,)| job_id(id)).collect()
}

/// Reads what tenants store.
pub(super) async fn stored_bytes(reader: &Reader) -> Result<Vec<(TenantNo, u64)>, StoreError> {
    // A sum into which a damaged figure has come may be no whole number.
    let sql = "SELECT tenant, CAST(stored AS INTEGER) FROM tenant_usage WHERE tenant BETWEEN 0 AND 4294967295";
    let rows: Vec<(TenantNo, i64)> = reader.all(Ask::new(sql)).await?;
    Ok(rows.into_iter().map(|(tenant, bytes)| (tenant, u64::try_from(bytes).unwrap_or(0))).collect())
}
