//! What each method needs: a row for every method that is served, so that none can be forgotten.
//!
//! A method without a row is refused. That is the layer's part of the judgement, made before the message is read; whether
//! a job is the caller's own is for the handlers, by [`crate::api::access::caller::Caller::reach`].

use crate::model::access::Actor;
use crate::model::role::Role;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: every client may call it.
    Open,
    /// To be a principal.
    Anybody,
    /// One of these roles; those of tenants at the tenant of the call.
    OneOf(&'static [Role]),
}

use Need::{Anybody, OneOf, Open};
use Role::{Admin, Auditor, Control, Monitor, Operator, Read, Submit};

const SUBMIT: Need = OneOf(&[Submit]);
/// All jobs for who reads, own ones for who submits.
const LOOK: Need = OneOf(&[Read, Submit]);
/// All jobs for who controls, own ones for who submits.
const CONTROL: Need = OneOf(&[Control, Submit]);
const MANAGE: Need = OneOf(&[Admin, Operator]);
const OPERATE: Need = OneOf(&[Operator]);

/// The path of the metrics page, which Prometheus scrapes. It is not a gRPC method, but its access is decided as for one.
pub(crate) const METRICS: &str = "metrics";

/// Every method, by the path of its calls without the first `/`.
#[rustfmt::skip]
const METHODS: &[(&str, Need)] = &[
    ("grpc.health.v1.Health/Check", Open),
    ("grpc.health.v1.Health/Watch", Anybody),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Anybody),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Anybody),

    ("haul.v1.AccessService/WhoAmI", Anybody),
    ("haul.v1.AccessService/CreatePrincipal", MANAGE),
    ("haul.v1.AccessService/UpdatePrincipal", MANAGE),
    ("haul.v1.AccessService/DeletePrincipal", MANAGE),
    ("haul.v1.AccessService/ListPrincipals", MANAGE),
    // Own tokens are looked at and revoked by whoever has them.
    ("haul.v1.AccessService/CreateToken", Anybody),
    ("haul.v1.AccessService/ListTokens", Anybody),
    ("haul.v1.AccessService/RevokeToken", Anybody),
    ("haul.v1.AccessService/PutCredential", OneOf(&[Admin])),
    ("haul.v1.AccessService/GetCredential", OneOf(&[Admin])),
    ("haul.v1.AccessService/ListCredentials", OneOf(&[Admin])),
    ("haul.v1.AccessService/DeleteCredential", OneOf(&[Admin])),
    ("haul.v1.AccessService/CreateTenant", OPERATE),
    ("haul.v1.AccessService/GetTenant", MANAGE),
    ("haul.v1.AccessService/UpdateTenant", OPERATE),
    ("haul.v1.AccessService/DeleteTenant", OPERATE),
    ("haul.v1.AccessService/ListTenants", OPERATE),
    ("haul.v1.AccessService/ListAuditEvents", OneOf(&[Auditor, Admin])),
    ("haul.v1.AccessService/RotateDataKey", OPERATE),

    ("haul.v1.AdminService/GetServerInfo", Anybody),
    ("haul.v1.AdminService/GetLimits", Anybody),
    ("haul.v1.AdminService/UpdateLimits", OPERATE),
    // Who may only submit sees the hosts of its own jobs, and what is done for these.
    ("haul.v1.AdminService/ListHosts", OneOf(&[Read, Submit, Monitor])),
    ("haul.v1.AdminService/ResumeHost", OPERATE),
    ("haul.v1.AdminService/Drain", OPERATE),

    ("haul.v1.ContentService/ReadContent", LOOK),
    ("haul.v1.ContentService/StreamItems", LOOK),

    ("haul.v1.JobService/SubmitJob", SUBMIT),
    ("haul.v1.JobService/AddTasks", SUBMIT),
    ("haul.v1.JobService/SealJob", SUBMIT),
    ("haul.v1.JobService/GetJob", LOOK),
    ("haul.v1.JobService/ListJobs", LOOK),
    ("haul.v1.JobService/GetTask", LOOK),
    ("haul.v1.JobService/ListTasks", LOOK),
    ("haul.v1.JobService/ListJobEvents", LOOK),
    ("haul.v1.JobService/WatchJob", LOOK),
    ("haul.v1.JobService/WatchJobs", LOOK),
    ("haul.v1.JobService/WaitJob", LOOK),
    ("haul.v1.JobService/CancelJob", CONTROL),
    ("haul.v1.JobService/CancelTasks", CONTROL),
    ("haul.v1.JobService/RetryNow", CONTROL),
    ("haul.v1.JobService/ControlJobs", CONTROL),
    ("haul.v1.JobService/PauseJob", CONTROL),
    ("haul.v1.JobService/ResumeJob", CONTROL),
    ("haul.v1.JobService/RetryJob", CONTROL),
    ("haul.v1.JobService/UpdateJob", CONTROL),
    ("haul.v1.JobService/DeleteJob", CONTROL),

    (METRICS, OneOf(&[Monitor])),
];

/// What the operator allows of the methods by which a server describes itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Whether every client may list methods.
    pub is_reflection_open: bool,
    /// Whether callers have to be known to ask for health.
    pub is_health_closed: bool,
    /// Whether calls that only read are in the audit.
    pub counts_reads: bool,
}

/// Returns what a method needs; `None`: it has no row.
pub(crate) fn need(method: &str, exposure: Exposure) -> Option<Need> {
    let (_, need) = METHODS.iter().find(|(name, _)| *name == method)?;
    Some(match need {
        Open if exposure.is_health_closed => Anybody,
        Anybody if exposure.is_reflection_open && method.starts_with(REFLECTION) => Open,
        need => *need,
    })
}

/// The beginning of the paths of reflection.
const REFLECTION: &str = "grpc.reflection.";

