//! TLS of the server: whose certificates it takes, how it says no, and how it changes them while it runs.

use std::process::Command;

use haul::pb;
use rcgen::string::Ia5String;
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::secure::{Authority, Secure, put, secure};
use crate::support::server::{PATIENCE, haul, refusal};

#[tokio::test]
async fn only_who_has_a_good_certificate_of_the_authority_calls() {
    let (authority, other) = (Authority::new(), Authority::new());
    let identities = "[[identity]]\nprincipal = 'ci'\ncertificate_uri = 'spiffe://example/ci/*'\n";
    let (pem, crl) = (authority.0.pem(), authority.revoking(7));
    let files = [("ca.pem", pem.as_str()), ("crl.pem", crl.as_str()), ("haul.toml", identities)];
    let flags = ["--tls-client-ca", "DIR/ca.pem", "--tls-client-crl", "DIR/crl.pem", "--config", "DIR/haul.toml"];
    let server = Secure::start(&authority.server(), &files, &flags);
    let good = authority.client("spiffe://example/ci/one", 1);
    let refused = server.call(&authority, Some(&good)).await.unwrap_err();
    assert_eq!(
        refused.get_details_error_info().unwrap().reason,
        "BAD_CREDENTIALS",
        "a principal that is not there yet"
    );
    assert!(server.owner(&["principal", "create", "ci", "--grant", "submit"]).status.success());
    server.call(&authority, Some(&good)).await.unwrap();
    let expired = authority.issue(|params| {
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from("spiffe://example/ci/one").unwrap())];
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    });
    for (what, client) in [
        ("none", None),
        ("of another authority", Some(other.client("spiffe://example/ci/one", 1))),
        ("revoked", Some(authority.client("spiffe://example/ci/one", 7))),
        ("expired", Some(expired)),
    ] {
        let refused = server.call(&authority, client.as_ref()).await.unwrap_err();
        assert!(refused.get_details_error_info().is_none(), "{what}: no server answered: {refused:?}");
    }
    let named = authority.issue(|params| {
        params.distinguished_name.push(DnType::CommonName, "spiffe://example/ci/one");
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
    });
    for stranger in [authority.client("spiffe://example/web/one", 2), named] {
        let refused = server.call(&authority, Some(&stranger)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        assert_eq!(refused.get_details_error_info().unwrap().reason, "BAD_CREDENTIALS");
    }
    put(server.dir.path(), &good);
    let url = format!("https://localhost:{}", server.port);
    let cli = |files: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
        command.args(["info", "--server", &url]);
        for (flag, file) in files {
            command.arg(flag).arg(server.path(file));
        }
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let all = [("--ca", "ca.pem"), ("--cert", "server.pem"), ("--cert-key", "server.key")];
    let output = cli(&all).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for fewer in [&all[..1], &all[1..]] {
        assert_eq!(cli(fewer).await.unwrap().status.code(), Some(1));
    }
    assert_eq!(cli(&all[..2]).await.unwrap().status.code(), Some(2), "a certificate without its key");
    assert!(server.owner(&["principal", "delete", "ci"]).status.success());
    let refused = server.call(&authority, Some(&good)).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "BAD_CREDENTIALS", "its principal was deleted");
}

/// Identities that an operator gives count as those of the settings do, and make authentication required for good.
#[tokio::test]
async fn a_certificate_is_a_principal_that_an_operator_says() {
    let authority = Authority::new();
    let pem = authority.0.pem();
    let flags = ["--tls-client-ca", "DIR/ca.pem", "--tls-client-auth", "optional"];
    let server = Secure::start(&authority.server(), &[("ca.pem", &pem)], &flags);
    let client = authority.client("spiffe://example/ns/ci", 1);
    server.call(&authority, None).await.unwrap();
    assert_eq!(server.call(&authority, Some(&client)).await.unwrap_err().code(), Code::Unauthenticated);
    let identity = ["principal", "create", "ci", "--grant", "submit", "--identity", "uri:spiffe://example/ns/*"];
    let made = server.owner(&identity);
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success() && said.contains("from now on"), "{said}");
    server.call(&authority, Some(&client)).await.unwrap();
    let refused = server.call(&authority, None).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "NO_CREDENTIALS", "also from this machine");
    assert!(server.owner(&["principal", "update", "ci", "--no-identities"]).status.success());
    assert_eq!(server.call(&authority, Some(&client)).await.unwrap_err().code(), Code::Unauthenticated);
    let info = String::from_utf8(server.owner(&["info"]).stdout).unwrap();
    assert!(info.contains("everybody") && info.contains("certificate ends"), "{info}");
}

