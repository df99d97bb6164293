//! The page that Prometheus scrapes, in either of its forms.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::telemetry::metrics::parts::{Count, Counts, Spread};
use crate::telemetry::metrics::{CODES, Metrics, OfKind};
use crate::telemetry::process::Process;

static SECONDS_UNIT: Unit = Unit::Seconds;
static BYTES_UNIT: Unit = Unit::Bytes;
const SECONDS: Option<&Unit> = Some(&SECONDS_UNIT);
const BYTES: Option<&Unit> = Some(&BYTES_UNIT);

/// How the page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// The text of Prometheus from before, which everything reads.
    Classic,
}

impl Form {
    /// Returns the type of the content.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What is read at a scrape. What is `None` cannot be read, and has no series.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // The names of the series.
pub struct Gauges {
    pub version: &'static str,
    pub is_draining: bool,
    pub recovery_seconds: f64,
    /// Open jobs by state: pending, running, paused, cancelling.
    pub jobs: [u64; 4],
    /// Tasks of open jobs by state: pending, running, backing off.
    pub tasks: [u64; 3],
    /// In the order of the reasons to wait.
    pub waiting_tasks: Vec<u64>,
    /// Connections that a request has, and those that none has.
    pub connections: [u64; 2],
    /// Hosts that are fine, and paused ones.
    pub hosts: [u64; 2],
    /// Bytes of the database and of its log.
    pub store_bytes: Option<[u64; 2]>,
    pub content_bytes: Option<u64>,
    pub commands_waiting: u64,
    /// Free bytes where the data and the downloads are.
    pub disk_free_bytes: [Option<u64>; 2],
    /// In the order of the configured hosts.
    pub own_hosts: Vec<HostGauges>,
    pub process: Option<Process>,
}

/// What is read of a host that has series of its own.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // The names of the series.
pub struct HostGauges {
    pub running: u64,
    pub waiting: u64,
    pub is_paused: bool,
}

/// Writes the page.
pub fn page(metrics: &Arc<Metrics>, gauges: Gauges, form: Form) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { metrics: metrics.clone(), gauges }));
    let mut page = String::with_capacity(64 << 10);
    // Writing to a text does not fail.
    let _ = match form {
        Form::OpenMetrics => text::encode(&mut page, &registry),
        Form::Classic => prometheus_text::encode(&mut page, &registry),
    };
    page
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    gauges: Gauges,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.server(&mut writer)?;
        self.work(&mut writer)?;
        self.network(&mut writer)?;
        self.store(&mut writer)?;
        self.faces(&mut writer)?;
        self.own_hosts(&mut writer)?;
        self.process(&mut writer)?;
        #[cfg(feature = "count-allocations")]
        allocations(&mut writer)?;
        Ok(())
    }
}

impl Scrape {
    fn server(&self, w: &mut Writer<'_>) -> fmt::Result {
        let gauges = &self.gauges;
        w.gauges("haul_build_info", "The version that runs.", None, "version", [(gauges.version, 1)])?;
        w.gauge("haul_draining", "Whether the server is on its way to its end.", None, u64::from(gauges.is_draining))?;
        let mut recovery = w.head(
            "haul_recovery_duration",
            "How long the last start took to load what was stored.",
            SECONDS,
            MetricType::Gauge,
        )?;
        recovery.encode_gauge(&gauges.recovery_seconds)
    }

