//! How many principals and tokens there may be: so many that no tenant keeps others, or whoever runs the server, from making theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::access::{AccessError, AccessRow, ENTRIES_MAX, Principal, Token};
use crate::model::book::Book;
use crate::model::time::Timestamp;

/// How many principals a tenant may have. Of those that were deleted, whose numbers stay taken, there may be as many as entries of
/// any kind.
pub(super) const TENANT_PRINCIPALS_MAX: usize = 10_000;
/// How many tokens the principals of a tenant may have.
const TENANT_TOKENS_MAX: usize = 10_000;
/// How many tokens one principal may have.
pub(super) const PRINCIPAL_TOKENS_MAX: usize = 5_000;
/// How many tokens are forgotten at once. Where there are more than may be, it takes several calls to come within the bounds.
const FORGOTTEN_MAX: usize = 1_000;
/// How long a token that has ended can be looked at, where nothing needs its place.
const ENDED_KEPT: Duration = Duration::from_secs(90 * 86_400);

/// Which tokens a bound counts.
type Counts<'a> = &'a dyn Fn(&Token) -> bool;

impl Book {
    /// Refuses a new principal for which there is no room.
    pub(super) fn check_room_for(&self, principal: &Principal) -> Result<(), AccessError> {
        let home = principal.home();
        let of_tenant = |it: &Principal| home.is_some() && it.home() == home;
        let (gone, living): (Vec<_>, Vec<_>) =
            self.principals.values().filter(|it| of_tenant(it)).partition(|it| it.is_gone);
        if living.len() >= TENANT_PRINCIPALS_MAX || gone.len() >= ENTRIES_MAX {
            let what = "the tenant has 10,000 principals, or has deleted 100,000, the most that it may; update those that it has";
            return Err(AccessError::TooManyOf(what, format!("tenants/{}/principals", home.unwrap_or_default())));
        }
        // Principals of tenants leave those of the server alone.
        let is_beside = |it: &Principal| !it.is_gone && it.home().is_some() == home.is_some();
        if self.principals.values().filter(|it| is_beside(it)).count() >= ENTRIES_MAX {
            return Err(AccessError::TooMany("principals"));
        }
        Ok(())
    }

    /// Returns the rows that make room for another token of a principal: tokens that have ended are forgotten, those that ended
    /// long ago in any case, and others that made no token, from the oldest on, where there are too many.
    pub(super) fn room_for_token_of(&self, owner: &Principal, now: Timestamp) -> Result<Vec<AccessRow>, AccessError> {
        let is_old = |token: &Token| token.end().is_some_and(|end| end.plus(ENDED_KEPT) < now);
        let (old, mut kept): (Vec<&Token>, Vec<&Token>) =
            self.tokens.values().map(|token| &**token).partition(|token| is_old(token));
        let mut rows: Vec<AccessRow> = old.iter().map(|token| AccessRow::Forget(token.id.clone())).collect();
        // By them others are found that a thief made (`with_descendants`).
        let makers: BTreeSet<&str> = kept.iter().map(|token| token.created_with.as_str()).collect();
        let home = |token: &Token| self.principals.get(&token.principal).and_then(|it| it.home());
        let bounds: [(usize, Counts<'_>, AccessError); 3] = [
            (
                PRINCIPAL_TOKENS_MAX,
                &|token| token.principal == owner.no,
                AccessError::TooManyOf(
                    "the principal has 5,000 tokens, the most that it may; revoke some",
                    format!("principals/{}/tokens", owner.name),
                ),
            ),
            (
                TENANT_TOKENS_MAX,
                &|token| owner.home().is_some() && home(token) == owner.home(),
                AccessError::TooManyOf(
                    "the tenant has 10,000 tokens, the most that it may; revoke some",
                    format!("tenants/{}/tokens", owner.home().unwrap_or_default()),
                ),
            ),
            (ENTRIES_MAX, &|token| home(token).is_some() == owner.home().is_some(), AccessError::TooMany("tokens")),
        ];
        for (most, counts, refusal) in bounds {
            let count = kept.iter().filter(|token| counts(token)).count();
            let may_go = |token: &Token| counts(token) && !token.is_live(now) && !makers.contains(token.id.as_str());
            let mut ended: Vec<&Token> = kept.iter().filter(|token| may_go(token)).copied().collect();
            let Some(extra) = (count + 1).checked_sub(most) else { continue };
            let extra = extra.min(FORGOTTEN_MAX);
            if ended.len() < extra {
                return Err(refusal);
            }
            ended.sort_by_key(|token| token.end());
            ended.truncate(extra);
            let gone: BTreeSet<&str> = ended.iter().map(|token| token.id.as_str()).collect();
            kept.retain(|token| !gone.contains(token.id.as_str()));
            rows.extend(ended.iter().map(|token| AccessRow::Forget(token.id.clone())));
        }
        Ok(rows)
    }
}