/// A connection ends when the certificate of its client is revoked, and when it has expired.
#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_it_was_made_with() {
    let authority = Authority::new();
    let server = with_revocations(&authority, "spiffe://example/ns/*");
    let short = authority.issue(|params| {
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from("spiffe://example/ns/short").unwrap())];
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        let end = std::time::Duration::from_secs(rustls_pki_types::UnixTime::now().as_secs() + 3);
        params.not_after = std::time::SystemTime::UNIX_EPOCH.checked_add(end).unwrap().into();
    });
    let (good, bad) = (authority.client("spiffe://example/ns/good", 1), authority.client("spiffe://example/ns/bad", 7));
    let mut streams = Vec::new();
    for client in [&good, &bad, &short] {
        let mut jobs = haul::pb::job_service_client::JobServiceClient::new(server.channel(&authority, Some(client)));
        let mut stream = jobs.watch_jobs(pb::WatchJobsRequest::default()).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some(), "the list is there");
        streams.push(stream);
    }
    std::fs::write(server.path("crl.pem"), authority.revoking(7)).unwrap();
    server.reload("were read again");
    let patience = std::time::Duration::from_secs(10);
    for stream in &mut streams[1..] {
        let ended = async { while stream.message().await.is_ok_and(|it| it.is_some()) {} };
        tokio::time::timeout(patience, ended).await.expect("the stream ends");
    }
    server.call(&authority, Some(&good)).await.unwrap();
    let still = tokio::time::timeout(std::time::Duration::from_millis(300), streams[0].message()).await;
    assert!(still.is_err(), "the good one goes on: {still:?}");
}

/// A file without a list of revoked certificates does not mean that nobody is revoked: the list that was there stays.
#[tokio::test]
async fn a_list_of_revoked_certificates_that_is_none_changes_nothing() {
    let authority = Authority::new();
    let server = with_revocations(&authority, "spiffe://example/ns/*");
    let bad = authority.client("spiffe://example/ns/bad", 7);
    let der = authority.revocations(7).der().to_vec();
    let refuses = async || {
        let refused = server.call(&authority, Some(&bad)).await.unwrap_err();
        assert!(refused.get_details_error_info().is_none(), "no server answered: {refused:?}");
    };
    server.call(&authority, Some(&bad)).await.unwrap();
    std::fs::write(server.path("crl.pem"), &der).unwrap();
    server.reload("were read again");
    refuses().await;
    let pem = authority.revoking(7);
    let good = authority.client("spiffe://example/ns/good", 1);
    for (what, file) in [
        ("an empty file", Vec::new()),
        ("a certificate", authority.0.pem().into_bytes()),
        ("no list", b"garbage\n".to_vec()),
        ("half of a list in DER", der[..der.len() / 2].to_vec()),
        ("half of a list in PEM", pem.as_bytes()[..pem.len() / 2].to_vec()),
        ("more than a list in DER", [der.as_slice(), der.as_slice()].concat()),
        // Only the first would count.
        ("two lists of one authority", [authority.revoking(8), pem.clone()].concat().into_bytes()),
    ] {
        std::fs::write(server.path("crl.pem"), file).unwrap();
        server.reload("the certificates stay as they were");
        server.call(&authority, Some(&good)).await.expect(what);
        refuses().await;
        let flags = ["--tls-client-ca", "DIR/ca.pem", "--tls-client-crl", "DIR/crl.pem"];
        let flags = flags.map(|flag| flag.replace("DIR", server.dir.path().to_str().unwrap()));
        let other = tempfile::tempdir().unwrap();
        put(other.path(), &authority.server());
        let output = crate::support::secure::secure(other.path(), &flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("crl.pem` cannot be used for TLS"), "{what}: {said}");
    }
}

