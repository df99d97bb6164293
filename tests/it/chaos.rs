//! Downloads while origins misbehave at random and the server is killed: the right bytes or a typed failure, never a
//! wrong file, and nothing else on the disk.
//!
//! Seeds are fresh each run, and stand in every panic; `HAUL_SEED=N` plays one again.

use std::time::Duration;

use haul::pb;
use haul::pb::{FailureReason, GroupMode, TaskState};
use sha2::{Digest as _, Sha256};

use crate::support::faults::{Dice, Script, seeds};
use crate::support::object::Object;
use crate::support::origin::Origin;
use crate::support::server::Server;
use crate::support::spec::{download_as, group, job, millis, quick_retry};

const SEEDS: u64 = 240;
/// One less than what a task that runs at each of them is held to be the cause of: it would fail, whatever it had done.
const KILLS: u64 = 2;

fn sha256(object: &Object) -> String {
    Sha256::digest(object.bytes()).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

struct Play {
    seed: u64,
    script: Script,
    mirror: Option<Object>,
    has_digest: bool,
}

fn play(origin: &Origin, seed: u64) -> (Play, pb::TaskSpec) {
    let mut dice = Dice::new(seed ^ 0xcafe);
    // Some are large enough for several connections, and slow enough for checkpoints.
    let size = if dice.one_in(8) { 3_000_000 + dice.below(3_000_000) } else { 10_000 + dice.below(300_000) };
    let script = Script::new(seed, size);
    let served = script.clone();
    let path = format!("/{seed}");
    origin.handle(&path, move |request| served.respond(request));
    let has_digest = dice.one_in(3);
    let mirror = dice.one_in(3).then(|| script.mirrored(&mut dice));
    let mirror_path = format!("/mirror/{seed}");
    if let Some(mirror) = &mirror {
        origin.object(&mirror_path, mirror.clone());
    }
    let spec = pb::DownloadSpec {
        mirrors: mirror.iter().map(|_| origin.url(&mirror_path)).collect(),
        url: origin.url(&path),
        path: format!("f{seed}"),
        max_connections: 1 + dice.below(4) as u32,
        checksums: has_digest.then(|| sha256(script.last())).into_iter().collect(),
        ..Default::default()
    };
    (Play { seed, script, mirror, has_digest }, download_as(spec))
}

#[tokio::test]
async fn never_a_wrong_file() {
    let (mut server, origin) = (Server::start().await, Origin::start());
    let (plays, tasks): (Vec<Play>, Vec<pb::TaskSpec>) =
        seeds(SEEDS).into_iter().map(|seed| play(&origin, seed)).unzip();
    let whole: u64 = plays.iter().map(|play| play.script.last().size()).sum();
    let timeouts = pb::Timeouts { idle: Some(millis(300)), response_headers: Some(millis(400)), ..Default::default() };
    let defaults = pb::TaskOptions { retry: Some(quick_retry(30)), timeouts: Some(timeouts), ..Default::default() };
    let spec = pb::JobSpec {
        defaults: Some(defaults),
        group: Some(group(GroupMode::Collect, 0)),
        directory: "chaos".into(),
        ..job(tasks)
    };
    let id = server.submit(spec).await;
    for kill in 1..=KILLS {
        let ended = async || server.job(&id).await.end_time.is_some();
        while origin.body_bytes() < whole * kill / (KILLS + 2) && !ended().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.restart().await;
    }
    server.ended(&id).await;

    let mut right = Vec::new();
    for (task, play) in server.tasks(&id).await.iter().zip(&plays) {
        let seed = play.seed;
        let path = format!("chaos/f{seed}");
        match task.state() {
            TaskState::Succeeded => {
                let got = std::fs::read(server.downloads().join(&path)).unwrap();
                let is_right = |object: &Object| object.bytes() == got;
                let is_fine = if play.has_digest {
                    is_right(play.script.last())
                } else {
                    play.script.versions.iter().chain(&play.mirror).any(is_right)
                };
                assert!(is_fine, "seed {seed}: a wrong file; {task:#?} {:?}", play.script);
                right.push(path);
            }
            TaskState::Failed => {
                let Some(failure) = &task.error else { panic!("{task:#?}") };
                let is_typed = !matches!(failure.reason(), FailureReason::Unspecified | FailureReason::Internal);
                assert!(is_typed, "seed {seed}: {task:#?}");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(right.len() > plays.len() * 9 / 10, "only {} of {} came", right.len(), plays.len());
    right.sort();
    assert_eq!(server.files(), right, "and nothing else");
}
