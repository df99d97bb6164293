//! Who is taken for whom, as a table.

use super::*;
use crate::model::access::{AccessChange, AccessRow, LIFETIME_MAX_DEFAULT, NewToken};
use crate::model::identity::Identity;

const NOW: Timestamp = Timestamp(1_000_000_000);

fn text(seed: usize) -> TokenText {
    let mut at = seed;
    TokenText::of(|| {
        at += 11;
        at
    })
}

/// A book with a token of `ci`, an operator, and one of `off`, which is disabled.
fn book() -> Book {
    let mut book = Book::default();
    for (seed, name, disabled) in [(0, "ci", false), (1, "off", true)] {
        let principal = AccessChange::CreatePrincipal {
            name: name.into(),
            title: String::new(),
            grants: vec!["operator".parse().unwrap()],
            identities: Vec::new(),
            disabled,
            default_tenant: String::new(),
            request_id: String::new(),
        };
        let token = AccessChange::CreateToken(NewToken {
            id: text(seed).id().to_owned(),
            hash: text(seed).hash(),
            principal: name.into(),
            title: String::new(),
            grants: Vec::new(),
            lifetime: None,
            lifetime_max: LIFETIME_MAX_DEFAULT,
            never_expires: false,
            request_id: String::new(),
        });
        for change in [principal, token] {
            book = book.apply(&change, &Actor::local(), NOW).unwrap().book;
        }
    }
    book
}

fn here() -> Shown {
    Shown {
        authorization: Vec::new(),
        session: None,
        certificate: None,
        user: None,
        is_owner: false,
        is_near: true,
        is_proxied: false,
        address: "127.0.0.1".into(),
        request_id: "r".into(),
        tenants: Vec::new(),
    }
}

fn with(authorization: &[&str]) -> Shown {
    Shown { authorization: authorization.iter().map(|it| Zeroizing::new(it.as_bytes().to_vec())).collect(), ..here() }
}

fn policy(mode: AuthMode) -> Policy {
    Policy { mode, is_open: false }
}

fn judged(shown: &Shown, policy: Policy, book: &Book) -> Result<(String, Method), Unknown> {
    with_settings(shown, policy, book, &Identities::new())
}

fn with_settings(
    shown: &Shown,
    policy: Policy,
    book: &Book,
    identities: &Identities,
) -> Result<(String, Method), Unknown> {
    let caller = shown.judge(Rules { policy, identities, book, sessions: &Sessions::default() }, NOW);
    caller.map(|caller| (caller.actor.name.clone(), caller.method))
}

#[test]
fn this_machine_needs_no_token_until_there_is_one() {
    let none = Book::default();
    let required = Book::of([AccessRow::Required]);
    let local = || Ok(("local".to_owned(), Method::Loopback));
    let far = Shown { is_near: false, ..here() };
    let proxied = Shown { is_proxied: true, ..here() };
    for (mode, book, near, distant, forwarded) in [
        (AuthMode::Auto, &none, local(), Err(Unknown::Nothing), Err(Unknown::Proxied)),
        (AuthMode::Auto, &required, Err(Unknown::Nothing), Err(Unknown::Nothing), Err(Unknown::Nothing)),
        (AuthMode::Required, &none, Err(Unknown::Nothing), Err(Unknown::Nothing), Err(Unknown::Nothing)),
        (AuthMode::Off, &required, local(), Ok(("anonymous".to_owned(), Method::None)), local()),
    ] {
        assert_eq!(judged(&here(), policy(mode), book), near, "{mode:?}");
        assert_eq!(judged(&far, policy(mode), book), distant, "{mode:?}");
        assert_eq!(judged(&proxied, policy(mode), book), forwarded, "{mode:?}");
    }
    let open = Policy { mode: AuthMode::Auto, is_open: true };
    assert_eq!(judged(&far, open, &none), Ok(("anonymous".to_owned(), Method::None)));
    assert_eq!(judged(&far, open, &required), Err(Unknown::Nothing), "a token closes it again");
}

