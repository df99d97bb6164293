//! Black box: a real server process, a real origin, gRPC between.

#[path = "support/mod.rs"]
mod support;

mod it {
    mod control;
    mod crash;
    mod downloads;
    mod fetches;
    mod groups;
    mod jobs;
    mod validation;
    mod watch;
}
