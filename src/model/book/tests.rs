//! Who may change what, as a table.

use std::time::Duration;

use super::*;
use crate::model::access::{LIFETIME_MAX_DEFAULT, NewToken, name_objection};
use crate::model::tenant::{NoScope, Scope, TenantPatch};
use crate::model::token::TokenHash;

const NOW: Timestamp = Timestamp(1_000_000);

fn grants(text: &str) -> Vec<Grant> {
    text.split_whitespace().map(|grant| grant.parse().unwrap()).collect()
}

fn by(book: &Book, name: &str, token_id: &str) -> Actor {
    let principal = book.principal(name).unwrap();
    Actor {
        principal: principal.no,
        name: name.to_owned(),
        token_id: token_id.to_owned(),
        address: String::new(),
        grants: principal.grants.as_slice().into(),
        request_id: String::new(),
        scope: Scope::default_one(),
    }
}

fn principal(name: &str, have: &str) -> AccessChange {
    AccessChange::CreatePrincipal {
        name: name.to_owned(),
        title: String::new(),
        grants: grants(have),
        identities: Vec::new(),
        disabled: false,
        default_tenant: String::new(),
        request_id: String::new(),
    }
}

fn token(id: &str, principal: &str, have: &str) -> NewToken {
    NewToken {
        id: id.to_owned(),
        hash: TokenHash([1; 32]),
        principal: principal.to_owned(),
        title: String::new(),
        grants: grants(have),
        lifetime: None,
        lifetime_max: LIFETIME_MAX_DEFAULT,
        never_expires: false,
        request_id: String::new(),
    }
}

fn done(book: &Book, change: &AccessChange, by: &Actor) -> Book {
    book.apply(change, by, NOW).unwrap().book
}

fn refused(book: &Book, change: &AccessChange, by: &Actor) -> AccessError {
    book.apply(change, by, NOW).map(|applied| applied.answer).unwrap_err()
}

/// An operator, an admin and a submitter of `default`, and a submitter of the server, each with a token of its name.
fn book() -> Book {
    let mut book = Book::default();
    for (name, have) in
        [("op", "operator"), ("default/boss", "admin"), ("default/ci", "submit"), ("probe", "monitor submit")]
    {
        book = done(&book, &principal(name, have), &Actor::local());
        book = done(&book, &AccessChange::CreateToken(token(name, name, "")), &Actor::local());
    }
    book
}

#[test]
fn the_first_token_makes_tokens_needed_for_good() {
    let book = done(&Book::default(), &principal("op", "operator"), &Actor::local());
    assert!(!book.is_required, "a principal alone is nobody who could call");
    let applied = book.apply(&AccessChange::CreateToken(token("t", "op", "")), &Actor::local(), NOW).unwrap();
    assert!(matches!(applied.answer, AccessAnswer::Token { is_first: true, is_new: true, .. }));
    let revoke = AccessChange::RevokeToken { id: "t".into(), with_descendants: false };
    let later = done(&applied.book, &revoke, &Actor::local());
    assert!(later.is_required && !later.has_users(NOW));
}

#[test]
fn what_is_stored_is_the_book_again() {
    let book = book();
    let rows = book.principals.values().map(|it| AccessRow::Principal(it.clone()));
    let again = Book::of(rows.chain(book.tokens.values().map(|it| AccessRow::Token(it.clone()))));
    assert_eq!((again.names, again.principals), (book.names, book.principals));
}

