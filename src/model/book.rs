//! The book of who may call, and every decision over a change of it. Pure.
//!
//! [`Book::decide`] gives the rows that a change makes, to store and to put into the book, or says why not. Decisions are made
//! against the newest book, one after the other, so two changes at once cannot together do what neither may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::access::{
    AccessAnswer, AccessChange, AccessError, AccessRow, Actor, LOCAL, LOCAL_NAME, Principal, PrincipalNo, Token,
};
use crate::model::credential::Credentials;
use crate::model::identity::Identity;
use crate::model::made_by::MadeBy;
use crate::model::role::{Grant, Role, common, holds};
use crate::model::tenant::{Tenant, TenantNo};
use crate::model::time::Timestamp;

mod credentials;
mod principals;
mod room;
mod tenants;
mod tokens;

/// The first number of a principal that somebody made.
const FIRST: PrincipalNo = 16;

/// All that is known of who may call. Copies share what neither of them changes.
#[derive(Clone, Debug)]
pub struct Book {
    /// Whether a token or an identity was ever made, or authentication asked for: it stays so.
    pub is_required: bool,
    /// Those that were deleted too.
    principals: Arc<BTreeMap<PrincipalNo, Arc<Principal>>>,
    names: Arc<BTreeMap<String, PrincipalNo>>,
    identities: Arc<BTreeMap<Identity, PrincipalNo>>,
    tokens: Arc<BTreeMap<String, Arc<Token>>>,
    /// The tokens of each principal, by principal and id.
    owned: Arc<BTreeSet<(PrincipalNo, String)>>,
    /// When a token of each principal was last used.
    seen: Arc<BTreeMap<PrincipalNo, Timestamp>>,
    /// What the server sends to origins for those who may use it.
    pub credentials: Credentials,
    /// Those that were deleted too.
    tenants: BTreeMap<TenantNo, Arc<Tenant>>,
    tenant_names: BTreeMap<Arc<str>, TenantNo>,
}

impl Default for Book {
    /// Nobody may call, and there is the tenant that always exists.
    fn default() -> Self {
        let mut book = Book {
            is_required: false,
            principals: Arc::default(),
            names: Arc::default(),
            identities: Arc::default(),
            tokens: Arc::default(),
            owned: Arc::default(),
            seen: Arc::default(),
            credentials: Credentials::default(),
            tenants: BTreeMap::new(),
            tenant_names: BTreeMap::new(),
        };
        book.take(&AccessRow::Tenant(Arc::new(Tenant::default_one())));
        book
    }
}

/// A change that is decided.
#[derive(Debug)]
pub struct Decided {
    /// What is to be stored, and to be put into the book with [`Book::take`]; none: nothing changes.
    pub rows: Vec<AccessRow>,
    /// What to answer.
    pub answer: AccessAnswer,
}

/// A change that is decided, and the book with it.
#[derive(Debug)]
pub struct Applied {
    /// The book as it is then.
    pub book: Book,
    /// See [`Decided::rows`].
    pub rows: Vec<AccessRow>,
    /// What to answer.
    pub answer: AccessAnswer,
}

impl Decided {
    fn new(rows: Vec<AccessRow>, answer: AccessAnswer) -> Decided {
        Decided { rows, answer }
    }
}

impl Book {
    /// Makes the book of what is stored.
    pub fn of(rows: impl IntoIterator<Item = AccessRow>) -> Book {
        let mut book = Book::default();
        for row in rows {
            book.take(&row);
        }
        book
    }

    /// Returns a principal by its name.
    pub fn principal(&self, name: &str) -> Option<&Arc<Principal>> {
        self.principals.get(self.names.get(name)?)
    }

    /// Returns a principal by its number, unless it was deleted.
    pub fn numbered(&self, no: PrincipalNo) -> Option<&Arc<Principal>> {
        self.principals.get(&no).filter(|it| !it.is_gone)
    }

    /// Returns the number of the principal that has this name or, where none has it any more, of the last that had it.
    pub fn number_of(&self, name: &str) -> Option<PrincipalNo> {
        let gone = || self.principals.values().rev().find(|it| it.name == name).map(|it| it.no);
        self.names.get(name).copied().or_else(gone)
    }

