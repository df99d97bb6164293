//! What each method needs: a row for every method that is served, so that none can be forgotten.
//!
//! A method without a row is refused. That is the layer's part of the judgement, made before the message is read; whether
//! a job is the caller's own is for the handlers, by [`crate::api::access::caller::Caller::reach`].

use crate::model::access::Actor;
use crate::model::role::{DEFAULT_TENANT, Role};

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: whoever connects may call it.
    Open,
    /// To be somebody.
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

/// The path of what is no method of gRPC and is judged as one: what Prometheus scrapes.
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
    ("haul.v1.AccessService/ListAuditEvents", OneOf(&[Auditor, Admin])),
    ("haul.v1.AccessService/RotateDataKey", OPERATE),

    ("haul.v1.AdminService/GetServerInfo", Anybody),
    ("haul.v1.AdminService/GetLimits", Anybody),
    ("haul.v1.AdminService/UpdateLimits", OPERATE),
    // Not for who may only submit: a host's errors and pauses come from the jobs of others, too.
    ("haul.v1.AdminService/ListHosts", OneOf(&[Read, Monitor])),
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

/// Returns what a method needs; `None`: it has no row.
pub(crate) fn need(method: &str) -> Option<Need> {
    METHODS.iter().find(|(name, _)| *name == method).map(|(_, need)| *need)
}

/// Returns the role that the caller lacks; `None`: the call may go on.
pub(crate) fn lacks(need: Need, actor: &Actor) -> Option<Role> {
    match need {
        Open | Anybody => None,
        OneOf(roles) if roles.iter().any(|role| actor.may(*role, DEFAULT_TENANT)) => None,
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
    fn open_is_what_probes_need_and_nothing_else() {
        let open: Vec<&str> = METHODS.iter().filter(|(_, need)| *need == Open).map(|(name, _)| *name).collect();
        assert_eq!(open, ["grpc.health.v1.Health/Check"]);
    }
}
