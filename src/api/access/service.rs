//! `haul.v1.AccessService`: principals, tokens and tenants.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tonic::{Request, Response, Status};

use crate::api::access::bounds::OpenWatches;
use crate::api::access::caller::Caller;
use crate::api::access::messages::{self, read_grants, read_identities};
use crate::api::access::{audit, credentials, tenants};
use crate::api::pages::{cut_to_page, page_size};
use crate::api::status::{Violations, internal, shown};
use crate::api::to_proto::timestamp;
use crate::api::values::{self, ID_BYTES_MAX, NAME_BYTES_MAX};
use crate::engine::handle::Engine;
use crate::model::access::{AccessAnswer, AccessChange, NewToken, Principal, Token};
use crate::model::book::Book;
use crate::model::role::Role;
use crate::model::token::TokenText;
use crate::pb;
use crate::store::Store;
use crate::store::page_token::{Listing, PageTokens};

/// Implements [`pb::access_service_server::AccessService`].
#[derive(Clone)]
pub struct AccessApi {
    engine: Engine,
    store: Arc<dyn Store>,
    tokens: PageTokens,
    lifetime_max: Duration,
    watches: OpenWatches,
}

impl AccessApi {
    /// Makes the service over an engine and its store. No token may last longer than `lifetime_max`; `watches` are those that
    /// the layer in front of it has let on.
    pub fn new(engine: Engine, store: Arc<dyn Store>, lifetime_max: Duration, watches: OpenWatches) -> AccessApi {
        let tokens = store.page_tokens();
        AccessApi { engine, store, tokens, lifetime_max, watches }
    }

    fn book(&self) -> Arc<Book> {
        self.engine.books().borrow().clone()
    }

    async fn change(&self, caller: &Caller, change: AccessChange) -> Result<AccessAnswer, Status> {
        Ok(self.engine.by(caller.actor.clone()).change_access(change).await?)
    }

    /// Changes a principal. Returns it, and whether this change makes authentication required.
    async fn change_principal(&self, caller: &Caller, change: AccessChange) -> Result<(pb::Principal, bool), Status> {
        match self.change(caller, change).await? {
            AccessAnswer::Principal { principal, is_first } => {
                Ok((messages::principal(&self.book(), &principal, &caller.actor), is_first))
            }
            _ => Err(internal("a change of a principal was answered with something else")),
        }
    }

    async fn change_tenant(&self, caller: &Caller, change: AccessChange) -> Result<pb::Tenant, Status> {
        match self.change(caller, change).await? {
            AccessAnswer::Tenant(tenant) => Ok(messages::tenant(&tenant, None)),
            _ => Err(internal("a change of a tenant was answered with something else")),
        }
    }

    /// Reads where a listing goes on.
    fn after(&self, listing: Listing, filter: &[u8], token: &str, v: &mut Violations) -> String {
        if token.is_empty() {
            return String::new();
        }
        self.tokens.read_name(listing, filter, token).unwrap_or_else(|bad| {
            v.add("page_token", bad.to_string());
            String::new()
        })
    }
}

/// A token of chance that only an operating system's generator has.
fn fresh_token() -> TokenText {
    let mut chance = rand::rng();
    TokenText::of(|| chance.random_range(0..62))
}

