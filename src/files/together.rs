//! Small files that are made durable together, with one call for all of them.
//!
//! A file that is forced to the device by itself costs a thread that waits for it and its own way through the file system.
//! (Measured on ext4, files of 1 KiB: 64 threads take 90 to 105 us of processor time a file, and one `syncfs` for 128 files
//! 37.) So while many wait, whoever comes first leads: it does each step for all that have come, and then for those that
//! came meanwhile. The order stays that of a single file: bytes on the device, then the name, then the name on the device.
//!
//! `syncfs` writes what all programs have left unwritten there, so it is used only while that is little. It says that
//! something could not be written, and not which file: after an error whoever was there before it is forced to the device
//! by itself, which does say so. Each error is told once, so it is counted before anybody else can ask.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::files::beside::is_done_here;
use crate::files::folder::Folder;

/// From so many files on that are being made durable, further ones are so together.
const CROWD: usize = 16;
/// Files of one round: the first of them waits for the last.
const ROUND_MAX: usize = 128;
/// Rounds at once: while one waits for the device, another gives names.
const LEADERS_MAX: usize = 2;
/// Where all programs together have left more bytes unwritten, each file is forced to the device by itself. As many take an
/// ordinary device some tenths of a second.
const UNWRITTEN_MAX: u64 = 64 << 20;
/// For how long no file joins others then.
const REST: Duration = Duration::from_secs(1);

/// The directories that a round has forced to the device, by path, and what came of it.
pub(super) type Folders = HashMap<String, Result<(), io::ErrorKind>>;

/// A file on its way to its name. One that has failed has said so to whoever waits for it, and goes no further.
pub(super) trait Member: std::fmt::Debug + Send {
    /// What comes before its bytes are forced to the device. Returns whether it goes on.
    fn prepare(&mut self) -> bool;
    /// Its bytes are on the device if there were so many errors before it came to be; else it forces them there itself. Then it
    /// gets its name. Returns whether it goes on.
    fn take_name(&mut self, errors: Option<u64>) -> bool;
    /// Forces its directory to the device, unless that was done, and says what has become of it.
    fn end(self: Box<Self>, folders: &mut Folders);
}

/// The files of one root that are being made durable.
#[derive(Debug)]
pub(super) struct Together {
    when: When,
    /// Those that are made durable now, in whichever way.
    under_way: AtomicUsize,
    state: Mutex<State>,
    /// Calls for the whole file system that failed.
    errors: AtomicU64,
    /// Held from such a call until its error is counted.
    syncing: Mutex<()>,
}

/// When files join others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Never: on this file system nobody knows what `syncfs` says.
    Never,
    /// Where many are under way.
    Crowded,
    /// Each file, for tests.
    Always,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Box<dyn Member>>,
    leaders: usize,
    rests_until: Option<Instant>,
}

/// A file that is being made durable. Dropping it says that it is not any more.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a Together);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl UnderWay<'_> {
    /// Whether it is to join others.
    pub(super) fn joins(&self) -> bool {
        let is_crowded = || self.0.under_way.load(Ordering::Relaxed) > CROWD;
        let rests = || self.0.lock().rests_until.is_some_and(|until| until > Instant::now());
        match self.0.when {
            When::Never => false,
            When::Always => true,
            // What others have left unwritten is not repeated in a simulation.
            When::Crowded => is_crowded() && !is_done_here() && !rests(),
        }
    }
}

impl Together {
    pub(super) fn new(when: When) -> Together {
        Together {
            when,
            under_way: AtomicUsize::new(0),
            state: Mutex::default(),
            errors: AtomicU64::new(0),
            syncing: Mutex::default(),
        }
    }

