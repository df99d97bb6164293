//! How fast the machine is, so that figures of two machines can be read beside each other.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

/// The median of `rounds` of something, in microseconds.
fn median_micros(rounds: usize, mut once: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            once();
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

/// A sync of a file that grew by a page.
fn sync() -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(dir.path().join("f")).unwrap();
    median_micros(300, || {
        file.write_all(&[0; 4096]).unwrap();
        file.sync_data().unwrap();
    })
}

/// A message to another thread and its answer: two wake-ups.
fn wake_ups() -> f64 {
    let (ask, asked) = mpsc::channel::<()>();
    let (answer, answered) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        while asked.recv().is_ok() {
            answer.send(()).unwrap();
        }
    });
    let micros = median_micros(5_000, || {
        ask.send(()).unwrap();
        answered.recv().unwrap();
    });
    drop(ask);
    other.join().unwrap();
    micros
}

/// A byte over loopback and back.
fn round_trip() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let micros = median_micros(5_000, || {
        stream.write_all(&[1]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    });
    drop(stream);
    other.join().unwrap();
    micros
}

/// Prints what the machine takes for what everything here is made of.
pub(crate) fn speed() {
    println!(
        "fdatasync {:.0} us, two wake-ups of a thread {:.1} us, a round trip over loopback {:.1} us",
        sync(),
        wake_ups(),
        round_trip()
    );
}
