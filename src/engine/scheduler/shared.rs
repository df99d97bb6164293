//! What many jobs have in common is in memory once: jobs that wait are many, and most of them are like the one before.

use std::sync::Arc;

use crate::model::host::Host;
use crate::model::ids::TaskIndex;
use crate::model::job::Job;
use crate::model::spec::JobSpec;

/// Hosts of the lanes of a job, with the heads of these.
type Lanes = Vec<(Host, TaskIndex)>;

/// What the last job had.
#[derive(Debug, Default)]
pub(super) struct Shared {
    spec: Arc<JobSpec>,
    /// The spec that was compared with it last, which is equal to it: the store shares those of neighbours.
    equal: Arc<JobSpec>,
    host: Option<Host>,
}

impl Shared {
    /// Lets a job share its spec with the last one, if they are equal.
    pub(super) fn spec(&mut self, job: &mut Job) {
        if !Arc::ptr_eq(&job.spec, &self.equal) {
            if *job.spec != *self.spec {
                self.spec = job.spec.clone();
            }
            self.equal = job.spec.clone();
        }
        job.spec = self.spec.clone();
    }

    /// Returns a job with its lanes, which share what they have in common with the last ones.
    pub(super) fn job(&mut self, mut job: Job, mut lanes: Lanes) -> (Arc<Job>, Lanes) {
        self.spec(&mut job);
        for (host, _) in &mut lanes {
            *host = self.host(host.clone());
        }
        (Arc::new(job), lanes)
    }

    /// Returns a host that shares its name with the last one, if they are equal.
    pub(super) fn host(&mut self, host: Host) -> Host {
        match &self.host {
            Some(last) if *last == host => last.clone(),
            _ => {
                self.host = Some(host.clone());
                host
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::JobId;
    use crate::model::time::Timestamp;

    #[test]
    fn equal_specs_and_hosts_are_kept_once() {
        let mut shared = Shared::default();
        let mut job = |title: &str| {
            let spec = JobSpec { title: title.into(), ..JobSpec::default() };
            let mut job = Job::new(JobId(uuid::Uuid::nil()), spec, 1, Timestamp(1));
            shared.spec(&mut job);
            job.spec
        };
        let (first, second, other) = (job("a"), job("a"), job("b"));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&second, &other));
        let mut host = |name: &str| shared.host(Host::new(name));
        let (first, second, other) = (host("a:80"), host("a:80"), host("b:80"));
        assert_eq!(first.as_str().as_ptr(), second.as_str().as_ptr());
        assert_eq!(other.as_str(), "b:80");
    }
}
