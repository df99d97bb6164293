//! Lists jobs, each filter by the index that fits it.
//!
//! A page looks at a bounded number of rows of that index, in steps: each step is one statement, which says what it found
//! among how many rows and where the next one begins.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::model::access::LOCAL;
use crate::model::ids::JobId;
use crate::model::job::{Job, JobState};
use crate::model::tenant::DEFAULT_NO;
use crate::model::time::Timestamp;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::lines::{self, BETWEEN};
use crate::store::sqlite::look::{Judge, Look, Step};
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::{JobLine, job_text, json_value};
use crate::store::sqlite::text::Text;
use crate::store::sqlite::values::{Value, Values};
use crate::store::{JobFilter, JobOrder, JobPage, JobPlace, PAGE_BYTES_MAX, StoreError};

/// How far the time in an id may be from the time of creation, in milliseconds.
const ID_TIME_SLACK_MS: i64 = 20;

/// Few enough jobs to sort, for the filters that no index orders.
const SORTED_MAX: u32 = 1000;

/// What the rows are found by.
enum Index {
    /// One range for each state, merged.
    States,
    /// The label with this place in the filter.
    Label(usize),
    /// The time of the end, for a few jobs that are sorted then.
    End,
    /// The principal that submitted them.
    Creator,
    /// The tenant that they are of.
    Tenant,
    /// The ids themselves.
    Ids,
    /// The ids that are named.
    These,
    /// The time of the end, in its order.
    Ended,
}

/// What is read of a job that fits.
struct Lines {
    /// The line.
    line: &'static str,
    /// Its bytes, about.
    bytes: &'static str,
    /// What the line needs beside `jobs j`.
    joins: &'static str,
}

const WHOLE: Lines = Lines {
    line: job_text!(),
    bytes: "octet_length(j.moving) + octet_length(p.spec) + coalesce(2 * octet_length(p.sealed), 0)",
    joins: "CROSS JOIN job_specs p ON p.job = w.id",
};
const NAMES: Lines = Lines { line: "'\"' || hex(j.id) || '\"'", bytes: "40", joins: "" };

pub(super) async fn jobs(reader: &Reader, filter: &JobFilter, limit: u32) -> Result<JobPage<Job>, StoreError> {
    let JobPage { items, examined, next } = look::<JobLine>(reader, filter, &WHOLE, limit).await?;
    let items = lines::opened(items.into_iter().map(|line| line.into_job(&reader.vault)));
    Ok(JobPage { items, examined, next })
}

pub(super) async fn ids(reader: &Reader, filter: &JobFilter, limit: u32) -> Result<JobPage<JobId>, StoreError> {
    look::<JobId>(reader, filter, &NAMES, limit).await
}

/// A job that fits: how many rows were looked at with it, its place, and what was asked of it.
#[derive(Deserialize)]
struct Line<L>(u32, Uuid, Option<Timestamp>, L);

/// The place of the last row that a step has looked at.
#[derive(Deserialize)]
struct Last(Uuid, Option<Timestamp>);

async fn look<L: DeserializeOwned>(
    reader: &Reader,
    filter: &JobFilter,
    lines: &Lines,
    limit: u32,
) -> Result<JobPage<L>, StoreError> {
    let index = choose(reader, filter).await?;
    let mut look = Look::new(limit, filter.look_max());
    let mut filter = filter.clone();
    loop {
        let mut values = Values::default();
        let (lead, fits) = (lead(&filter, &index, &mut values), fits(&filter, &index, &mut values));
        let step = look.step(if fits.is_empty() { Judge::Nobody } else { Judge::Statement });
        let text = statement(&lead, &fits, lines, step, &mut values);
        let found: Option<(Text, bool, u32, Option<Text>)> = reader.first(values.ask(text)).await?;
        let (text, is_cut, looked, last) = found.unwrap_or_default();
        let found = lines::each_line::<Line<L>, 3>(text.as_ref(), "job, found as number");
        let last = last.map(|text| lines::parse::<Last>(&text, "place of a job")).transpose()?;
        let last = last.map(|Last(id, end)| JobPlace { id: JobId(id), end });
        let place = |line: Result<Line<L>, [&str; 3]>| match line {
            Ok(Line(seen, id, end, job)) => Some((seen, JobPlace { id: JobId(id), end }, Some(job))),
            Err([seen, id, end]) => {
                let place = JobPlace { id: JobId(Uuid::parse_str(id).ok()?), end: end.parse().ok().map(Timestamp) };
                Some((seen.parse().ok()?, place, None))
            }
        };
        match look.take(step, found.into_iter().filter_map(place), is_cut, looked, last) {
            Some(place) => filter.before = Some(place),
            None => return Ok(look.into_page()),
        }
    }
}

