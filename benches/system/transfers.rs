//! Bytes to files, beside the peers in the same run.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use haul::pb;

use super::Origin;
use super::Server;
use super::ended;

/// What one run cost.
struct Cost {
    cpu: f64,
    wall: f64,
}

fn big_file(dir: &Path, mib: usize) {
    let mut file = File::create(dir.join("www/big")).unwrap();
    let block: Vec<u8> = (0..1u32 << 20).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for nth in 0..mib {
        file.write_all(&nth.to_le_bytes()).unwrap();
        file.write_all(&block[8..]).unwrap();
    }
}

/// What was written before must not be paid for by who comes next.
fn settle() {
    let _ = Command::new("sync").status();
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Runs a command line in a shell, and what it and its children cost.
fn shell(line: &str) -> Cost {
    settle();
    let timed = format!("TIMEFORMAT='%U %S %R'; time {{ {line} >/dev/null 2>&1; }}");
    let output = Command::new("bash").args(["-c", &timed]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    Cost { cpu: numbers[0] + numbers[1], wall: numbers[2] }
}

fn job_of(tasks: Vec<pb::TaskSpec>) -> pb::JobSpec {
    pb::JobSpec { tasks, ..Default::default() }
}

fn task(spec: pb::DownloadSpec) -> pb::TaskSpec {
    pb::TaskSpec { work: Some(pb::task_spec::Work::Download(spec)), ..Default::default() }
}

async fn submit(server: &Server, job: pb::JobSpec) -> String {
    let request = pb::SubmitJobRequest { job: Some(job), ..Default::default() };
    server.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
}

async fn run(server: &Server, job: pb::JobSpec) -> Cost {
    settle();
    let (cpu, started) = (server.cpu(), Instant::now());
    let id = submit(server, job).await;
    let job = ended(server, &id).await;
    assert_eq!(job.state(), pb::JobState::Succeeded, "{job:?}");
    Cost { cpu: server.cpu() - cpu, wall: started.elapsed().as_secs_f64() }
}

/// Removes what is in a directory; the directory itself may be a server's root.
fn empty(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let _ = std::fs::remove_dir_all(&path);
        let _ = std::fs::remove_file(&path);
    }
}

/// One connection: haul with and without a digest, and what there is of the peers, three rounds, the best of each.
pub(crate) async fn download(mib: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    big_file(dir.path(), mib);
    let url = format!("{}/big", origin.url);
    let sum = Command::new("sha256sum").arg(dir.path().join("www/big")).output().unwrap().stdout;
    let sum = String::from_utf8_lossy(&sum[..64]).into_owned();
    let server = Server::start(dir.path(), &["--file-durability", "none"]).await;
    let out = dir.path().join("out");
    let to = out.display();
    let lines = [
        ("curl", "curl", format!("curl -s -o {to}/f {url}")),
        ("wget2", "wget2", format!("wget2 -q --max-threads=1 --chunk-size=0 -O {to}/f {url}")),
        ("aria2", "aria2c", format!("aria2c -q -x1 -s1 --file-allocation=none -d {to} -o f {url}")),
        ("axel", "axel", format!("axel -q -n1 -o {to}/f {url}")),
        ("curl, then openssl", "openssl", format!("curl -s -o {to}/f {url} && openssl dgst -sha256 {to}/f")),
        ("curl | tee | openssl", "openssl", format!("curl -s {url} | tee {to}/f | openssl dgst -sha256")),
        ("aria2 with sha256", "aria2c", format!("aria2c -q -x1 -s1 --checksum=sha-256={sum} -d {to} -o f {url}")),
    ];
    let mut best: Vec<(&str, Cost)> = Vec::new();
    let mut note = |name, cost: Cost| match best.iter_mut().find(|(own, _)| *own == name) {
        Some((_, own)) => *own = Cost { cpu: own.cpu.min(cost.cpu), wall: own.wall.min(cost.wall) },
        None => best.push((name, cost)),
    };
    for _ in 0..3 {
        for (name, checksums) in [("haul", vec![]), ("haul with sha256", vec![format!("sha256:{sum}")])] {
            let spec = pb::DownloadSpec { url: url.clone(), max_connections: 1, checksums, ..Default::default() };
            note(name, run(&server, job_of(vec![task(spec)])).await);
            empty(&dir.path().join("downloads"));
        }
        for (name, _, line) in lines.iter().filter(|(_, program, _)| is_there(program)) {
            empty(&out);
            note(name, shell(line));
        }
    }
    let gib = mib as f64 / 1024.0;
    let each = best.iter().map(|(name, cost)| format!("{name} {:.2} ({:.2})", cost.cpu / gib, cost.wall / gib));
    println!("CPU s/GiB (and wall): {}", each.collect::<Vec<_>>().join(", "));
}

/// Sixteen connections to an origin that gives each of them so much and no more.
pub(crate) async fn segments(mib: usize) {
    const RATE_MIB: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::with(dir.path(), &format!("limit_rate {RATE_MIB}m;"));
    big_file(dir.path(), mib);
    let url = format!("{}/big", origin.url);
    let server = Server::start(dir.path(), &["--file-durability", "none", "--max-per-host", "16"]).await;
    let out = dir.path().join("out");
    let to = out.display();
    let allowed = (mib as f64) / (16.0 * RATE_MIB as f64);
    let lines = [
        ("axel", "axel", format!("axel -q -n16 -o {to}/f {url}")),
        ("aria2", "aria2c", format!("aria2c -q -x16 -s16 -k1M --file-allocation=none -d {to} -o f {url}")),
    ];
    let mut own: f64 = 0.0;
    for _ in 0..2 {
        let spec = pb::DownloadSpec { url: url.clone(), max_connections: 16, ..Default::default() };
        let share = allowed / run(&server, job_of(vec![task(spec)])).await.wall;
        println!("haul: {share:.3}");
        own = own.max(share);
        empty(&dir.path().join("downloads"));
        for (name, _, line) in lines.iter().filter(|(_, program, _)| is_there(program)) {
            empty(&out);
            println!("{name}: {:.3}", allowed / shell(line).wall);
        }
    }
    println!("{own:.3} of what 16 connections allow together");
}

/// Many large downloads at once.
pub(crate) async fn memory(mib: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    File::create(dir.path().join("www/big")).unwrap().set_len((mib as u64) << 20).unwrap();
    let server = Server::start(dir.path(), &["--file-durability", "none", "--max-per-host", "64"]).await;
    let before = server.peak_mib();
    let url = format!("{}/big", origin.url);
    let spec = |nth| pb::DownloadSpec { url: url.clone(), path: format!("f{nth}"), ..Default::default() };
    let cost = run(&server, job_of((0..64).map(|nth| task(spec(nth))).collect())).await;
    let gib = 64.0 * mib as f64 / 1024.0;
    println!("{:.2} CPU s/GiB, {:.2} s/GiB", cost.cpu / gib, cost.wall / gib);
    println!("peak {:.0} MiB with 64 downloads of {mib} MiB; {before:.0} MiB before", server.peak_mib());
}

/// Downloads that all derive the same name, beside as many of distinct names.
pub(crate) async fn names(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    for nth in 0..count {
        std::fs::write(dir.path().join(format!("www/f{nth}")), [b'x'; 100]).unwrap();
    }
    let server = Server::start(dir.path(), &["--file-durability", "none", "--max-per-host", "64"]).await;
    let mut worst: f64 = 0.0;
    for (policy, name) in [(pb::OnConflict::Rename, "RENAME"), (pb::OnConflict::Skip, "SKIP")] {
        let job = |is_same: bool| {
            let url = |nth| if is_same { format!("{}/1k?{nth}", origin.url) } else { format!("{}/f{nth}", origin.url) };
            let spec = |nth| pb::DownloadSpec { url: url(nth), on_conflict: policy.into(), ..Default::default() };
            job_of((0..count).map(|nth| task(spec(nth))).collect())
        };
        let (mut distinct, mut same) = (f64::MAX, f64::MAX);
        for _ in 0..3 {
            distinct = distinct.min(run(&server, job(false)).await.wall);
            same = same.min(run(&server, job(true)).await.wall);
        }
        println!("{name}: {same:.2} s for one name, {distinct:.2} s for distinct ones");
        worst = worst.max(same / distinct);
    }
    println!("{worst:.2} x the time of distinct names");
}

/// Many small files.
pub(crate) async fn files(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    for nth in 0..count {
        std::fs::write(dir.path().join(format!("www/f{nth}")), [b'x'; 1024]).unwrap();
    }
    let urls: Vec<String> = (0..count).map(|nth| format!("{}/f{nth}", origin.url)).collect();
    let list = dir.path().join("urls");
    std::fs::write(&list, urls.join("\n")).unwrap();
    let config: PathBuf = dir.path().join("curl.conf");
    let entries: Vec<String> = urls.iter().map(|url| format!("url={url}\nremote-name\n")).collect();
    std::fs::write(&config, entries.concat()).unwrap();
    let flags = ["--file-durability", "none", "--max-per-host", "64", "--max-concurrent-tasks", "64"];
    let server = Server::start(dir.path(), &flags).await;
    let (list, config) = (list.display(), config.display());
    let lines = [
        ("curl", "curl", format!("curl -s -Z --parallel-max 64 -K {config}")),
        ("wget2", "wget2", format!("wget2 -q --max-threads=64 -i {list}")),
        ("aria2", "aria2c", format!("aria2c -q -j64 -i {list}")),
    ];
    let rate = |cost: &Cost| count as f64 / cost.wall;
    let (mut own, mut best): (f64, f64) = (0.0, 0.0);
    std::thread::sleep(Duration::from_secs(6));
    for round in 0..3 {
        let spec = |url: &String| task(pb::DownloadSpec { url: url.clone(), ..Default::default() });
        let cost = run(&server, job_of(urls.iter().map(spec).collect())).await;
        println!("haul: {:.0} files/s, {:.0} us CPU each", rate(&cost), cost.cpu * 1e6 / count as f64);
        own = own.max(rate(&cost));
        for (name, program, line) in lines.iter().filter(|(_, program, _)| is_there(program)) {
            // A new directory each time, and nothing is removed before the end: ext4 looks past every inode that was freed
            // in the last five seconds, one by one.
            let to = dir.path().join(format!("{program}-{round}"));
            empty(&to);
            let cost = shell(&format!("cd {} && {line}", to.display()));
            println!("{name}: {:.0} files/s, {:.0} us CPU each", rate(&cost), cost.cpu * 1e6 / count as f64);
            best = best.max(rate(&cost));
        }
    }
    println!("{own:.0} files/s, {:.2} x the fastest peer", own / best);
}

/// Files of 1 KiB that are durable, beside what the disk itself can do: to create, write, sync and rename as many, with one
/// sync of the directory for 64 of them, by 16 threads.
pub(crate) async fn durable_files(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    for nth in 0..count {
        std::fs::write(dir.path().join(format!("www/f{nth}")), [b'x'; 1024]).unwrap();
    }
    let flags = ["--max-per-host", "64", "--max-concurrent-tasks", "64"];
    let server = Server::start(dir.path(), &flags).await;
    let (mut own, mut limit): (f64, f64) = (0.0, 0.0);
    for round in 0..3 {
        let spec = |nth| pb::DownloadSpec {
            url: format!("{}/f{nth}", origin.url),
            path: format!("{round}/f{nth}"),
            ..Default::default()
        };
        let cost = run(&server, job_of((0..count).map(|nth| task(spec(nth))).collect())).await;
        println!("haul: {:.0} files/s, {:.0} us CPU each", count as f64 / cost.wall, cost.cpu * 1e6 / count as f64);
        own = own.max(count as f64 / cost.wall);
        let rate = disk_limit(&dir.path().join(format!("limit{round}")), count);
        println!("the disk: {rate:.0} files/s");
        limit = limit.max(rate);
    }
    println!("{own:.0} durable files/s, {:.2} of the disk's own limit", own / limit);
}

/// Files a second that the disk makes durable.
fn disk_limit(dir: &Path, count: usize) -> f64 {
    const THREADS: usize = 16;
    const GROUP: usize = 64;
    std::fs::create_dir_all(dir).unwrap();
    settle();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for nth in (thread..count).step_by(THREADS) {
                    let (part, name) = (dir.join(format!("{nth}.part")), dir.join(format!("{nth}")));
                    let mut file = File::create(&part).unwrap();
                    file.write_all(&[b'x'; 1024]).unwrap();
                    file.sync_data().unwrap();
                    std::fs::rename(&part, &name).unwrap();
                    if (nth / THREADS).is_multiple_of(GROUP / THREADS) && thread == 0 {
                        File::open(dir).unwrap().sync_all().unwrap();
                    }
                }
            });
        }
    });
    count as f64 / started.elapsed().as_secs_f64()
}

