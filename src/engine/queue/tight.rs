//! Lists that mostly stay short.

/// Elements up to which a list of lanes has no room to spare: most jobs have few lanes, and jobs are many.
const TIGHT_MAX: usize = 4;

/// Adds to a list that mostly stays short.
pub(super) fn push_tight<T>(list: &mut Vec<T>, item: T) {
    if list.len() < TIGHT_MAX {
        list.reserve_exact(1);
    }
    list.push(item);
}
