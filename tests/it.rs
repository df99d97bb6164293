//! Black box: a real server process, a real origin, gRPC between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::unchecked_time_subtraction)] // A test ends at the first surprise.

#[path = "support/mod.rs"]
mod support;

mod it {
    mod access;
    mod audit;
    mod chaos;
    mod choices;
    mod content;
    mod control;
    mod crash;
    mod creators;
    mod credentials;
    mod credentials_live;
    mod curl;
    mod damaged;
    mod dashboard;
    mod downloads;
    mod echoes;
    mod errors;
    mod faces;
    mod failures;
    mod fairness;
    mod fetches;
    mod few_descriptors;
    mod foreign;
    mod framing;
    mod full_disk;
    mod groups;
    mod grpcurl;
    mod held;
    mod hostile;
    mod import_bounds;
    mod imports;
    mod jobs;
    mod leftovers;
    mod limits;
    mod local_callers;
    mod lookers;
    mod many;
    mod model;
    mod network;
    mod open_calls;
    mod outlives;
    mod planted;
    mod progress;
    mod quotas;
    mod read_pages;
    mod rest;
    mod sealing;
    mod segments;
    mod shares;
    mod slow_watchers;
    mod specs;
    mod startup;
    mod store_errors;
    mod stored_bytes;
    mod tenant_views;
    mod tenants;
    mod tls;
    mod tokens;
    mod unended;
    mod validation;
    mod watch;
    mod wire;
}
