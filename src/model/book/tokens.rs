//! The tokens of the book: who may make which, and what ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::access::{AccessAnswer, AccessError, AccessRow, Actor, NewToken, Token};
use crate::model::book::principals::{check_gift, manager_of};
use crate::model::book::{Book, Decided};
use crate::model::made_by::MadeBy;
use crate::model::role::{Grant, Role, holds};
use crate::model::tenant::DEFAULT_TENANT;
use crate::model::time::Timestamp;

/// How long a token lasts when nothing is said.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(90 * 86_400);

impl Book {
    pub(super) fn create_token(&self, new: &NewToken, by: &Actor, now: Timestamp) -> Result<Decided, AccessError> {
        let unknown = || AccessError::NoPrincipal(new.principal.clone());
        let principal = self.principal(&new.principal).filter(|it| by.sees(it)).ok_or_else(unknown)?;
        let is_own = principal.no == by.principal;
        if !is_own && !by.manages(principal) {
            return Err(manager_of(principal));
        }
        let may_breed = by.is_operator() || by.may(Role::Admin, principal.home().unwrap_or(DEFAULT_TENANT));
        if !by.token_id.is_empty() && !may_breed {
            let why = "only an admin or an operator can make tokens with a token; ask one of them";
            return Err(AccessError::Escalation(why.to_owned()));
        }
        let request = (principal.no, &new.title, &new.grants, new.lifetime, new.never_expires);
        let request = MadeBy::of(&new.request_id, by.principal, &request);
        if let Some(there) = self.tokens.values().find(|token| token.request.repeats(&request)) {
            if there.request != request {
                return Err(AccessError::RequestIdTaken(request.id));
            }
            let answer = AccessAnswer::Token { token: there.clone(), is_new: false, is_first: false };
            return Ok(Decided::new(Vec::new(), answer));
        }
        if let Some(wide) = new.grants.iter().find(|it| !holds(&principal.grants, it)) {
            let why =
                format!("principal `{}` has no grant `{wide}`, so no token of it can; grant it first", principal.name);
            return Err(AccessError::Escalation(why));
        }
        let held = if new.grants.is_empty() { &principal.grants } else { &new.grants };
        let gift: Vec<Grant> = held.iter().filter(|it| !(is_own && holds(&by.grants, it))).cloned().collect();
        check_gift(by, &gift)?;
        if new.never_expires && !by.is_operator() {
            return Err(AccessError::MissingRole(Role::Operator, String::new()));
        }
        let lifetime = new.lifetime.unwrap_or(LIFETIME_DEFAULT.min(new.lifetime_max));
        if lifetime.is_zero() || lifetime > new.lifetime_max {
            let days = new.lifetime_max.as_secs_f64() / 86_400.0;
            return Err(AccessError::Invalid("lifetime", format!("must be more than 0 and at most {days} days")));
        }
        let mut rows = self.room_for_token_of(principal, now)?;
        let token = Arc::new(Token {
            id: new.id.clone(),
            principal: principal.no,
            hash: new.hash,
            title: new.title.clone(),
            grants: new.grants.clone(),
            create_time: now,
            expire_time: (!new.never_expires).then(|| now.plus(lifetime)),
            revoke_time: None,
            last_use: None,
            created_by: by.name.clone(),
            created_with: by.token_id.clone(),
            request,
        });
        rows.push(AccessRow::Token(token.clone()));
        let is_first = !self.is_required;
        rows.extend(is_first.then_some(AccessRow::Required));
        Ok(Decided::new(rows, AccessAnswer::Token { token, is_new: true, is_first }))
    }

    pub(super) fn revoke(
        &self,
        id: &str,
        with_descendants: bool,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Decided, AccessError> {
        let may = |token: &Token| {
            let owner = self.principals.get(&token.principal);
            token.principal == by.principal || owner.is_some_and(|it| by.manages(it))
        };
        let unknown = || AccessError::NoToken(id.to_owned());
        let token = self.tokens.get(id).filter(|token| may(token)).ok_or_else(unknown)?;
        let mut ids = BTreeSet::from([token.id.as_str()]);
        if with_descendants {
            // By their makers, so that each token is looked at once, however long a line of descent is.
            let mut made: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for token in self.tokens.values().filter(|token| !token.created_with.is_empty()) {
                made.entry(&token.created_with).or_default().push(&token.id);
            }
            let mut makers = vec![token.id.as_str()];
            while let Some(maker) = makers.pop() {
                for id in made.remove(maker).unwrap_or_default() {
                    ids.insert(id);
                    makers.push(id);
                }
            }
        }
        let rows = self.ended(|token| ids.contains(token.id.as_str()), now);
        let count = rows.len() as u32;
        Ok(Decided::new(rows, AccessAnswer::Revoked(count)))
    }

    /// The rows that end live tokens.
    pub(super) fn ended(&self, which: impl Fn(&Token) -> bool, now: Timestamp) -> Vec<AccessRow> {
        let live = self.tokens.values().filter(|token| token.is_live(now) && which(token));
        live.map(|token| AccessRow::Token(Arc::new(Token { revoke_time: Some(now), ..Token::clone(token) }))).collect()
    }
}
