//! Each client with TLS, a token and a tenant, and what it refuses.

use std::process::Command;

use crate::clients::programs::{go, node, output, python, source};
use crate::support::secure::{Authority, Secure};

/// Runs a program of `tests/clients` that says who it is to a server that wants tokens.
fn says_who_it_is(mut program: Command) {
    let authority = Authority::new();
    let server = Secure::start(&authority.server(), &[("ca.pem", &authority.pem())], &[]);
    let made = server.owner(&["token", "create", "clerk", "--grant", "submit"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let token = String::from_utf8(made.stdout).unwrap();
    let place = format!("https://localhost:{}", server.port);
    let said = output(program.arg(place).arg(server.path("ca.pem")).arg(token.trim()));
    assert_eq!(
        said,
        "UNAUTHENTICATED NO_CREDENTIALS\nPERMISSION_DENIED TENANT_NOT_ALLOWED\nclerk of default\nrefused 3\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_says_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = python(dir.path(), &source("who.py")) else { return };
    says_who_it_is(program);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_client_says_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = node(dir.path(), &source("who.mjs")) else { return };
    says_who_it_is(program);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_client_says_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = go(dir.path(), &source("who.go")) else { return };
    says_who_it_is(program);
}
