//! The audit: rows in a chain that is pruned by age and by what it takes.

use std::time::Duration;

use haul::model::audit::{AuditEntry, AuditFilter, AuditRow, Of};
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, Head, RootKeys, SqliteStore, SqliteWriter, verify_audit};
use haul::store::{AuditPlace, Batch, Retention, Store as _, Upkeep, WriteStore as _};
use sqlx::{Connection as _, SqliteConnection};

/// Rows of about 300 bytes each.
async fn add(writer: &mut SqliteWriter, count: u32, time: i64) {
    let entry = |_| {
        let row = AuditRow {
            time: Timestamp(time),
            principal: "ci".into(),
            method: "haul.v1.JobService/SubmitJob".into(),
            subject: format!("jobs/{}", "x".repeat(200)),
            code: "OK".into(),
            ..AuditRow::default()
        };
        AuditEntry { row, of: Of::Always }
    };
    let batch = Batch { audit: (0..count).map(entry).collect(), ..Batch::default() };
    assert_eq!(writer.commit(&batch).await.unwrap().refused, []);
}

/// What the rows take, by their texts, and the numbers of the first and the last.
async fn taken(dir: &std::path::Path) -> (i64, i64, i64) {
    let url = format!("sqlite://{}?mode=ro", dir.join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    let sql = "SELECT sum(octet_length(row) + 64), min(seq), max(seq) FROM audit";
    sqlx::query_as(sql).fetch_one(&mut conn).await.unwrap()
}

#[tokio::test]
async fn the_oldest_rows_go_when_all_take_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 200_000;
    let retention = Retention { audit_bytes: bound, ..Retention::default() };
    let open = async || {
        let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
        writer.retain(retention);
        (store, writer)
    };
    let (mut store, mut writer) = open().await;
    let mut added = 0;
    for round in 0..60_u32 {
        add(&mut writer, 30, 1_000 + i64::from(round)).await;
        added += 30;
        let (bytes, first, last) = taken(dir.path()).await;
        assert!(bytes <= bound as i64, "{bytes} after {added}");
        assert_eq!(last, added);
        assert!(first == 1 || bytes > bound as i64 / 10 * 9, "no more goes than has to: {bytes}");
        if round % 20 == 19 {
            // What they take is known again after a restart.
            drop(store);
            Box::new(writer).close().await;
            (store, writer) = open().await;
        }
    }
    assert!(taken(dir.path()).await.1 > 1_000);
    let verified = verify_audit(dir.path(), &RootKeys::Beside, None).await.unwrap();
    assert_eq!(verified.wrong, Vec::<String>::new());
    let head = Head::parse(&format!("7:{}", "0".repeat(64))).unwrap();
    let verified = verify_audit(dir.path(), &RootKeys::Beside, Some(&head)).await.unwrap();
    assert!(verified.wrong[0].contains("is not there any more"), "{:?}", verified.wrong);
    let page = store.audit(&haul::model::audit::AuditFilter::default(), AuditPlace::After(0), 1).await.unwrap();
    assert_eq!(page.records[0].sequence as i64, taken(dir.path()).await.1);
    // Nobody writes rows again that were removed.
    let url = format!("sqlite://{}", dir.path().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("INSERT INTO audit VALUES (7, 1, '{}', x'00')").execute(&mut conn).await.unwrap();
    let verified = verify_audit(dir.path(), &RootKeys::Beside, None).await.unwrap();
    assert_eq!(verified.wrong, ["row 7 is where none is left; this server has not written it"]);
}

#[tokio::test]
async fn rows_of_an_older_version_are_measured_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let second = 1_000_000;
    add(&mut writer, 300, second).await;
    add(&mut writer, 300, 5 * second).await;
    drop(store);
    Box::new(writer).close().await;
    let url = format!("sqlite://{}", dir.path().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("DELETE FROM settings WHERE key = 'audit_bytes'").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    writer.retain(Retention { audit_bytes: 100_000, ..Retention::default() });
    add(&mut writer, 1, 6 * second).await;
    let (bytes, ..) = taken(dir.path()).await;
    assert!(bytes <= 100_000, "{bytes}");
    writer.retain(Retention { audit: Duration::from_secs(2), ..Retention::default() });
    add(&mut writer, 300, 8 * second).await;
    let (_, first, last) = taken(dir.path()).await;
    assert_eq!((first, last), (601, 901), "those of before are older than two seconds");
}

/// Whoever edits the file must not have the server remove rows, and vouch for the gap.
#[tokio::test]
async fn what_is_edited_has_no_row_removed() {
    let dir = tempfile::tempdir().unwrap();
    let second = 1_000_000;
    let fill = async || {
        let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
        add(&mut writer, 300, 100 * second).await;
        Box::new(writer).close().await;
    };
    fill().await;
    for edit in [
        "REPLACE INTO settings (key, value) VALUES ('audit_bytes', '300:99999999999')",
        "REPLACE INTO settings (key, value) VALUES ('audit_bytes', '300:99999999999:' || hex(zeroblob(32)))",
        "UPDATE audit SET time = 0 WHERE seq = 200",
    ] {
        let url = format!("sqlite://{}", dir.path().join("haul.db").display());
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(edit).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        fill().await;
        assert_eq!(taken(dir.path()).await.1, 1, "{edit}");
    }
    let verified = verify_audit(dir.path(), &RootKeys::Beside, None).await.unwrap();
    assert_eq!(verified.wrong, ["row 200 was changed, or was not written by this server"]);
}

/// A server of which nobody asks anything any more has no new rows.
#[tokio::test]
async fn old_rows_go_while_no_new_one_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let second = 1_000_000;
    writer.retain(Retention { audit: Duration::from_secs(10), ..Retention::default() });
    add(&mut writer, 3_000, second).await;
    add(&mut writer, 100, 5 * second).await;
    assert_eq!(writer.upkeep(Timestamp(11 * second)).await.unwrap(), Upkeep::Rest, "they are kept so long");
    assert_eq!(taken(dir.path()).await.1, 1);
    while writer.upkeep(Timestamp(11 * second + 1)).await.unwrap() == Upkeep::More {}
    let (bytes, first, last) = taken(dir.path()).await;
    assert_eq!((first, last), (3_001, 3_100));
    assert_eq!(writer.upkeep(Timestamp(12 * second)).await.unwrap(), Upkeep::Rest);
    // What the rows take is still known, and the chain is whole.
    writer.retain(Retention { audit_bytes: bytes as u64 - 1, ..Retention::default() });
    add(&mut writer, 1, 12 * second).await;
    let (bytes, first, last) = taken(dir.path()).await;
    assert!(bytes > 20_000 && (3_002..3_020).contains(&first) && last == 3_101, "{first} to {last}, {bytes} bytes");
    let verified = verify_audit(dir.path(), &RootKeys::Beside, None).await.unwrap();
    assert_eq!(verified.wrong, Vec::<String>::new());
    // One that was changed vouches for nothing, and stays.
    let url = format!("sqlite://{}", dir.path().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("UPDATE audit SET row = '{}'").execute(&mut conn).await.unwrap();
    assert_eq!(writer.upkeep(Timestamp(99 * second)).await.unwrap(), Upkeep::Rest);
    assert_eq!(taken(dir.path()).await.2, 3_101);
}

/// The clock of a machine may be years ahead until it is set, and what was written then is the oldest all the same.
#[tokio::test]
async fn rows_of_a_clock_that_was_ahead_do_not_hold_those_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let second = 1_000_000;
    writer.retain(Retention { audit: Duration::from_secs(10), ..Retention::default() });
    add(&mut writer, 5, 1_000_000 * second).await;
    add(&mut writer, 300, second).await;
    add(&mut writer, 10, 5 * second).await;
    while writer.upkeep(Timestamp(12 * second)).await.unwrap() == Upkeep::More {}
    assert_eq!(taken(dir.path()).await.1, 306, "those of second 1 have been kept long enough");
    let verified = verify_audit(dir.path(), &RootKeys::Beside, None).await.unwrap();
    assert_eq!(verified.wrong, Vec::<String>::new());
}

