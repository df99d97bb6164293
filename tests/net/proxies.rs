//! Connections through proxies.

use haul::model::failure::FailureReason;
use haul::model::secret::Secret;
use haul::net::{Guard, HttpClient};

use crate::common::{class, client, fetch, with_http};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::reply::Reply;
use crate::support::tls::{Authority, Leaf};

fn through(url: &str) -> std::sync::Arc<haul::net::Profile> {
    with_http(|http| http.proxy_url = Some(Secret::new(url)))
}

#[tokio::test]
async fn every_kind_of_proxy_carries_requests() {
    let (origin, proxy, client) = (Origin::start(), Proxy::start(), client());
    origin.reply("/", Reply::ok("hello"));
    let port = origin.address().port();
    for scheme in ["http", "socks5", "socks5h"] {
        let profile = through(&format!("{scheme}://{}", proxy.address()));
        for _ in 0..2 {
            let url = format!("http://localhost:{port}/");
            assert_eq!(fetch(&client, &url, &profile).await.unwrap(), (200, b"hello".to_vec()), "{scheme}");
        }
    }
    let asked: Vec<_> = proxy.asked().into_iter().map(|asked| format!("{} {}", asked.how, asked.target)).collect();
    let expected = ["GET http://localhost", "SOCKS5 address 127.0.0.1", "SOCKS5 name localhost"];
    let asked: Vec<_> = asked.iter().map(|asked| asked.trim_end_matches('/')).collect();
    assert_eq!(asked, expected.map(|text| format!("{text}:{port}")), "one connection each, and used twice");
    assert_eq!(origin.requests("/")[0].target, format!("http://localhost:{port}/"), "passed on, not tunnelled");
    fetch(&client, &origin.url("/"), &with_http(|_| {})).await.unwrap();
    assert_eq!(proxy.asked().len(), 3, "a connection without a proxy is another one");
}

#[tokio::test]
async fn tls_goes_through() {
    let authority = Authority::new();
    let (origin, proxy) = (Origin::start_tls(authority.server(Leaf::good())), Proxy::start());
    origin.reply("/", Reply::ok("safe"));
    let profile = with_http(|http| {
        http.proxy_url = Some(Secret::new(format!("http://me:pw@{}", proxy.address())));
        http.ca_pem = Some(authority.pem());
    });
    assert_eq!(fetch(&client(), &origin.url("/"), &profile).await.unwrap().0, 200);
    assert_eq!(proxy.asked()[0].how, "CONNECT");
    assert_eq!(proxy.asked()[0].credentials.as_deref(), Some("Basic bWU6cHc="));
}

#[tokio::test]
async fn a_proxy_may_speak_tls() {
    let authority = Authority::new();
    let (plain, safe) = (Origin::start(), Origin::start_tls(authority.server(Leaf::good())));
    plain.reply("/", Reply::ok("plain"));
    safe.reply("/", Reply::ok("safe"));
    let proxy = Proxy::start_tls(authority.server(Leaf::good()));
    let profile = with_http(|http| {
        http.proxy_url = Some(Secret::new(format!("https://me:pw@localhost:{}", proxy.address().port())));
        http.ca_pem = Some(authority.pem());
    });
    let client = client();
    assert_eq!(fetch(&client, &plain.url("/"), &profile).await.unwrap().1, b"plain");
    assert_eq!(fetch(&client, &safe.url("/"), &profile).await.unwrap().1, b"safe");
    let how: Vec<_> = proxy.asked().into_iter().map(|asked| (asked.how, asked.credentials.is_some())).collect();
    assert_eq!(how, [("GET".to_owned(), true), ("CONNECT".to_owned(), true)]);
    assert!(plain.all_requests()[0].header("authorization").is_none());
}

/// Or whoever submits one, and sits between, would be sent the password of the operator.
#[tokio::test]
async fn tasks_do_not_say_whose_certificate_the_operators_proxy_has() {
    let authority = Authority::new();
    let proxy = Proxy::start_tls(authority.server(Leaf::good()));
    let url = Secret::new(format!("https://me:pw@localhost:{}", proxy.address().port()));
    let client = client().with_egress(Some(url));
    let (trusting, skipping) = (
        with_http(|http| http.ca_pem = Some(authority.pem())),
        with_http(|http| http.insecure_skip_verify = Some(true)),
    );
    for profile in [trusting, skipping] {
        let failure = fetch(&client, "http://192.0.2.1/", &profile).await.unwrap_err();
        assert_eq!(class(&failure), (FailureReason::Proxy, false), "{failure}");
    }
    assert!(proxy.asked().is_empty(), "it was asked for nothing, with no password");
}

#[tokio::test]
async fn a_proxy_that_wants_credentials_is_not_the_origin() {
    let proxy = Origin::start();
    proxy.reply("/*", Reply::status(407));
    let through = through(&format!("http://{}", proxy.address()));
    let failure = fetch(&client(), "http://a.example/x", &through).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Proxy, false), "{failure}");
    assert_eq!(proxy.all_requests()[0].target, "http://a.example/x");
}

#[tokio::test]
async fn socks_credentials_are_right_or_wrong() {
    let (origin, proxy) = (Origin::start(), Proxy::start_with_credentials("me:pw"));
    origin.reply("/", Reply::ok(""));
    let at = proxy.address();
    assert_eq!(fetch(&client(), &origin.url("/"), &through(&format!("socks5://me:pw@{at}"))).await.unwrap().0, 200);
    for wrong in ["", "me:hunter2@"] {
        let url = format!("socks5://{wrong}{at}");
        let failure = fetch(&client(), &origin.url("/"), &through(&url)).await.unwrap_err();
        assert_eq!(class(&failure), (FailureReason::Proxy, false), "{failure}");
        assert!(!failure.message.contains("hunter2"));
    }
}

#[tokio::test]
async fn a_proxy_that_fails_is_called_one() {
    let proxy = Proxy::start();
    let gone = Origin::start().address();
    for scheme in ["http", "socks5", "socks5h"] {
        let unreachable = through(&format!("{scheme}://{}", proxy.address()));
        let failure = fetch(&client(), &format!("https://{gone}/"), &unreachable).await.unwrap_err();
        assert_eq!(class(&failure), (FailureReason::Proxy, true), "{scheme}: {failure}");
        let no_proxy = through(&format!("{scheme}://{gone}"));
        let failure = fetch(&client(), "http://127.0.0.1:2/", &no_proxy).await.unwrap_err();
        assert_eq!(class(&failure), (FailureReason::Proxy, true), "{scheme}: {failure}");
    }
}

#[tokio::test]
async fn the_proxy_and_its_target_pass_the_guard() {
    let (origin, proxy) = (Origin::start(), Proxy::start());
    let strict = HttpClient::new(Guard::default());
    let trusting = HttpClient::new(Guard { allow_networks: vec!["127.0.0.2/32".parse().unwrap()], ..Guard::default() });
    for scheme in ["http", "socks5", "socks5h"] {
        let profile = through(&format!("{scheme}://{}", proxy.address()));
        let failure = fetch(&strict, "http://example.com/", &profile).await.unwrap_err();
        // Where names do not resolve, `socks5` ends before it dials the proxy.
        assert!(matches!(failure.reason, FailureReason::ForbiddenAddress | FailureReason::Dns), "{scheme}: {failure}");
        let failure = fetch(&trusting, &origin.url("/"), &profile).await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::ForbiddenAddress, "{scheme}");
    }
    assert!(proxy.asked().is_empty());
}