#[test]
fn nobody_gives_more_than_they_may() {
    let book = book();
    let (op, boss) = (by(&book, "op", "op"), by(&book, "default/boss", "default/boss"));
    for (actor, change, may) in [
        (&op, principal("default/new", "submit@* operator"), true),
        (&boss, principal("default/new", "submit read control admin"), true),
        (&boss, principal("default/new", "operator"), false),
        (&boss, principal("default/new", "submit@*"), false),
        (&boss, AccessChange::CreateToken(token("x", "default/ci", "")), true),
    ] {
        let result = book.apply(&change, actor, NOW);
        assert_eq!(result.is_ok(), may, "{change:?} {:?}", result.map(|it| it.answer));
        if !may {
            assert!(matches!(refused(&book, &change, actor), AccessError::Escalation(_)));
        }
    }
    assert_eq!(
        refused(&book, &principal("new", "submit"), &boss),
        AccessError::MissingRole(Role::Operator, String::new())
    );
    // Known by its grant at the admin's tenant, and not managed by it.
    let of_probe = AccessChange::CreateToken(token("x", "probe", ""));
    assert_eq!(refused(&book, &of_probe, &boss), AccessError::MissingRole(Role::Operator, String::new()));
    let of_op = AccessChange::CreateToken(token("x", "op", ""));
    assert_eq!(refused(&book, &of_op, &boss), AccessError::NoPrincipal("op".into()), "not yours is not there");
    // The probe of the server was granted more since it was made a member; its admin cannot pass that on.
    let wide = AccessChange::UpdatePrincipal {
        name: "default/ci".into(),
        title: None,
        grants: Some(grants("submit monitor")),
        identities: None,
        disabled: None,
        default_tenant: None,
        etag: String::new(),
    };
    assert!(matches!(refused(&book, &wide, &boss), AccessError::Escalation(_)));
    let book = done(&book, &wide, &op);
    let of_ci = |have| AccessChange::CreateToken(token("y", "default/ci", have));
    assert!(matches!(refused(&book, &of_ci(""), &boss), AccessError::Escalation(_)), "it would hold `monitor`");
    assert!(book.apply(&of_ci("submit"), &boss, NOW).is_ok());
}

#[test]
fn tokens_do_not_breed() {
    let book = book();
    let own = AccessChange::CreateToken(token("x", "default/ci", ""));
    assert!(matches!(refused(&book, &own, &by(&book, "default/ci", "default/ci")), AccessError::Escalation(_)));
    let otherwise = by(&book, "default/ci", "");
    assert!(book.apply(&own, &otherwise, NOW).is_ok(), "by certificate");
    let mut narrow = otherwise;
    narrow.grants = [].into();
    assert!(matches!(refused(&book, &own, &narrow), AccessError::Escalation(_)), "more than the call held");
    let wide = AccessChange::CreateToken(token("x", "default/ci", "read"));
    assert!(matches!(refused(&book, &wide, &Actor::local()), AccessError::Escalation(_)), "more than its principal");
    let forever = AccessChange::CreateToken(NewToken { never_expires: true, ..token("x", "default/ci", "") });
    assert_eq!(
        refused(&book, &forever, &by(&book, "default/boss", "")),
        AccessError::MissingRole(Role::Operator, String::new())
    );
}

#[test]
fn descendants_end_with_their_maker_where_that_is_asked_for() {
    let op = |book: &Book, with: &str| by(book, "op", with);
    let mut book = book();
    book = done(&book, &AccessChange::CreateToken(token("b", "op", "")), &op(&book, "op"));
    book = done(&book, &AccessChange::CreateToken(token("c", "default/ci", "")), &op(&book, "b"));
    let revoke = |with_descendants| AccessChange::RevokeToken { id: "op".into(), with_descendants };
    let count = |change| match book.apply(&change, &Actor::local(), NOW).unwrap().answer {
        AccessAnswer::Revoked(count) => count,
        other => panic!("{other:?}"),
    };
    assert_eq!((count(revoke(false)), count(revoke(true))), (1, 3));
    let after = done(&book, &revoke(true), &Actor::local());
    assert!(!after.token("c").unwrap().is_live(NOW) && after.token("default/ci").unwrap().is_live(NOW));
    let other = AccessChange::RevokeToken { id: "op".into(), with_descendants: false };
    assert_eq!(refused(&book, &other, &by(&book, "default/ci", "")), AccessError::NoToken("op".into()));
    let own = AccessChange::RevokeToken { id: "default/ci".into(), with_descendants: false };
    assert!(book.apply(&own, &by(&book, "default/ci", "default/ci"), NOW).is_ok());
}

