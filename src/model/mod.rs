//! The words of haul: plain data and the decisions over it.
//!
//! Nothing here does I/O, waits, reads a clock or draws a random number: time and chance come in as arguments.
//! It must not know tokio, the generated code, or any other module of ours. What it decides is returned as a value;
//! the engine makes it durable and then performs it.

pub mod access;
pub mod audit;
pub mod bag;
pub mod book;
pub mod browser;
pub mod checksum;
pub mod counts;
pub mod credential;
pub mod event;
pub mod failure;
pub mod failures;
pub mod group;
pub mod header;
pub mod host;
pub mod identity;
pub mod ids;
pub mod import;
pub mod job;
pub mod level;
pub mod limits;
pub mod made_by;
pub mod method;
pub mod misfit;
pub mod outcome;
pub mod pages;
pub mod path;
pub mod pause;
pub mod progress;
pub mod quotas;
pub mod retry;
pub mod role;
pub mod search;
pub mod secret;
pub mod spec;
pub mod storage;
pub mod task;
pub mod task_filter;
pub mod tenant;
pub mod text;
pub mod time;
pub mod token;
pub mod told;
pub mod trace;
