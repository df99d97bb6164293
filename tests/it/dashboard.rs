//! The pages for browsers, as they come over the wire. What they do in a browser is tested by `scripts/test-web`.

use crate::it::curl::curl;
use crate::support::server::Server;

const BROWSER: [&str; 2] = ["--header", "Accept: text/html,application/xhtml+xml,*/*;q=0.8"];

#[tokio::test]
async fn pages_are_served_and_other_paths_say_that_they_are_none() {
    let server = Server::start().await;
    let page = curl(&server, &BROWSER, "/");
    assert_eq!((page.code, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self';"));
    let tag = page.header("etag").unwrap().to_owned();
    assert_eq!(curl(&server, &BROWSER, "/jobs/0197/tasks/7?state=failed").header("etag"), Some(tag.as_str()));
    assert_eq!(curl(&server, &["--header", &format!("If-None-Match: {tag}")], "/hosts").code, 304);
    let script = curl(&server, &[], "/app.js");
    assert_eq!((script.code, script.header("cache-control")), (200, Some("no-cache")));
    assert_eq!(curl(&server, &["--head"], "/app.css").code, 200);

    let missing = curl(&server, &BROWSER, "/schedules");
    assert_eq!((missing.code, missing.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert_eq!(curl(&server, &[], "/schedules").fault().0, "ROUTE_NOT_FOUND");
    assert_eq!(curl(&server, &BROWSER, "/v1/nothing").fault().0, "ROUTE_NOT_FOUND", "the API has no pages");
    assert_eq!(curl(&server, &["--request", "POST"], "/jobs").fault().0, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn links_of_other_pages_lead_to_pages_and_to_nothing_else() {
    let server = Server::start().await;
    let follow = |mode: &str, path: &str| {
        let mode = format!("Sec-Fetch-Mode: {mode}");
        let link =
            ["--header", "Sec-Fetch-Site: cross-site", "--header", "Sec-Fetch-Dest: document", "--header", &mode];
        curl(&server, &link, path).code
    };
    assert_eq!(follow("navigate", "/jobs"), 200);
    assert_eq!(follow("cors", "/jobs"), 403);
    assert_eq!(follow("navigate", "/v1/jobs"), 403);
    assert_eq!(follow("navigate", "/app.js"), 403);
    let post = ["--request", "POST", "--header", "Sec-Fetch-Site: cross-site", "--header", "Sec-Fetch-Mode: navigate"];
    assert_eq!(curl(&server, &post, "/jobs").code, 403);
}

#[tokio::test]
async fn a_server_without_a_dashboard_has_the_rest() {
    let server = Server::with(&["--web", "off"]).await;
    for path in ["/", "/jobs", "/app.js"] {
        assert_eq!(curl(&server, &BROWSER, path).fault().0, "ROUTE_NOT_FOUND", "{path}");
    }
    assert_eq!(curl(&server, &[], "/v1/jobs").code, 200);
    assert_eq!(curl(&server, &[], "/readyz").code, 200);
}

#[tokio::test]
async fn a_session_takes_tls_and_is_as_good_as_its_token() {
    let plain = Server::start().await;
    let begin = ["--request", "POST", "--header", "Authorization: Bearer haul_x"];
    let refused = curl(&plain, &begin, "/v1/session");
    assert_eq!((refused.code, refused.fault().0), (412, "SESSION_NEEDS_TLS".to_owned()));

    // Behind something that encrypts.
    let server = Server::with(&["--insecure-listen", "plaintext"]).await;
    let token = first_token(&server).await;
    assert_eq!(curl(&server, &begin, "/v1/session").fault().0, "BAD_CREDENTIALS");
    assert_eq!(curl(&server, &["--request", "POST"], "/v1/session").fault().0, "NO_CREDENTIALS");
    let begun =
        curl(&server, &["--request", "POST", "--header", &format!("Authorization: Bearer {token}")], "/v1/session");
    let cookie = begun.header("set-cookie").unwrap().to_owned();
    assert!(
        begun.code == 200 && cookie.ends_with("; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict"),
        "{begun:?}"
    );
    let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
    let own = ["--header", &cookie, "--header", "Sec-Fetch-Site: same-origin"];
    assert_eq!(curl(&server, &own, "/v1/whoami").json()["principal"], "me");
    assert_eq!(curl(&server, &own[..2], "/v1/whoami").fault().0, "NO_CREDENTIALS", "the page must be the server's own");
    let end = ["--request", "DELETE", "--header", &cookie, "--header", "Sec-Fetch-Site: same-origin"];
    assert_eq!(curl(&server, &end, "/v1/session").code, 200);
    assert_eq!(curl(&server, &own, "/v1/whoami").fault().0, "BAD_CREDENTIALS", "a session that has ended");
}

async fn first_token(server: &Server) -> String {
    let mut people = haul::pb::access_service_client::AccessServiceClient::new(server.channel.clone());
    let principal = haul::pb::Principal {
        name: "me".to_owned(),
        grants: vec![haul::pb::Grant { role: haul::pb::Role::Operator.into(), tenant: String::new() }],
        ..Default::default()
    };
    let request = haul::pb::CreatePrincipalRequest { principal: Some(principal), ..Default::default() };
    people.create_principal(request).await.unwrap();
    let request = haul::pb::CreateTokenRequest { principal: "me".to_owned(), ..Default::default() };
    people.create_token(request).await.unwrap().into_inner().secret
}