/// One step: the rows `k` that are looked at, those `f` of them that fit, and their lines.
fn statement(lead: &str, fits: &str, Lines { line, bytes, joins }: &Lines, step: Step, values: &mut Values) -> String {
    let (rows, limit) = (values.add(Value::Number(step.rows.into())), values.add(Value::Number(step.limit.into())));
    let place = |name: &str, end: &str| format!("'\"' || hex({name}) || '\",' || coalesce({end}, 'null')");
    let (of_line, of_last) = (place("w.name", "w.ended"), place("k.name", "k.ended"));
    format!(
        "WITH k AS MATERIALIZED (SELECT name, no, ended, row_number() OVER () AS seen FROM ({lead} LIMIT {rows} + 0)), \
         f AS (SELECT k.no AS id, k.name AS name, k.ended AS ended, k.seen AS seen, {bytes} AS bytes \
         FROM k CROSS JOIN jobs j ON j.no = k.no CROSS JOIN job_specs p ON p.job = k.no WHERE true{fits} LIMIT {limit} + 0) \
         SELECT '[' || coalesce(group_concat(line, '{BETWEEN}'), '') || ']', coalesce(max(upto), 0) >= {PAGE_BYTES_MAX}, \
         (SELECT count(*) FROM k), (SELECT '[' || {of_last} || ']' FROM k WHERE k.seen = (SELECT max(k.seen) FROM k)) \
         FROM (SELECT '[' || w.seen || ',' || {of_line} || ',' || {line} || ']' AS line, w.upto AS upto FROM \
         (SELECT id, name, ended, seen, bytes, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS upto FROM f) w \
         CROSS JOIN jobs j ON j.no = w.id {joins} WHERE w.upto - w.bytes < {PAGE_BYTES_MAX})"
    )
}

/// Unfinished jobs are few; of labels the rarest leads; of ended jobs it depends on how many have ended since.
async fn choose(reader: &Reader, filter: &JobFilter) -> Result<Index, StoreError> {
    if !filter.ids.is_empty() {
        return Ok(Index::These);
    }
    if filter.order == JobOrder::Ended {
        return Ok(Index::Ended);
    }
    // Whatever else is asked, so that nothing is looked at that is of others.
    if filter.created_by.is_some_and(|no| no != LOCAL) {
        return Ok(Index::Creator);
    }
    let unfinished = !filter.states.is_empty() && !filter.states.iter().copied().any(JobState::is_ended);
    if unfinished {
        return Ok(Index::States);
    }
    if (filter.ended_after.is_some() || filter.ended_before.is_some())
        && ended_between(reader, filter).await? < SORTED_MAX
    {
        return Ok(Index::End);
    }
    let mut rarest = None;
    // Labels stand in the index by tenant.
    let labels = filter.labels.iter().enumerate().filter(|_| filter.tenant.is_some());
    for (place, (key, value)) in labels {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM job_labels WHERE tenant = ?1 AND key = ?2 AND value = ?3 \
                   LIMIT ?4 + 0)";
        // A single label needs no comparison.
        let count = if filter.labels.len() == 1 {
            0
        } else {
            let ask = Ask::new(sql).bind(filter.tenant.unwrap_or(DEFAULT_NO));
            count(reader, ask.bind(key.as_str()).bind(value.as_str()).bind(SORTED_MAX)).await?
        };
        if rarest.is_none_or(|(least, _)| count < least) {
            rarest = Some((count, place));
        }
    }
    Ok(match rarest {
        Some((_, place)) => Index::Label(place),
        None if filter.tenant.is_some_and(|no| no != DEFAULT_NO) => Index::Tenant,
        None if filter.states.is_empty() => Index::Ids,
        None => Index::States,
    })
}

