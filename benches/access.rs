//! What it costs to know who calls: `cargo bench --bench access [CALLS]`.
//!
//! Calls go through the layer of authentication and authorisation to a service that answers at once, and to that service
//! alone. What counts is the CPU time of the thread for each call, with as many other tokens in the book as a server of many
//! users has. Then what it costs to seal the secrets of a task, and to find that one has none.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A program for people at a terminal, where a panic says enough.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use haul::api::access::{Access, CallBounds, Exposure, Policy};
use haul::config::LimitSettings;
use haul::files::Durability;
use haul::middleware::MiddlewareLayer;
use haul::model::access::{AccessAnswer, AccessChange, LIFETIME_MAX_DEFAULT, NewToken};
use haul::model::bag;
use haul::model::identity::Identities;
use haul::model::limits::Limits;
use haul::model::secret::Secret;
use haul::model::spec::{FetchSpec, HeaderSpec, HttpOptions, TaskOptions, TaskSpec, Work};
use haul::model::token::TokenText;
use haul::net::Guard;
use haul::server::{self, EngineSettings, Retention, RootKeys};
use haul::vault::{Key, Vault};
use http::{Request, Response};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{Layer as _, Service, ServiceExt as _};

const ROUNDS: u32 = 5;
const OTHER_TOKENS: u32 = 200;

fn main() {
    let calls = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(200_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [bare, layered] = runtime.block_on(measure(calls));
    println!(
        "best of {ROUNDS}, us CPU a call: without {bare:.2}, with authentication and authorisation {layered:.2}: {:.2} more",
        layered - bare
    );
    let [with, without] = sealing(calls);
    println!("best of {ROUNDS}, us CPU a task: sealing {with:.2} where it has secrets, {without:.3} where it has none");
}

async fn measure(calls: u32) -> [f64; 2] {
    let dir = tempfile::tempdir().unwrap();
    let built = server::build(&settings(dir.path()), Arc::default(), None).await.unwrap();
    let engine = built.engine.clone();
    let mut work = tokio::task::JoinSet::new();
    work.spawn(built.task.run());
    let create = |name: &str| AccessChange::CreatePrincipal {
        name: name.to_owned(),
        title: String::new(),
        grants: vec!["submit".parse().unwrap(), "read".parse().unwrap()],
        identities: Vec::new(),
        disabled: false,
        default_tenant: String::new(),
        request_id: String::new(),
    };
    engine.change_access(create("ci")).await.unwrap();
    let mut text = None;
    for _ in 0..OTHER_TOKENS {
        let token = TokenText::of(|| rand::rng().random_range(0..62));
        let new = NewToken {
            id: token.id().to_owned(),
            hash: token.hash(),
            principal: "ci".to_owned(),
            title: String::new(),
            grants: Vec::new(),
            lifetime: None,
            lifetime_max: LIFETIME_MAX_DEFAULT,
            never_expires: false,
            request_id: String::new(),
        };
        let made = engine.change_access(AccessChange::CreateToken(new)).await.unwrap();
        assert!(matches!(made, AccessAnswer::Token { .. }));
        text = Some(token);
    }
    let header = format!("Bearer {}", text.unwrap().expose());
    let bounds = CallBounds { calls_per_second: 1e9, ..CallBounds::default() };
    let access = Access::new(
        engine.clone(),
        Policy::default(),
        Arc::new(Identities::default()),
        Exposure::default(),
        bounds,
        &[haul::pb::FILE_DESCRIPTOR_SET],
        CancellationToken::new(),
    );
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
    let layered = MiddlewareLayer(access).layer(answer);
    let mut best = [f64::MAX; 2];
    for _ in 0..ROUNDS {
        best[0] = best[0].min(run(answer, &header, calls).await);
        best[1] = best[1].min(run(layered.clone(), &header, calls).await);
    }
    engine.drain().await;
    work.join_all().await;
    best
}

async fn run<S>(mut service: S, header: &str, calls: u32) -> f64
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let before = cpu();
    for _ in 0..calls {
        let request = Request::builder().uri("/haul.v1.JobService/GetJob").header("authorization", header);
        let answer = service.ready().await.unwrap().call(request.body(Body::empty()).unwrap()).await.unwrap();
        assert!(!answer.headers().contains_key("grpc-status"), "{:?}", answer.headers());
    }
    cpu().saturating_sub(before).as_secs_f64() * 1e6 / f64::from(calls)
}

/// What sealing takes for a task with a bearer token and a header, and for one without any secret.
fn sealing(tasks: u32) -> [f64; 2] {
    let vault = Vault::new(vec![(1, Key::random())], &Key::random()).unwrap();
    let task = |http: HttpOptions| TaskSpec {
        key: "k".to_owned(),
        work: Work::Fetch(FetchSpec {
            url: "https://api.example.com/v1/items?page=7".to_owned(),
            ..FetchSpec::default()
        }),
        options: TaskOptions { http, ..TaskOptions::default() }.into(),
    };
    let header = HeaderSpec { name: "x-api-key".into(), value: Secret::new("0123456789abcdef"), sensitive: true };
    let with = task(HttpOptions {
        bearer_token: Some(Secret::new("0123456789abcdef0123456789abcdef")),
        headers: vec![header],
        ..HttpOptions::default()
    });
    let specs = [with, task(HttpOptions::default())];
    let mut best = [f64::MAX; 2];
    for _ in 0..ROUNDS {
        for (best, spec) in best.iter_mut().zip(&specs) {
            let before = cpu();
            for number in 0..tasks {
                if let Some((left, bag)) = bag::pack(std::hint::black_box(spec)) {
                    let sealed = vault.seal(&number.to_be_bytes(), &bag).unwrap();
                    std::hint::black_box((left, sealed));
                }
            }
            *best = best.min(cpu().saturating_sub(before).as_secs_f64() * 1e6 / f64::from(tasks));
        }
    }
    best
}

/// The CPU time of this thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn settings(dir: &std::path::Path) -> EngineSettings {
    EngineSettings {
        tenant_dirs: BTreeMap::new(),
        data_dir: dir.join("data"),
        download_dir: dir.join("downloads"),
        limits: LimitSettings { max_concurrent_tasks: None, max_per_host: None, initial: Limits::default() },
        guard: Guard::default(),
        proxies: None,
        file_durability: Durability::None,
        retry_after_max: Duration::from_secs(1),
        drain_patience: Duration::ZERO,
        disk_reserve: None,
        max_download_bytes: None,
        parts_by_url: false,
        queue_bytes: 16 << 20,
        scratch: true,
        root_keys: RootKeys::Unkept,
        retention: Retention::default(),
        egress_proxy: None,
    }
}
