//! How many tasks wait at a host, and for whom. Pure.

use crate::model::tenant::{Parties, Party};

/// The tasks that wait somewhere, by party. Few parties have any there, so they stand in a list.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<(Party, u64)>);

impl Waiting {
    /// Adds tasks of a party.
    pub(super) fn add(&mut self, party: Party, tasks: u64) {
        match self.0.iter_mut().find(|(other, _)| *other == party) {
            Some((_, waiting)) => *waiting += tasks,
            None if tasks > 0 => self.0.push((party, tasks)),
            None => {}
        }
    }

    /// Removes tasks of a party.
    pub(super) fn remove(&mut self, party: Party, tasks: u64) {
        let Some(place) = self.0.iter().position(|(other, _)| *other == party) else { return };
        let waiting = &mut self.0[place].1;
        *waiting = waiting.saturating_sub(tasks);
        if *waiting == 0 {
            self.0.swap_remove(place);
        }
    }

    /// Returns how many tasks of these parties wait.
    pub(super) fn of(&self, whose: Parties) -> u64 {
        self.0.iter().filter(|(party, _)| whose.has(*party)).map(|(_, waiting)| waiting).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_party_waits_with_its_own_tasks() {
        let mut waiting = Waiting::default();
        let party = |tenant, principal| Party { tenant, principal };
        waiting.add(party(1, 7), 3);
        waiting.add(party(2, 7), 4);
        waiting.add(party(2, 8), 5);
        waiting.add(party(3, 0), 0);
        let of = |waiting: &Waiting, tenant, principal| waiting.of(Parties { tenant, principal });
        assert_eq!((of(&waiting, None, None), of(&waiting, Some(2), None), of(&waiting, Some(2), Some(8))), (12, 9, 5));
        waiting.remove(party(2, 8), 5);
        waiting.remove(party(9, 9), 5);
        assert_eq!((of(&waiting, Some(2), None), waiting.0.len()), (4, 2));
    }
}
