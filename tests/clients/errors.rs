//! Errors as plain clients see them, with the settings that those have by themselves.

use crate::clients::guide::generated_python;
use crate::clients::programs::{output, root, source, tool};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;
use crate::support::spec::{fetch, job};

/// A job that does not end.
async fn hanging(server: &Server, origin: &Origin) -> String {
    origin.reply("/hang", Reply::hang());
    server.submit(job(vec![fetch(origin.url("/hang"))])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_reach_the_python_client() {
    let Some(installed) = tool("python") else { return };
    let (server, origin) = (Server::start().await, Origin::start());
    let id = hanging(&server, &origin).await;
    let dir = tempfile::tempdir().unwrap();
    let mut python = generated_python(&installed, dir.path());
    output(python.arg(root().join("tests/clients/errors.py")).arg(&server.address).arg(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_reach_the_node_client_and_browsers() {
    let Some(installed) = tool("node") else { return };
    let (server, origin) = (Server::start().await, Origin::start());
    let id = hanging(&server, &origin).await;
    let dir = tempfile::tempdir().unwrap();
    // An import is looked for beside the program and above it.
    std::os::unix::fs::symlink(installed.join("node_modules"), dir.path().join("node_modules")).unwrap();
    std::fs::write(dir.path().join("client.mjs"), source("errors.mjs")).unwrap();
    let mut node = std::process::Command::new("node");
    output(node.arg(dir.path().join("client.mjs")).arg(&server.address).arg(id).arg(root().join("proto")));
}
