//! How much each tenant has of what they share, and from where on it leaves the rest to others. Pure.
//!
//! Whoever comes second finds something free, however long the tasks of the first take: a tenant takes another place only while
//! it has fewer than three times as many, for each unit of its weight, as would be left free then. Of 64 places one tenant alone
//! has 48, the next one 12, the third 3. What is left is divided in that way for any number of tenants, without a list of them
//! (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).

/// Levels have so many binary places: with whole numbers, tenants of large weights would all stand at 0.
const BITS: u32 = 20;
/// So many times what would be left free a tenant has at most, for each unit of its weight.
const TIMES_LEFT: u64 = 3;

/// How much a tenant has for each unit of its weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u64);

impl Level {
    /// Returns the level of a tenant that has so much; a weight of 0 means 1.
    pub fn of(has: u32, weight: u32) -> Level {
        Level((u64::from(has) << BITS) / u64::from(weight.max(1)))
    }

    /// Returns the level from which on a tenant takes nothing more, where so much would be left free then. Who has nothing takes
    /// what is free.
    pub fn held_from(left: u32) -> Level {
        Level(((TIMES_LEFT * u64::from(left)) << BITS).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many each of some tenants has whose tasks never end, where they come one after the other.
    fn taken(places: u32, weights: &[u32]) -> Vec<u32> {
        let mut free = places;
        let take = |weight: &u32| {
            let mut has = 0;
            while free > 0 && Level::of(has, *weight) < Level::held_from(free - 1) {
                has += 1;
                free -= 1;
            }
            has
        };
        weights.iter().map(take).collect()
    }

    #[test]
    fn who_comes_first_leaves_something_to_who_comes_next() {
        assert_eq!(taken(64, &[1; 5]), [48, 12, 3, 1, 0]);
        assert_eq!(taken(8, &[1; 4]), [6, 1, 1, 0]);
        assert_eq!(taken(1000, &[1, 1]), [750, 187]);
        let few = [taken(0, &[1; 2]), taken(1, &[1; 2]), taken(2, &[1; 2]), taken(3, &[1; 2]), taken(4, &[1; 2])];
        assert_eq!(few, [[0, 0], [1, 0], [1, 1], [2, 1], [3, 1]], "one place cannot be shared");
        assert!((2..2000).all(|places| taken(places, &[1])[0] < places));
        assert!((2..2000).all(|places| taken(places, &[1000])[0] < places), "whatever its weight");
    }

    #[test]
    fn those_who_want_all_have_what_their_weights_say() {
        let (mut has, weights) = ([0u32; 3], [1, 2, 4]);
        for _ in 0..100 {
            let free = 100 - has.iter().sum::<u32>();
            let next = (0..3).min_by_key(|place| Level::of(has[*place], weights[*place])).unwrap();
            if free > 0 && Level::of(has[next], weights[next]) < Level::held_from(free - 1) {
                has[next] += 1;
            }
        }
        assert_eq!(has, [14, 27, 54]);
    }
}
