//! Redirects: where they lead, and what stays behind.

use haul::model::failure::FailureReason;
use haul::model::secret::Secret;
use haul::model::spec::HeaderSpec;
use haul::net::{Guard, HttpClient, Session, exchange};
use http::Method;

use crate::common::{class, client, follow, get, profile, read, with_http};
use crate::support::origin::Origin;
use crate::support::reply::Reply;

#[tokio::test]
async fn leads_to_the_last_answer_over_one_connection() {
    let (origin, client) = (Origin::start(), client());
    origin.reply("/a", Reply::redirect(301, "b").body("moved"));
    origin.reply("/b", Reply::redirect(307, "/c?x=1"));
    origin.reply("/c", Reply::ok("here"));
    let mut session = Session::new(&origin.url("/"));
    let response = exchange(&client, get(&origin.url("/a")), &profile(|_| {}), &mut session).await.unwrap();
    assert_eq!(response.url.as_str(), origin.url("/c?x=1"));
    assert_eq!(read(response.body).await.unwrap(), b"here");
    assert_eq!((session.trace.redirects, session.trace.status, origin.connections()), (2, 200, 1));
    assert_eq!(session.trace.remote, Some(origin.address()));
    let agent = concat!("haul/", env!("CARGO_PKG_VERSION"));
    assert!(origin.all_requests().iter().all(|request| request.header("user-agent") == Some(agent)));
}

#[tokio::test]
async fn ends_where_it_must() {
    let (origin, client) = (Origin::start(), client());
    origin.handle("/endless/*", |request| Reply::redirect(302, &format!("{}x", request.path)));
    origin.reply("/circle", Reply::redirect(302, "/circle2"));
    origin.reply("/circle2", Reply::redirect(302, "/circle"));
    origin.reply("/ftp", Reply::redirect(302, "ftp://a.example/"));
    let reason = async |path: &str, limit: Option<u32>| {
        let profile = with_http(|http| http.max_redirects = limit);
        class(&follow(&client, &origin.url(path), &profile).await.unwrap_err())
    };
    let too_many = (FailureReason::TooManyRedirects, false);
    assert_eq!(reason("/endless/", None).await, too_many);
    assert_eq!(origin.all_requests().len(), 11);
    assert_eq!(reason("/endless/", Some(0)).await, too_many);
    assert_eq!(reason("/circle", None).await, too_many);
    assert_eq!(reason("/ftp", None).await, (FailureReason::ForbiddenAddress, false));
}