/// A machine without a clock of its own may begin at 1970, and what was written before is no older for it.
#[tokio::test]
async fn rows_of_a_clock_that_was_behind_take_none_before_them_along() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    let second = 1_000_000;
    writer.retain(Retention { audit: Duration::from_secs(10), ..Retention::default() });
    add(&mut writer, 20, 1_000 * second).await;
    add(&mut writer, 1, second).await;
    add(&mut writer, 300, 1_001 * second).await;
    assert_eq!(writer.upkeep(Timestamp(1_005 * second)).await.unwrap(), Upkeep::Rest);
    assert_eq!(taken(dir.path()).await.1, 1);
}

/// A time or a digest that is none any more is of its own row alone.
#[tokio::test]
async fn a_row_that_is_damaged_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = SqliteStore::open(dir.path(), Durability::Off).await.unwrap();
    add(&mut writer, 20, 1_000_000).await;
    let url = format!("sqlite://{}", dir.path().join("haul.db").display());
    let mut conn = SqliteConnection::connect(&url).await.unwrap();
    let damage = "UPDATE audit SET time = 'x' WHERE seq = 7; UPDATE audit SET chain = 5 WHERE seq = 20";
    sqlx::raw_sql(damage).execute(&mut conn).await.unwrap();
    let page = store.audit(&AuditFilter::default(), AuditPlace::After(0), 100).await.unwrap();
    let told: Vec<u64> = page.records.iter().map(|record| record.sequence).collect();
    assert_eq!(told, (1..=6).chain(8..=20).collect::<Vec<_>>());
    assert!(store.audit_head().await.unwrap().is_some());
    add(&mut writer, 1, 1_000_000).await;
    let verified = verify_audit(dir.path(), &RootKeys::Beside, None).await.unwrap();
    assert!(!verified.wrong.is_empty());
}
