//! What the admin of one tenant learns of the principals, tokens, credentials and audit of another: nothing.

use haul::pb;
use haul::pb::access_service_client::AccessServiceClient;
use haul::pb::credential_value::Kind;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::it::access::{bearer, id_of, operator, token};
use crate::it::tenants::{about, make};
use crate::it::wire::call;
use crate::support::server::Server;

/// Names of one tenant's things.
struct Names {
    tenant: &'static str,
    principal: &'static str,
    credential: &'static str,
    token_id: String,
}

impl Names {
    /// The text without these names.
    fn taken_from(&self, text: &str) -> String {
        let names = [self.principal, &*self.token_id, self.credential, self.tenant];
        let text = text.replace(&format!("@{}`", self.tenant), "@_`");
        names.iter().fold(text, |text, name| text.replace(&format!("`{name}`"), "`_`"))
    }

    fn principal(&self) -> pb::Principal {
        pb::Principal { name: self.principal.into(), title: "t".into(), ..Default::default() }
    }
}

/// Every method that takes such a name, with requests that name it.
#[allow(clippy::too_many_lines)] // One request after another.
fn requests(of: &Names) -> Vec<(&'static str, Vec<u8>)> {
    let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    let submit = |tenant: &str| pb::Grant { role: pb::Role::Submit.into(), tenant: tenant.into() };
    let own = pb::Principal { name: "a/new".into(), ..Default::default() };
    let credential = |name: &str, users: &[&str]| pb::PutCredentialRequest {
        credential: Some(pb::Credential {
            name: name.into(),
            hosts: vec!["a.example".into()],
            users: users.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let value = Some(pb::CredentialValue { kind: Some(Kind::BearerToken("0123456789abcdef".into())) });
    vec![
        (
            "CreatePrincipal",
            pb::CreatePrincipalRequest { principal: Some(of.principal()), ..Default::default() }.encode_to_vec(),
        ),
        (
            "CreatePrincipal",
            pb::CreatePrincipalRequest {
                principal: Some(pb::Principal { grants: vec![submit(of.tenant)], ..own.clone() }),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "CreatePrincipal",
            pb::CreatePrincipalRequest {
                principal: Some(pb::Principal { default_tenant: of.tenant.into(), ..own }),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "UpdatePrincipal",
            pb::UpdatePrincipalRequest { principal: Some(of.principal()), update_mask: mask("title") }.encode_to_vec(),
        ),
        (
            "DeletePrincipal",
            pb::DeletePrincipalRequest { name: of.principal.into(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "ListPrincipals",
            pb::ListPrincipalsRequest { tenant: of.tenant.into(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "CreateToken",
            pb::CreateTokenRequest { principal: of.principal.into(), ..Default::default() }.encode_to_vec(),
        ),
        ("ListTokens", pb::ListTokensRequest { principal: of.principal.into(), ..Default::default() }.encode_to_vec()),
        (
            "RevokeToken",
            pb::RevokeTokenRequest { token_id: of.token_id.clone(), with_descendants: true }.encode_to_vec(),
        ),
        ("GetTenant", pb::GetTenantRequest { name: of.tenant.into() }.encode_to_vec()),
        ("GetCredential", pb::GetCredentialRequest { name: of.credential.into() }.encode_to_vec()),
        (
            "DeleteCredential",
            pb::DeleteCredentialRequest { name: of.credential.into(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "PutCredential",
            pb::PutCredentialRequest { update_mask: mask("hosts"), ..credential(of.credential, &[]) }.encode_to_vec(),
        ),
        ("PutCredential", pb::PutCredentialRequest { value, ..credential("own", &[of.principal]) }.encode_to_vec()),
        (
            "ListAuditEvents",
            pb::ListAuditEventsRequest { tenant: of.tenant.into(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "ListAuditEvents",
            pb::ListAuditEventsRequest { principal: of.principal.into(), ..Default::default() }.encode_to_vec(),
        ),
        (
            "ListAuditEvents",
            pb::ListAuditEventsRequest { subject: format!("tokens/{}", of.token_id), ..Default::default() }
                .encode_to_vec(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_cannot_tell_what_another_tenant_has_from_what_never_was() {
    let server = Server::start().await;
    make(&server, &["a", "b"]).await;
    let credential = pb::PutCredentialRequest {
        credential: Some(pb::Credential { name: "api".into(), hosts: vec!["b.example".into()], ..Default::default() }),
        value: Some(pb::CredentialValue { kind: Some(Kind::BearerToken("0123456789abcdef".into())) }),
        ..Default::default()
    };
    AccessServiceClient::new(about(&server, "b", "")).put_credential(credential).await.unwrap();
    let operator = operator(&server);
    let of_b = token(&server, &operator, &["b/ci", "--grant", "submit@b"]);
    let admin = token(&server, &operator, &["a/boss", "--grant", "admin@a"]);
    let theirs = Names { tenant: "b", principal: "b/ci", credential: "api", token_id: id_of(&of_b) };
    let never = Names { tenant: "never", principal: "never/ci", credential: "never", token_id: "0123456789".into() };
    let sent = bearer(&admin);
    let headers = [("authorization", &*sent), ("haul-tenant", "a")];
    for ((method, theirs_is), (_, never_was)) in requests(&theirs).into_iter().zip(requests(&never)) {
        let method = format!("haul.v1.AccessService/{method}");
        let answers = [
            (&theirs, call(&server, &method, &theirs_is, &headers).await),
            (&never, call(&server, &method, &never_was, &headers).await),
        ];
        let [found, expected] = answers.map(|(names, answer)| {
            let status = Status::from_header_map(&answer.trailers).unwrap();
            let reason = status.get_details_error_info().map(|info| info.reason);
            (status.code(), reason, names.taken_from(status.message()), answer.messages)
        });
        assert_eq!(found, expected, "{method}");
        assert!(found.0 != Code::Ok || found.3.iter().all(|(_, message)| message.is_empty()), "{method}: {found:?}");
    }
    // Nothing of that did anything.
    let answer = call(&server, "haul.v1.AccessService/WhoAmI", b"", &[("authorization", &bearer(&of_b))]).await;
    assert_eq!(answer.message::<pb::WhoAmIResponse>(0).principal, "b/ci");
}
