//! Whether work costs the same however much was done before: rates and latencies while finished tasks pile up.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use haul::pb;

use super::{Origin, Server, ended, fill, latencies, submit_rate};

/// Steps in which the finished tasks grow.
const STEPS: usize = 5;
/// Tasks that are worked to measure a rate.
const WORKED: usize = 20_000;
/// What is measured, and whether more of it is better.
const MEASURES: [(&str, bool); 4] = [
    ("tasks worked a second", true),
    ("submissions a second", true),
    ("ms from submission to seen done", false),
    ("ms a page of ListTasks", false),
];

/// Measures an empty server, and again each time another part of `count` tasks has ended; writes the plot to
/// `docs/cost-at-size.svg`.
pub(crate) async fn grown(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start(dir.path());
    let url = format!("{}/1k", origin.url);
    let server = Server::start(dir.path(), &["--max-per-host", "64"]).await;
    let mut finished = 0;
    let mut points: Vec<(usize, [f64; 4])> = Vec::new();
    for step in 0..=STEPS {
        let wanted = count * step / STEPS;
        if wanted > finished + WORKED {
            let id = fill(&server, wanted - finished, &url).await;
            ended(&server, &id).await;
            finished = wanted;
        }
        let values = measure(&server, &url).await;
        finished += WORKED;
        println!(
            "{finished} finished: {:.0} tasks/s, {:.0} submissions/s, {:.2} ms, {:.2} ms a page",
            values[0], values[1], values[2], values[3]
        );
        points.push((finished, values));
    }
    let plot = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cost-at-size.svg");
    std::fs::write(&plot, svg(&points)).unwrap();
    let (first, last) = (points[0].1, points[STEPS].1);
    let share = |nth: usize| if MEASURES[nth].1 { last[nth] / first[nth] } else { first[nth] / last[nth] };
    println!(
        "with {finished} finished tasks: {:.2} of the rate of an empty server, {:.2} of its submissions, {:.2} of its latency, {:.2} of its pages",
        share(0),
        share(1),
        1.0 / share(2),
        1.0 / share(3)
    );
}

async fn measure(server: &Server, url: &str) -> [f64; 4] {
    let started = Instant::now();
    let id = fill(server, WORKED, url).await;
    ended(server, &id).await;
    let rate = WORKED as f64 / started.elapsed().as_secs_f64();
    let submissions = submit_rate(server, 6_400).await;
    let (p50, _) = latencies(server, 200, url).await;
    let mut pages = Vec::new();
    let mut page_token = String::new();
    for _ in 0..21 {
        let started = Instant::now();
        let request = pb::ListTasksRequest { job_id: id.clone(), page_size: 100, page_token, ..Default::default() };
        page_token = server.jobs().list_tasks(request).await.unwrap().into_inner().next_page_token;
        pages.push(started.elapsed().as_secs_f64() * 1e3);
    }
    pages.sort_by(f64::total_cmp);
    [rate, submissions, p50, pages[10]]
}

/// Each measure as a line, as a share of what it was on the empty server.
fn svg(points: &[(usize, [f64; 4])]) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 240.0;
    const LEFT: f64 = 60.0;
    const TOP: f64 = 20.0;
    const COLOURS: [&str; 4] = ["#0b6", "#06c", "#c60", "#909"];
    let most = points.last().map_or(1.0, |(finished, _)| *finished as f64);
    let x = |finished: usize| LEFT + WIDTH * finished as f64 / most;
    let y = |share: f64| TOP + HEIGHT * (1.0 - share.min(2.0) / 2.0);
    let mut text = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 380\" font-family=\"sans-serif\" font-size=\"12\">\n\
                    <rect width=\"760\" height=\"380\" fill=\"#fff\"/>\n"
        .to_owned();
    for share in [0.0, 0.5, 1.0, 1.5, 2.0] {
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"20\" y=\"{y:.1}\">{share}</text>",
            LEFT + WIDTH,
            y = y(share)
        );
    }
    for (finished, _) in points {
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{finished}</text>",
            x(*finished),
            TOP + HEIGHT + 20.0
        );
    }
    for (nth, (name, _)) in MEASURES.iter().enumerate() {
        let line: Vec<String> = points
            .iter()
            .map(|(finished, values)| format!("{:.1},{:.1}", x(*finished), y(values[nth] / points[0].1[nth])))
            .collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}, as a share of the empty server's</text>",
            line.join(" "),
            LEFT + 320.0 * (nth % 2) as f64,
            TOP + HEIGHT + 50.0 + 20.0 * (nth / 2) as f64,
            colour = COLOURS[nth]
        );
    }
    text.push_str("</svg>\n");
    text
}
