//! A `haul serve` that speaks TLS, with certificates of an authority of our own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use haul::pb;
use haul::pb::admin_service_client::AdminServiceClient;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, CertifiedIssuer,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::support::server::{command, haul};

pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "An authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, in PEM.
    pub fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        change(&mut params);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    pub fn server(&self) -> (String, String) {
        self.issue(|params| {
            params.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from("localhost").unwrap())];
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        })
    }

    pub fn client(&self, uri: &str, serial: u64) -> (String, String) {
        self.issue(|params| {
            params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).unwrap())];
            params.serial_number = Some(SerialNumber::from(serial));
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        })
    }

    /// The list of certificates that are revoked: the one of this number.
    pub fn revoking(&self, serial: u64) -> String {
        self.revocations(serial).pem().unwrap()
    }

    /// As [`Authority::revoking`], not yet in PEM or DER.
    pub fn revocations(&self, serial: u64) -> CertificateRevocationList {
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
        params.signed_by(&self.0).unwrap()
    }
}

/// A server that speaks TLS, and its files.
pub struct Secure {
    pub dir: tempfile::TempDir,
    pub child: Child,
    pub port: u16,
    pub log: Arc<Mutex<String>>,
}

impl Secure {
    pub fn start(pair: &(String, String), files: &[(&str, &str)], flags: &[&str]) -> Secure {
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
    pub async fn call(&self, authority: &Authority, client: Option<&(String, String)>) -> Result<(), Status> {
        let mut admin = AdminServiceClient::new(self.channel(authority, client));
        admin.get_server_info(pb::GetServerInfoRequest {}).await.map(|_| ())
    }

    pub fn channel(&self, authority: &Authority, client: Option<&(String, String)>) -> Channel {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.0.pem()));
        if let Some((certificate, key)) = client {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint =
            Channel::from_shared(format!("https://localhost:{}", self.port)).unwrap().tls_config(tls).unwrap();
        endpoint.connect_lazy()
    }

    /// Runs the command line as the server's own user.
    pub fn owner(&self, args: &[&str]) -> std::process::Output {
        let socket = format!("unix:{}", self.dir.path().join("data/haul.sock").display());
        haul(&[&["--server", &socket], args].concat())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has it read its files anew, and waits until it says this once more.
    pub fn reload(&self, said: &str) {
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

pub fn put(dir: &Path, (certificate, key): &(String, String)) {
    std::fs::write(dir.join("server.pem"), certificate).unwrap();
    std::fs::write(dir.join("server.key"), key).unwrap();
}

pub fn secure(dir: &Path, flags: &[String]) -> Command {
    let mut command = command(dir, flags);
    command.arg("--tls-cert").arg(dir.join("server.pem")).arg("--tls-key").arg(dir.join("server.key"));
    command
}
