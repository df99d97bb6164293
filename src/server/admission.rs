//! Who may reach the server: where everybody has to authenticate, somebody must be able to.

use crate::config::network::Place;
use crate::engine::handle::Engine;
use crate::listen::tls::ClientAuth;
use crate::model::access::{AccessChange, AuthMode};
use crate::model::book::Book;
use crate::model::time::Timestamp;
use crate::server::error::ServeError;
use crate::server::settings::ServerSettings;

/// Returns whether the settings ask that every caller authenticates, which then holds for later starts too.
fn asks_for_credentials(settings: &ServerSettings) -> bool {
    let has_certificates = settings.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
    settings.policy.mode == AuthMode::Required || has_certificates || !settings.identities.is_empty()
}

/// Stores that every caller authenticates, where that is asked for.
async fn keep_required(settings: &ServerSettings, engine: &Engine) -> Result<(), ServeError> {
    if asks_for_credentials(settings) {
        engine.change_access(AccessChange::Require).await?;
    }
    Ok(())
}

/// Does what the settings ask for of principals and tenants, before anybody calls.
pub(super) async fn prepare_access(settings: &ServerSettings, engine: &Engine) -> Result<(), ServeError> {
    keep_required(settings, engine).await?;
    make_tenants(settings, engine).await
}

/// Makes the tenants that the settings name and that do not exist.
async fn make_tenants(settings: &ServerSettings, engine: &Engine) -> Result<(), ServeError> {
    for name in settings.engine.tenant_dirs.keys() {
        if engine.books().borrow().tenant(name).is_none() {
            let (name, patch, request_id) = (name.clone(), Box::default(), String::new());
            engine.change_access(AccessChange::CreateTenant { name, patch, request_id }).await?;
        }
    }
    Ok(())
}

/// Fails where a place of the settings may not be reached.
pub(super) fn check_addresses(settings: &ServerSettings, book: &Book, now: Timestamp) -> Result<(), ServeError> {
    let metrics = settings.metrics_listen.map(|at| ("metrics_listen", Place::Address(at)));
    let places = settings.listen.iter().map(|place| ("listen", place.clone())).chain(metrics);
    match places.into_iter().find(|(_, place)| !may_reach(place, settings, book, now)) {
        Some((setting, place)) => Err(ServeError::NobodySignsIn(setting, place.to_string())),
        None => Ok(()),
    }
}

/// Returns whether the server may be reached at a place: from other machines only where callers authenticate, and somebody
/// can.
fn may_reach(place: &Place, settings: &ServerSettings, book: &Book, now: Timestamp) -> bool {
    let policy = settings.policy;
    let is_required = policy.mode != AuthMode::Off && (policy.is_required(book) || asks_for_credentials(settings));
    let has_users = book.has_users(now) || !settings.identities.is_empty();
    place.is_near() || policy.is_open || (is_required && has_users)
}
