//! What an origin sees of a client that downloads in segments: no more requests at once than it allows, and no byte asked
//! for twice.

use std::ops::Range;

use haul::pb;
use haul::pb::JobState;

use crate::support::object::Object;
use crate::support::origin::{Origin, Request};
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{download, download_as, job};

const SIZE: u64 = 24 << 20;

/// Jobs of so many downloads in four segments each.
fn segmented(origin: &Origin, count: usize) -> pb::JobSpec {
    let spec = |nth| pb::DownloadSpec {
        url: origin.url(&format!("/{nth}")),
        path: format!("{nth}"),
        max_connections: 4,
        ..Default::default()
    };
    job((0..count).map(|nth| download_as(spec(nth))).collect())
}

/// The bytes that a request asked for, with those of the whole where it names none.
fn asked(request: &Request) -> Range<u64> {
    let range = request.header("range").map(|text| text.strip_prefix("bytes=").unwrap().split_once('-').unwrap());
    let Some((first, last)) = range else { return 0..SIZE };
    first.parse().unwrap()..last.parse::<u64>().map_or(SIZE, |last| last + 1)
}

#[tokio::test]
async fn an_origin_never_sees_more_requests_than_it_allows() {
    for most in [1, 2, 3] {
        let limit = most.to_string();
        let server = Server::with(&["--allow-private-networks", "--max-per-host", &limit]).await;
        let origin = Origin::start();
        for nth in 0..4 {
            let object = Object::new(nth, SIZE);
            origin.handle(&format!("/{nth}"), move |request| object.respond(request).bytes_per_second(24 << 20));
        }
        assert_eq!(server.run(segmented(&origin, 4)).await.state(), JobState::Succeeded);
        assert!(origin.peak() <= most, "{} requests at once, where {most} are allowed", origin.peak());
        for nth in 0..4 {
            let got = std::fs::read(server.downloads().join(&server.files()[nth as usize])).unwrap();
            assert!(got == Object::new(nth, SIZE).bytes(), "file {nth}");
        }
    }
}

/// The first request of a file asks for all of it, and goes on until the next segment begins; whatever else is asked for was
/// asked of nobody before.
#[tokio::test]
async fn no_byte_is_asked_for_twice() {
    let (server, origin) = (Server::start().await, Origin::start());
    for nth in 0..4 {
        let object = Object::new(nth, SIZE);
        origin.handle(&format!("/{nth}"), move |request| object.respond(request).bytes_per_second(8 << 20));
    }
    assert_eq!(server.run(segmented(&origin, 4)).await.state(), JobState::Succeeded);
    assert!(origin.peak() <= 8, "{}", origin.peak());
    for nth in 0..4 {
        let requests = origin.requests(&format!("/{nth}"));
        let mut ranges: Vec<Range<u64>> = requests.iter().skip(1).map(asked).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(!ranges.is_empty(), "it has segments");
        for pair in ranges.windows(2) {
            // An open end is where the file ends, or where the next one begins. What is too little to be divided may be
            // fetched again where its connection is slow, as all are on a busy machine.
            let is_open = pair[0].end == SIZE;
            let again = pair[0].end.saturating_sub(pair[1].start);
            assert!(is_open || again < 2 << 20, "{ranges:?} of file {nth}");
        }
    }
    let sent = origin.body_bytes();
    assert!(sent < 4 * SIZE + (16 << 20), "{sent} bytes for four files of {SIZE}");
}

#[tokio::test]
async fn errors_share_the_connections_that_there_are() {
    let (server, origin) = (Server::start().await, Origin::start());
    let tasks = (0..400).map(|nth| {
        origin.reply(&format!("/{nth}"), Reply::status(404).body("not here"));
        download(origin.url(&format!("/{nth}")))
    });
    let group = Some(pb::GroupPolicy { mode: pb::GroupMode::Collect.into(), ..Default::default() });
    let ended = server.run(pb::JobSpec { group, ..job(tasks.collect()) }).await;
    assert_eq!(ended.counts.unwrap().failed, 400);
    assert!(origin.connections() <= 8, "{} connections for 400 answers of 404", origin.connections());
}
