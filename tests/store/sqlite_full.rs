//! A full disk: what needs room waits, and what makes room works.

use std::fs;
use std::sync::Arc;

use haul::model::audit::{AuditEntry, AuditRow, Of};
use haul::model::event::EventKind;
use haul::model::job::{Job, JobState};
use haul::model::time::Timestamp;
use haul::store::sqlite::{Durability, SqliteStore};
use haul::store::{Batch, Content, JobFilter, NewPage, Store as _, StoreError, Upkeep, WriteStore as _};

use super::support::*;
use crate::disk::SmallDisk;

/// An ended job that takes some room: events with snapshots and pages.
fn large(number: u32) -> Batch {
    let mut job = job(number, 1);
    job.state = JobState::Failed;
    job.end_time = Some(Timestamp(9));
    job.counts.pending = 0;
    let mut batch = with_job(&job, 1);
    for page in 0..100 {
        let content = Content::Inline(vec![0x5a; 40_000].into());
        batch.pages.push(NewPage { id: task_id(number, 0), page, first_item: 0, items: 0, content, next: None });
        let sequence = u64::from(page) + 1;
        batch.events.push(job_event(&Job { sequence, ..job.clone() }, EventKind::JobChanged));
    }
    batch
}

/// The reserve and the log go with the size of the disk.
#[tokio::test]
async fn deletions_work_on_a_full_disk_that_is_small() {
    let place = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(place.path(), "40m") else { return };
    let dir = place.path().join("data");
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    assert_eq!(fs::metadata(dir.join("haul.reserve")).unwrap().len(), 10 << 20);
    let mut stored = 0;
    while writer.commit(&small(stored + 1)).await.is_ok() {
        stored += 1;
    }
    let mut rest = fs::File::create(place.path().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    assert!(matches!(writer.commit(&small(stored + 1)).await, Err(StoreError::Full(_))));
    assert!(stored > 20, "{stored} jobs of 400 KiB");
    // A server that ends here can be started again, with all that was stored.
    drop((store, writer));
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    for number in 1..=stored {
        let job = job_id(number);
        let done = writer.commit(&Batch { deletions: vec![job], ..Batch::default() }).await.unwrap();
        assert_eq!(done.deletions, [true]);
        let purge = || Batch { purges: vec![(job, 256)], ..Batch::default() };
        while !writer.commit(&purge()).await.unwrap().purges[0].is_gone {}
    }
    assert!(store.jobs(&JobFilter::default(), 9).await.unwrap().items.is_empty());
    drop(rest);
    writer.commit(&small(stored + 1)).await.unwrap();
}

/// A clean close leaves no index of the log behind, and even to look into the database takes the room for one.
#[tokio::test]
async fn a_store_that_was_closed_is_opened_on_a_full_disk() {
    let place = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(place.path(), "40m") else { return };
    let dir = place.path().join("data");
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    for number in 1..=3 {
        writer.commit(&small(number)).await.unwrap();
    }
    drop(store);
    Box::new(writer).close().await;
    let fill = |name: &str| {
        let mut rest = fs::File::create(place.path().join(name)).unwrap();
        while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    };
    fill("rest");
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    assert!(writer.is_short());
    // The room is kept for deletions, however much is added and however often it is started.
    let mut added = 3;
    while writer.commit(&small(added + 1)).await.is_ok() {
        added += 1;
        assert!(added < 30, "the reserve is used up");
    }
    drop((store, writer));
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    for number in 1..=added {
        let done = writer.commit(&Batch { deletions: vec![job_id(number)], ..Batch::default() }).await.unwrap();
        assert_eq!(done.deletions, [true]);
        let purge = || Batch { purges: vec![(job_id(number), 256)], ..Batch::default() };
        while !writer.commit(&purge()).await.unwrap().purges[0].is_gone {}
    }
    assert!(store.jobs(&JobFilter::default(), 9).await.unwrap().items.is_empty());
    fs::remove_file(place.path().join("rest")).unwrap();
    writer.regain().await.unwrap();
    assert!(!writer.is_short());
    writer.commit(&small(added + 1)).await.unwrap();
}

/// As [`large`], of a tenth of it.
fn small(number: u32) -> Batch {
    let mut batch = large(number);
    batch.pages.truncate(10);
    batch.events.truncate(10);
    batch
}

/// Nothing that removes nothing gets the reserve of deletions, and no deletion uses up what is lent.
#[tokio::test]
async fn what_is_lent_stays_for_small_batches() {
    let place = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(place.path(), "160m") else { return };
    let dir = place.path().join("data");
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    let length = |name: &str| fs::metadata(dir.join(name)).unwrap().len();
    // The log has more new pages than what is lent has room for.
    for number in 1..=3 {
        writer.commit(&large(number)).await.unwrap();
    }
    let mut rest = fs::File::create(place.path().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    let logged = length("haul.db-wal");
    assert!(logged > 10 << 20, "{logged} bytes of the log");

    let row = AuditRow { subject: "x".repeat(2000), ..AuditRow::default() };
    let refusals = || Batch {
        audit: (0..200).map(|_| AuditEntry { row: row.clone(), of: Of::Always }).collect(),
        ..Batch::default()
    };
    writer.commit(&refusals()).await.unwrap();
    assert_eq!(length("haul.reserve"), 32 << 20, "a part is lent");
    assert!(length("haul.db-wal") >= logged, "no room was made for what makes none");
    // Sealing everything anew would use it up.
    writer.commit(&Batch { new_data_key: true, ..Batch::default() }).await.unwrap();
    assert_eq!(writer.upkeep(Timestamp(1)).await.unwrap(), Upkeep::Later);

    let done = writer.commit(&Batch { deletions: vec![job_id(1)], ..Batch::default() }).await.unwrap();
    assert_eq!(done.deletions, [true]);
    assert_eq!(length("haul.reserve"), 32 << 20);
    assert!(length("haul.db-wal") >= logged, "a copy of the log would have taken what is lent");
    for number in 10..15 {
        writer.commit(&small(number)).await.unwrap();
    }
    let mut much = large(20);
    much.pages[0].content = Content::Inline(vec![0x5a; 1 << 20].into());
    assert!(matches!(writer.commit(&much).await, Err(StoreError::Full(_))));
    // Who removes more than that gets all of it.
    for number in [1, 2, 3, 10, 11, 12, 13, 14].map(job_id) {
        writer.commit(&Batch { deletions: vec![number], ..Batch::default() }).await.unwrap();
        let purge = || Batch { purges: vec![(number, 256)], ..Batch::default() };
        while !writer.commit(&purge()).await.unwrap().purges[0].is_gone {}
    }
    drop(rest);
    fs::remove_file(place.path().join("rest")).unwrap();
    writer.regain().await.unwrap();
    assert!(!writer.is_short());
    assert!(matches!(writer.upkeep(Timestamp(1)).await, Ok(Upkeep::More | Upkeep::Rest | Upkeep::Later)));
    assert!(store.jobs(&JobFilter::default(), 9).await.unwrap().items.is_empty());
}

/// Many jobs that end take more than what is lent at first, and what deletions need is left.
#[tokio::test]
async fn what_adds_nothing_is_lent_more() {
    let place = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(place.path(), "160m") else { return };
    let dir = place.path().join("data");
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    writer.commit(&small(1)).await.unwrap();
    let mut rest = fs::File::create(place.path().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    // However many calls are refused, that is given what is lent at first.
    let row = AuditRow { subject: "x".repeat(2000), ..AuditRow::default() };
    let refusals = || Batch {
        audit: (0..500).map(|_| AuditEntry { row: row.clone(), of: Of::Always }).collect(),
        ..Batch::default()
    };
    let mut refused = 0;
    while writer.commit(&refusals()).await.is_ok() {
        refused += 1;
        assert!(refused < 20, "{refused} MiB");
    }
    let mut number = 100;
    let mut end = || {
        number += 1;
        let mut batch = Batch::default();
        for page in 0..25 {
            let content = Content::Inline(vec![0x5a; 40_000].into());
            let page = page + number * 100;
            batch.pages.push(NewPage { id: task_id(1, 0), page, first_item: 0, items: 0, content, next: None });
        }
        batch
    };
    let mut ended = 0;
    while writer.commit(&end()).await.is_ok() {
        ended += 1;
    }
    assert!(ended >= 5, "{ended} MiB");
    let done = writer.commit(&Batch { deletions: vec![job_id(1)], ..Batch::default() }).await.unwrap();
    assert_eq!(done.deletions, [true]);
    let purge = || Batch { purges: vec![(job_id(1), 256)], ..Batch::default() };
    while !writer.commit(&purge()).await.unwrap().purges[0].is_gone {}
    assert!(store.jobs(&JobFilter::default(), 9).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn deletions_work_on_a_full_disk() {
    let place = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(place.path(), "160m") else { return };
    let dir = place.path().join("data");
    let (store, mut writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    let reserve = dir.join("haul.reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 40 << 20);

    let mut stored = 0;
    let full = loop {
        match writer.commit(&large(stored + 1)).await {
            Ok(done) => assert!(done.refused.is_empty()),
            Err(error) => break error,
        }
        stored += 1;
        assert!(stored < 200);
    };
    assert!(matches!(full, StoreError::Full(_)), "{full}");
    // Somebody else takes what is left to the last byte.
    let mut rest = fs::File::create(place.path().join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 4096]).is_ok() {}
    assert!(matches!(writer.commit(&large(stored + 1)).await, Err(StoreError::Full(_))));
    assert!(reserve.exists(), "only deletions use it");

    let deletions: Vec<_> = (1..=stored).map(job_id).collect();
    let done = writer.commit(&Batch { deletions: deletions.clone(), ..Batch::default() }).await.unwrap();
    assert!(stored > 0, "something was stored before the disk was full");
    assert_eq!(done.deletions, vec![true; deletions.len()]);
    for job in deletions {
        while !writer.commit(&Batch { purges: vec![(job, 200)], ..Batch::default() }).await.unwrap().purges[0].is_gone {
        }
    }
    assert!(store.jobs(&JobFilter::default(), 9).await.unwrap().items.is_empty());
    assert!(reserve.exists(), "there is room again, and the reserve is back");
    // Work goes on, a restart included.
    writer.commit(&large(stored + 1)).await.unwrap();
    while writer.upkeep(Timestamp(1)).await.unwrap() == Upkeep::More {}
    Box::new(writer).close().await;
    drop(store);
    assert!(fs::metadata(dir.join("haul.db")).unwrap().len() < 8 << 20, "the file has returned its room");
    let (store, _writer) = SqliteStore::open(&dir, Durability::Full).await.unwrap();
    assert_eq!(store.jobs(&JobFilter::default(), 9).await.unwrap().items.len(), 1);
    assert!(Arc::strong_count(&store) == 1);
}