#[test]
fn the_last_operator_stays_unless_the_server_s_user_says_so() {
    let book = book();
    let op = by(&book, "op", "op");
    let change = |grants, disabled| AccessChange::UpdatePrincipal {
        name: "op".into(),
        title: None,
        grants,
        identities: None,
        disabled,
        default_tenant: None,
        etag: String::new(),
    };
    for last in [
        change(Some(Vec::new()), None),
        change(None, Some(true)),
        AccessChange::DeletePrincipal { name: "op".into(), etag: String::new() },
        AccessChange::RevokeToken { id: "op".into(), with_descendants: false },
    ] {
        assert_eq!(refused(&book, &last, &op), AccessError::LastOperator, "{last:?}");
        assert!(book.apply(&last, &Actor::local(), NOW).is_ok(), "{last:?}");
    }
}

#[test]
fn a_principal_made_anew_is_another_one() {
    let book = book();
    let delete = |etag: &str| AccessChange::DeletePrincipal { name: "default/ci".into(), etag: etag.to_owned() };
    let first = book.principal("default/ci").unwrap().clone();
    assert_eq!(refused(&book, &delete("1-1"), &Actor::local()), AccessError::Stale("principals/default/ci".into()));
    let book = done(&book, &delete(&first.etag()), &Actor::local());
    assert!(book.principal("default/ci").is_none() && !book.token("default/ci").unwrap().is_live(NOW));
    assert_eq!(book.name_of(first.no), "default/ci", "its jobs still say whose they are");
    let last = book.principals.keys().max().copied().unwrap();
    let book = done(&book, &principal("default/ci", ""), &Actor::local());
    let second = book.principal("default/ci").unwrap();
    assert!(second.no > last && second.no != first.no);
    assert!(matches!(refused(&book, &principal("default/ci", ""), &Actor::local()), AccessError::Exists(_)));
}

#[test]
fn a_repeated_request_makes_nothing_twice() {
    let book = book();
    let change = |id| AccessChange::CreateToken(NewToken { request_id: "r".into(), ..token(id, "op", "") });
    let book = done(&book, &change("first"), &Actor::local());
    let again = book.apply(&change("second"), &Actor::local(), NOW).unwrap();
    let AccessAnswer::Token { token, is_new: false, .. } = again.answer else { panic!("{:?}", again.answer) };
    assert!(token.id == "first" && again.rows.is_empty());
}

#[test]
fn a_request_id_stands_for_what_it_asked_for_and_for_who_asked() {
    let book = book();
    let (op, boss) = (by(&book, "op", "op"), by(&book, "default/boss", "default/boss"));
    let asked = |id: &str, principal: &str, have: &str| {
        AccessChange::CreateToken(NewToken { request_id: "r".into(), ..token(id, principal, have) })
    };
    let book = done(&book, &asked("first", "default/ci", ""), &op);
    let taken = AccessError::RequestIdTaken("r".into());
    assert_eq!(refused(&book, &asked("x", "default/boss", ""), &op), taken, "another principal");
    assert_eq!(refused(&book, &asked("x", "default/ci", "submit"), &op), taken, "other grants");
    let other = book.apply(&asked("second", "default/ci", ""), &boss, NOW).unwrap();
    assert!(matches!(other.answer, AccessAnswer::Token { is_new: true, .. }), "another caller");
    let make = |name: &str, title: &str| AccessChange::CreatePrincipal {
        name: name.into(),
        title: title.into(),
        grants: Vec::new(),
        identities: Vec::new(),
        disabled: false,
        default_tenant: String::new(),
        request_id: "r".into(),
    };
    let book = done(&book, &make("new", ""), &op);
    assert!(book.apply(&make("new", ""), &op, NOW).unwrap().rows.is_empty());
    assert_eq!(refused(&book, &make("new", "title"), &op), taken);
    assert_eq!(refused(&book, &make("newer", ""), &op), taken);
    // Who is made again under the name of who asked has asked for nothing.
    let delete = AccessChange::DeletePrincipal { name: "default/boss".into(), etag: String::new() };
    let book = done(&done(&book, &asked("second", "default/ci", ""), &boss), &delete, &op);
    let book = done(&book, &principal("default/boss", "admin"), &op);
    let again = Actor { token_id: String::new(), ..by(&book, "default/boss", "") };
    assert!(matches!(
        book.apply(&asked("third", "default/ci", ""), &again, NOW).unwrap().answer,
        AccessAnswer::Token { is_new: true, .. }
    ));
}

