//! Alerts and the dashboard: what they name is there, and what Prometheus says of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::ops::metrics::{scrape, work};
use crate::ops::tools::{read, root, tool};
use crate::support::origin::Origin;
use crate::support::server::Server;

const RULES: &str = "deploy/prometheus/haul.rules.yml";
const DASHBOARD: &str = "deploy/grafana/haul.json";

/// The names of series in expressions.
fn named(expressions: &str) -> BTreeSet<String> {
    let words = expressions.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("haul_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// The expressions of the rules: the values of `expr`, whether on their line or below it.
fn expressions_of_rules() -> String {
    let mut found = String::new();
    let mut below = None;
    for line in read(RULES).lines() {
        let depth = line.len() - line.trim_start().len();
        if let Some(expression) = line.trim_start().strip_prefix("expr:") {
            found.push_str(expression);
            below = Some(depth);
        } else if below.is_some_and(|above| depth > above) {
            found.push_str(line);
        } else {
            below = None;
        }
        found.push('\n');
    }
    found
}

fn expressions_of(value: &Value, found: &mut String) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "query" => *found += &format!("{text}\n"),
                    _ => expressions_of(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions_of(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_that_is_named_is_there() {
    let (server, origin) = (Server::start().await, Origin::start());
    work(&server, &origin).await;
    let page = scrape(&server.address);
    let is_there =
        |name: &str| page.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    let mut expressions = expressions_of_rules();
    assert!(named(&expressions).len() > 5, "{expressions}");
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    expressions_of(&dashboard, &mut expressions);
    let names = named(&expressions);
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{page}");
    // And the other way round: what is counted is shown.
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next());
    let unseen: Vec<_> = families.filter(|family| !names.iter().any(|name| name.starts_with(family))).collect();
    assert!(unseen.is_empty(), "{unseen:?} are on no panel");
}

#[test]
fn every_alert_has_its_lines_in_the_guide() {
    let guide = read("docs/guide/operations.md");
    let rules = read(RULES);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 9);
    for alert in alerts {
        assert!(guide.contains(&format!("\n#### {alert}\n")), "docs/guide/operations.md has no `#### {alert}`");
        assert!(rules.contains(&format!("operations.md#{}\n", alert.to_lowercase())), "{alert} has no runbook");
    }
}

fn run(promtool: &Path, args: &[&str], input: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input).unwrap();
    let stdin = std::fs::File::open(file.path()).unwrap();
    let folder = root().join("deploy/prometheus");
    let done = Command::new(promtool).args(args).current_dir(folder).stdin(stdin).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && !said.contains("FAILED"), "promtool {args:?}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong() {
    let Some(promtool) = tool("promtool", "HAUL_PROMTOOL") else { return };
    run(&promtool, &["check", "rules", "haul.rules.yml"], "");
    run(&promtool, &["test", "rules", "haul.rules.test.yml"], "");
    run(&promtool, &["check", "config", "--syntax-only", "haul.scrape.yml"], "");
    let (server, origin) = (Server::start().await, Origin::start());
    work(&server, &origin).await;
    run(&promtool, &["check", "metrics"], &scrape(&server.address));
}
