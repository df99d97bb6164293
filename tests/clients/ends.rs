//! What a client leaves when it is closed, or when what it reads has ended.

use std::time::Duration;

use crate::clients::programs::{go, node, output, python, source};
use crate::support::origin::Origin;
use crate::support::reply::Reply;
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_client_that_is_closed_ends_its_calls() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = node(dir.path(), &source("ends.mjs")) else { return };
    let said = tokio::task::spawn_blocking({
        let address = server.address.clone();
        move || output(program.arg(address))
    });
    let said = tokio::time::timeout(Duration::from_secs(60), said).await.expect("the program ends").unwrap();
    assert_eq!(said, "it cannot be sent\n".repeat(3) + &"the client is closed\n".repeat(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_client_keeps_nothing_of_what_was_read() {
    let (server, origin) = (Server::start().await, Origin::start());
    origin.reply("/a", Reply::ok("alpha"));
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = go(dir.path(), &source("ends.go")) else { return };
    let said = tokio::task::spawn_blocking({
        let (address, url) = (server.address.clone(), origin.url("/a"));
        move || output(program.args([address, url]))
    });
    let said = tokio::time::timeout(Duration::from_secs(60), said).await.expect("nothing is left running").unwrap();
    assert_eq!(said, "nothing is left\n");
}

/// A pool of processes breaks at an error that cannot be carried from one to another.
#[test]
fn errors_of_the_python_client_are_carried_between_processes() {
    let program = "import grpc, pickle\nfrom haul_client import HaulError, Violation\n\
                   error = HaulError(grpc.StatusCode.NOT_FOUND, 'no job', reason='JOB_NOT_FOUND', retry_delay=1.5,\n\
                   violations=(Violation('a', 'b'),), metadata={'c': 'd'})\n\
                   again = pickle.loads(pickle.dumps(error))\n\
                   print(vars(again) == vars(error), str(again) == str(error), type(again).__name__)\n";
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = python(dir.path(), program) else { return };
    assert_eq!(output(&mut program), "True True HaulError\n");
}

/// A wait doubles with each try, and its power is no number after a thousand of them.
#[test]
fn the_python_client_is_patient_for_ever() {
    let program = "import grpc\nfrom haul_client import HaulError\nfrom haul_client.settings import Patience\n\
                   patience = Patience(float('inf'))\npatience.reached()\nretries = patience.retries()\n\
                   away = HaulError(grpc.StatusCode.UNAVAILABLE, 'away')\n\
                   delays = [retries.delay(away) for _ in range(2_000)]\nprint(max(delays) <= 12.5, delays[-1] >= 7.5)\n";
    let dir = tempfile::tempdir().unwrap();
    let Some(mut program) = python(dir.path(), program) else { return };
    assert_eq!(output(&mut program), "True True\n");
}