#[test]
fn a_token_is_judged_wherever_it_comes_from() {
    let book = book();
    let good = text(0).expose().to_owned();
    let auto = policy(AuthMode::Auto);
    for scheme in ["Bearer", "bearer", "bEARER"] {
        let token = Ok(("ci".to_owned(), Method::Token));
        assert_eq!(judged(&with(&[&format!("{scheme} {good}")]), auto, &book), token);
    }
    let forged = format!("{}{}", &good[..16], &text(3).expose()[16..]);
    for (sent, why) in [
        (vec![format!("Bearer {good}"), format!("Bearer {good}")], "two headers"),
        (vec![format!("Basic {good}")], "another scheme"),
        (vec![good.clone()], "damaged"),
        (vec![String::new()], "damaged"),
        (vec![format!("Bearer {}", &good[..60])], "damaged"),
        (vec![format!("Bearer {forged}")], "damaged"),
        (vec![format!("Bearer {}", text(2).expose())], "unknown"),
        (vec![format!("Bearer {}", text(1).expose())], "disabled"),
    ] {
        let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
        for mode in [AuthMode::Auto, AuthMode::Required] {
            assert_eq!(judged(&with(&sent), policy(mode), &book), Err(Unknown::Bad(why)), "{sent:?}");
        }
        // A wrong token is refused, and not taken for none, also where none is needed.
        assert!(judged(&with(&sent), auto, &Book::default()).is_err());
        assert_eq!(judged(&with(&sent), policy(AuthMode::Off), &book), Ok(("local".to_owned(), Method::Loopback)));
    }
    let far = Shown { is_near: false, ..with(&[&format!("Bearer {good}")]) };
    assert!(judged(&far, auto, &book).is_ok());
    let later = NOW.plus(std::time::Duration::from_secs(91 * 86_400));
    let rules = Rules { policy: auto, identities: &Identities::new(), book: &book, sessions: &Sessions::default() };
    assert_eq!(far.judge(rules, later).unwrap_err(), Unknown::Bad("expired"));
    let revoke = AccessChange::RevokeToken { id: text(0).id().to_owned(), with_descendants: false };
    let revoked = book.apply(&revoke, &Actor::local(), NOW).unwrap().book;
    assert_eq!(judged(&far, auto, &revoked), Err(Unknown::Bad("revoked")));
}

#[test]
fn certificates_count_where_no_token_is_sent() {
    let (none, book) = (Book::default(), book());
    let of = |name: &str| identity::Shown::by_certificate([], [name]);
    let by = |name| Shown { certificate: Some(of(name)), is_near: false, ..here() };
    let auto = policy(AuthMode::Auto);
    let settings: Identities =
        ["host", "ci", "off"].iter().map(|it| (Identity::CertificateDns((*it).into()), (*it).to_owned())).collect();
    let judged_by = |name, policy, book: &Book| with_settings(&by(name), policy, book, &settings);
    let nobody = || Err(Unknown::Bad("no identity"));
    assert_eq!(judged_by("ci", auto, &book), Ok(("ci".to_owned(), Method::Certificate)));
    assert_eq!(judged_by("off", auto, &book), Err(Unknown::Bad("disabled")));
    for mode in [AuthMode::Auto, AuthMode::Required, AuthMode::Off] {
        for book in [&none, &book] {
            assert_eq!(judged_by("host", policy(mode), book), nobody(), "a principal that there is not");
            assert_eq!(judged_by("stranger", policy(mode), book), nobody());
        }
    }
    let near = Shown { is_near: true, ..by("stranger") };
    assert_eq!(judged(&near, auto, &none), nobody(), "not even where others call without anything");
    let delete = AccessChange::DeletePrincipal { name: "ci".into(), etag: String::new() };
    let deleted = book.apply(&delete, &Actor::local(), NOW).unwrap().book;
    assert_eq!(judged_by("ci", auto, &deleted), nobody(), "a principal that was deleted");
    let token = format!("Bearer {}", text(0).expose());
    let both = Shown { certificate: Some(of("stranger")), ..with(&[&token]) };
    assert_eq!(judged(&both, auto, &book), Ok(("ci".to_owned(), Method::Token)));
}