/// One connection over TLS, by HTTP/1.1 and by HTTP/2, beside curl.
pub(crate) async fn encrypted(mib: usize) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("www")).unwrap();
    big_file(dir.path(), mib);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem();
    std::fs::write(dir.path().join("cert.pem"), &pem).unwrap();
    std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let server = Server::start(dir.path(), &["--file-durability", "none"]).await;
    let gib = mib as f64 / 1024.0;
    let mut ratios = Vec::new();
    for (name, http2, flag) in [("HTTP/1.1", "off", "--http1.1"), ("HTTP/2", "on", "--http2")] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let more = format!(
            "listen 127.0.0.1:{port} ssl{}; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;",
            if http2 == "on" { " http2" } else { "" },
            dir = dir.path().display()
        );
        let _origin = Origin::with(dir.path(), &more);
        let url = format!("https://localhost:{port}/big");
        let out = dir.path().join("out");
        let line =
            format!("curl -s {flag} --cacert {d}/cert.pem -o {o}/f {url}", d = dir.path().display(), o = out.display());
        let (mut own, mut curl) = (f64::MAX, f64::MAX);
        for _ in 0..3 {
            let http = Some(pb::HttpOptions { ca_pem: pem.clone(), ..Default::default() });
            let spec = pb::DownloadSpec { url: url.clone(), max_connections: 1, ..Default::default() };
            let task = pb::TaskSpec { options: Some(pb::TaskOptions { http, ..Default::default() }), ..task(spec) };
            own = own.min(run(&server, job_of(vec![task])).await.cpu / gib);
            empty(&dir.path().join("downloads"));
            empty(&out);
            curl = curl.min(shell(&line).cpu / gib);
        }
        println!("{name} over TLS: haul {own:.2} CPU s/GiB, curl {curl:.2}");
        ratios.push(own / curl);
    }
    println!("{:.2} of curl's CPU over TLS, {:.2} by HTTP/2", ratios[0], ratios[1]);
}
