//! Histories of several tenants: which client works for which, and what they may have.
//!
//! Nothing is ever lowered here, so that no tenant may have more than its quotas at any moment: the loop checks it after each
//! step for jobs and tasks, and the network for what runs.

use std::sync::Arc;

use haul::engine::handle::Engine;
use haul::model::access::{AccessAnswer, AccessChange, Actor};
use haul::model::quotas::{Quota, Quotas};
use haul::model::tenant::{Owner, Scope, TenantNo, TenantPatch};

/// The tenants that are made, in this order: of one few tasks run at once, and another may have few at all.
const NAMES: [&str; 2] = ["few", "small"];
/// Their first number.
const FIRST: TenantNo = 16;
/// How many tasks of `few` run at once.
const RUNNING: u32 = 2;

tokio::task_local! {
    /// Who asks.
    static BY: Arc<Actor>;
}

/// Runs a client for one of the tenants; `None`: for the one that always exists.
pub(crate) async fn working_for<T>(tenant: Option<usize>, client: impl Future<Output = T>) -> T {
    BY.scope(Arc::new(actor(tenant)), client).await
}

/// The engine as the client of this moment asks it.
pub(crate) fn asked_by_client(engine: &Engine) -> Engine {
    BY.try_with(|by| engine.by(by.clone())).unwrap_or_else(|_| engine.clone())
}

/// As what the requests of a job are counted, and how many of them may be in flight: its own limit, or that of its tenant.
pub(crate) fn counted_as(request: &str, cap: u32) -> (String, u32) {
    let is_few = BY.try_with(|by| by.scope.name() == NAMES[0]).unwrap_or(false);
    if is_few { (NAMES[0].to_owned(), RUNNING) } else { (request.to_owned(), cap) }
}

/// Makes the tenants. Their numbers are known, so that clients can name them before.
pub(crate) async fn make(engine: &Engine) {
    for (place, name) in NAMES.into_iter().enumerate() {
        let mut patch = TenantPatch { weight: Some(place as u32 * 2), ..TenantPatch::default() };
        patch.quotas = match place {
            0 => Quotas { running_tasks: Some(RUNNING), running_per_host: Some(1), ..Quotas::default() },
            _ => Quotas {
                unfinished_jobs: Some(4),
                queued_tasks: Some(30),
                requests_per_second: Some(50.0),
                ..Quotas::default()
            },
        };
        patch.named = Quota::ALL.to_vec();
        let (name, patch, request_id) = (name.to_owned(), Box::new(patch), String::new());
        let made = engine.change_access(AccessChange::CreateTenant { name, patch, request_id }).await.unwrap();
        let AccessAnswer::Tenant(made) = made else { panic!("{made:?}") };
        assert_eq!(made.no, FIRST + place as TenantNo);
    }
}

fn actor(tenant: Option<usize>) -> Actor {
    let owner =
        tenant.map_or_else(Owner::default, |place| Owner { no: FIRST + place as TenantNo, name: NAMES[place].into() });
    Actor { scope: Scope::One(owner), ..Actor::local() }
}
