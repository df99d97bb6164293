//! Lists jobs, each filter by the index that fits it.

use sqlx::AssertSqlSafe;

use crate::model::access::LOCAL;
use crate::model::job::{Job, JobState};
use crate::model::time::Timestamp;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::{self, JobLine, job_text};
use crate::store::{JobFilter, Listed, StoreError};

/// How far the time in an id may be from the time of creation, in milliseconds.
const ID_TIME_SLACK_MS: i64 = 20;

/// Few enough jobs to sort, for the filters that no index orders.
const SORTED_MAX: u32 = 1000;

/// A parameter.
enum Value {
    Number(i64),
    Bytes(Vec<u8>),
    Text(String),
}

/// The parameters of a text that is put together piece by piece.
#[derive(Default)]
struct Values(Vec<Value>);

impl Values {
    /// Adds a parameter and returns its name.
    fn add(&mut self, value: Value) -> String {
        self.0.push(value);
        format!("?{}", self.0.len())
    }

    fn ask(self, text: String) -> Ask {
        self.0.into_iter().fold(Ask::new(AssertSqlSafe(text)), |ask, value| match value {
            Value::Number(number) => ask.bind(number),
            Value::Bytes(bytes) => ask.bind(bytes),
            Value::Text(text) => ask.bind(text),
        })
    }
}

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
    /// The ids themselves.
    Ids,
}

pub(super) async fn jobs(reader: &Reader, filter: &JobFilter, limit: u32) -> Result<Listed<Job>, StoreError> {
    let index = choose(reader, filter).await?;
    let mut values = Values::default();
    let found = found(filter, &index, &mut values);
    let limit_name = values.add(Value::Number(rows::one_more(limit)));
    let places = format!(
        "SELECT f.no AS id, octet_length(j.moving) + octet_length(p.spec) + coalesce(2 * octet_length(p.sealed), 0) AS bytes \
         FROM ({found} ORDER BY name DESC LIMIT {limit_name}) f CROSS JOIN jobs j ON j.no = f.no \
         CROSS JOIN job_specs p ON p.job = f.no"
    );
    let rest = "CROSS JOIN jobs j ON j.no = w.id CROSS JOIN job_specs p ON p.job = w.id";
    let page = reader.page(values.ask(rows::page_of(&places, job_text!(), rest, "").to_string())).await?;
    let lines = rows::lines::<JobLine>(&page.text, "job")?.into_iter();
    let items: Result<Vec<Job>, _> = lines.map(|line| line.into_job(&reader.vault)).collect();
    Ok(rows::listed(&page, items?, limit))
}

/// Unfinished jobs are few; of labels the rarest leads; of ended jobs it depends on how many have ended since.
async fn choose(reader: &Reader, filter: &JobFilter) -> Result<Index, StoreError> {
    let unfinished = !filter.states.is_empty() && !filter.states.iter().copied().any(JobState::is_ended);
    if unfinished {
        return Ok(Index::States);
    }
    if let Some(time) = filter.ended_after
        && ended_after(reader, time).await? < SORTED_MAX
    {
        return Ok(Index::End);
    }
    let mut rarest = None;
    for (place, (key, value)) in filter.labels.iter().enumerate() {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM job_labels WHERE key = ?1 AND value = ?2 LIMIT ?3 + 0)";
        // A single label needs no comparison.
        let count = if filter.labels.len() == 1 {
            0
        } else {
            count(reader, Ask::new(sql).bind(key.as_str()).bind(value.as_str()).bind(SORTED_MAX)).await?
        };
        if rarest.is_none_or(|(least, _)| count < least) {
            rarest = Some((count, place));
        }
    }
    Ok(match rarest {
        Some((_, place)) => Index::Label(place),
        None if filter.created_by.is_some_and(|no| no != LOCAL) => Index::Creator,
        None if filter.states.is_empty() => Index::Ids,
        None => Index::States,
    })
}

async fn ended_after(reader: &Reader, time: Timestamp) -> Result<u32, StoreError> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE end_time > ?1 LIMIT ?2 + 0)";
    count(reader, Ask::new(sql).bind(time.0).bind(SORTED_MAX)).await
}

