//! What an origin sees of a client that downloads in segments: no more requests at once than it allows, and no byte asked
//! for twice.

use std::collections::BTreeSet;
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

/// Where two requests ask for the same bytes, one of them is for the end of a range whose connection stops where that begins, or
/// for what is too little to be divided and comes slowly, as all does on a busy machine.
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
        let ranges: Vec<Range<u64>> = origin.requests(&format!("/{nth}")).iter().map(asked).collect();
        assert!(ranges.len() > 1, "it has segments");
        let starts: Vec<u64> = ranges.iter().filter(|it| it.end - it.start >= 2 << 20).map(|it| it.start).collect();
        assert_eq!(BTreeSet::from_iter(&starts).len(), starts.len(), "{ranges:?} of file {nth}");
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