/// Returns whether a method of the contract only reads.
pub(crate) fn reads(method: &str) -> bool {
    let name = method.rsplit('/').next().unwrap_or_default();
    let begins = ["Get", "List", "Watch", "Wait", "Read", "Stream", "WhoAmI"].iter().any(|verb| name.starts_with(verb));
    begins && method.starts_with("haul.v1.")
}

/// Returns whether a method is a watch: a stream that goes on for as long as its caller likes, of what is done for a tenant.
pub(crate) fn watches(method: &str) -> bool {
    matches!(method, "haul.v1.JobService/WatchJob" | "haul.v1.JobService/WatchJobs")
}

/// Returns a role of a row that a caller had and has not any more: what a call has answered so far may rest on it.
pub(crate) fn lost(need: Need, before: &Actor, now: &Actor) -> Option<Role> {
    let OneOf(roles) = need else { return None };
    roles.iter().copied().find(|role| before.may_here(*role) && !now.may_here(*role))
}

/// The methods that can be about all tenants at once.
const OVER_ALL: [&str; 4] = [
    "haul.v1.JobService/ListJobs",
    "haul.v1.JobService/WatchJobs",
    "haul.v1.AdminService/ListHosts",
    "haul.v1.AccessService/ListAuditEvents",
];

/// Returns whether a method can be about all tenants at once.
pub(crate) fn may_be_over_all(method: &str) -> bool {
    OVER_ALL.contains(&method)
}

/// Returns whether a row names a role of tenants, so that calls of it are about one.
pub(crate) fn is_of_tenant(need: Need) -> bool {
    matches!(need, OneOf(roles) if roles.iter().any(|role| !role.is_of_server()))
}

/// Returns whether a caller may call by a role of the server.
pub(crate) fn may_on_server(need: Need, actor: &Actor) -> bool {
    matches!(need, OneOf(roles) if roles.iter().any(|role| role.is_of_server() && actor.may_here(*role)))
}

/// Returns the tenant that a call of a row is about; empty: the server.
pub(crate) fn tenant(need: Need, actor: &Actor) -> &str {
    match need {
        OneOf(roles) if roles.iter().all(|role| !role.is_of_server()) => actor.scope.name(),
        _ => "",
    }
}

/// Returns the role that the caller lacks; `None`: the call may go on.
pub(crate) fn lacks(need: Need, actor: &Actor) -> Option<Role> {
    match need {
        Open | Anybody => None,
        OneOf(roles) if roles.iter().any(|role| actor.may_here(*role)) => None,
        OneOf(roles) => roles.first().copied(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Every method of every service that is served, as the descriptors have them.
    fn served() -> Vec<String> {
        let sets: [&[u8]; 4] = [
            crate::pb::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let files = sets.into_iter().flat_map(|bytes| FileDescriptorSet::decode(bytes).unwrap().file);
        let mut methods = Vec::new();
        for file in files {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                methods.extend(service.method.iter().map(|method| format!("{name}/{}", method.name())));
            }
        }
        methods
    }

    #[test]
    fn every_method_has_one_row_and_every_row_a_method() {
        let mut served = served();
        served.push(METRICS.to_owned());
        let mut rows: Vec<String> = METHODS.iter().map(|(name, _)| (*name).to_owned()).collect();
        served.sort();
        rows.sort();
        assert_eq!(rows, served);
    }

    #[test]
    fn a_call_ends_with_each_role_that_it_may_rest_on() {
        let actor = |grants: &str| Actor {
            grants: grants.split_whitespace().map(|grant| grant.parse().unwrap()).collect(),
            ..Actor::local()
        };
        for (need, before, now, expected) in [
            (LOOK, "read submit", "submit", Some(Read)),
            (LOOK, "control", "read submit", None),
            (LOOK, "control submit", "submit", Some(Read)),
            (LOOK, "submit", "submit read", None),
            (LOOK, "read submit", "read", Some(Submit)),
            (CONTROL, "control submit", "read submit", Some(Control)),
            (Anybody, "operator", "", None),
            (Open, "operator", "", None),
        ] {
            assert_eq!(lost(need, &actor(before), &actor(now)), expected, "{before} -> {now}");
        }
    }

    #[test]
    fn health_and_reflection_are_as_the_operator_says() {
        let (check, list) = (METHODS[0].0, METHODS[2].0);
        let of = |exposure| (need(check, exposure), need(list, exposure));
        assert_eq!(of(Exposure::default()), (Some(Open), Some(Anybody)));
        let open = Exposure { is_reflection_open: true, ..Exposure::default() };
        assert_eq!(of(open), (Some(Open), Some(Open)));
        assert_eq!(need("haul.v1.AccessService/WhoAmI", open), Some(Anybody));
        let closed = Exposure { is_health_closed: true, ..Exposure::default() };
        assert_eq!(of(closed), (Some(Anybody), Some(Anybody)));
        assert_eq!(need("haul.v1.JobService/NoSuch", open), None);
    }

    #[test]
    fn what_reads_is_known_by_its_name() {
        for reading in
            ["haul.v1.JobService/GetJob", "haul.v1.JobService/WatchJobs", "haul.v1.ContentService/ReadContent"]
        {
            assert!(reads(reading), "{reading}");
        }
        for other in ["haul.v1.JobService/SubmitJob", "haul.v1.AdminService/Drain", "grpc.health.v1.Health/Watch"] {
            assert!(!reads(other), "{other}");
        }
    }

    #[test]
    fn open_is_what_probes_need_and_nothing_else() {
        let open: Vec<&str> = METHODS.iter().filter(|(_, need)| *need == Open).map(|(name, _)| *name).collect();
        assert_eq!(open, ["grpc.health.v1.Health/Check"]);
    }
}