    fn work(&self, w: &mut Writer<'_>) -> fmt::Result {
        let (metrics, gauges) = (&*self.metrics, &self.gauges);
        let jobs = ["pending", "running", "paused", "cancelling"].into_iter().zip(gauges.jobs);
        w.gauges("haul_jobs", "Jobs that have not ended.", None, "state", jobs)?;
        w.counters("haul_jobs_ended", "Jobs that ended.", None, "state", metrics.jobs_ended.iter())?;
        let tasks = ["pending", "running", "backing_off"].into_iter().zip(gauges.tasks);
        w.gauges("haul_tasks", "Tasks of jobs that have not ended.", None, "state", tasks)?;
        w.of_kinds("haul_tasks_ended", "Tasks that ended.", "state", &metrics.tasks_ended)?;
        let attempts = "Attempts that ended; one with the outcome `given_back` is made again and does not count.";
        w.of_kinds("haul_attempts", attempts, "outcome", &metrics.attempts)?;
        let times = metrics.attempt_times.iter();
        w.spreads("haul_attempt_duration", "How long attempts took.", SECONDS, "kind", times)?;
        let failures = "Attempts that failed, those that are tried again too.";
        w.counters("haul_attempt_failures", failures, None, "reason", metrics.failures.iter())?;
        let waits = "How long tasks that started had been able to.";
        w.spread("haul_queue_wait", waits, SECONDS, &metrics.queue_waits)?;
        let waiting = metrics.words.wait_reasons.iter().map(String::as_str).zip(gauges.waiting_tasks.iter().copied());
        w.gauges("haul_waiting_tasks", "Tasks that wait now, by what for.", None, "reason", waiting)?;
        w.gauges(
            "haul_hosts",
            "Hosts with work that has begun, or a pause.",
            None,
            "state",
            ["ok", "paused"].into_iter().zip(gauges.hosts),
        )
    }

    fn network(&self, w: &mut Writer<'_>) -> fmt::Result {
        let metrics = &*self.metrics;
        let received = metrics.received.iter().map(|(kind, count)| (kind, count.value()));
        w.counters("haul_received", "Body bytes that came from origins.", BYTES, "kind", received)?;
        let resumed = "Bytes of earlier attempts that downloads resumed after.";
        w.counter("haul_resumed", resumed, BYTES, metrics.resumed.value())?;
        let discarded = "Bytes of partial downloads that attempts threw away.";
        w.counter("haul_discarded", discarded, BYTES, metrics.discarded.value())?;
        w.counters("haul_http_responses", "Answers of origins.", None, "class", metrics.responses.iter())?;
        let connects = "Tries to connect to an origin, or to a proxy before it.";
        w.counters("haul_connects", connects, None, "result", metrics.connects.iter())?;
        let states = ["active", "idle"].into_iter().zip(self.gauges.connections);
        w.gauges("haul_connections", "Connections to origins and proxies.", None, "state", states)
    }

    fn store(&self, w: &mut Writer<'_>) -> fmt::Result {
        let (metrics, gauges) = (&*self.metrics, &self.gauges);
        let commits = "How long commits took.";
        w.spread("haul_commit_duration", commits, SECONDS, &metrics.commit_times)?;
        w.spread("haul_commit_changes", "How many changes commits had.", None, &metrics.commit_changes)?;
        if let Some([database, log]) = gauges.store_bytes {
            let files = [("database", database), ("wal", log)];
            w.gauges("haul_store", "Sizes of the files of the database.", BYTES, "file", files)?;
        }
        if let Some(bytes) = gauges.content_bytes {
            w.gauge("haul_content", "Bytes of long responses that are kept beside it.", BYTES, bytes)?;
        }
        let disks = ["data", "downloads"].into_iter().zip(gauges.disk_free_bytes);
        let free = disks.filter_map(|(root, free)| Some((root, free?)));
        w.gauges("haul_disk_free", "Free bytes on the file system.", BYTES, "root", free)?;
        let lag = "How long iterations of the engine's loop took; commands that arrive meanwhile wait.";
        w.spread("haul_loop_lag", lag, SECONDS, &metrics.loop_lags)
    }

