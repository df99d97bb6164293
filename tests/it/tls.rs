//! TLS of the server: whose certificates it takes, how it says no, and how it changes them while it runs.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use haul::pb;
use haul::pb::admin_service_client::AdminServiceClient;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::server::{command, haul, refusal};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "An authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        change(&mut params);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self) -> (String, String) {
        self.issue(|params| {
            params.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from("localhost").unwrap())];
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        })
    }

    fn client(&self, uri: &str, serial: u64) -> (String, String) {
        self.issue(|params| {
            params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).unwrap())];
            params.serial_number = Some(SerialNumber::from(serial));
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        })
    }

    /// The list of certificates that are revoked: the one of this number.
    fn revoking(&self, serial: u64) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A server that speaks TLS, and its files.
struct Secure {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl Secure {
    fn start(pair: &(String, String), files: &[(&str, &str)], flags: &[&str]) -> Secure {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), pair);
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let flags = flags.iter().map(|flag| flag.replace("DIR", dir.path().to_str().unwrap())).collect::<Vec<_>>();
        let mut child = secure(dir.path(), &flags).spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let (stderr, lines) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("it said `{line}`: {}", log.lock().unwrap()));
        Secure { dir, child, port, log }
    }

    /// Calls as a client that trusts this authority and has this certificate.
    async fn call(&self, authority: &Authority, client: Option<&(String, String)>) -> Result<(), Status> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.0.pem()));
        if let Some((certificate, key)) = client {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint =
            Channel::from_shared(format!("https://localhost:{}", self.port)).unwrap().tls_config(tls).unwrap();
        let mut admin = AdminServiceClient::new(endpoint.connect_lazy());
        admin.get_server_info(pb::GetServerInfoRequest {}).await.map(|_| ())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has it read its files anew, and waits until it says this once more.
    fn reload(&self, said: &str) {
        let count = || self.log.lock().unwrap().matches(said).count();
        let before = count();
        let done = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
        while count() == before {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(dir: &Path, (certificate, key): &(String, String)) {
    std::fs::write(dir.join("server.pem"), certificate).unwrap();
    std::fs::write(dir.join("server.key"), key).unwrap();
}

fn secure(dir: &Path, flags: &[String]) -> Command {
    let mut command = command(dir, flags);
    command.arg("--tls-cert").arg(dir.join("server.pem")).arg("--tls-key").arg(dir.join("server.key"));
    command
}

#[tokio::test]
async fn only_who_has_a_good_certificate_of_the_authority_calls() {
    let (authority, other) = (Authority::new(), Authority::new());
    let identities = "[[identity]]\nprincipal = 'ci'\ncertificate_uri = 'spiffe://example/ci/*'\n";
    let (pem, crl) = (authority.0.pem(), authority.revoking(7));
    let files = [("ca.pem", pem.as_str()), ("crl.pem", crl.as_str()), ("haul.toml", identities)];
    let flags = ["--tls-client-ca", "DIR/ca.pem", "--tls-client-crl", "DIR/crl.pem", "--config", "DIR/haul.toml"];
    let server = Secure::start(&authority.server(), &files, &flags);
    let good = authority.client("spiffe://example/ci/one", 1);
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
}

#[tokio::test]
async fn certificates_change_together_or_not_at_all() {
    let (old, new, clients) = (Authority::new(), Authority::new(), Authority::new());
    let ca = old.0.pem();
    let server = Secure::start(&old.server(), &[("ca.pem", &ca)], &["--tls-client-ca", "DIR/ca.pem"]);
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
    server.reload("were read anew");
    server.call(&new, Some(&later)).await.unwrap();
    assert!(server.call(&old, Some(&later)).await.is_err(), "the old certificate is not shown any more");
    assert!(server.call(&new, Some(&client)).await.is_err(), "the old authority vouches for nobody any more");
}

#[test]
fn certificates_that_do_not_fit_are_refused_at_the_start() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (authority.server().0, authority.server().1);
    put(dir.path(), &(certificate.clone(), key));
    let (code, said) = refusal(secure(dir.path(), &[]));
    assert!(code == 1 && said.contains("server.key") && said.contains("does not fit"), "{said}");
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