#[test]
fn an_identity_is_of_one_principal_and_only_operators_give_it() {
    let book = book();
    let op = by(&book, "op", "op");
    let uid = |uid| vec![Identity::UnixUid(uid)];
    let give = |name: &str, identities: Vec<Identity>| AccessChange::UpdatePrincipal {
        name: name.into(),
        title: None,
        grants: None,
        identities: Some(identities),
        disabled: None,
        default_tenant: None,
        etag: String::new(),
    };
    let boss = by(&book, "default/boss", "default/boss");
    assert_eq!(
        refused(&book, &give("default/ci", uid(7)), &boss),
        AccessError::MissingRole(Role::Operator, String::new()),
        "an admin could claim the users of another tenant"
    );
    let book = done(&book, &give("default/ci", uid(7)), &op);
    assert_eq!(book.identified(&Identity::UnixUid(7)).unwrap().name, "default/ci");
    assert_eq!(refused(&book, &give("probe", uid(7)), &op), AccessError::IdentityTaken("default/ci".into()));
    assert_eq!(
        refused(&book, &give("default/ci", Vec::new()), &boss),
        AccessError::MissingRole(Role::Operator, String::new())
    );
    let moved = done(&done(&book, &give("default/ci", uid(8)), &op), &give("probe", uid(7)), &op);
    assert_eq!(moved.identified(&Identity::UnixUid(7)).unwrap().name, "probe");
    let delete = AccessChange::DeletePrincipal { name: "default/ci".into(), etag: String::new() };
    let gone = done(&book, &delete, &op);
    assert!(gone.identified(&Identity::UnixUid(7)).is_none());
    let rows = moved.principals.values().map(|it| AccessRow::Principal(it.clone()));
    assert_eq!(Book::of(rows).identities, moved.identities);
    // The first identity makes authentication required, as the first token does.
    let first = done(&Book::default(), &principal("op", "operator"), &Actor::local());
    let applied = first.apply(&give("op", uid(1)), &Actor::local(), NOW).unwrap();
    assert!(matches!(applied.answer, AccessAnswer::Principal { is_first: true, .. }));
    assert!(applied.book.is_required && applied.book.has_users(NOW));
    let last = give("op", Vec::new());
    assert_eq!(refused(&applied.book, &last, &by(&applied.book, "op", "")), AccessError::LastOperator);
}

#[test]
fn lifetimes_have_a_bound_and_ended_tokens_are_forgotten_in_the_end() {
    let book = book();
    let change = |lifetime| AccessChange::CreateToken(NewToken { lifetime, ..token("x", "op", "") });
    for bad in [Duration::ZERO, Duration::from_secs(367 * 86_400)] {
        assert!(matches!(refused(&book, &change(Some(bad)), &Actor::local()), AccessError::Invalid("lifetime", _)));
    }
    let book = done(&book, &change(Some(Duration::from_secs(60))), &Actor::local());
    let made = book.token("x").unwrap();
    assert!(made.is_live(NOW) && !made.is_live(NOW.plus(Duration::from_secs(60))));
    let later = NOW.plus(Duration::from_secs(100 * 86_400));
    let after = book.apply(&AccessChange::CreateToken(token("z", "op", "")), &Actor::local(), later).unwrap().book;
    assert!(after.token("x").is_none() && after.token("op").is_some());
}