/// Starts a server that reads a list of revoked certificates, and knows clients with such a URI as the reader `ci`.
fn with_revocations(authority: &Authority, uri: &str) -> Secure {
    let identities = format!("[[identity]]\nprincipal = 'ci'\ncertificate_uri = '{uri}'\n");
    let (ca, crl) = (authority.0.pem(), authority.revoking(99));
    let files = [("ca.pem", ca.as_str()), ("crl.pem", crl.as_str()), ("haul.toml", identities.as_str())];
    let flags = ["--tls-client-ca", "DIR/ca.pem", "--tls-client-crl", "DIR/crl.pem", "--config", "DIR/haul.toml"];
    let server = Secure::start(&authority.server(), &files, &flags);
    assert!(server.owner(&["principal", "create", "ci", "--grant", "read"]).status.success());
    server
}

/// A certificate that is revoked between the first message of a handshake and the last opens no connection that stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_revoked_during_its_handshake_opens_nothing() {
    use std::io::{Read as _, Write as _};
    let authority = Authority::new();
    let server = with_revocations(&authority, "spiffe://example/ns/*");
    let config = client_config(&[&authority], &authority.client("spiffe://example/ns/bad", 7));
    let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut socket).unwrap();
    }
    // What the server answers ends its part of the handshake: it has chosen by which list it judges.
    while !tls.wants_write() {
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    std::fs::write(server.path("crl.pem"), authority.revoking(7)).unwrap();
    server.reload("were read again");
    let watch = b"GET /v1/jobs:watch HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    tls.writer().write_all(watch).unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut socket).unwrap();
    }
    let (sender, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // A connection that is cut under its answer is reset.
        let _ = socket.read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    tokio::time::timeout(PATIENCE, ended).await.expect("the connection is closed").unwrap();
}

#[tokio::test]
async fn certificates_change_together_or_not_at_all() {
    let (old, new, clients) = (Authority::new(), Authority::new(), Authority::new());
    let (ca, identities) = (old.0.pem(), "[[identity]]\nprincipal = 'ci'\ncertificate_uri = 'spiffe://a/b'\n");
    let files = [("ca.pem", ca.as_str()), ("haul.toml", identities)];
    let flags = ["--tls-client-ca", "DIR/ca.pem", "--config", "DIR/haul.toml"];
    let server = Secure::start(&old.server(), &files, &flags);
    assert!(server.owner(&["principal", "create", "ci"]).status.success());
    let (client, later) = (old.client("spiffe://a/b", 1), clients.client("spiffe://a/b", 1));
    server.call(&old, Some(&client)).await.unwrap();
    let pair = new.server();
    std::fs::write(server.path("server.pem"), &pair.0).unwrap();
    server.reload("stay as they were");
    server.call(&old, Some(&client)).await.unwrap();
    std::fs::write(server.path("server.key"), &pair.1[..pair.1.len() / 2]).unwrap();
    server.reload("stay as they were");
    server.call(&old, Some(&client)).await.unwrap();
    put(server.dir.path(), &pair);
    std::fs::write(server.path("ca.pem"), clients.0.pem()).unwrap();
    server.reload("were read again");
    server.call(&new, Some(&later)).await.unwrap();
    assert!(server.call(&old, Some(&later)).await.is_err(), "the old certificate is not shown any more");
    assert!(server.call(&new, Some(&client)).await.is_err(), "the old authority vouches for nobody any more");
}

