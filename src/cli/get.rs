//! `haul get`: downloads now, by the engine in this process and no server.
//!
//! Run again it goes on with what is partly there and skips what is there: parts are named by URL and path, finished files
//! remember the validator that they came with. The database holds one run and is thrown away.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use url::Url;

use crate::cli::bars::Bars;
use crate::cli::client::Usage;
use crate::config::LimitSettings;
use crate::engine::handle::Engine;
use crate::model::checksum::Checksum;
use crate::model::group::{GroupMode, GroupPolicy};
use crate::model::ids::JobId;
use crate::model::limits::Limits;
use crate::model::secret;
use crate::model::spec::{DownloadSpec, JobSpec, OnConflict, TaskOptions, TaskSpec, Work};
use crate::server::{self, Built, Durability, EngineSettings, Guard, names};
use crate::telemetry;

/// How often bars are drawn.
const TICK: Duration = Duration::from_millis(100);
/// Events that are read in one go.
const EVENTS_MAX: u32 = 256;

/// What to get.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to download
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// Where to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Files at once
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// What the file must have, as `sha256:HEX`; goes with one URL
    #[arg(long, value_name = "ALGO:HEX")]
    checksum: Option<String>,
    /// A file of URLs, one a line; `#` begins a comment
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Gets files; succeeds when all of them are there.
pub(crate) async fn run(args: GetArgs) -> anyhow::Result<ExitCode> {
    let _log = telemetry::start(telemetry::LogFormat::Text, tracing::Level::ERROR)
        .map_err(|error| Usage(error.to_string()))?;
    let tasks = tasks(&args)?;
    let scratch = Scratch::new()?;
    let Built { engine, task, .. } = server::build(&settings(&args, &scratch.0)).await?;
    let mut work = JoinSet::new();
    work.spawn(task.run());
    let spec = JobSpec {
        directory: ".".to_owned(),
        group: GroupPolicy { mode: GroupMode::Collect, ..GroupPolicy::default() },
        ..JobSpec::default()
    };
    let total = tasks.len();
    let job = engine.submit(spec, tasks, "").await?.id;
    let mut bars = Bars::new(total);
    let interrupted = follow(&engine, job, &mut bars).await?;
    let failed = engine.job(job).await?.counts.succeeded as usize != total;
    engine.drain().await;
    let mut again = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = work.join_next() => {
            if let Some(ended) = ended {
                ended??;
            }
        }
        // Who asks twice does not want to wait for the checkpoints.
        _ = again.recv() => {}
    }
    bars.close(interrupted);
    Ok(if failed || interrupted { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Shows how far it is until all has ended, or somebody wants to stop; says which.
async fn follow(engine: &Engine, job: JobId, bars: &mut Bars) -> anyhow::Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(TICK);
    let mut seen = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = interrupt.recv() => return Ok(true),
            _ = terminate.recv() => return Ok(true),
        }
        let feed = engine.hub().feed(job);
        if let Some(feed) = &feed {
            bars.show(&feed.active(usize::MAX), feed.progress());
        }
        loop {
            let events = engine.events(job, seen, EVENTS_MAX).await?;
            let Some(last) = events.last() else { break };
            seen = last.head.sequence;
            for task in events.iter().filter_map(|event| event.task.as_ref()) {
                bars.ended(task);
            }
        }
        if feed.is_none() {
            return Ok(false);
        }
    }
}

fn settings(args: &GetArgs, scratch: &Path) -> EngineSettings {
    EngineSettings {
        data_dir: scratch.to_owned(),
        download_dir: args.directory.clone(),
        limits: LimitSettings {
            max_concurrent_tasks: Some(args.jobs),
            max_per_host: Some(args.jobs.max(Limits::default().max_per_host)),
            initial: Limits::default(),
        },
        // It is the user's own tool: it may go wherever the user may.
        guard: Guard { allow_private: true, ..Guard::default() },
        file_durability: Durability::Full,
        retry_after_max: Duration::from_secs(3600),
        disk_reserve: None,
        max_download_bytes: None,
        parts_by_url: true,
        scratch: true,
    }
}

fn tasks(args: &GetArgs) -> Result<Vec<TaskSpec>, Usage> {
    let mut urls = args.urls.clone();
    if let Some(input) = &args.input {
        let text = std::fs::read_to_string(input)
            .map_err(|error| Usage(format!("cannot read `{}`: {error}", input.display())))?;
        let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(before, _)| before).trim());
        urls.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if urls.is_empty() {
        return Err(Usage("nothing to get; name a URL, or a file of URLs with -i".to_owned()));
    }
    let checksums = match &args.checksum {
        Some(_) if urls.len() > 1 => return Err(Usage("--checksum goes with one URL".to_owned())),
        Some(text) => {
            vec![text.parse::<Checksum>().map_err(|error| Usage(format!("`{text}` is no checksum: {error}")))?]
        }
        None => Vec::new(),
    };
    specs(&urls, &checksums)
}

/// A download of each URL. A URL that is named twice is got once, since both would write the same part; files whose URLs
/// end alike get names of their own, since the second would replace the first.
fn specs(urls: &[String], checksums: &[Checksum]) -> Result<Vec<TaskSpec>, Usage> {
    let (mut seen, mut taken) = (HashSet::new(), HashMap::<String, u32>::new());
    let mut specs = Vec::new();
    for text in urls {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| Usage(format!("`{}` is no http or https URL", secret::redacted_text(text))))?;
        // The fragment is not sent, and not part of what is got.
        let mut place = url.clone();
        place.set_fragment(None);
        if !seen.insert(place) {
            continue;
        }
        let mut path = String::new();
        let name = names::from_url(&url).unwrap_or_else(|| names::FALLBACK.to_owned());
        let nth = taken.entry(name.to_lowercase()).or_default();
        if *nth > 0 {
            path = names::candidate(&name, *nth);
        }
        *nth += 1;
        specs.push(DownloadSpec {
            url: text.clone(),
            path,
            checksums: checksums.to_vec(),
            on_conflict: Some(OnConflict::Skip),
            ..DownloadSpec::default()
        });
    }
    let task = |spec| TaskSpec { key: String::new(), work: Work::Download(spec), options: TaskOptions::default() };
    Ok(specs.into_iter().map(task).collect())
}

/// A directory for the database of one run, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    /// For the eyes of its user only: URLs hold passwords.
    fn new() -> anyhow::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("haul-get-{}", uuid::Uuid::now_v7()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the directory `{}` for the time of this run", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies where the system cleans up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_url_once_and_each_file_under_a_name_of_its_own() {
        let urls =
            ["http://a/f.bin", "http://a/f.bin#part", "http://b/F.bin?x=1", "http://c/", "http://d/", "http://a/g"];
        let specs = specs(&urls.map(str::to_owned), &[]).unwrap();
        let got = specs.iter().map(|spec| match &spec.work {
            Work::Download(download) => (download.url.as_str(), download.path.as_str()),
            Work::Fetch(_) => ("", ""),
        });
        let expected = [
            ("http://a/f.bin", ""),
            ("http://b/F.bin?x=1", "F (1).bin"),
            ("http://c/", ""),
            ("http://d/", "download (1)"),
            ("http://a/g", ""),
        ];
        assert_eq!(got.collect::<Vec<_>>(), expected);
        assert!(super::specs(&["ftp://a/".to_owned()], &[]).is_err());
    }
}