#[test]
fn names_are_plain() {
    for good in ["a", "ci", "default/ci", "acme/ci", "a-1", &"a".repeat(63)] {
        assert_eq!(name_objection(good), None, "{good}");
    }
    for bad in [
        "",
        "-a",
        "a-",
        "A",
        "a b",
        "a_b",
        "ü",
        "local",
        "anonymous",
        "default/local",
        "default/",
        "a/b/c",
        &"a".repeat(64),
    ] {
        assert!(name_objection(bad).is_some(), "{bad}");
    }
}

fn tenant(name: &str) -> AccessChange {
    AccessChange::CreateTenant { name: name.to_owned(), patch: Box::default(), request_id: String::new() }
}

fn deletion(name: &str) -> AccessChange {
    AccessChange::DeleteTenant { name: name.to_owned(), etag: String::new() }
}

/// A book with the tenants `a` and `b`.
fn with_tenants() -> Book {
    let book = done(&book(), &tenant("a"), &Actor::local());
    done(&book, &tenant("b"), &Actor::local())
}

#[test]
fn a_call_is_about_the_tenant_that_it_names_or_the_only_one_that_its_caller_has() {
    let book = with_tenants();
    let about = |have: &str, default: &str, wanted: Option<&str>| {
        book.scope(&grants(have), default, wanted).map(|scope| scope.name().to_owned())
    };
    let no = |name: &str| Err(NoScope::NotAllowed(name.to_owned()));
    for (have, default, wanted, expected) in [
        ("submit@a", "", None, Ok("a")),
        ("submit@a read@a", "", None, Ok("a")),
        ("submit@a read@b", "", None, Err(NoScope::Required)),
        ("submit@a read@b", "b", None, Ok("b")),
        ("submit@a read@b", "", Some("b"), Ok("b")),
        ("submit@a read@default", "", None, Ok("default")),
        ("submit@*", "", None, Ok("default")),
        ("submit@* read@a", "", None, Ok("default")),
        ("submit@*", "a", None, Ok("a")),
        ("submit@*", "", Some("b"), Ok("b")),
        ("operator", "", None, Ok("default")),
        ("operator", "", Some("a"), Ok("a")),
        ("", "", None, Ok("default")),
        ("submit@a", "b", None, Ok("a")),
        ("submit@a", "", Some("*"), Ok("*")),
    ] {
        assert_eq!(about(have, default, wanted), expected.map(str::to_owned), "{have} {default} {wanted:?}");
    }
    for other in ["b", "default", "c", "", "A", "a ", "../a"] {
        assert_eq!(about("submit@a", "", Some(other)), no(other), "there or not, it is one answer");
    }
    assert_eq!(about("submit@*", "", Some("c")), no("c"));
}

#[test]
fn a_tenant_takes_everything_with_it_that_names_it_and_its_number_stays_taken() {
    let mut book = with_tenants();
    let first = book.tenant("a").unwrap().no;
    for (name, have) in [("a/ci", "submit@a"), ("both", "submit@a submit@b"), ("only", "read@a")] {
        book = done(&book, &principal(name, have), &Actor::local());
    }
    for (id, name, have) in [
        ("own", "a/ci", ""),
        ("wide", "both", ""),
        ("narrow", "both", "submit@a"),
        ("two", "both", "submit@a submit@b"),
        ("none", "only", ""),
    ] {
        book = done(&book, &AccessChange::CreateToken(token(id, name, have)), &Actor::local());
    }
    book = done(&book, &deletion("a"), &Actor::local());
    assert!(book.tenant("a").is_none() && book.principal("a/ci").is_none());
    assert_eq!(book.principal("both").unwrap().grants, grants("submit@b"));
    let of = |id: &str| book.token(id).filter(|token| token.is_live(NOW)).map(|token| book.grants_of(token));
    assert_eq!(of("own"), None);
    assert_eq!(of("narrow"), None, "without grants of its own it would have all those of its principal");
    assert_eq!((of("wide"), of("two")), (Some(grants("submit@b")), Some(grants("submit@b"))));
    assert_eq!(of("none"), Some(Vec::new()));
    assert_eq!(book.gone_tenants().map(|it| it.no).collect::<Vec<_>>(), [first]);
    book = done(&book, &tenant("a"), &Actor::local());
    assert!(book.tenant("a").unwrap().no > first && book.gone_tenants().next().is_none());
    assert!(book.principal("both").unwrap().grants == grants("submit@b"), "a new tenant inherits nothing");
}

