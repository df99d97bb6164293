//! Tokens that are made without a server, and sessions that have ended.

use haul::pb;
use tonic::Code;

use crate::it::access::{access, operator, reason};
use crate::it::wire::call_web;
use crate::support::server::{Server, haul};

/// A session that has ended is no wrong credential: each page that is open after a restart shows one, again and again.
#[tokio::test]
async fn dead_sessions_do_not_use_up_the_failures_of_an_address() {
    let server = Server::with(&["--auth-failures-per-minute", "3"]).await;
    operator(&server);
    let origin = format!("http://{}", server.address);
    let page = [
        ("cookie", "__Host-haul=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        ("origin", &origin),
        ("sec-fetch-site", "same-origin"),
    ];
    for _ in 0..20 {
        let status = call_web(&server, "haul.v1.AccessService/WhoAmI", b"", &page).await.status();
        assert_eq!(reason(&status), (Code::Unauthenticated, "BAD_CREDENTIALS".to_owned()), "{status:?}");
    }
    let status = access(&server, "haul_0000000000_no").who_am_i(pb::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(reason(&status).1, "BAD_CREDENTIALS");
}

#[test]
fn a_token_that_is_made_offline_is_printed_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let make = |more: &[&str]| {
        let data = dir.path().join("data").to_str().unwrap().to_owned();
        haul(&[&["token", "create", "op", "--grant", "operator", "--offline", "--data-dir", &data][..], more].concat())
    };
    let made = make(&["-o", "json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(made["secret"].as_str().unwrap().starts_with("haul_") && made["authentication_required"] == true, "{made}");
    assert_eq!(made["token"]["principal"], "op");
    for flag in ["--server", "--ca", "--cert", "--cert-key", "--token-file"] {
        assert_eq!(make(&[flag, "/nowhere"]).status.code(), Some(2), "{flag} is of no use here");
    }
}