async fn count(reader: &Reader, ask: Ask) -> Result<u32, StoreError> {
    Ok(reader.first::<(u32,)>(ask).await?.map_or(0, |(count,)| count))
}

/// Selects `name` (the id) and `no` of the jobs that fit, to be ordered by `name`.
fn found(filter: &JobFilter, index: &Index, values: &mut Values) -> String {
    let lead = if matches!(index, Index::Label(_)) { "l" } else { "j" };
    let mut fits = " AND j.deleted = 0".to_owned();
    for (comparison, id) in bounds(filter) {
        fits += &format!(" AND {lead}.id {comparison} {}", values.add(Value::Bytes(id)));
    }
    let times = [
        ("j.create_time >", filter.created_after),
        ("j.create_time <", filter.created_before),
        ("j.end_time >", filter.ended_after),
    ];
    for (comparison, time) in times {
        if let Some(time) = time {
            fits += &format!(" AND {comparison} {}", values.add(Value::Number(time.0)));
        }
    }
    if let Some(no) = filter.created_by {
        fits += &format!(" AND j.created_by = {}", values.add(Value::Number(no as i64)));
    }
    let leading = if let Index::Label(place) = index { Some(*place) } else { None };
    for (_, (key, value)) in filter.labels.iter().enumerate().filter(|(place, _)| Some(*place) != leading) {
        let (key, value) = (values.add(Value::Text(key.clone())), values.add(Value::Text(value.clone())));
        fits += &format!(
            " AND EXISTS (SELECT 1 FROM job_labels x WHERE x.key = {key} AND x.value = {value} AND x.id = j.id)"
        );
    }
    let states: Vec<String> = filter.states.iter().map(|state| (*state as i64).to_string()).collect();
    let in_states = if states.is_empty() { String::new() } else { format!(" AND j.state IN ({})", states.join(",")) };
    match index {
        Index::States => {
            let arm = |state: &String| {
                format!(
                    "SELECT j.id AS name, j.no AS no FROM jobs j INDEXED BY jobs_state WHERE j.state = {state}{fits}"
                )
            };
            let mut distinct = states.clone();
            distinct.sort_unstable();
            distinct.dedup();
            distinct.iter().map(arm).collect::<Vec<_>>().join(" UNION ALL ")
        }
        Index::Label(place) => {
            let label = filter.labels.iter().nth(*place);
            let (key, value) = label.map(|(key, value)| (key.clone(), value.clone())).unwrap_or_default();
            let (key, value) = (values.add(Value::Text(key)), values.add(Value::Text(value)));
            format!(
                "SELECT l.id AS name, j.no AS no FROM job_labels l CROSS JOIN jobs j ON j.id = l.id \
                 WHERE l.key = {key} AND l.value = {value}{in_states}{fits}"
            )
        }
        Index::End => format!(
            "SELECT j.id AS name, j.no AS no FROM jobs j INDEXED BY jobs_ended WHERE j.end_time IS NOT NULL{in_states}{fits}"
        ),
        // The index has no jobs of `local`, which are most where nobody else calls.
        Index::Creator => format!(
            "SELECT j.id AS name, j.no AS no FROM jobs j INDEXED BY jobs_creator WHERE j.created_by > 0{in_states}{fits}"
        ),
        Index::Ids => format!("SELECT j.id AS name, j.no AS no FROM jobs j WHERE j.id >= x''{fits}"),
    }
}

/// What the filter says about ids. They begin with the time of their creation, so times are bounds too.
fn bounds(filter: &JobFilter) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let least = |micros: i64, slack: i64| {
        let ms = u64::try_from(micros.div_euclid(1000) + slack).unwrap_or(0).min((1 << 48) - 1);
        (ms << 16).to_be_bytes().to_vec()
    };
    let before = filter.before.map(|id| ("<", blob(id)));
    let after_time = filter.created_after.map(|time| (">=", least(time.0, -ID_TIME_SLACK_MS)));
    let before_time = filter.created_before.map(|time| ("<", least(time.0, ID_TIME_SLACK_MS + 1)));
    [before, after_time, before_time].into_iter().flatten()
}
