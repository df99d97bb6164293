//! TLS against servers that are right and servers that are wrong.

use std::io::Write;

use haul::model::failure::FailureReason;
use haul::model::secret::Secret;
use haul::model::spec::HttpOptions;

use crate::common::{class, client, fetch, follow, with_http};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::tls::{Authority, Leaf, itself};

async fn ask(
    authority: &Authority,
    leaf: Leaf,
    set: impl FnOnce(&mut HttpOptions),
) -> Result<u16, (FailureReason, bool, String)> {
    let origin = Origin::start_tls(authority.server(leaf));
    origin.reply("/", Reply::ok("safe"));
    let profile = with_http(|http| {
        http.ca_pem = Some(authority.pem());
        set(http);
    });
    match fetch(&client(), &origin.url("/"), &profile).await {
        Ok((status, _)) => Ok(status),
        Err(failure) => Err((failure.reason, failure.retryable, failure.message)),
    }
}

#[tokio::test]
async fn an_own_authority_is_trusted_where_it_is_named() {
    let authority = Authority::new();
    assert_eq!(ask(&authority, Leaf::good(), |_| {}).await, Ok(200));
    let unknown = ask(&authority, Leaf::good(), |http| http.ca_pem = None).await.unwrap_err();
    assert_eq!((unknown.0, unknown.1), (FailureReason::Tls, false));
    assert!(unknown.2.contains("authority that this machine does not know"), "{}", unknown.2);
    let skipped = ask(&authority, Leaf::good(), |http| {
        http.ca_pem = None;
        http.insecure_skip_verify = Some(true);
    });
    assert_eq!(skipped.await, Ok(200));
}

/// `openssl req -x509` makes an authority of each certificate, and curl takes one that was named.
#[tokio::test]
async fn a_certificate_that_was_named_may_be_the_one_of_the_server() {
    let (right, is_expired) = (&["localhost", "127.0.0.1"][..], true);
    for (names, is_expired, is_named, said) in [
        (right, !is_expired, true, None),
        (right, !is_expired, false, Some("put this very certificate into `ca_pem`")),
        (right, is_expired, true, Some("has expired")),
        (&["other.example"], !is_expired, true, Some("for another host name")),
    ] {
        let (config, pem) = itself(names, is_expired);
        let origin = Origin::start_tls(config);
        origin.reply("/", Reply::ok("safe"));
        let pem = if is_named { pem } else { Authority::new().pem() };
        let end = fetch(&client(), &origin.url("/"), &with_http(|http| http.ca_pem = Some(pem))).await;
        match said {
            None => assert_eq!(end.unwrap().0, 200),
            Some(said) => {
                let failure = end.unwrap_err();
                assert_eq!(class(&failure), (FailureReason::Tls, false), "{failure}");
                assert!(failure.message.contains(said), "{failure}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let authority = Authority::new();
    let wrong: [(Leaf, &str); 3] = [
        (Leaf { is_expired: true, ..Leaf::good() }, "has expired"),
        (Leaf { names: vec!["other.example".into()], ..Leaf::good() }, "for another host name"),
        (Leaf { requires_client: true, ..Leaf::good() }, "requires a client certificate"),
    ];
    for (leaf, said) in wrong {
        let (reason, retryable, message) = ask(&authority, leaf, |_| {}).await.unwrap_err();
        assert_eq!((reason, retryable), (FailureReason::Tls, false), "{message}");
        assert!(message.contains(said), "{message}");
    }
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", plain.local_addr().unwrap());
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream
    });
    let failure = fetch(&client(), &url, &with_http(|_| {})).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Tls, false), "{failure}");
    assert!(failure.message.contains("not with TLS"), "{failure}");
    answer.join().unwrap();
}

#[tokio::test]
async fn a_client_certificate_opens_the_door_and_stays_with_its_origin() {
    let authority = Authority::new();
    let (chain, key) = authority.client();
    let with_identity = |http: &mut HttpOptions| {
        http.ca_pem = Some(authority.pem());
        http.client_certificate_pem = Some(chain.clone());
        http.client_key_pem = Some(Secret::new(key.clone()));
    };
    let strict = Leaf { requires_client: true, ..Leaf::good() };
    assert_eq!(ask(&authority, strict.clone(), with_identity).await, Ok(200));
    let tls12 = Leaf { versions: vec![&rustls::version::TLS12], ..strict.clone() };
    assert_eq!(ask(&authority, tls12.clone(), with_identity).await, Ok(200));
    let refused = ask(&authority, tls12, |_| {}).await.unwrap_err();
    assert_eq!((refused.0, refused.1), (FailureReason::Tls, false), "{}", refused.2);

    let (first, second) =
        (Origin::start_tls(authority.server(Leaf::good())), Origin::start_tls(authority.server(strict)));
    first.reply("/", Reply::redirect(302, &second.url("/")));
    second.reply("/", Reply::ok(""));
    let failure = follow(&client(), &first.url("/"), &with_http(with_identity)).await.unwrap_err();
    assert_eq!(class(&failure), (FailureReason::Tls, false));
    assert!(second.all_requests().is_empty());
}

#[tokio::test]
async fn sessions_are_resumed() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server(Leaf::good()));
    origin.reply("/", Reply::ok("").then_close());
    let (client, profile) = (client(), with_http(|http| http.ca_pem = Some(authority.pem())));
    for _ in 0..3 {
        fetch(&client, &origin.url("/"), &profile).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!((origin.connections(), origin.resumed()), (3, 2));
}