#[test]
fn identities_of_the_book_count_as_those_of_the_settings() {
    let change = |identities: Vec<Identity>| AccessChange::UpdatePrincipal {
        name: "ci".into(),
        title: None,
        grants: None,
        identities: Some(identities),
        disabled: None,
        default_tenant: None,
        etag: String::new(),
    };
    let own = vec![Identity::UnixUid(7), Identity::CertificateDns("ci.example".into())];
    let book = book().apply(&change(own), &Actor::local(), NOW).unwrap().book;
    let user = |uid| Shown { user: Some(identity::Shown::by_socket(uid, 1)), ..here() };
    let auto = policy(AuthMode::Auto);
    assert_eq!(judged(&user(7), auto, &book), Ok(("ci".to_owned(), Method::Socket)));
    assert_eq!(judged(&user(8), auto, &book), Err(Unknown::Nothing));
    assert_eq!(judged(&user(8), auto, &Book::default()), Ok(("local".to_owned(), Method::Loopback)));
    let certificate = identity::Shown::by_certificate([], ["ci.example"]);
    let by = Shown { certificate: Some(certificate), is_near: false, ..here() };
    assert_eq!(judged(&by, auto, &book), Ok(("ci".to_owned(), Method::Certificate)));
    let other = Identities::from([(Identity::CertificateDns("ci.example".into()), "off".to_owned())]);
    assert_eq!(with_settings(&by, auto, &book, &other), Err(Unknown::Bad("no identity")), "two principals are nobody");
    let none = book.apply(&change(Vec::new()), &Actor::local(), NOW).unwrap().book;
    assert_eq!(judged(&user(7), auto, &none), Err(Unknown::Nothing));
}

#[test]
fn the_servers_own_user_comes_by_the_socket_in_every_mode_and_a_token_goes_first() {
    let owner = Shown { is_owner: true, is_near: false, address: String::new(), ..here() };
    let (book, identities) = (book(), Identities::new());
    for mode in [AuthMode::Auto, AuthMode::Required, AuthMode::Off] {
        let sessions = Sessions::default();
        let rules = Rules { policy: policy(mode), identities: &identities, book: &book, sessions: &sessions };
        let caller = owner.judge(rules, NOW).unwrap();
        assert_eq!((caller.method, caller.actor.name.as_str()), (Method::Socket, "local"), "{mode:?}");
        assert!(caller.may(Role::Operator));
    }
    let bad = Shown { authorization: vec![b"Bearer x".to_vec().into()], ..owner.clone() };
    assert!(judged(&bad, policy(AuthMode::Required), &book).is_err());
    let proxied = Shown { is_proxied: true, ..owner };
    for mode in [AuthMode::Auto, AuthMode::Required] {
        assert_eq!(judged(&proxied, policy(mode), &book), Err(Unknown::Proxied), "{mode:?}");
    }
    let off = judged(&proxied, policy(AuthMode::Off), &book);
    assert_eq!(off, Ok(("local".to_owned(), Method::Socket)), "nobody is asked who they are");
    let token = format!("Bearer {}", text(0).expose());
    let known = Shown { authorization: vec![token.into_bytes().into()], ..proxied };
    assert_eq!(judged(&known, policy(AuthMode::Required), &book), Ok(("ci".to_owned(), Method::Token)));
}

#[test]
fn an_open_call_ends_with_a_role_that_it_began_with() {
    let book = book();
    let token = format!("Bearer {}", text(0).expose());
    let shown = with(&[&token]);
    let grant = |grants: &[&str]| {
        let change = AccessChange::UpdatePrincipal {
            name: "ci".into(),
            title: None,
            grants: Some(grants.iter().map(|it| it.parse().unwrap()).collect()),
            identities: None,
            disabled: None,
            default_tenant: None,
            etag: String::new(),
        };
        book.apply(&change, &Actor::local(), NOW).unwrap().book
    };
    let look = Need::OneOf(&[Role::Read, Role::Submit]);
    let identities = Identities::new();
    let decided = |book: &Book, before: Option<&Caller>| {
        let (policy, sessions) = (policy(AuthMode::Auto), Sessions::default());
        decide(&shown, Rules { policy, identities: &identities, book, sessions: &sessions }, ("m", look), before, NOW)
    };
    let first = decided(&grant(&["read", "submit"]), None).unwrap();
    assert!(decided(&grant(&["submit"]), None).is_ok(), "a new call sees its own jobs");
    let lacks = Denied::Lacks(Role::Read, Scope::default_one());
    assert_eq!(decided(&grant(&["submit"]), Some(&first)).unwrap_err(), lacks);
    assert_eq!(decided(&grant(&[]), Some(&first)).unwrap_err(), lacks);
    assert!(decided(&grant(&["control", "submit"]), Some(&first)).is_ok());
}