    fn faces(&self, w: &mut Writer<'_>) -> fmt::Result {
        let (metrics, gauges) = (&*self.metrics, &self.gauges);
        w.gauge("haul_commands_waiting", "Commands that wait for the engine's loop.", None, gauges.commands_waiting)?;
        let watchers = [("job", "JobService/WatchJob"), ("jobs", "JobService/WatchJobs")];
        let watchers = watchers.map(|(kind, method)| (kind, metrics.open(method)));
        w.gauges("haul_watchers", "Open watches of all faces.", None, "kind", watchers)?;
        let all = || metrics.calls.iter().chain([&metrics.other_calls]);
        let mut calls = w.head("haul_calls", "Calls of all faces that ended.", None, MetricType::Counter)?;
        for own in all() {
            // Each code of each method would be a thousand series. Those that alerts and rates begin with are there from the
            // start, so that the first call, and the first error of the server's own, are an increase.
            let is_shown = |(code, count): &(&&str, &Count)| count.value() > 0 || ["OK", "INTERNAL"].contains(*code);
            for (code, count) in CODES.iter().zip(&own.by_code).filter(is_shown) {
                let labels = [("method", own.name.as_str()), ("code", *code)];
                calls.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count.value(), None)?;
            }
        }
        let times = all().filter(|own| own.times.read().1 > 0).map(|own| (own.name.as_str(), &own.times));
        w.spreads("haul_call_duration", "How long calls took, streams to their end.", SECONDS, "method", times)?;
        let spans = "Spans for a collector of traces: those that it took, and those that were lost.";
        w.counters("haul_trace_spans", spans, None, "outcome", metrics.spans.iter())
    }

    fn own_hosts(&self, w: &mut Writer<'_>) -> fmt::Result {
        let hosts = &self.metrics.hosts;
        if hosts.is_empty() {
            return Ok(());
        }
        let gauges = || hosts.iter().map(|host| host.name.as_str()).zip(&self.gauges.own_hosts);
        let running = gauges().map(|(name, host)| (name, host.running));
        w.gauges("haul_host_running", "Requests to a configured host.", None, "host", running)?;
        let waiting = gauges().map(|(name, host)| (name, host.waiting));
        w.gauges(
            "haul_host_waiting",
            "Tasks in memory that wait for room at a configured host.",
            None,
            "host",
            waiting,
        )?;
        let paused = gauges().map(|(name, host)| (name, u64::from(host.is_paused)));
        w.gauges("haul_host_paused", "Whether a configured host is paused.", None, "host", paused)?;
        let received = hosts.iter().map(|host| (host.name.as_str(), host.received.value()));
        let help = "Body bytes that came from a configured host.";
        w.counters("haul_host_received", help, BYTES, "host", received)?;
        let failures = hosts.iter().map(|host| (host.name.as_str(), host.failures.value()));
        w.counters("haul_host_failures", "Attempts that failed at a configured host.", None, "host", failures)
    }

    fn process(&self, w: &mut Writer<'_>) -> fmt::Result {
        let Some(process) = &self.gauges.process else { return Ok(()) };
        let mut cpu = w.head("process_cpu", "Time of processors that it used.", SECONDS, MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, _, u64>(&process.cpu_seconds, None)?;
        w.gauge("process_resident_memory", "Memory that it has.", BYTES, process.resident_bytes)?;
        w.gauge("process_open_fds", "Descriptors that are open.", None, process.open_fds)?;
        w.gauge("process_max_fds", "Descriptors that may be open.", None, process.max_fds)?;
        let mut start =
            w.head("process_start_time", "When it started, since the epoch.", SECONDS, MetricType::Gauge)?;
        start.encode_gauge(&process.start_time_seconds)?;
        w.gauge("process_threads", "Threads.", None, process.threads)
    }
}

/// What the allocator was asked for, in builds that count it.
#[cfg(feature = "count-allocations")]
fn allocations(w: &mut Writer<'_>) -> fmt::Result {
    let seen = stats_alloc::INSTRUMENTED_SYSTEM.stats();
    let times = seen.allocations.saturating_add(seen.reallocations) as u64;
    w.counter("haul_allocations", "Allocations, those that grew included.", None, times)?;
    w.counter("haul_allocated", "Bytes that were allocated.", BYTES, seen.bytes_allocated as u64)
}

