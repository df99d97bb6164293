//! What is counted, compared with the jobs.

use std::collections::HashMap;

use crate::engine::queue::rotation::Rotation;
use crate::engine::queue::rotation::entry::Place;
use crate::model::host::Host;
use crate::model::ids::JobId;
use crate::model::tenant::TenantNo;
use crate::store::LaneNumber;

impl Rotation {
    /// Compares every count with the jobs, and what is counted of parked lanes with `waiting`, how many tasks of a lane
    /// wait. Slow.
    pub(in crate::engine::queue) fn check(&self, waiting: impl Fn(JobId, LaneNumber) -> u32) -> Result<(), String> {
        let mut tasks: HashMap<&Host, u64> = HashMap::new();
        let mut promised: HashMap<(&Host, TenantNo), u32> = HashMap::new();
        let mut tenants: HashMap<TenantNo, (usize, u32)> = HashMap::new();
        for (job, entry) in &self.jobs {
            let tenant = tenants.entry(entry.party.tenant).or_default();
            *tenant = (tenant.0 + 1, tenant.1 + entry.running);
            for (number, lane) in entry.lanes.iter().enumerate() {
                let really = waiting(*job, number as LaneNumber);
                if really != lane.waiting {
                    return Err(format!("lane {number} of {job} has {really} tasks, and {} are noted", lane.waiting));
                }
                let ready = entry.ready.iter().filter(|it| **it as usize == number).count();
                if ready != usize::from(lane.place == Place::Ready) {
                    return Err(format!("lane {number} of {job} is {:?}, and {ready} times ready", lane.place));
                }
                if lane.place == Place::Parked {
                    *tasks.entry(&lane.at).or_default() += u64::from(lane.waiting);
                }
            }
            let woken = entry.woken.iter().flat_map(|woken| woken.iter());
            for (number, _) in woken.filter(|(_, woken)| woken.promise.is_some()) {
                let lane = entry.lanes.get(*number as usize).ok_or("a lane was woken that is not there")?;
                *promised.entry((&lane.at, entry.party.tenant)).or_default() += 1;
            }
        }
        self.rings.check(&tenants)?;
        self.parking.check()?;
        if promised != self.promises.all() {
            return Err(format!("{promised:?} are promised, and {:?} are noted", self.promises));
        }
        tasks.retain(|_, tasks| *tasks > 0);
        let counted = self.parking.all_tasks();
        if tasks == counted { Ok(()) } else { Err(format!("{tasks:?} wait for hosts, and {counted:?} are counted")) }
    }
}
