//! Credentials over TLS, and those that change or go while something uses them.

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::credential_value::Kind;
use haul::pb::{FailureReason, JobState};

use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::{Server, until};
use crate::support::spec::{fetch, job, once, quick_retry};
use crate::support::tls::{Authority, Leaf};

fn value(kind: Kind) -> pb::CredentialValue {
    pb::CredentialValue { kind: Some(kind) }
}

fn bound(name: &str, host: &str, origin: &Origin, allow_http: bool) -> pb::Credential {
    let host = format!("{host}:{}", origin.address().port());
    pb::Credential { name: name.into(), hosts: vec![host], allow_http, ..Default::default() }
}

async fn put(server: &Server, request: pb::PutCredentialRequest) {
    AccessServiceClient::new(server.channel.clone()).put_credential(request).await.unwrap();
}

fn using(name: &str, url: String, retry: pb::RetryPolicy) -> pb::TaskSpec {
    let http = pb::HttpOptions { credential: name.into(), ..Default::default() };
    let options = pb::TaskOptions { http: Some(http), retry: Some(retry), ..once() };
    pb::TaskSpec { options: Some(options), ..fetch(url) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_an_authority_go_with_a_credential() {
    let authority = Authority::new();
    let strict = Leaf { requires_client: true, ..Leaf::good() };
    let (open, strict) =
        (Origin::start_tls(authority.server(Leaf::good())), Origin::start_tls(authority.server(strict)));
    let server = Server::start().await;
    for origin in [&open, &strict] {
        origin.reply("/x", Reply::ok("fine"));
    }
    let (certificate_pem, key_pem) = authority.client();
    let certificate = Kind::ClientCertificate(pb::ClientCertificate { certificate_pem, key_pem: key_pem.clone() });
    for (name, origin, kind) in [
        ("certificate", &strict, certificate),
        ("bearer", &open, Kind::BearerToken("SESAME-0123456789".into())),
        // Vouched for by nobody whom it trusts.
        ("untrusting", &open, Kind::BearerToken("SESAME-0123456789".into())),
        // It has the authority, and shows nothing.
        ("bare", &strict, Kind::BearerToken("SESAME-0123456789".into())),
    ] {
        let request = pb::PutCredentialRequest {
            credential: Some(bound(name, "localhost", origin, false)),
            value: Some(value(kind)),
            ca_pem: if name == "untrusting" { String::new() } else { authority.pem() },
            ..Default::default()
        };
        put(&server, request).await;
    }
    let run =
        async |name: &str, origin: &Origin| server.run(job(vec![using(name, origin.url("/x"), quick_retry(1))])).await;
    for (name, origin) in [("certificate", &strict), ("bearer", &open)] {
        let ended = run(name, origin).await;
        assert_eq!(ended.state(), JobState::Succeeded, "{name}: {ended:?}");
    }
    for (name, origin) in [("untrusting", &open), ("bare", &strict)] {
        let ended = run(name, origin).await;
        assert_eq!(ended.state(), JobState::Failed, "{name}: {ended:?}");
        assert_ne!(ended.failure.unwrap().reason(), FailureReason::Credential, "{name}");
    }
    assert_eq!((open.requests("/x").len(), strict.requests("/x").len()), (1, 1));
    // Nobody else has what one task was given: not by a connection that is still open, either.
    let ended = server.run(job(vec![pb::TaskSpec { options: Some(once()), ..fetch(strict.url("/x")) }])).await;
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(strict.requests("/x").len(), 1);
    let mut client = AccessServiceClient::new(server.channel.clone());
    let listed = client.list_credentials(pb::ListCredentialsRequest::default()).await.unwrap().into_inner();
    let line = key_pem.lines().nth(1).unwrap();
    assert!(!format!("{listed:?}").contains(line) && !server.log().contains(line));
    let kinds: Vec<_> = listed.credentials.iter().map(|it| it.kind.as_str()).collect();
    assert_eq!(kinds, ["BEARER", "BEARER", "CERTIFICATE", "BEARER"]);
    // What does not hang together is refused when it is set.
    for (certificate_pem, key_pem) in [(authority.client().0, key_pem), ("no PEM".into(), "no PEM".into())] {
        let request = pb::PutCredentialRequest {
            credential: Some(bound("broken", "localhost", &strict, false)),
            value: Some(value(Kind::ClientCertificate(pb::ClientCertificate { certificate_pem, key_pem }))),
            ..Default::default()
        };
        let refused = client.put_credential(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    }
}

/// A task between two attempts: what the second one sends is what the credential is then.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_changes_or_goes_while_it_is_used_is_judged_at_the_next_attempt() {
    let (server, origin) = (Server::start().await, Origin::start());
    let bearer = |text: &str| value(Kind::BearerToken(text.into()));
    let set = async |text: &str| {
        let request = pb::PutCredentialRequest {
            credential: Some(bound("api", "127.0.0.1", &origin, true)),
            value: Some(bearer(text)),
            ..Default::default()
        };
        put(&server, request).await;
    };
    for goes in [false, true] {
        set("SESAME-old-0123456789").await;
        let path = if goes { "/goes" } else { "/changes" };
        // The first attempt is under way while the credential changes, and then fails.
        origin.handle(path, |request| match request.nth {
            0 => Reply::status(503).delay(std::time::Duration::from_millis(600)),
            _ => Reply::ok("fine"),
        });
        let id = server.submit(job(vec![using("api", origin.url(path), quick_retry(3))])).await;
        until(async || origin.requests(path).len() == 1).await;
        if goes {
            let delete = pb::DeleteCredentialRequest { name: "api".into(), force: true, ..Default::default() };
            AccessServiceClient::new(server.channel.clone()).delete_credential(delete).await.unwrap();
        } else {
            set("SESAME-new-0123456789").await;
        }
        let ended = server.ended(&id).await;
        let sent: Vec<_> =
            origin.requests(path).iter().map(|it| it.header("authorization").unwrap_or("").to_owned()).collect();
        if goes {
            assert_eq!(ended.failure.unwrap().reason(), FailureReason::Credential);
            assert_eq!(sent, ["Bearer SESAME-old-0123456789"]);
        } else {
            assert_eq!(ended.state(), JobState::Succeeded, "{ended:?}");
            assert_eq!(sent, ["Bearer SESAME-old-0123456789", "Bearer SESAME-new-0123456789"]);
        }
        let said = format!("{:?} {:?}", server.tasks(&id).await, server.events(&id, 0).await);
        assert!(!said.contains("SESAME") && !server.log().contains("SESAME"), "{said}");
    }
}
