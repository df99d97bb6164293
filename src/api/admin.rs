//! `haul.v1.AdminService`.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::api::access::Policy;
use crate::api::access::caller::{Caller, TENANT_HEADER};
use crate::api::filters;
use crate::api::jobs::Jobs;
use crate::api::pages::page_size;
use crate::api::status::{Violations, shown};
use crate::api::to_proto;
use crate::api::totals::Totals;
use crate::api::values;
use crate::engine::command::EngineError;
use crate::engine::handle::{Engine, HostView};
use crate::listen::tls::Tls;
use crate::model::access::AuthMode;
use crate::model::audit::{AuditRow, SERVER};
use crate::model::host::{Host, normal};
use crate::model::limits::{HostLimits, LimitsPatch};
use crate::model::role::Role;
use crate::model::tenant::Parties;
use crate::pb;
use crate::store::Store;

/// The most hosts that may have limits of their own.
const HOST_LIMITS_MAX: usize = 1_000;

/// The shutdown of the server, as `Drain` asks for it: the same that a signal begins.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled when a client has asked for it.
    pub asked: CancellationToken,
    /// Cancelled when it has begun: health says so, and no call is accepted any more.
    pub begun: CancellationToken,
}

/// Implements [`pb::admin_service_server::AdminService`].
#[derive(Clone)]
pub struct Admin {
    engine: Engine,
    store: Arc<dyn Store>,
    shutdown: Shutdown,
    facts: Facts,
    totals: Arc<Totals>,
    started: Instant,
}

/// What the server is, for those who ask.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whom it takes callers for.
    pub policy: Policy,
    /// What was given up for other machines, as the contract names it.
    pub insecure: &'static str,
    /// The certificates; `None`: nothing is encrypted.
    pub tls: Option<Arc<Tls>>,
    /// What it has beyond its gRPC services.
    pub features: &'static [&'static str],
    /// Whether pages may call by gRPC-Web.
    pub has_grpc_web: bool,
    /// Other origins than its own whose pages may call.
    pub cors_origins: Vec<String>,
    /// How much room there is, as it was looked at last.
    pub sizes: watch::Receiver<Sizes>,
}

/// How much room there is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Free where the database is.
    pub disk_free: u64,
    /// Free where downloads go.
    pub download_free: u64,
    /// Taken by the database with its log.
    pub store: u64,
}

impl Admin {
    /// Makes the service over an engine and its store. What the jobs have to do it says as their service does.
    pub fn new(engine: Engine, store: Arc<dyn Store>, shutdown: Shutdown, facts: Facts, jobs: &Jobs) -> Admin {
        Admin { engine, store, shutdown, facts, totals: jobs.totals(), started: Instant::now() }
    }

    /// Returns the parties whose hosts alone the caller may see, or has asked for by naming a tenant; `None`: all, with what
    /// everybody does there.
    fn own(&self, caller: &Caller, names_tenant: bool) -> Option<Parties> {
        let is_monitor = caller.may(Role::Monitor);
        let own = Parties { tenant: caller.only_of(), principal: caller.only_own().filter(|_| !is_monitor) };
        let is_alone = self.engine.books().borrow().has_one_tenant() && own.principal.is_none();
        let sees_all = (is_monitor && !names_tenant) || is_alone || own == Parties::default();
        (!sees_all).then_some(own)
    }

    async fn access(&self, caller: &Caller) -> Result<pb::AccessInfo, Status> {
        let auth = match self.facts.policy.mode {
            AuthMode::Off => "none",
            _ if self.facts.policy.is_required(&self.engine.books().borrow()) => "required",
            _ => "auto",
        };
        let mut tls = self.facts.tls.as_ref().map(|tls| tls.state()).unwrap_or_default();
        // Which files there are is for those who run the server.
        if !tls.reload_error.is_empty() && !caller.may(Role::Monitor) {
            "the certificates could not be read again; operators and monitors are told why"
                .clone_into(&mut tls.reload_error);
        }
        let sealing = self.store.sealing().await.map_err(EngineError::from)?;
        Ok(pb::AccessInfo {
            auth: auth.to_owned(),
            insecure: self.facts.insecure.to_owned(),
            tls_not_after: tls.not_after.map(to_proto::timestamp),
            tls_reload_error: tls.reload_error,
            tls_reload_time: tls.reload_time.map(to_proto::timestamp),
            sealing_rows_left: sealing.rows_left,
            data_key_id: sealing.data_key.to_string(),
            grpc_web: self.facts.has_grpc_web,
            cors_origins: self.facts.cors_origins.clone(),
        })
    }
}

