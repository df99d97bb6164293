//! The server as plain HTTP, asked by `curl`, and by sockets where no client would ask so.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use crate::support::server::{PATIENCE, Server};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The documents of an answer of lines.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The reason of an error, and the first field that it names.
    pub(crate) fn fault(&self) -> (String, String) {
        let error = &self.json()["error"];
        assert_eq!(error["code"], self.code, "{self:?}");
        let details = error["details"].as_array().unwrap();
        let of = |name: &str| details.iter().find(|it| it["@type"].as_str().unwrap().ends_with(name));
        let reason = of("ErrorInfo").unwrap()["reason"].as_str().unwrap().to_owned();
        let field = of("BadRequest").map(|it| it["field_violations"][0]["field"].as_str().unwrap().to_owned());
        (reason, field.unwrap_or_default())
    }
}

/// Runs `curl` for a path of the server.
pub(crate) fn curl(server: &Server, args: &[&str], path: &str) -> Answer {
    let patience = PATIENCE.as_secs().to_string();
    let done = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--globoff", "--path-as-is", "--max-time", &patience])
        .args(args)
        .arg(format!("http://{}{path}", server.address))
        .output()
        .unwrap();
    assert!(done.status.success(), "{args:?} {path}: {}", String::from_utf8_lossy(&done.stderr));
    parsed(&String::from_utf8_lossy(&done.stdout))
}

/// Sends bytes as they are and returns what comes until the server closes.
pub(crate) fn raw(server: &Server, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    parsed(&String::from_utf8_lossy(&said))
}

fn parsed(said: &str) -> Answer {
    let mut rest = said;
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or_else(|| panic!("there is no head: {said}"));
        let code = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        // An answer that only says to go on has another behind it.
        if code != 100 {
            return Answer { code, head: head.to_owned(), body: body.to_owned() };
        }
        rest = body;
    }
}
