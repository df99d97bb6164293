//! Who is taken for whom, as a table.

use super::*;
use crate::model::access::{AccessChange, AccessRow, LIFETIME_MAX_DEFAULT, NewToken};

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
            disabled,
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
        certificate: None,
        is_owner: false,
        is_loopback: true,
        is_proxied: false,
        address: "127.0.0.1".into(),
        request_id: "r".into(),
    }
}

fn with(authorization: &[&str]) -> Shown {
    Shown { authorization: authorization.iter().map(|it| it.as_bytes().to_vec()).collect(), ..here() }
}

fn policy(mode: AuthMode) -> Policy {
    Policy { mode, is_open: false }
}

fn judged(shown: &Shown, policy: Policy, book: &Book) -> Result<(String, Method), Unknown> {
    shown.judge(policy, book, NOW).map(|caller| (caller.actor.name.clone(), caller.method))
}

#[test]
fn this_machine_needs_no_token_until_there_is_one() {
    let none = Book::default();
    let required = Book::of([AccessRow::Required]);
    let local = || Ok(("local".to_owned(), Method::Loopback));
    let far = Shown { is_loopback: false, ..here() };
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
    let far = Shown { is_loopback: false, ..with(&[&format!("Bearer {good}")]) };
    assert!(judged(&far, auto, &book).is_ok());
    let later = NOW.plus(std::time::Duration::from_secs(91 * 86_400));
    assert_eq!(far.judge(auto, &book, later).unwrap_err(), Unknown::Bad("expired"));
    let revoke = AccessChange::RevokeToken { id: text(0).id().to_owned(), with_descendants: false };
    let revoked = book.apply(&revoke, &Actor::local(), NOW).unwrap().book;
    assert_eq!(judged(&far, auto, &revoked), Err(Unknown::Bad("revoked")));
}

#[test]
fn certificates_count_where_no_token_is_sent() {
    let (none, book) = (Book::default(), book());
    let by = |client| Shown { certificate: Some(client), is_loopback: false, ..here() };
    let auto = policy(AuthMode::Auto);
    let certificate = |name: &str| Ok((name.to_owned(), Method::Certificate));
    assert_eq!(judged(&by(Client::Vouched), auto, &none), certificate("local"));
    assert_eq!(judged(&by(Client::Vouched), auto, &book), Err(Unknown::Nothing), "there are principals now");
    assert_eq!(judged(&by(Client::Named("host".into())), auto, &none), certificate("host"));
    assert_eq!(judged(&by(Client::Named("host".into())), auto, &book), Err(Unknown::Bad("certificate of nobody")));
    assert_eq!(judged(&by(Client::Named("ci".into())), auto, &book), certificate("ci"));
    assert_eq!(judged(&by(Client::Named("off".into())), auto, &book), Err(Unknown::Bad("disabled")));
    for mode in [AuthMode::Auto, AuthMode::Required, AuthMode::Off] {
        assert_eq!(judged(&by(Client::Stranger), policy(mode), &none), Err(Unknown::Bad("certificate of nobody")));
    }
    let token = format!("Bearer {}", text(0).expose());
    let both = Shown { certificate: Some(Client::Stranger), ..with(&[&token]) };
    assert_eq!(judged(&both, auto, &book), Ok(("ci".to_owned(), Method::Token)));
    let grants = |shown: &Shown| shown.judge(auto, &book, NOW).unwrap().actor.grants.clone();
    assert_eq!(grants(&by(Client::Named("ci".into()))).len(), 1, "no more than its own");
}

#[test]
fn the_servers_own_user_comes_by_the_socket_in_every_mode_and_a_token_goes_first() {
    let owner = Shown { is_owner: true, is_loopback: false, address: String::new(), ..here() };
    for mode in [AuthMode::Auto, AuthMode::Required, AuthMode::Off] {
        let caller = owner.judge(policy(mode), &book(), NOW).unwrap();
        assert_eq!((caller.method, caller.actor.name.as_str()), (Method::Socket, "local"), "{mode:?}");
        assert!(caller.may(Role::Operator));
    }
    let bad = Shown { authorization: vec![b"Bearer x".to_vec()], ..owner };
    assert!(bad.judge(policy(AuthMode::Required), &book(), NOW).is_err());
}
