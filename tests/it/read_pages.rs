//! Contents of many pages, and contents that are deleted while they are read.

use haul::pb;
use haul::pb::JobState;
use tonic::Code;

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{fetch_as, job};

/// More pages than have their heads in memory at once.
const PAGES: u64 = 520;

fn page(number: u64) -> String {
    format!("[\"{}\"]", "x".repeat(number as usize % 7) + &number.to_string())
}

fn listing(url: String) -> pb::TaskSpec {
    let style = pb::pagination::Style::PageNumber(pb::PageNumber { param: "page".into(), ..Default::default() });
    let pagination = Some(pb::Pagination { style: Some(style), ..Default::default() });
    fetch_as(pb::FetchSpec { url, pagination, max_response_bytes: Some(64 << 20), ..Default::default() })
}

fn asked(id: &str, offset: u64, length: u64) -> pb::ReadContentRequest {
    let task = Some(pb::read_content_request::Task::TaskIndex(0));
    pb::ReadContentRequest { job_id: id.to_owned(), task, offset, length }
}

#[tokio::test]
async fn a_listing_of_many_pages_reads_as_one() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/list", |request| {
        let number: u64 = request.param("page").unwrap().parse().unwrap();
        Reply::json(if number < PAGES { page(number) } else { "[]".to_owned() })
    });
    let id = server.submit(job(vec![listing(origin.url("/list"))])).await;
    // Each page is durable before the next is asked for, so this takes its time.
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let request = pb::StreamItemsRequest { job_id: id.clone(), task, after_item: None };
    let mut items = server.contents().stream_items(request).await.unwrap().into_inner();
    while items.message().await.unwrap().is_some() {}
    let ended = server.ended(&id).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{:?}", ended.failure);
    let whole: String = (0..PAGES).map(page).collect();
    let total = whole.len() as u64;
    for (offset, length) in [(0, 0), (0, 5), (total / 2, 2_000), (total - 1, 0), (total, 0), (4_777, 1)] {
        let mut stream =
            server.contents().read_content(asked(&ended.job_id, offset, length)).await.unwrap().into_inner();
        let mut read = Vec::new();
        while let Some(chunk) = stream.message().await.unwrap() {
            assert_eq!((chunk.offset, chunk.total_bytes), (offset + read.len() as u64, total));
            read.extend(chunk.data);
        }
        let to = if length == 0 { total } else { offset + length };
        assert_eq!(String::from_utf8(read).unwrap(), whole[offset as usize..to as usize], "{offset} {length}");
    }
    let beyond = server.contents().read_content(asked(&ended.job_id, total + 1, 0)).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_a_job_that_is_deleted_meanwhile_are_not_found() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.handle("/list", |request| {
        let number: u64 = request.param("page").unwrap().parse().unwrap();
        let item = || format!("[\"{number}{}\"]", "x".repeat(8 << 20));
        Reply::json(if number < 4 { item() } else { "[]".to_owned() })
    });
    let ended = server.run(job(vec![listing(origin.url("/list"))])).await;
    assert_eq!(ended.state(), JobState::Succeeded, "{:?}", ended.failure);
    let id = ended.job_id;
    let mut read = server.contents().read_content(asked(&id, 0, 0)).await.unwrap().into_inner();
    let task = Some(pb::stream_items_request::Task::TaskIndex(0));
    let request = pb::StreamItemsRequest { job_id: id.clone(), task, after_item: None };
    let mut items = server.contents().stream_items(request).await.unwrap().into_inner();
    assert!(read.message().await.unwrap().is_some() && items.message().await.unwrap().is_some());
    server.jobs().delete_job(pb::DeleteJobRequest { job_id: id.clone(), ..Default::default() }).await.unwrap();
    let contents = server.data().join("content").join(&id);
    until(async || !contents.exists()).await;
    let (mut of_bytes, mut of_items) = (None, None);
    while of_bytes.is_none() {
        of_bytes = read.message().await.map(|it| it.unwrap()).err();
    }
    while of_items.is_none() {
        of_items = items.message().await.map(|it| it.unwrap()).err();
    }
    assert_eq!(of_bytes.unwrap().code(), Code::NotFound);
    assert_eq!(of_items.unwrap().code(), Code::NotFound);
}