/// Writes series of one shape.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn head<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'static Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&'static Unit>, value: u64) -> fmt::Result {
        self.head(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&'static Unit>,
        label: &str,
        values: impl IntoIterator<Item = (&'l str, u64)>,
    ) -> fmt::Result {
        let mut head = self.head(name, help, unit, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(of, value)| head.encode_family(&[(label, of)])?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&'static Unit>, value: u64) -> fmt::Result {
        counted(&mut self.head(name, help, unit, MetricType::Counter)?, value)
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&'static Unit>,
        label: &str,
        values: impl IntoIterator<Item = (&'l str, u64)>,
    ) -> fmt::Result {
        let mut head = self.head(name, help, unit, MetricType::Counter)?;
        values.into_iter().try_for_each(|(of, value)| counted(&mut head.encode_family(&[(label, of)])?, value))
    }

    /// Writes counts by kind of task and another label.
    fn of_kinds(&mut self, name: &str, help: &str, label: &str, all: &OfKind<Counts>) -> fmt::Result {
        let mut head = self.head(name, help, None, MetricType::Counter)?;
        for (kind, counts) in all.iter() {
            for (of, value) in counts.iter() {
                counted(&mut head.encode_family(&[("kind", kind), (label, of)])?, value)?;
            }
        }
        Ok(())
    }

    fn spread(&mut self, name: &str, help: &str, unit: Option<&'static Unit>, spread: &Spread) -> fmt::Result {
        spread_out(&mut self.head(name, help, unit, MetricType::Histogram)?, spread)
    }

    fn spreads<'l>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&'static Unit>,
        label: &str,
        mut spreads: impl Iterator<Item = (&'l str, &'l Spread)>,
    ) -> fmt::Result {
        let mut head = self.head(name, help, unit, MetricType::Histogram)?;
        spreads.try_for_each(|(of, spread)| spread_out(&mut head.encode_family(&[(label, of)])?, spread))
    }
}

fn counted(encoder: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn spread_out(encoder: &mut MetricEncoder<'_>, spread: &Spread) -> fmt::Result {
    let (sum, count, buckets) = spread.read();
    encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::telemetry::metrics::{AttemptOutcome, AttemptSeen, Connect, Kind, LabelValues};

    fn metrics() -> Arc<Metrics> {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Arc::new(Metrics::new(LabelValues {
            failure_reasons: words(&["dns", "connect"]),
            wait_reasons: words(&["backing_off"]),
            methods: words(&["JobService/SubmitJob"]),
            hosts: words(&["a.example"]),
        }))
    }

    /// Names of values are one thing in both forms, so that dashboards and rules need not know which one was scraped.
    #[test]
    fn both_forms_have_the_same_values() {
        let metrics = metrics();
        metrics.attempt_ended(AttemptSeen {
            kind: Kind::Download,
            outcome: AttemptOutcome::Failed,
            time: Duration::from_millis(7),
            failure_reason: Some(1),
            resumed_bytes: 10,
            discarded_bytes: 0,
        });
        metrics.connected(Connect::Ok);
        metrics.answered(404);
        metrics.answered(42);
        let calls = metrics.calls_at(metrics.place("JobService/SubmitJob"));
        calls.begins();
        calls.ends(Code::Ok, Duration::from_millis(1));
        let gauges = Gauges {
            version: "1",
            waiting_tasks: vec![3],
            own_hosts: vec![HostGauges::default()],
            ..Gauges::default()
        };
        let [open, classic] = [Form::OpenMetrics, Form::Classic].map(|form| page(&metrics, gauges.clone(), form));
        // Only the bounds of buckets are written otherwise: first and with a fraction, or last and without.
        let values = |page: &str| {
            let values = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
                let mut parts: Vec<&str> = line.split(['{', '}', ',', ' ']).filter(|part| !part.is_empty()).collect();
                parts[1..].sort_unstable();
                parts.join(" ").replace(".0\"", "\"")
            });
            values.collect::<std::collections::BTreeSet<String>>()
        };
        assert_eq!(values(&open), values(&classic));
        for line in [
            "haul_attempts_total{kind=\"download\",outcome=\"failed\"} 1",
            "haul_attempt_failures_total{reason=\"connect\"} 1",
            "haul_attempt_failures_total{reason=\"dns\"} 0",
            "haul_attempt_duration_seconds_bucket{kind=\"download\",le=\"0.01\"} 1",
            "haul_resumed_bytes_total 10",
            "haul_http_responses_total{class=\"4xx\"} 1",
            "haul_waiting_tasks{reason=\"backing_off\"} 3",
            "haul_calls_total{method=\"JobService/SubmitJob\",code=\"OK\"} 1",
            "haul_calls_total{method=\"JobService/SubmitJob\",code=\"INTERNAL\"} 0",
            "haul_host_failures_total{host=\"a.example\"} 0",
        ] {
            assert!(classic.lines().any(|it| it == line), "{line} is not in\n{classic}");
        }
        assert!(open.ends_with("# EOF\n") && !classic.contains("# EOF"));
        assert!(classic.contains("# TYPE haul_attempts_total counter"), "{classic}");
        assert!(open.contains("# TYPE haul_attempts counter"), "{open}");
    }
}