    /// Returns the principals whose names come after `after`, by name.
    pub fn principals_after<'a>(&'a self, after: &str) -> impl Iterator<Item = &'a Arc<Principal>> {
        let range = (std::ops::Bound::Excluded(after.to_owned()), std::ops::Bound::Unbounded);
        self.names.range(range).filter_map(|(_, no)| self.principals.get(no))
    }

    /// Returns whose an identity is.
    pub fn identified(&self, identity: &Identity) -> Option<&Arc<Principal>> {
        self.numbered(*self.identities.get(identity)?)
    }

    /// Returns a token by its id.
    pub fn token(&self, id: &str) -> Option<&Arc<Token>> {
        self.tokens.get(id)
    }

    /// Returns the tokens whose ids come after `after`, by id.
    pub fn tokens_after<'a>(&'a self, after: &str) -> impl Iterator<Item = &'a Arc<Token>> {
        let range = (std::ops::Bound::Excluded(after.to_owned()), std::ops::Bound::Unbounded);
        self.tokens.range(range).map(|(_, token)| token)
    }

    /// Returns the tokens of a principal whose ids come after `after`, by id.
    pub fn tokens_of<'a>(&'a self, no: PrincipalNo, after: &str) -> impl Iterator<Item = &'a Arc<Token>> {
        let from = std::ops::Bound::Excluded((no, after.to_owned()));
        let range = self.owned.range((from, std::ops::Bound::Excluded((no + 1, String::new()))));
        range.filter_map(|(_, id)| self.tokens.get(id))
    }

    /// Returns the name of a principal, also of one that was deleted.
    pub fn name_of(&self, no: PrincipalNo) -> &str {
        self.principals.get(&no).map_or(LOCAL_NAME, |it| &it.name)
    }

    /// Returns when tokens of a principal were last used.
    pub fn last_seen(&self, no: PrincipalNo) -> Option<Timestamp> {
        self.seen.get(&no).copied()
    }

    /// Returns what a token may do: what its principal may, and its own grants where it has some.
    pub fn grants_of(&self, token: &Token) -> Vec<Grant> {
        let Some(principal) = self.numbered(token.principal) else { return Vec::new() };
        if token.grants.is_empty() { principal.grants.clone() } else { common(&principal.grants, &token.grants) }
    }

    /// Returns whether anybody can sign in at `now`.
    pub fn has_users(&self, now: Timestamp) -> bool {
        self.tokens.values().any(|token| self.signs_in(token, now)) || self.known().next().is_some()
    }

    /// Returns the principals that sign in without a token.
    fn known(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.identities.values().filter_map(|no| self.numbered(*no)).filter(|principal| !principal.disabled)
    }

    fn signs_in(&self, token: &Token, now: Timestamp) -> bool {
        token.is_live(now) && self.numbered(token.principal).is_some_and(|it| !it.disabled)
    }

    fn has_operator(&self, now: Timestamp) -> bool {
        let operator = Grant::at(Role::Operator, "");
        self.known().any(|principal| holds(&principal.grants, &operator))
            || self.tokens.values().any(|token| self.signs_in(token, now) && holds(&self.grants_of(token), &operator))
    }

    /// Puts in what was decided or is stored.
    pub fn take(&mut self, row: &AccessRow) {
        match row {
            AccessRow::Principal(principal) => {
                let identities = Arc::make_mut(&mut self.identities);
                if let Some(old) = self.principals.get(&principal.no) {
                    for identity in &old.identities {
                        identities.remove(identity);
                    }
                }
                if !principal.is_gone {
                    identities.extend(principal.identities.iter().map(|it| (it.clone(), principal.no)));
                }
                let names = Arc::make_mut(&mut self.names);
                if principal.is_gone {
                    if names.get(&principal.name) == Some(&principal.no) {
                        names.remove(&principal.name);
                    }
                } else {
                    names.insert(principal.name.clone(), principal.no);
                }
                Arc::make_mut(&mut self.principals).insert(principal.no, principal.clone());
            }
            AccessRow::Tenant(tenant) => self.take_tenant(tenant),
            AccessRow::Token(token) => {
                if let Some((time, _)) = &token.last_use {
                    let seen = Arc::make_mut(&mut self.seen).entry(token.principal).or_default();
                    *seen = (*seen).max(*time);
                }
                if !self.tokens.contains_key(&token.id) {
                    Arc::make_mut(&mut self.owned).insert((token.principal, token.id.clone()));
                }
                Arc::make_mut(&mut self.tokens).insert(token.id.clone(), token.clone());
            }
            AccessRow::Forget(id) => {
                if let Some(token) = Arc::make_mut(&mut self.tokens).remove(id) {
                    Arc::make_mut(&mut self.owned).remove(&(token.principal, token.id.clone()));
                }
            }
            AccessRow::Required => self.is_required = true,
            AccessRow::Credential(credential) => self.credentials.put(credential.clone()),
            AccessRow::NoCredential(tenant, name) => self.credentials.remove(*tenant, name),
        }
    }

    /// Returns the book as it is with these rows.
    #[must_use]
    pub fn with(&self, rows: &[AccessRow]) -> Book {
        let mut book = self.clone();
        for row in rows {
            book.take(row);
        }
        book
    }

    /// Whether nobody could sign in as an operator any more who can now.
    fn locks_out(&self, rows: &[AccessRow], now: Timestamp) -> bool {
        rows.iter().any(|row| self.may_lock_out(row, now))
            && self.has_operator(now)
            && !self.with(rows).has_operator(now)
    }

    /// Whether a row may end what an operator signs in with: it changes somebody or a token that is there.
    fn may_lock_out(&self, row: &AccessRow, now: Timestamp) -> bool {
        match row {
            AccessRow::Principal(principal) => self.principals.contains_key(&principal.no),
            AccessRow::Token(token) => self.tokens.contains_key(&token.id),
            AccessRow::Forget(id) => self.tokens.get(id).is_some_and(|token| token.is_live(now)),
            AccessRow::Tenant(_) | AccessRow::Required | AccessRow::Credential(_) | AccessRow::NoCredential(..) => {
                false
            }
        }
    }

    /// Decides over a change that `by` wants at `now`, and puts it into a copy of the book.
    pub fn apply(&self, change: &AccessChange, by: &Actor, now: Timestamp) -> Result<Applied, AccessError> {
        let Decided { rows, answer } = self.decide(change, by, now)?;
        Ok(Applied { book: self.with(&rows), rows, answer })
    }

    /// Decides over a change that `by` wants at `now`.
    pub fn decide(&self, change: &AccessChange, by: &Actor, now: Timestamp) -> Result<Decided, AccessError> {
        let decided = match change {
            AccessChange::CreatePrincipal { name, title, grants, identities, disabled, default_tenant, request_id } => {
                let principal = Principal {
                    no: self.principals.last_key_value().map_or(FIRST, |(last, _)| last + 1),
                    name: name.clone(),
                    title: title.clone(),
                    grants: grants.clone(),
                    identities: identities.clone(),
                    disabled: *disabled,
                    default_tenant: default_tenant.clone(),
                    is_gone: false,
                    create_time: now,
                    update_time: now,
                    version: 0,
                    request: MadeBy::of(
                        request_id,
                        by.principal,
                        &(name, title, grants, identities, disabled, default_tenant),
                    ),
                };
                self.create_principal(principal, by)
            }
            AccessChange::UpdatePrincipal { name, title, grants, identities, disabled, default_tenant, etag } => {
                let principal = self.managed(name, etag, by)?;
                let mut changed = Principal::clone(principal);
                changed.title = title.clone().unwrap_or(changed.title);
                changed.grants = grants.clone().unwrap_or(changed.grants);
                changed.identities = identities.clone().unwrap_or(changed.identities);
                changed.disabled = disabled.unwrap_or(changed.disabled);
                changed.default_tenant = default_tenant.clone().unwrap_or(changed.default_tenant);
                self.update_principal(principal, changed, by, now)
            }
            AccessChange::DeletePrincipal { name, etag } => {
                let principal = self.managed(name, etag, by)?;
                let own = |token: &Token| token.principal == principal.no;
                let mut rows = self.ended(own, now);
                let gone = Principal { is_gone: true, update_time: now, ..Principal::clone(principal) };
                rows.push(AccessRow::Principal(Arc::new(gone)));
                Ok(Decided::new(rows, AccessAnswer::Done))
            }
            AccessChange::CreateTenant { name, patch, request_id } => {
                self.create_tenant(name, patch, request_id, by, now)
            }
            AccessChange::UpdateTenant { name, patch, etag } => self.update_tenant(name, patch, etag, by),
            AccessChange::DeleteTenant { name, etag } => self.delete_tenant(name, etag, by, now),
            AccessChange::CreateToken(new) => self.create_token(new, by, now),
            AccessChange::RevokeToken { id, with_descendants } => self.revoke(id, *with_descendants, by, now),
            AccessChange::PutCredential(put) => self.put_credential(put, by, now),
            AccessChange::DeleteCredential { tenant, name, etag, .. } => {
                self.delete_credential(*tenant, name, etag, by)
            }
            AccessChange::UsedCredentials(used) => Ok(self.use_credentials(used)),
            AccessChange::Require => {
                let rows = if self.is_required { Vec::new() } else { vec![AccessRow::Required] };
                Ok(Decided::new(rows, AccessAnswer::Done))
            }
            AccessChange::Used(used) => {
                let mark = |(id, time, address): &(String, Timestamp, String)| {
                    let token = self.tokens.get(id)?;
                    let last_use = Some((*time, address.clone()));
                    Some(AccessRow::Token(Arc::new(Token { last_use, ..Token::clone(token) })))
                };
                Ok(Decided::new(used.iter().filter_map(mark).collect(), AccessAnswer::Done))
            }
        }?;
        if by.principal != LOCAL && self.locks_out(&decided.rows, now) {
            return Err(AccessError::LastOperator);
        }
        Ok(decided)
    }
}

#[cfg(test)]
mod tests;