#[test]
fn tenants_are_the_operators_affair() {
    let book = with_tenants();
    let boss = by(&book, "default/boss", "");
    let needs_operator = AccessError::MissingRole(Role::Operator, String::new());
    let patch = Box::new(TenantPatch { title: Some("A".into()), ..TenantPatch::default() });
    let update = AccessChange::UpdateTenant { name: "a".into(), patch, etag: String::new() };
    for change in [tenant("c"), deletion("a"), update.clone()] {
        assert_eq!(refused(&book, &change, &boss), needs_operator);
    }
    assert_eq!(refused(&book, &tenant("a"), &Actor::local()), AccessError::TenantExists("a".into()));
    assert_eq!(refused(&book, &deletion("c"), &Actor::local()), AccessError::NoTenant("c".into()));
    assert!(matches!(refused(&book, &deletion("default"), &Actor::local()), AccessError::Invalid("name", _)));
    assert!(matches!(refused(&book, &tenant("A"), &Actor::local()), AccessError::Invalid("tenant.name", _)));
    let stale = AccessChange::DeleteTenant { name: "a".into(), etag: book.tenant("a").unwrap().etag() };
    let changed = done(&book, &update, &Actor::local());
    assert_eq!(changed.tenant("a").unwrap().title, "A");
    assert_eq!(refused(&changed, &stale, &Actor::local()), AccessError::Stale("tenants/a".into()));
}

#[test]
fn grants_and_homes_are_of_tenants_that_exist() {
    let book = with_tenants();
    let op = Actor::local();
    assert!(matches!(refused(&book, &principal("x", "read@c"), &op), AccessError::Invalid("principal.grants", _)));
    assert!(matches!(refused(&book, &principal("c/x", ""), &op), AccessError::Invalid("principal.name", _)));
    let made = done(&book, &principal("a/x", "read@a admin@a"), &op);
    let admin = by(&made, "a/x", "");
    let own = done(&made, &principal("a/y", "submit@a"), &admin);
    assert!(own.principal("a/y").is_some());
    for (name, have) in [("b/y", ""), ("c/y", ""), ("y", "")] {
        let refusal = refused(&made, &principal(name, have), &admin);
        assert!(matches!(refusal, AccessError::MissingRole(..)), "{name}: {refusal:?}");
    }
    for have in ["submit@b", "submit@c", "submit@*"] {
        assert!(matches!(refused(&made, &principal("a/y", have), &admin), AccessError::Escalation(_)), "{have}");
    }
    let default = |name: &str| AccessChange::UpdatePrincipal {
        name: "a/x".into(),
        title: None,
        grants: None,
        identities: None,
        disabled: None,
        default_tenant: Some(name.into()),
        etag: String::new(),
    };
    assert_eq!(done(&made, &default("a"), &op).principal("a/x").unwrap().default_tenant, "a");
    for other in ["b", "c"] {
        assert!(matches!(refused(&made, &default(other), &op), AccessError::Invalid("principal.default_tenant", _)));
    }
}