async fn ended_between(reader: &Reader, filter: &JobFilter) -> Result<u32, StoreError> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE end_time > ?1 AND end_time < ?2 LIMIT ?3 + 0)";
    let (after, before) =
        (filter.ended_after.map_or(i64::MIN, |it| it.0), filter.ended_before.map_or(i64::MAX, |it| it.0));
    count(reader, Ask::new(sql).bind(after).bind(before).bind(SORTED_MAX)).await
}

async fn count(reader: &Reader, ask: Ask) -> Result<u32, StoreError> {
    Ok(reader.first::<(u32,)>(ask).await?.map_or(0, |(count,)| count))
}

/// Selects `name` (the id), `no` and `ended` (where it orders) of the jobs that are looked at, in order.
fn lead(filter: &JobFilter, index: &Index, values: &mut Values) -> String {
    let name = if matches!(index, Index::Label(_)) { "l" } else { "j" };
    let mut range = " AND j.deleted = 0".to_owned();
    if let Some(no) = filter.tenant {
        // Here, and not with what is judged: nobody is to know how many jobs others have.
        range += &format!(" AND j.tenant = {}", values.add(Value::Number(no.into())));
    }
    if let Some(no) = filter.created_by.filter(|no| *no != LOCAL) {
        range += &format!(" AND j.created_by = {}", values.add(Value::Number(no as i64)));
    }
    if !matches!(index, Index::Ended) {
        for (comparison, id) in bounds(filter) {
            range += &format!(" AND {name}.id {comparison} {}", values.add(Value::Bytes(id)));
        }
    }
    let found = match index {
        Index::States => {
            let arm = |state: &JobState| {
                format!(
                    "SELECT j.id AS name, j.no AS no, NULL AS ended FROM jobs j INDEXED BY jobs_state WHERE j.state = {}{range}",
                    *state as i64
                )
            };
            let mut arms: Vec<String> = filter.states.iter().map(arm).collect();
            arms.sort_unstable();
            arms.dedup();
            arms.join(" UNION ALL ")
        }
        Index::Label(place) => {
            let label = filter.labels.iter().nth(*place);
            let (key, value) = label.map(|(key, value)| (key.clone(), value.clone())).unwrap_or_default();
            let (key, value) = (values.add(Value::Text(key)), values.add(Value::Text(value)));
            let tenant = values.add(Value::Number(filter.tenant.unwrap_or(DEFAULT_NO).into()));
            format!(
                "SELECT l.id AS name, j.no AS no, NULL AS ended FROM job_labels l CROSS JOIN jobs j ON j.id = l.id \
                 WHERE l.tenant = {tenant} AND l.key = {key} AND l.value = {value}{range}"
            )
        }
        Index::End => {
            let range = range + &ended(filter, values);
            format!(
                "SELECT j.id AS name, j.no AS no, NULL AS ended FROM jobs j INDEXED BY jobs_ended \
                 WHERE j.end_time IS NOT NULL{range}"
            )
        }
        // The index has no jobs of `local`, which are most where nobody else calls.
        Index::Creator => format!(
            "SELECT j.id AS name, j.no AS no, NULL AS ended FROM jobs j INDEXED BY jobs_creator WHERE j.created_by > 0{range}"
        ),
        // The index has no jobs of the tenant that always exists, which are all where there is no other.
        Index::Tenant => format!(
            "SELECT j.id AS name, j.no AS no, NULL AS ended FROM jobs j INDEXED BY jobs_tenant WHERE j.tenant > 1{range}"
        ),
        Index::Ids => format!("SELECT j.id AS name, j.no AS no, NULL AS ended FROM jobs j WHERE true{range}"),
        Index::These => {
            let ids: Vec<String> = filter.ids.iter().map(|id| id.0.simple().to_string()).collect();
            let ids = values.add(Value::Text(serde_json::to_string(&ids).unwrap_or_default()));
            format!(
                "SELECT j.id AS name, j.no AS no, NULL AS ended FROM (SELECT DISTINCT unhex(value) AS id FROM json_each({ids})) w \
                 CROSS JOIN jobs j ON j.id = w.id WHERE true{range}"
            )
        }
        Index::Ended => return lead_by_end(filter, range, values),
    };
    found + " ORDER BY name DESC"
}