#[tokio::test]
async fn a_redirect_passes_the_guard() {
    let (inside, outside) = (Origin::start(), Origin::start_on([127, 0, 0, 2]));
    outside.reply("/", Reply::redirect(302, &inside.url("/secret")));
    let client = HttpClient::new(Guard { allow_networks: vec!["127.0.0.2/32".parse().unwrap()], ..Guard::default() });
    let mut session = Session::new(&outside.url("/"));
    let end = exchange(&client, get(&outside.url("/")), &profile(|_| {}), &mut session).await;
    assert_eq!(class(&end.unwrap_err()), (FailureReason::ForbiddenAddress, false));
    assert_eq!(session.trace.url.unwrap().as_str(), inside.url("/secret"), "the trace tells where it ended");
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn secrets_stay_with_their_origin() {
    let (origin, other, client) = (Origin::start(), Origin::start_on([127, 0, 0, 2]), client());
    origin.reply("/here", Reply::redirect(302, "/there"));
    origin.reply("/there", Reply::redirect(307, &other.url("/away")).header("Set-Cookie", "own=1"));
    other.reply("/away", Reply::redirect(307, &origin.url("/back")));
    origin.reply("/back", Reply::ok(""));
    let header = |name: &str, sensitive| HeaderSpec { name: name.into(), value: Secret::new("v"), sensitive };
    let profile = with_http(|http| {
        http.bearer_token = Some(Secret::new("token"));
        http.headers =
            ["x-key", "x-plain", "cookie", "accept-language"].map(|name| header(name, name == "x-key")).into();
    });
    follow(&client, &origin.url("/here"), &profile).await.unwrap();
    let told = |request: &crate::support::origin::Request| {
        ["authorization", "x-key", "x-plain", "cookie", "accept-language"]
            .map(|name| request.header(name).map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(told(&origin.requests("/there")[0]), [some("Bearer token"), some("v"), some("v"), some("v"), some("v")]);
    assert_eq!(told(&other.requests("/away")[0]), [None, None, None, None, some("v")]);
    assert_eq!(told(&origin.requests("/back")[0]), [None, None, None, some("own=1"), some("v")]);
}

#[tokio::test]
async fn credentials_in_every_form() {
    let (origin, client) = (Origin::start(), client());
    origin.reply("/", Reply::ok(""));
    let basic = with_http(|http| http.basic_auth = Some(("me".into(), Secret::new("p:w"))));
    follow(&client, &origin.url("/"), &basic).await.unwrap();
    let in_url = origin.url("/").replace("://", "://me:p%3Aw@");
    follow(&client, &in_url, &profile(|_| {})).await.unwrap();
    follow(&client, &in_url, &with_http(|http| http.bearer_token = Some(Secret::new("t")))).await.unwrap();
    let sent: Vec<_> = origin.all_requests().iter().map(|r| r.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, ["Basic bWU6cDp3", "Basic bWU6cDp3", "Bearer t"].map(|text| Some(text.to_owned())));
}

#[tokio::test]
async fn a_post_becomes_a_get_without_its_body() {
    let (origin, client) = (Origin::start(), client());
    origin.reply("/303", Reply::redirect(303, "/end"));
    origin.reply("/308", Reply::redirect(308, "/end"));
    origin.reply("/end", Reply::ok(""));
    for path in ["/303", "/308"] {
        let mut post = get(&origin.url(path));
        post.method = Method::POST;
        post.body = "form".into();
        post.headers.insert("content-type", "text/plain".parse().unwrap());
        exchange(&client, post, &profile(|_| {}), &mut Session::new(&origin.url("/"))).await.unwrap();
    }
    let seen: Vec<_> = origin
        .requests("/end")
        .iter()
        .map(|request| (request.method.clone(), request.body.len(), request.header("content-type").is_some()))
        .collect();
    assert_eq!(seen, [("GET".to_owned(), 0, false), ("POST".to_owned(), 4, true)]);
}

#[tokio::test]
async fn a_cookie_gate_is_no_circle() {
    let (origin, client) = (Origin::start(), client());
    origin.handle("/", |request| match request.header("cookie") {
        Some(_) => Reply::ok("in"),
        None => Reply::redirect(302, "/").header("Set-Cookie", "seen=1"),
    });
    let mut session = Session::new(&origin.url("/"));
    let response = exchange(&client, get(&origin.url("/")), &profile(|_| {}), &mut session).await.unwrap();
    assert_eq!(response.status, 200);
    exchange(&client, get(&origin.url("/")), &profile(|_| {}), &mut session).await.unwrap();
    assert_eq!(origin.all_requests()[2].header("cookie"), Some("seen=1"), "a session keeps its cookies");
}

#[tokio::test]
async fn secrets_are_for_the_origin_of_the_tasks_own_url_whatever_is_asked_first() {
    let (home, mirror, client) = (Origin::start(), Origin::start_on([127, 0, 0, 2]), client());
    home.reply("/*", Reply::ok(""));
    mirror.reply("/*", Reply::ok(""));
    let profile = with_http(|http| {
        http.bearer_token = Some(Secret::new("token"));
        http.headers = vec![HeaderSpec { name: "x-key".into(), value: Secret::new("k"), sensitive: true }];
    });
    let mut session = Session::new(&home.url("/file"));
    for url in [mirror.url("/file"), home.url("/file"), mirror.url("/again")] {
        exchange(&client, get(&url), &profile, &mut session).await.unwrap();
    }
    let seen = |origin: &Origin| -> Vec<_> {
        let has = |request: &crate::support::origin::Request, name| request.header(name).is_some();
        origin.all_requests().iter().map(|it| (has(it, "authorization"), has(it, "x-key"))).collect()
    };
    assert_eq!((seen(&mirror), seen(&home)), (vec![(false, false); 2], vec![(true, true)]));
}

#[tokio::test]
async fn the_user_part_of_a_url_is_for_its_own_origin() {
    let (home, mirror, client) = (Origin::start(), Origin::start_on([127, 0, 0, 2]), client());
    home.reply("/*", Reply::ok(""));
    mirror.reply("/*", Reply::ok(""));
    let with_user = |url: String, user: &str| url.replace("://", &format!("://{user}@"));
    let mut session = Session::new(&with_user(home.url("/1"), "me:pw"));
    let asked =
        [with_user(home.url("/1"), "me:pw"), home.url("/2"), with_user(mirror.url("/1"), "you:no"), mirror.url("/2")];
    for url in asked {
        exchange(&client, get(&url), &profile(|_| {}), &mut session).await.unwrap();
    }
    let sent = |origin: &Origin| -> Vec<_> {
        origin.all_requests().iter().map(|it| it.header("authorization").map(str::to_owned)).collect()
    };
    assert_eq!(sent(&home), vec![Some("Basic bWU6cHc=".to_owned()); 2], "the next page needs no user part of its own");
    assert_eq!(sent(&mirror), [Some("Basic eW91Om5v".to_owned()), None]);
}

#[tokio::test]
async fn a_redirect_to_itself_is_followed_after_the_wait_that_is_asked_for() {
    let (origin, client) = (Origin::start(), client());
    origin.handle("/", |request| match request.nth {
        0 | 1 => Reply::redirect(302, "/").header("Retry-After", "1"),
        _ => Reply::ok("ready"),
    });
    let response = follow(&client, &origin.url("/"), &profile(|_| {})).await.unwrap();
    assert_eq!(read(response.body).await.unwrap(), b"ready");
    let at: Vec<_> = origin.all_requests().iter().map(|request| request.at.as_millis()).collect();
    assert!(at[1] >= at[0] + 990 && at[2] >= at[1] + 990, "{at:?}");
}

#[tokio::test]
async fn a_redirect_to_the_port_of_another_protocol_is_not_followed() {
    let origin = Origin::start();
    origin.reply("/", Reply::redirect(307, "http://127.0.0.1:6379/"));
    let failure = follow(&client(), &origin.url("/"), &profile(|_| {})).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::ForbiddenAddress, false));
    assert!(failure.message.contains("`--allow-ports 6379`"), "{failure}");
    let through = with_http(|http| http.proxy_url = Some(Secret::new(origin.url("/"))));
    let failure = follow(&client(), "http://a.example:25/", &through).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::ForbiddenAddress, false), "a proxy is not asked to go there either");
    let allowing = Guard { allow_private: true, allow_ports: vec![6379], ..Guard::default() };
    let failure = follow(&HttpClient::new(allowing), &origin.url("/"), &profile(|_| {})).await.unwrap_err();
    assert_ne!(failure.reason, FailureReason::ForbiddenAddress);
}