#[tonic::async_trait]
impl pb::access_service_server::AccessService for AccessApi {
    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(pb::WhoAmIResponse {
            principal: caller.actor.name.clone(),
            grants: messages::grants(&caller.actor.grants),
            tenant: caller.actor.scope.name().to_owned(),
            token_id: caller.actor.token_id.clone(),
            expire_time: caller.expire_time.map(timestamp),
            method: caller.method.name().to_owned(),
        }))
    }

    async fn create_principal(
        &self,
        request: Request<pb::CreatePrincipalRequest>,
    ) -> Result<Response<pb::CreatePrincipalResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let wish = request.principal.unwrap_or_default();
        values::text(&request.request_id, &"request_id", ID_BYTES_MAX, &mut v);
        values::text(&wish.title, &"principal.title", NAME_BYTES_MAX, &mut v);
        let grants = read_grants(&wish.grants, "principal.grants", &mut v);
        let identities = read_identities(&wish.identities, "principal.identities", &mut v);
        v.or(())?;
        let change = AccessChange::CreatePrincipal {
            name: wish.name,
            title: wish.title,
            grants,
            identities,
            disabled: wish.disabled,
            default_tenant: wish.default_tenant,
            request_id: request.request_id,
        };
        let (principal, authentication_required) = self.change_principal(&caller, change).await?;
        Ok(Response::new(pb::CreatePrincipalResponse { principal: Some(principal), authentication_required }))
    }

    async fn update_principal(
        &self,
        request: Request<pb::UpdatePrincipalRequest>,
    ) -> Result<Response<pb::UpdatePrincipalResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let wish = request.principal.unwrap_or_default();
        let (mut title, mut grants, mut identities, mut disabled, mut default_tenant) = (None, None, None, None, None);
        for (index, path) in values::mask(request.update_mask, &mut v) {
            match path.as_str() {
                "title" => {
                    values::text(&wish.title, &"principal.title", NAME_BYTES_MAX, &mut v);
                    title = Some(wish.title.clone());
                }
                "grants" => grants = Some(read_grants(&wish.grants, "principal.grants", &mut v)),
                "identities" => {
                    identities = Some(read_identities(&wish.identities, "principal.identities", &mut v));
                }
                "disabled" => disabled = Some(wish.disabled),
                "default_tenant" => default_tenant = Some(wish.default_tenant.clone()),
                _ => v.add(
                    format!("update_mask.paths[{index}]"),
                    format!(
                        "`{}` cannot be updated; the fields are title, grants, identities, disabled, default_tenant",
                        shown(&path)
                    ),
                ),
            }
        }
        v.or(())?;
        let (name, etag) = (wish.name, wish.etag);
        let change = AccessChange::UpdatePrincipal { name, title, grants, identities, disabled, default_tenant, etag };
        let (principal, authentication_required) = self.change_principal(&caller, change).await?;
        Ok(Response::new(pb::UpdatePrincipalResponse { principal: Some(principal), authentication_required }))
    }

    async fn delete_principal(
        &self,
        request: Request<pb::DeletePrincipalRequest>,
    ) -> Result<Response<pb::DeletePrincipalResponse>, Status> {
        let caller = Caller::of(&request);
        let pb::DeletePrincipalRequest { name, etag } = request.into_inner();
        self.change(&caller, AccessChange::DeletePrincipal { name, etag }).await?;
        Ok(Response::new(pb::DeletePrincipalResponse {}))
    }

    async fn list_principals(
        &self,
        request: Request<pb::ListPrincipalsRequest>,
    ) -> Result<Response<pb::ListPrincipalsResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let size = page_size(request.page_size, &mut v) as usize;
        let filter = request.tenant.as_bytes();
        let after = self.after(Listing::Principals, filter, &request.page_token, &mut v);
        v.or(())?;
        let book = self.book();
        let fits = |principal: &&Arc<Principal>| {
            caller.actor.sees(principal) && messages::is_seen_at(principal, &request.tenant, &caller.actor)
        };
        let found = book.principals_after(&after).filter(fits).take(size + 1);
        let mut principals: Vec<_> = found.map(|it| messages::principal(&book, it, &caller.actor)).collect();
        let has_more = cut_to_page(&mut principals, size);
        let last = principals.last().filter(|_| has_more);
        let next_page_token = last.map(|last| self.tokens.after_name(Listing::Principals, filter, &last.name));
        let next_page_token = next_page_token.unwrap_or_default();
        Ok(Response::new(pb::ListPrincipalsResponse { principals, next_page_token }))
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        values::text(&request.request_id, &"request_id", ID_BYTES_MAX, &mut v);
        values::text(&request.title, &"title", NAME_BYTES_MAX, &mut v);
        let grants = read_grants(&request.grants, "grants", &mut v);
        let lifetime = request.lifetime.and_then(|it| values::duration(it, &"lifetime", &mut v));
        if request.never_expires && request.lifetime.is_some() {
            v.add("lifetime", "is set with `never_expires`; leave out one of them");
        }
        v.or(())?;
        let text = fresh_token();
        let new = NewToken {
            id: text.id().to_owned(),
            hash: text.hash(),
            principal: request.principal,
            title: request.title,
            grants,
            lifetime,
            lifetime_max: self.lifetime_max,
            never_expires: request.never_expires,
            request_id: request.request_id,
        };
        match self.change(&caller, AccessChange::CreateToken(new)).await? {
            AccessAnswer::Token { token, is_new, is_first } => Ok(Response::new(pb::CreateTokenResponse {
                token: Some(messages::token(&self.book(), &token)),
                secret: if is_new { text.expose().to_owned() } else { String::new() },
                authentication_required: is_first,
            })),
            _ => Err(internal("a new token was answered with something else")),
        }
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let mut v = Violations::default();
        let size = page_size(request.page_size, &mut v) as usize;
        let mut filter = vec![u8::from(request.include_ended)];
        filter.extend(request.principal.as_bytes());
        let after = self.after(Listing::Tokens, &filter, &request.page_token, &mut v);
        v.or(())?;
        let (book, now) = (self.book(), self.engine.now());
        let fits = |token: &&Arc<Token>| {
            let Some(owner) = book.numbered(token.principal) else {
                // Of a principal that was deleted nothing is left to manage.
                return false;
            };
            let may = owner.no == caller.actor.principal || caller.actor.manages(owner);
            let is_asked_for = request.principal.is_empty() || owner.name == request.principal;
            may && is_asked_for && (request.include_ended || token.is_live(now))
        };
        // Who manages nobody has own tokens alone, which are few.
        let manages = caller.actor.is_operator() || caller.may(Role::Admin);
        let all: Box<dyn Iterator<Item = &Arc<Token>>> = match book.principal(&request.principal) {
            _ if !manages => Box::new(book.tokens_of(caller.actor.principal, &after)),
            Some(owner) => Box::new(book.tokens_of(owner.no, &after)),
            None => Box::new(book.tokens_after(&after)),
        };
        let mut found: Vec<_> = all.filter(fits).take(size + 1).collect();
        let has_more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| has_more);
        let next_page_token = last.map(|last| self.tokens.after_name(Listing::Tokens, &filter, &last.id));
        let tokens = found.iter().map(|it| messages::token(&book, it)).collect();
        Ok(Response::new(pb::ListTokensResponse { tokens, next_page_token: next_page_token.unwrap_or_default() }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let caller = Caller::of(&request);
        let pb::RevokeTokenRequest { token_id, with_descendants } = request.into_inner();
        match self.change(&caller, AccessChange::RevokeToken { id: token_id, with_descendants }).await? {
            AccessAnswer::Revoked(revoked) => Ok(Response::new(pb::RevokeTokenResponse { revoked })),
            _ => Err(internal("the end of a token was answered with something else")),
        }
    }

    async fn put_credential(
        &self,
        request: Request<pb::PutCredentialRequest>,
    ) -> Result<Response<pb::PutCredentialResponse>, Status> {
        let caller = Caller::of(&request);
        credentials::put(&self.engine, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn get_credential(
        &self,
        request: Request<pb::GetCredentialRequest>,
    ) -> Result<Response<pb::GetCredentialResponse>, Status> {
        let caller = Caller::of(&request);
        credentials::get(&self.engine, &caller, &request.into_inner().name).map(Response::new)
    }

    async fn list_credentials(
        &self,
        request: Request<pb::ListCredentialsRequest>,
    ) -> Result<Response<pb::ListCredentialsResponse>, Status> {
        let caller = Caller::of(&request);
        credentials::list(&self.engine, &caller, &self.tokens, &request.into_inner()).map(Response::new)
    }

    async fn delete_credential(
        &self,
        request: Request<pb::DeleteCredentialRequest>,
    ) -> Result<Response<pb::DeleteCredentialResponse>, Status> {
        let caller = Caller::of(&request);
        credentials::delete(&self.engine, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn create_tenant(
        &self,
        request: Request<pb::CreateTenantRequest>,
    ) -> Result<Response<pb::CreateTenantResponse>, Status> {
        let caller = Caller::of(&request);
        let change = tenants::creation(request.into_inner())?;
        let tenant = Some(self.change_tenant(&caller, change).await?);
        Ok(Response::new(pb::CreateTenantResponse { tenant }))
    }

    async fn get_tenant(
        &self,
        request: Request<pb::GetTenantRequest>,
    ) -> Result<Response<pb::GetTenantResponse>, Status> {
        let caller = Caller::of(&request);
        let name = request.into_inner().name;
        let tenant = Some(tenants::get(&self.engine, &self.watches, &self.book(), &caller, &name).await?);
        Ok(Response::new(pb::GetTenantResponse { tenant }))
    }

    async fn update_tenant(
        &self,
        request: Request<pb::UpdateTenantRequest>,
    ) -> Result<Response<pb::UpdateTenantResponse>, Status> {
        let caller = Caller::of(&request);
        let change = tenants::update(request.into_inner())?;
        let tenant = Some(self.change_tenant(&caller, change).await?);
        Ok(Response::new(pb::UpdateTenantResponse { tenant }))
    }

    async fn delete_tenant(
        &self,
        request: Request<pb::DeleteTenantRequest>,
    ) -> Result<Response<pb::DeleteTenantResponse>, Status> {
        let caller = Caller::of(&request);
        let pb::DeleteTenantRequest { name, etag } = request.into_inner();
        self.change(&caller, AccessChange::DeleteTenant { name, etag }).await?;
        Ok(Response::new(pb::DeleteTenantResponse {}))
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        let request = request.into_inner();
        tenants::list(&self.engine, &self.watches, &self.book(), &self.tokens, &request).await.map(Response::new)
    }

    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let caller = Caller::of(&request);
        let book = self.engine.books().borrow().clone();
        audit::list(self.store.as_ref(), &book, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn rotate_data_key(
        &self,
        request: Request<pb::RotateDataKeyRequest>,
    ) -> Result<Response<pb::RotateDataKeyResponse>, Status> {
        let number = self.engine.by(Caller::of(&request).actor).new_data_key().await?;
        Ok(Response::new(pb::RotateDataKeyResponse { data_key_id: number.to_string() }))
    }
}
