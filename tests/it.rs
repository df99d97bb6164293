//! Black box: a real server process, a real origin, gRPC between.

#[path = "support/mod.rs"]
mod support;

mod it {
    mod crash;
    mod groups;
    mod jobs;
    mod validation;
    mod watch;
}