/// Files change again and again while clients connect: every handshake meets a whole set, and nothing of the old ones stays.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_change_under_handshakes_are_whole_and_leave_nothing() {
    let authority = Authority::new();
    let server = with_revocations(&authority, "spiffe://a/b");
    let client = authority.client("spiffe://a/b", 1);
    // A server is not dumpable, so that only root sees what it has open.
    let descriptors = || {
        let all = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).ok()?;
        let places = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        // The store opens more connections to its files where several calls come at once, and keeps them.
        Some(places.filter(|place| !place.to_string_lossy().contains("haul.db")).count())
    };
    server.call(&authority, Some(&client)).await.unwrap();
    let before = descriptors();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let connecting = async || {
        let mut calls = 0;
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) || calls < 250 {
            // Each over a connection of its own.
            server.call(&authority, Some(&client)).await.unwrap();
            calls += 1;
        }
    };
    let changing = || {
        for _ in 0..100 {
            put(server.dir.path(), &authority.server());
            server.reload("were read again");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        scope.spawn(changing);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current()
                .block_on(async { tokio::join!(connecting(), connecting(), connecting(), connecting()) })
        });
    });
    crate::support::server::until(async || descriptors() <= before.map(|before| before + 2)).await;
}

/// What a client says in a handshake that trusts these authorities and has this certificate.
fn client_config(authorities: &[&Authority], client: &(String, String)) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.0.der().clone()).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![rustls_pki_types::pem::PemObject::from_pem_slice(client.0.as_bytes()).unwrap()];
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(client.1.as_bytes()).unwrap();
    let mut config = config.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// A session that began before the authority changed is not taken up again, and names with odd characters are nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_odd_names_open_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (old, new) = (Authority::new(), Authority::new());
    let identities = "[[identity]]\nprincipal = 'ci'\ncertificate_uri = 'spiffe://a/b'\n\
                      [[identity]]\nprincipal = 'web'\ncertificate_dns = 'web.example'\n";
    let ca = old.0.pem();
    let flags = ["--tls-client-ca", "DIR/ca.pem", "--config", "DIR/haul.toml"];
    let server = Secure::start(&old.server(), &[("ca.pem", ca.as_str()), ("haul.toml", identities)], &flags);
    for name in ["ci", "web"] {
        assert!(server.owner(&["principal", "create", name, "--grant", "read"]).status.success());
    }
    let with = |sans: Vec<SanType>| {
        old.issue(|params| {
            params.subject_alt_names = sans;
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        })
    };
    let dns = |name: &str| SanType::DnsName(Ia5String::try_from(name).unwrap());
    let uri = |name: &str| SanType::URI(Ia5String::try_from(name).unwrap());
    server.call(&old, Some(&with(vec![dns("WEB.example")]))).await.unwrap();
    for names in [
        vec![dns("web.example\0.evil.example")],
        vec![uri("spiffe://a/b\0c")],
        vec![uri("spiffe://a/b/")],
        vec![uri("spiffe://a/B")],
        vec![dns("*.example")],
        vec![dns("web.example.")],
        // Two principals in one certificate are nobody.
        vec![uri("spiffe://a/b"), dns("web.example")],
        Vec::new(),
    ] {
        let shown = format!("{names:?}");
        let refused = server.call(&old, Some(&with(names))).await.expect_err(&shown);
        assert!(
            refused.get_details_error_info().is_none_or(|it| it.reason == "BAD_CREDENTIALS"),
            "{shown}: {refused:?}"
        );
    }

    let client = old.client("spiffe://a/b", 1);
    let config = client_config(&[&old, &new], &client);
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    // Asks who it is, and returns how the handshake went and what came back.
    let ask = async || {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
        let mut said = Vec::new();
        let request = b"GET /v1/whoami HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        if stream.write_all(request).await.is_ok() {
            let _ = stream.read_to_end(&mut said).await;
        }
        (stream.get_ref().1.handshake_kind().unwrap(), String::from_utf8_lossy(&said).into_owned())
    };
    assert!(ask().await.1.contains("\"ci\""));
    let (kind, said) = ask().await;
    assert!(said.contains("\"ci\""), "{said}");
    assert_eq!(kind, rustls::HandshakeKind::Resumed, "the client has what it needs to come again quickly");
    std::fs::write(server.path("ca.pem"), new.0.pem()).unwrap();
    server.reload("were read again");
    let (kind, said) = ask().await;
    assert_ne!(kind, rustls::HandshakeKind::Resumed);
    assert_eq!(said, "", "nobody vouches for it any more");
}