    /// A file is about to be made durable.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    /// How many errors there were. A file remembers it before its first byte is written.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Acquire)
    }

    /// Adds a file. `Some`: whoever adds it has to lead, on a thread that may wait.
    pub(super) fn add(self: &Arc<Self>, member: Box<dyn Member>) -> Option<Lead> {
        let mut state = self.lock();
        state.waiting.push(member);
        let is_wanted = state.leaders == 0 || state.leaders < LEADERS_MAX && state.waiting.len() >= CROWD;
        state.leaders += usize::from(is_wanted);
        is_wanted.then(|| Lead { of: Arc::clone(self), has_ended: false })
    }

    /// Forces all that is written on the file system to the device. Returns how many errors there were before, if there is none
    /// now.
    fn sync_all(&self, sync: impl FnOnce() -> io::Result<()>) -> Option<u64> {
        if self.when != When::Always && unwritten_bytes().is_none_or(|bytes| bytes > UNWRITTEN_MAX) {
            self.lock().rests_until = Some(Instant::now() + REST);
            return None;
        }
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        match sync() {
            Ok(()) => Some(self.errors()),
            Err(error) => {
                tracing::debug!("the file system was not forced to the device as a whole: {error}");
                self.errors.fetch_add(1, Ordering::AcqRel);
                // It may fail each time, and those of a round are forced there one after the other then.
                self.lock().rests_until = Some(Instant::now() + REST);
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to make files durable until none waits. Where it is dropped before that, those that no other leader takes have
/// failed.
#[derive(Debug)]
pub(super) struct Lead {
    of: Arc<Together>,
    has_ended: bool,
}

impl Lead {
    /// Makes all files durable that wait. `sync` forces all that is written on their file system to the device. Blocks the
    /// thread.
    pub(super) fn run(mut self, sync: impl Fn() -> io::Result<()>) {
        while let Some(mut round) = self.take() {
            round.retain_mut(|member| member.prepare());
            let errors = self.of.sync_all(&sync);
            if errors.is_none()
                && let Ok(runtime) = Handle::try_current()
            {
                // Each is forced there by itself, which takes long one after the other.
                for member in round {
                    // Whoever waits for it is told by the member itself.
                    drop(runtime.spawn_blocking(|| alone(member)));
                }
                continue;
            }
            round.retain_mut(|member| member.take_name(errors));
            let mut folders = Folders::new();
            for member in round {
                member.end(&mut folders);
            }
        }
    }

    /// The next round; `None`: nobody waits, and from then on whoever comes leads.
    fn take(&mut self) -> Option<Vec<Box<dyn Member>>> {
        let mut state = self.of.lock();
        if state.waiting.is_empty() {
            state.leaders -= 1;
            self.has_ended = true;
            return None;
        }
        let many = state.waiting.len().min(ROUND_MAX);
        Some(state.waiting.drain(..many).collect())
    }
}

/// The last steps of a file beside the others of its round.
fn alone(mut member: Box<dyn Member>) {
    if member.take_name(None) {
        member.end(&mut Folders::new());
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.of.lock();
            state.leaders -= 1;
            let left = if state.leaders == 0 { std::mem::take(&mut state.waiting) } else { Vec::new() };
            drop(state);
            // They say so to whoever waits for them.
            drop(left);
        }
    }
}

/// When files of the file system of this directory join others: on ext4, which was looked into. Linux says since 5.17 what
/// could not be written, but for what [`crate::files::device`] looks for.
pub(super) fn when(folder: &Folder) -> When {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (major, minor) = (rustix::fs::major(folder.device()), rustix::fs::minor(folder.device()));
    let device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = device.ok().and_then(|device| Some(device.file_name()?.to_owned()));
    let is_ext4 = name.is_some_and(|name| std::path::Path::new("/sys/fs/ext4").join(name).is_dir());
    if is_ext4 && is_from(&release, (5, 17)) { When::Crowded } else { When::Never }
}

/// Whether a release of Linux is this one or newer.
fn is_from(release: &str, from: (u32, u32)) -> bool {
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map_while(|it| it.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version| version >= from)
}

/// How many bytes all programs have left unwritten, on all devices; `None`: nobody knows.
fn unwritten_bytes() -> Option<u64> {
    unwritten_in(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn unwritten_in(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("Dirty:")? + kib("Writeback:")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was done, in order; and whose first step fails.
    #[derive(Debug)]
    struct Noted {
        name: &'static str,
        fails: bool,
        log: Log,
    }

    impl Noted {
        fn note(&self, what: String) {
            self.log.lock().unwrap().push(what);
        }
    }

    impl Member for Noted {
        fn prepare(&mut self) -> bool {
            self.note(format!("{} is prepared", self.name));
            !self.fails
        }

        fn take_name(&mut self, errors: Option<u64>) -> bool {
            self.note(format!("{} is named at {errors:?}", self.name));
            true
        }

        fn end(self: Box<Self>, folders: &mut Folders) {
            let is_first = folders.insert("d".to_owned(), Ok(())).is_none();
            self.note(format!("{} ends{}", self.name, if is_first { " first" } else { "" }));
        }
    }

    type Log = Arc<Mutex<Vec<String>>>;

    fn rig() -> (Arc<Together>, Log, impl Fn(&'static str, bool) -> Box<dyn Member>) {
        let log = Log::default();
        let made = Arc::clone(&log);
        let member = move |name, fails| Box::new(Noted { name, fails, log: Arc::clone(&made) }) as Box<dyn Member>;
        (Arc::new(Together::new(When::Always)), log, member)
    }

    #[test]
    fn no_name_before_all_is_on_the_device() {
        let (together, log, member) = rig();
        let lead = together.add(member("a", false)).unwrap();
        assert!(together.add(member("b", true)).is_none(), "somebody leads");
        assert!(together.add(member("c", false)).is_none());
        let late = Mutex::new(Some(member("d", false)));
        lead.run(|| {
            log.lock().unwrap().push("sync".to_owned());
            match late.lock().unwrap().take() {
                Some(late) => {
                    assert!(together.add(late).is_none(), "the next round is its own");
                    Err(io::ErrorKind::StorageFull.into())
                }
                None => Ok(()),
            }
        });
        let expected = [
            "a is prepared",
            "b is prepared",
            "c is prepared",
            "sync",
            "a is named at None",
            "c is named at None",
            "a ends first",
            "c ends",
            "d is prepared",
            "sync",
            "d is named at Some(1)",
            "d ends first",
        ];
        assert_eq!(*log.lock().unwrap(), expected);
        assert!(together.add(member("e", false)).is_some(), "nobody leads any more");
    }

    /// Waits for another one before it takes its name.
    #[derive(Debug)]
    struct Waits {
        tell: std::sync::mpsc::Sender<()>,
        other: Mutex<std::sync::mpsc::Receiver<()>>,
        ended: std::sync::mpsc::Sender<bool>,
    }

    impl Member for Waits {
        fn prepare(&mut self) -> bool {
            true
        }

        fn take_name(&mut self, _: Option<u64>) -> bool {
            let _ = self.tell.send(());
            self.other.lock().unwrap().recv_timeout(Duration::from_secs(60)).is_ok()
        }

        fn end(self: Box<Self>, _: &mut Folders) {
            let _ = self.ended.send(true);
        }
    }

    #[tokio::test]
    async fn where_one_call_does_not_do_none_waits_for_another() {
        let together = Arc::new(Together::new(When::Always));
        let ([tell, other], (ended, ends)) = ([(); 2].map(|()| std::sync::mpsc::channel()), std::sync::mpsc::channel());
        let member = |tell, other, ended| Box::new(Waits { tell, other: Mutex::new(other), ended });
        let lead = together.add(member(tell.0, other.1, ended.clone())).unwrap();
        assert!(together.add(member(other.0, tell.1, ended)).is_none());
        let fails = || Err(io::ErrorKind::Other.into());
        tokio::task::spawn_blocking(move || lead.run(fails)).await.unwrap();
        let both = tokio::task::spawn_blocking(move || ends.iter().take(2).count());
        assert_eq!(both.await.unwrap(), 2);
    }

    #[test]
    fn those_of_a_leader_that_is_lost_are_dropped_and_the_next_one_leads() {
        let (together, log, member) = rig();
        let lead = together.add(member("a", false)).unwrap();
        let panics = move || lead.run(|| panic!("as a test wants it"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        let lead = together.add(member("b", false)).unwrap();
        assert!(together.add(member("c", false)).is_none());
        drop(lead);
        assert!(together.lock().waiting.is_empty());
        assert_eq!(Arc::strong_count(&log), 2, "they are gone");
        together.add(member("d", false)).unwrap().run(|| Ok(()));
        assert_eq!(log.lock().unwrap().last().unwrap(), "d ends first");
    }

    #[test]
    fn files_join_others_where_many_are_under_way() {
        let together = Together::new(When::Crowded);
        let mut under_way: Vec<_> = (0..CROWD).map(|_| together.begin()).collect();
        assert!(!under_way[0].joins());
        under_way.push(together.begin());
        assert!(under_way[0].joins());
        together.lock().rests_until = Some(Instant::now() + REST);
        assert!(!under_way[0].joins(), "much is unwritten");
        together.lock().rests_until = Some(Instant::now());
        assert!(under_way[0].joins());
        under_way.pop();
        assert!(!under_way[0].joins());
    }

    #[test]
    fn what_the_system_says_is_read() {
        assert!(is_from("5.8.0-1-amd64\n", (5, 8)) && is_from("6.1.0", (5, 8)));
        assert!(!is_from("5.4.0-42", (5, 8)) && !is_from("", (5, 8)));
        let meminfo = "MemTotal: 1 kB\nDirty:            18568 kB\nWriteback:         2 kB\nWritebackTmp: 7 kB\n";
        assert_eq!(unwritten_in(meminfo), Some(18_570 << 10));
        assert_eq!(unwritten_in("Dirty: much\n"), None);
    }
}