/// That of the jobs that ended last.
fn lead_by_end(filter: &JobFilter, range: String, values: &mut Values) -> String {
    // As with ids, SQLite would seek by the first of two upper bounds: where the page before ended is the narrower one.
    let upper = filter.ended_before.filter(|time| filter.before.is_none_or(|it| it.end.is_none_or(|end| end >= *time)));
    let mut range = range + &conditions(&[("j.end_time >", filter.ended_after), ("j.end_time <", upper)], values);
    if let Some(JobPlace { id, end }) = filter.before {
        let end = values.add(Value::Number(end.unwrap_or(Timestamp::MAX).0));
        let id = values.add(Value::Bytes(blob(id)));
        range += &format!(" AND j.end_time <= {end} AND (j.end_time < {end} OR j.id < {id})");
    }
    // By the index of the narrowest, so that a step looks at nothing that is of others.
    let from = match (filter.created_by, filter.tenant) {
        (Some(no), _) if no != LOCAL => "jobs_creator_ended WHERE j.created_by > 0",
        (_, Some(no)) if no != DEFAULT_NO => "jobs_tenant_ended WHERE j.tenant > 1",
        _ => "jobs_ended WHERE true",
    };
    format!(
        "SELECT j.id AS name, j.no AS no, j.end_time AS ended FROM jobs j INDEXED BY {from} \
         AND j.end_time IS NOT NULL{range} ORDER BY j.end_time DESC, j.id DESC"
    )
}

/// The conditions on the time of the end.
fn ended(filter: &JobFilter, values: &mut Values) -> String {
    let times = [("j.end_time >", filter.ended_after), ("j.end_time <", filter.ended_before)];
    conditions(&times, values)
}

fn conditions(times: &[(&str, Option<Timestamp>)], values: &mut Values) -> String {
    let mut text = String::new();
    for (comparison, time) in times {
        if let Some(time) = time {
            text += &format!(" AND {comparison} {}", values.add(Value::Number(time.0)));
        }
    }
    text
}

/// The conditions that the index does not answer.
fn fits(filter: &JobFilter, index: &Index, values: &mut Values) -> String {
    let mut fits = String::new();
    let times = [("j.create_time >", filter.created_after), ("j.create_time <", filter.created_before)];
    fits += &conditions(&times, values);
    if !matches!(index, Index::End | Index::Ended) {
        fits += &ended(filter, values);
    }
    if let Some(no) = filter.created_by.filter(|no| *no == LOCAL) {
        fits += &format!(" AND j.created_by = {}", values.add(Value::Number(no as i64)));
    }
    let leading = if let Index::Label(place) = index { Some(*place) } else { None };
    for (_, (key, value)) in filter.labels.iter().enumerate().filter(|(place, _)| Some(*place) != leading) {
        let (key, value) = (values.add(Value::Text(key.clone())), values.add(Value::Text(value.clone())));
        fits += &format!(
            " AND EXISTS (SELECT 1 FROM job_labels x INDEXED BY job_labels_id \
             WHERE x.id = j.id AND x.key = {key} AND x.value = {value})"
        );
    }
    if !filter.states.is_empty() && !matches!(index, Index::States) {
        let states: Vec<String> = filter.states.iter().map(|state| (*state as i64).to_string()).collect();
        fits += &format!(" AND j.state IN ({})", states.join(","));
    }
    if !filter.search.is_empty() {
        let text = values.add(Value::Text(filter.search.as_str().to_owned()));
        let id = named(filter.search.as_str()).map(|(first, last)| {
            let (first, last) = (values.add(Value::Bytes(first)), values.add(Value::Bytes(last)));
            format!("j.id BETWEEN {first} AND {last} OR ")
        });
        fits += &format!(
            " AND ({}coalesce(instr(lower({}), {text}), 0) > 0 \
             OR EXISTS (SELECT 1 FROM job_labels x WHERE x.id = j.id AND instr(lower(x.value), {text}) > 0))",
            id.unwrap_or_default(),
            json_value!("p.spec", "$.title")
        );
    }
    fits
}

