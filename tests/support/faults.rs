//! Origins that misbehave at random, and the same way again for the same seed.

use super::object::Object;
use super::reply::{Cut, Pause, Reply};
use super::request::Request;

/// Seeds to play: the one in `HAUL_SEED`, or so many fresh ones.
pub fn seeds(count: u64) -> Vec<u64> {
    let given = std::env::var("HAUL_SEED").ok().and_then(|text| text.parse().ok());
    given.map_or_else(|| (0..count).map(|_| rand::random()).collect(), |seed| vec![seed])
}

/// Numbers from a seed (splitmix).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Cut(Cut, u64),
    Stall(u64),
    Slow(u64),
    Refused(u16),
    Hang,
    Gone(Cut),
    /// A 416 whatever was asked for.
    Unsatisfied,
    /// A 416 that says nothing of the size.
    UnsatisfiedBare,
    /// A 416 that says that the whole ends where the range begins.
    UnsatisfiedShort,
    /// A range that begins so many bytes before the one that was asked for.
    ShiftedRange(u64),
    UnnamedRange,
    RangesIgnored,
    /// A page in place of a range.
    Page,
    /// More than there is.
    LongLength,
    Chunked(u64),
}

/// A resource that is served with faults first and well in the end, and that changes once on the way, perhaps.
#[derive(Clone, Debug)]
pub struct Script {
    /// The versions in order; any other bytes are wrong.
    pub versions: Vec<Object>,
    /// From this request on the last version is served.
    change_at: usize,
    faults: Vec<Fault>,
}

impl Script {
    pub fn new(seed: u64, size: u64) -> Script {
        let mut dice = Dice::new(seed);
        let version = |nth: u64, size: u64| {
            let object = Object::new(seed.wrapping_mul(2).wrapping_add(nth), size);
            match seed % 6 {
                0 => object.no_etag(),
                1 => object.etag(&format!("W/\"{nth}\"")),
                2 => object.no_last_modified(),
                3 => object.no_etag().no_last_modified(),
                _ => object,
            }
        };
        let mut versions = vec![version(0, size)];
        if dice.one_in(2) {
            // Of the same size as often as not: then nothing but the validators tells.
            versions.push(version(1, if dice.one_in(2) { size } else { size + dice.below(size) }));
        }
        let count = dice.below(7);
        let faults = (0..count).map(|_| fault(&mut dice)).collect();
        Script { versions, change_at: dice.below(5) as usize, faults }
    }

    /// The version that is served in the end.
    pub fn last(&self) -> &Object {
        &self.versions[self.versions.len() - 1]
    }

    /// What a mirror serves: the last version, with validators of its own, with ranges or without; or other content of the
    /// same size under the same validators, as of servers that make theirs of sizes and times.
    pub fn mirrored(&self, dice: &mut Dice) -> Object {
        let own = || self.last().clone().etag("\"of the mirror\"").last_modified("Mon, 02 Jan 2023 10:00:00 GMT");
        match dice.below(4) {
            0 => own().no_ranges(),
            1 => Object::new(u64::MAX - 1, self.last().size()).validators_of(self.last()),
            2 => Object::new(u64::MAX - 1, self.last().size()).validators_of(self.last()).no_ranges(),
            _ => own(),
        }
    }

    pub fn respond(&self, request: &Request) -> Reply {
        let changed = usize::from(request.nth >= self.change_at).min(self.versions.len() - 1);
        let object = &self.versions[changed];
        let fault = self.faults.get(request.nth).copied().unwrap_or(Fault::None);
        let reply = object.respond(request);
        let place = |permille: u64| object.size() * permille / 1000;
        let has_range = request.header("range").is_some();
        match fault {
            Fault::Cut(cut, permille) => reply.cut_at(place(permille), cut),
            Fault::Stall(permille) => reply.stall_at(place(permille)),
            Fault::Slow(rate) => reply.bytes_per_second(rate),
            Fault::Refused(status) => Reply::status(status),
            Fault::Hang => Reply::hang(),
            Fault::Gone(cut) => Reply::gone(cut),
            Fault::Unsatisfied if has_range => {
                Reply::status(416).header("Content-Range", &format!("bytes */{}", object.size()))
            }
            Fault::UnsatisfiedBare if has_range => Reply::status(416),
            Fault::UnsatisfiedShort if has_range => {
                Reply::status(416).header("Content-Range", &format!("bytes */{}", first_of(request)))
            }
            Fault::ShiftedRange(by) if has_range => shifted(object, request, by),
            Fault::UnnamedRange if has_range => Reply::status(206).body(object.slice(0..1000)),
            Fault::RangesIgnored => object.clone().no_ranges().respond(request),
            Fault::Page if has_range => Reply::ok("<html>sign in</html>").header("Content-Type", "text/html"),
            Fault::LongLength => reply.claim_length(object.size() + 10).after(Pause::For(std::time::Duration::ZERO)),
            Fault::Chunked(bytes) => reply.chunked(bytes),
            _ => reply,
        }
    }
}

fn fault(dice: &mut Dice) -> Fault {
    let cut = if dice.one_in(2) { Cut::Fin } else { Cut::Reset };
    let permille = dice.below(1000);
    match dice.below(18) {
        0..3 => Fault::Cut(cut, permille),
        3 => Fault::Stall(permille),
        4..6 => Fault::Slow(200_000 + dice.below(2_000_000)),
        6 => Fault::Refused([500, 503, 429, 408][dice.below(4) as usize]),
        7 => Fault::Hang,
        8 => Fault::Gone(cut),
        9 => Fault::Unsatisfied,
        10 => Fault::ShiftedRange(1 + permille),
        11 => Fault::UnnamedRange,
        12 => Fault::RangesIgnored,
        13 => Fault::Page,
        14 => Fault::LongLength,
        15 => Fault::UnsatisfiedBare,
        16 => Fault::UnsatisfiedShort,
        _ => Fault::Chunked(1 + dice.below(50_000)),
    }
}

/// Where the range begins that was asked for.
fn first_of(request: &Request) -> u64 {
    let first = request.header("range").and_then(|text| text.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    first.unwrap_or(0)
}

/// A range that is truly named, and is not the one that was asked for.
fn shifted(object: &Object, request: &Request, by: u64) -> Reply {
    let first = first_of(request).saturating_sub(by);
    let range = first..object.size();
    let named = format!("bytes {first}-{}/{}", object.size() - 1, object.size());
    Reply::status(206).slice(object, range).header("Content-Range", &named)
}