#[tokio::test]
async fn the_oldest_version_is_the_operators_to_say() {
    let authority = Authority::new();
    let pem = authority.0.pem();
    for (flags, takes_old) in [(&[][..], true), (&["--tls-min-version", "1.3"][..], false)] {
        let server = Secure::start(&authority.server(), &[("ca.pem", &pem)], flags);
        let curl = |versions: &[&str]| {
            let mut command = Command::new("curl");
            command.args(["-s", "--cacert"]).arg(server.path("ca.pem")).args(versions);
            command.arg(format!("https://localhost:{}/healthz", server.port)).status().unwrap().success()
        };
        assert!(curl(&["--tlsv1.3"]));
        assert_eq!(curl(&["--tls-max", "1.2"]), takes_old);
    }
    let dir = tempfile::tempdir().unwrap();
    for (flags, part) in [
        (["--tls-min-version", "1.3"], "`tls_min_version` is set and `tls_cert` is not"),
        (["--tls-min-version", "1.1"], "1.3"),
    ] {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let (code, said) = refusal(crate::support::server::command(dir.path(), &flags));
        assert!(code == 2 && said.contains(part), "{said}");
    }
}

#[test]
fn certificates_that_do_not_fit_are_refused_at_the_start() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (authority.server().0, authority.server().1);
    put(dir.path(), &(certificate.clone(), key));
    let (code, said) = refusal(secure(dir.path(), &[]));
    assert!(code == 1 && said.contains("server.key") && said.contains("does not fit"), "{said}");
    let expired = authority.issue(|params| {
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    });
    put(dir.path(), &expired);
    let (code, said) = refusal(secure(dir.path(), &[]));
    assert!(code == 1 && said.contains("server.pem") && said.contains("has expired"), "{said}");
    put(dir.path(), &(String::new(), String::new()));
    let (code, said) = refusal(secure(dir.path(), &[]));
    assert!(code == 1 && said.contains("server.pem"), "{said}");
    let (code, said) = refusal(secure(dir.path(), &["--tls-client-auth".into(), "required".into()]));
    assert!(code == 2 && said.contains("tls_client_ca"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_stands_between() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (own, foreign) = (authority.0.pem(), other.0.pem());
    let files = [("ca.pem", own.as_str()), ("other.pem", foreign.as_str())];
    let server = Secure::start(&authority.server(), &files, &[]);
    let list = |scheme: &str, ca: &[&str]| {
        let address = format!("{scheme}localhost:{}", server.port);
        let ca: Vec<String> = ca.iter().map(|name| server.path(name).display().to_string()).collect();
        let flags = ca.iter().flat_map(|path| ["--ca", path]);
        let args: Vec<&str> = ["--server", &address, "list"].into_iter().chain(flags).collect();
        let output = haul(&args);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = list("https://", &["ca.pem"]);
    assert_eq!(code, Some(0), "{said}");
    for (scheme, ca, part) in
        [("https://", "other.pem", "is not trusted"), ("", "", "and begins with `https://` if that has TLS")]
    {
        let names: Vec<&str> = [ca].into_iter().filter(|name| !name.is_empty()).collect();
        let (code, said) = list(scheme, &names);
        assert!(code == Some(1) && said.contains(part), "{said}");
    }
}

/// A page of the server has a cookie in place of its token, which counts for nobody else and ends with the token.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_server_has_a_session() {
    let authority = Authority::new();
    let ca = authority.0.pem();
    let server = Secure::start(&authority.server(), &[("ca.pem", ca.as_str())], &[]);
    let made = server.owner(&["token", "create", "ci", "--grant", "submit"]);
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let curl = |method: &str, path: &str, headers: &[String]| {
        let mut command = Command::new("curl");
        command.args(["-si", "--cacert"]).arg(server.path("ca.pem")).args(["-X", method]);
        for header in headers {
            command.args(["-H", header]);
        }
        let output = command.arg(format!("https://localhost:{}{path}", server.port)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).unwrap_or_else(|| panic!("{text}"));
        (code, text)
    };
    let own = || "sec-fetch-site: same-origin".to_owned();
    let authorization = format!("authorization: Bearer {token}");
    assert_eq!(curl("POST", "/v1/session", &[own()]).0, 401);
    let (code, begun) = curl("POST", "/v1/session", &[own(), authorization.clone()]);
    assert_eq!(code, 200, "{begun}");
    let line = begun.lines().find(|line| line.to_lowercase().starts_with("set-cookie: __host-haul=")).unwrap();
    for part in ["Secure", "HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!begun.contains(&token), "the token is nowhere in the answer");
    let cookie = format!("cookie: {}", line["set-cookie: ".len()..].split(';').next().unwrap());
    assert_eq!(curl("GET", "/v1/jobs", &[own(), cookie.clone()]).0, 200);
    assert!(curl("GET", "/v1/whoami", &[own(), cookie.clone()]).1.contains("\"ci\""));
    let origin = format!("origin: https://localhost:{}", server.port);
    assert_eq!(curl("GET", "/v1/jobs", &[origin, cookie.clone()]).0, 200);
    assert_eq!(curl("GET", "/v1/jobs", std::slice::from_ref(&cookie)).0, 401, "not of a page of the server");
    for foreign in ["sec-fetch-site: cross-site", "sec-fetch-site: same-site", "origin: https://evil.example"] {
        assert_eq!(curl("GET", "/v1/jobs", &[foreign.to_owned(), cookie.clone()]).0, 403, "{foreign}");
    }
    assert_eq!(curl("POST", "/v1/session", &[own(), cookie.clone()]).0, 401, "a session makes no sessions");
    let (code, ended) = curl("DELETE", "/v1/session", &[own(), cookie.clone()]);
    assert!(code == 200 && ended.contains("Max-Age=0"), "{ended}");
    assert_eq!(curl("GET", "/v1/jobs", &[own(), cookie]).0, 401);
    let again = curl("POST", "/v1/session", &[own(), authorization]).1;
    let line = again.lines().find(|line| line.to_lowercase().starts_with("set-cookie: __host-haul=")).unwrap();
    let cookie = format!("cookie: {}", line["set-cookie: ".len()..].split(';').next().unwrap());
    assert_eq!(curl("GET", "/v1/jobs", &[own(), cookie.clone()]).0, 200);
    assert!(server.owner(&["token", "revoke", token.split('_').nth(1).unwrap()]).status.success());
    assert_eq!(curl("GET", "/v1/jobs", &[own(), cookie]).0, 401, "it is gone with its token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_needs_tls() {
    let server = crate::support::server::Server::start().await;
    let made = haul(&["--server", &server.address, "token", "create", "ci", "--grant", "submit"]);
    let token = String::from_utf8(made.stdout).unwrap();
    let url = format!("http://{}/v1/session", server.address);
    let authorization = format!("authorization: Bearer {}", token.trim());
    let output = Command::new("curl").args(["-si", "-X", "POST", "-H", &authorization, &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(" 412 ") && text.contains("SESSION_NEEDS_TLS"), "{text}");
    assert!(!text.to_lowercase().contains("set-cookie"), "{text}");
}

/// A start takes as long as recovery does, and a certificate may be renewed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_changes_between_its_reading_and_the_first_look_is_seen() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    put(dir.path(), &authority.server());
    let settings = haul::listen::tls::TlsSettings {
        cert: dir.path().join("server.pem"),
        key: dir.path().join("server.key"),
        client_ca: None,
        client_crl: None,
        client_auth: haul::listen::tls::ClientAuth::Off,
        is_modern: false,
    };
    let tls = std::sync::Arc::new(haul::listen::tls::Tls::load(settings).unwrap());
    let (certificate, key) = authority.server();
    put(dir.path(), &(certificate + "\n", key));
    let (_asked, asked) = tokio::sync::watch::channel(());
    let closing = tokio_util::sync::CancellationToken::new();
    let mut following = tokio::task::JoinSet::new();
    following.spawn(tls.clone().follow(asked, closing));
    for _ in 0..10 {
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        if tls.state().reload_time.is_some() {
            return;
        }
    }
    panic!("the new certificate was never read");
}