/// The first and the last id that begins with a text, as ids are written; `None`: no id does.
fn named(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let is_id = |(at, letter): (usize, u8)| match at {
        8 | 13 | 18 | 23 => letter == b'-',
        _ => at < 36 && letter.is_ascii_hexdigit(),
    };
    if text.is_empty() || !text.bytes().enumerate().all(is_id) {
        return None;
    }
    let digits = text.replace('-', "");
    let filled = |with: char| {
        let all: String = digits.chars().chain(std::iter::repeat(with)).take(32).collect();
        Uuid::parse_str(&all).ok().map(|id| id.as_bytes().to_vec())
    };
    Some((filled('0')?, filled('f')?))
}

/// What the filter says about ids: the lowest that may be, and one that is too high. They begin with the time of their creation, so
/// times are bounds too. Of several bounds only the narrowest is told, since `SQLite` seeks by one of them, whichever it
/// meets first, and looks at all rows up to the others.
fn bounds(filter: &JobFilter) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let least = |micros: i64, slack: i64| {
        let ms = u64::try_from(micros.div_euclid(1000) + slack).unwrap_or(0).min((1 << 48) - 1);
        (ms << 16).to_be_bytes().to_vec()
    };
    let after = filter.created_after.map(|time| least(time.0, -ID_TIME_SLACK_MS));
    let before = filter.before.map(|place| blob(place.id));
    let before_time = filter.created_before.map(|time| least(time.0, ID_TIME_SLACK_MS + 1));
    let lowest = (">=", after.unwrap_or_default());
    let highest = before.into_iter().chain(before_time).min().map(|id| ("<", id));
    std::iter::once(lowest).chain(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With two bounds of a kind `SQLite` seeks by one and looks at a million rows up to the other.
    #[test]
    fn ids_have_one_bound_of_a_kind_and_it_is_the_narrowest() {
        let job = |ms: u64| JobId(Uuid::from_u128(u128::from(ms) << 80 | 7));
        let time = |ms: i64| Some(Timestamp(ms * 1000));
        let place = |ms| Some(JobPlace { id: job(ms), end: None });
        let of = |filter: JobFilter| bounds(&filter).collect::<Vec<_>>();
        let first = |ms: u64| (ms << 16).to_be_bytes().to_vec();
        assert_eq!(of(JobFilter::default()), [(">=", vec![])]);
        let between = JobFilter { created_after: time(5_000), created_before: time(9_000), ..JobFilter::default() };
        assert_eq!(of(between.clone()), [(">=", first(4_980)), ("<", first(9_021))]);
        let later = JobFilter { before: place(8_000), ..between.clone() };
        assert_eq!(of(later), [(">=", first(4_980)), ("<", blob(job(8_000)))]);
        let wider = JobFilter { before: place(9_500), ..between };
        assert_eq!(of(wider), [(">=", first(4_980)), ("<", first(9_021))]);
    }

    #[test]
    fn a_beginning_of_an_id_is_a_range_of_ids() {
        let (first, last) = named("01a2b3c4-9").unwrap();
        assert_eq!((first.len(), last.len()), (16, 16));
        assert_eq!(
            (&first[..6], &last[..6]),
            (&[1, 0xa2, 0xb3, 0xc4, 0x90, 0][..], &[1, 0xa2, 0xb3, 0xc4, 0x9f, 0xff][..])
        );
        let whole = "01a2b3c4-9000-7000-8000-0123456789ab";
        let (first, last) = named(whole).unwrap();
        assert_eq!(first, last);
        for no_beginning in ["", "xyz", "01a2b3c49", "01a2b3c4-9000-7000-8000-0123456789abc", "-"] {
            assert!(named(no_beginning).is_none(), "{no_beginning}");
        }
    }
}