/// Attempts note that they use credentials, in the loop of the server.
#[test]
fn a_copy_of_the_book_shares_what_a_change_does_not_touch() {
    let book = book();
    let applied =
        book.apply(&AccessChange::RevokeToken { id: "op".into(), with_descendants: false }, &Actor::local(), NOW);
    let changed = applied.unwrap().book;
    assert!(Arc::ptr_eq(&book.principals, &changed.principals) && Arc::ptr_eq(&book.names, &changed.names));
    assert!(Arc::ptr_eq(&book.owned, &changed.owned) && Arc::ptr_eq(&book.seen, &changed.seen));
    assert!(!Arc::ptr_eq(&book.tokens, &changed.tokens));
    assert!(book.has_operator(NOW) && !changed.has_operator(NOW));
}

#[test]
fn no_tenant_takes_the_room_of_others() {
    let mut book = book();
    let (boss, op) = (by(&book, "default/boss", ""), by(&book, "op", ""));
    // A principal has so many tokens; those that have ended make room, the oldest first.
    book = done(&book, &AccessChange::CreateToken(token("t1", "default/ci", "")), &boss);
    let first = book.token("t1").unwrap().clone();
    let like = |nth| AccessRow::Token(Arc::new(Token { id: format!("t{nth}"), ..Token::clone(&first) }));
    book = book.with(&(2..room::PRINCIPAL_TOKENS_MAX).map(like).collect::<Vec<_>>());
    let more = AccessChange::CreateToken(token("more", "default/ci", ""));
    let too_many = refused(&book, &more, &boss);
    assert!(matches!(too_many, AccessError::TooManyOf(_, of) if of == "principals/default/ci/tokens"));
    assert!(book.apply(&AccessChange::CreateToken(token("other", "default/boss", "")), &boss, NOW).is_ok());
    let revoke = |id: &str| AccessChange::RevokeToken { id: id.into(), with_descendants: false };
    book = book.apply(&revoke("t7"), &boss, NOW.plus(Duration::from_secs(2))).unwrap().book;
    book = book.apply(&revoke("t9"), &boss, NOW.plus(Duration::from_secs(1))).unwrap().book;
    let later = NOW.plus(Duration::from_secs(3));
    book = book.apply(&more, &boss, later).unwrap().book;
    assert!(book.token("t7").is_some() && book.token("t9").is_none(), "the one that ended first");
    assert!(book.token("more").unwrap().is_live(later));
    // One that made another stays, since whoever revokes its maker finds the other by it.
    let by_t7 = AccessChange::CreateToken(token("made", "default/boss", ""));
    book = book.apply(&by_t7, &by(&book, "default/boss", "t7"), later).unwrap().book;
    let last = AccessChange::CreateToken(token("last", "default/ci", ""));
    let too_many = book.apply(&last, &boss, later).unwrap_err();
    assert!(matches!(too_many, AccessError::TooManyOf(_, of) if of == "principals/default/ci/tokens"));

    // A tenant has so many principals, and whoever runs the server is not kept from making others.
    let living = |no: PrincipalNo| {
        let ci = book.principal("default/ci").unwrap();
        let name = format!("default/p{no}");
        AccessRow::Principal(Arc::new(Principal { no, name, ..Principal::clone(ci) }))
    };
    let rows: Vec<AccessRow> = (0..room::TENANT_PRINCIPALS_MAX as u64).map(|at| living(1_000 + at)).collect();
    let full = book.with(&rows);
    let refusal = refused(&full, &principal("default/new", "submit"), &boss);
    assert!(matches!(refusal, AccessError::TooManyOf(_, of) if of == "tenants/default/principals"));
    for name in ["new", "other/new"] {
        let tenant =
            AccessChange::CreateTenant { name: "other".into(), patch: Box::default(), request_id: String::new() };
        assert!(done(&full, &tenant, &op).apply(&principal(name, ""), &op, NOW).is_ok(), "{name}");
    }
}