#[test]
fn a_call_names_one_tenant_at_which_its_caller_has_a_role() {
    let mut book = book();
    let grants = |have: &[&str]| have.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>();
    for name in ["a", "b"] {
        let change = AccessChange::CreateTenant { name: name.into(), patch: Box::default(), request_id: String::new() };
        book = book.apply(&change, &Actor::local(), NOW).unwrap().book;
    }
    let token = format!("Bearer {}", text(0).expose());
    let decided = |have: &[&str], named: &[&str], method: &str, need: Need, before: Option<&Caller>| {
        let change = AccessChange::UpdatePrincipal {
            name: "ci".into(),
            title: None,
            grants: Some(grants(have)),
            identities: None,
            disabled: None,
            default_tenant: None,
            etag: String::new(),
        };
        let book = book.apply(&change, &Actor::local(), NOW).unwrap().book;
        let tenants = named.iter().map(|name| name.as_bytes().to_vec()).collect();
        let shown = Shown { tenants, ..with(&[&token]) };
        let (policy, sessions, identities) = (policy(AuthMode::Auto), Sessions::default(), Identities::new());
        let rules = Rules { policy, identities: &identities, book: &book, sessions: &sessions };
        decide(&shown, rules, (method, need), before, NOW).map(|caller| Caller::clone(&caller))
    };
    let list = "haul.v1.JobService/ListJobs";
    let read = Need::OneOf(&[Role::Read, Role::Submit]);
    let scope = |have: &[&str], named: &[&str], method: &str, need: Need| {
        decided(have, named, method, need, None).map(|caller| caller.actor.scope.name().to_owned())
    };
    let other = |name: &str| Err(Denied::NoTenant(NoTenant::Other(name.into())));
    let ok = |name: &str| Ok(name.to_owned());
    assert_eq!(scope(&["read@a"], &[], list, read), ok("a"));
    assert_eq!(scope(&["read@a"], &["b"], list, read), other("b"));
    assert_eq!(scope(&["read@a"], &["nobody"], list, read), other("nobody"));
    assert_eq!(scope(&["read@a"], &["a", "a"], list, read), Err(Denied::NoTenant(NoTenant::Two)));
    assert_eq!(scope(&["read@a", "read@b"], &[], list, read), Err(Denied::NoTenant(NoTenant::None)));
    assert_eq!(scope(&["read@a", "read@b"], &[], "haul.v1.AccessService/WhoAmI", Need::Anybody), ok(""));
    assert_eq!(scope(&["operator", "read@a", "read@b"], &[], "m", Need::OneOf(&[Role::Operator])), ok(""));
    assert_eq!(scope(&["read@*"], &["*"], list, read), ok("*"));
    assert_eq!(scope(&["read@*"], &["*"], "haul.v1.JobService/GetJob", read), Err(Denied::NoTenant(NoTenant::All)));
    assert_eq!(scope(&["read@a"], &["*"], list, read), Err(Denied::Lacks(Role::Read, Scope::Every)));
    assert_eq!(scope(&["operator"], &["a"], list, read).unwrap_err().status("m").code(), Code::PermissionDenied);
    let open = decided(&["read@a"], &[], list, read, None).unwrap();
    let still = decided(&["read@a", "read@b"], &[], list, read, Some(&open)).unwrap();
    assert_eq!(still.actor.scope.name(), "a", "a call stays with its tenant, whatever a new one would be about");
}