#[tonic::async_trait]
impl pb::admin_service_server::AdminService for Admin {
    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        let caller = Caller::of(&request);
        let sum =
            if caller.may(Role::Monitor) { self.totals.tasks() } else { self.totals.tasks_seen_by(&caller.actor) };
        let sizes = *self.facts.sizes.borrow();
        Ok(Response::new(pb::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: self.store.node_id(),
            uptime: prost_types::Duration::try_from(self.started.elapsed()).ok(),
            store_backend: self.store.backend().to_owned(),
            limits: Some(to_proto::limits(&self.engine.limits())),
            counts: Some(to_proto::counts(&sum)),
            access: Some(self.access(&caller).await?),
            disk_free_bytes: sizes.disk_free,
            download_free_bytes: sizes.download_free,
            store_bytes: sizes.store,
            features: self.facts.features.iter().map(|&feature| feature.to_owned()).collect(),
            draining: self.shutdown.begun.is_cancelled(),
        }))
    }

    async fn get_limits(
        &self,
        _request: Request<pb::GetLimitsRequest>,
    ) -> Result<Response<pb::GetLimitsResponse>, Status> {
        Ok(Response::new(pb::GetLimitsResponse { limits: Some(to_proto::limits(&self.engine.limits())) }))
    }

    async fn update_limits(
        &self,
        request: Request<pb::UpdateLimitsRequest>,
    ) -> Result<Response<pb::UpdateLimitsResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let wish = request.limits.unwrap_or_default();
        let paths = values::mask(request.update_mask, &mut v);
        let patch = patch(&wish, &paths, &mut v);
        let patch = v.or(patch)?;
        let limits = self.engine.by(caller.actor).set_limits(patch).await?;
        Ok(Response::new(pb::UpdateLimitsResponse { limits: Some(to_proto::limits(&limits)) }))
    }

    async fn list_hosts(
        &self,
        request: Request<pb::ListHostsRequest>,
    ) -> Result<Response<pb::ListHostsResponse>, Status> {
        let caller = Caller::of(&request);
        let own = self.own(&caller, request.metadata().contains_key(TENANT_HEADER.as_str()));
        let request = request.into_inner();
        let mut v = Violations::default();
        let size = page_size(request.page_size, &mut v) as usize;
        let tokens = self.store.page_tokens();
        let mut last = None;
        if !request.page_token.is_empty() {
            match tokens.read_host(&whose(own), &request.page_token) {
                Ok(host) => last = Some(host),
                Err(bad) => v.add("page_token", bad.to_string()),
            }
        }
        v.or(())?;
        let hosts = self.engine.hosts(own, last.as_ref(), size + 1).await?;
        let mut page: Vec<pb::Host> = hosts.into_iter().map(|(view, waiting)| host(view, waiting)).collect();
        let more = page.len() > size;
        page.truncate(size);
        let last = page.last().filter(|_| more);
        let next_page_token =
            last.map(|last| tokens.after_host(&whose(own), &Host::new(&last.host))).unwrap_or_default();
        Ok(Response::new(pb::ListHostsResponse { hosts: page, next_page_token }))
    }

    async fn resume_host(
        &self,
        request: Request<pb::ResumeHostRequest>,
    ) -> Result<Response<pb::ResumeHostResponse>, Status> {
        let caller = Caller::of(&request);
        let mut v = Violations::default();
        let name = filters::host(&request.into_inner().host, "host", &mut v);
        if name.is_empty() {
            v.add("host", "is empty; give it as `host:port`, as in `example.com:443`");
        }
        v.or(())?;
        let name = Host::new(&name);
        let engine = self.engine.by(caller.actor);
        engine.resume_host(name.clone()).await?;
        let (view, waiting) = engine.host(&name).await?;
        Ok(Response::new(pb::ResumeHostResponse { host: Some(host(view, waiting)) }))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::DrainResponse>, Status> {
        let caller = Caller::of(&request);
        let row = AuditRow::done(&caller.actor, "AdminService/Drain", SERVER.to_owned(), "", self.engine.now());
        match self.engine.audit(vec![row]).await {
            // A second call finds it under way, and a full disk, or somebody who holds the store's lock, must not keep the server
            // running.
            Ok(()) | Err(EngineError::Draining | EngineError::StoreFull(_) | EngineError::StoreBusy(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.shutdown.asked.cancel();
        self.shutdown.begun.cancelled().await;
        Ok(Response::new(pb::DrainResponse {}))
    }
}

/// The parties of a listing of hosts, to which its page tokens are bound.
fn whose(own: Option<Parties>) -> Vec<u8> {
    let Some(Parties { tenant, principal }) = own else { return Vec::new() };
    let numbers = [tenant.map_or(0, u64::from), principal.map_or(u64::MAX, |no| no)];
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn host(view: HostView, waiting: u32) -> pb::Host {
    pb::Host {
        host: view.host.to_string(),
        running: view.running,
        waiting,
        limits: Some(to_proto::host_limits(&view.limits)),
        paused_until: view.paused_until.map(to_proto::timestamp),
        pause_reason: view.pause_reason,
        recent_error_time: view.recent_error.as_ref().map(|(time, _)| to_proto::timestamp(*time)),
        recent_error: view.recent_error.map(|(_, error)| error).unwrap_or_default(),
        bytes_per_second: view.bytes_per_second,
        requests_per_second: view.requests_per_second,
        recent_failures: view.recent_failures,
    }
}

/// Reads what is to change. A limit that the mask does not name stays as it is.
fn patch(wish: &pb::Limits, paths: &[(usize, String)], v: &mut Violations) -> LimitsPatch {
    let mut patch = LimitsPatch::default();
    for (index, path) in paths {
        match path.as_str() {
            "max_concurrent_tasks" => {
                at_least_one(wish.max_concurrent_tasks, "limits.max_concurrent_tasks", v);
                patch.max_concurrent_tasks = Some(wish.max_concurrent_tasks);
            }
            "max_per_host" => {
                at_least_one(wish.max_per_host, "limits.max_per_host", v);
                patch.max_per_host = Some(wish.max_per_host);
            }
            "requests_per_second_per_host" => {
                values::rate(wish.requests_per_second_per_host, &"limits.requests_per_second_per_host", v);
                patch.requests_per_second_per_host = Some(wish.requests_per_second_per_host);
            }
            "bytes_per_second" => patch.bytes_per_second = Some(wish.bytes_per_second),
            "hosts" => patch.hosts = Some(hosts(&wish.hosts, v)),
            _ => v.add(
                format!("update_mask.paths[{index}]"),
                format!("is `{}`, which is not a field of Limits", shown(path)),
            ),
        }
    }
    patch
}

fn at_least_one(value: u32, path: &str, v: &mut Violations) {
    if value == 0 {
        v.add(path, "must be at least 1");
    }
}

fn hosts(wish: &[pb::HostLimits], v: &mut Violations) -> Vec<HostLimits> {
    if wish.len() > HOST_LIMITS_MAX {
        v.add("limits.hosts", format!("holds {} hosts; at most {HOST_LIMITS_MAX} are accepted", wish.len()));
        return Vec::new();
    }
    let mut names = std::collections::HashSet::new();
    let mut hosts = Vec::with_capacity(wish.len());
    for (index, limits) in wish.iter().enumerate() {
        let path = format!("limits.hosts[{index}]");
        let Some(host) = normal(&limits.host) else {
            v.add(format!("{path}.host"), "must be `host` or `host:port`, as in `example.com:443`");
            continue;
        };
        if !names.insert(host.clone()) {
            v.add(format!("{path}.host"), format!("`{}` is listed twice", shown(&limits.host)));
        }
        values::rate(limits.requests_per_second, &format!("{path}.requests_per_second"), v);
        hosts.push(HostLimits {
            host,
            max_concurrent: limits.max_concurrent,
            requests_per_second: limits.requests_per_second,
            burst: limits.burst,
            bytes_per_second: limits.bytes_per_second,
        });
    }
    hosts
}
