//! What an origin answers, and how it misbehaves while it does.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::object::Object;

/// How a connection ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Orderly, with FIN: the peer reads an end of file.
    Fin,
    /// With RST: the peer reads an error.
    Reset,
}

/// What the origin waits for at a point of the body.
#[derive(Clone, Debug)]
pub enum Pause {
    For(Duration),
    Until(CancellationToken),
    Forever,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Bytes(Bytes),
    Slice(Object, Range<u64>),
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Slice(_, range) => range.end - range.start,
        }
    }

    pub(super) fn piece(&self, from: u64, to: u64) -> Bytes {
        match self {
            Content::Bytes(bytes) => bytes.slice(from as usize..to as usize),
            Content::Slice(object, range) => object.slice(range.start + from..range.start + to).into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// `Content-Length`, true or not.
    Length(Option<u64>),
    /// Chunks of at most so many bytes.
    Chunked(u64),
    /// Neither: the body ends with the connection.
    UntilClose,
}

/// One answer. Starts correct; each method below adds content or a fault. Offsets count bytes of the body.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) content: Content,
    pub(super) framing: Framing,
    pub(super) before_head: Vec<Pause>,
    pub(super) pauses: Vec<(u64, Pause)>,
    pub(super) cut: Option<(u64, Cut)>,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) raw: Option<Bytes>,
    pub(super) drop_before_head: Option<Cut>,
    pub(super) close: bool,
}

impl Reply {
    /// An empty answer.
    pub fn status(status: u16) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            content: Content::Bytes(Bytes::new()),
            framing: Framing::Length(None),
            before_head: Vec::new(),
            pauses: Vec::new(),
            cut: None,
            bytes_per_second: None,
            raw: None,
            drop_before_head: None,
            close: false,
        }
    }

    /// 200 with these bytes.
    pub fn ok(body: impl Into<Bytes>) -> Reply {
        Reply::status(200).body(body)
    }

    /// 200 with JSON.
    pub fn json(text: impl Into<String>) -> Reply {
        Reply::ok(text.into()).header("Content-Type", "application/json")
    }

    /// A redirect with this `Location`.
    pub fn redirect(status: u16, location: &str) -> Reply {
        Reply::status(status).header("Location", location)
    }

    /// No answer ever, with the connection open.
    pub fn hang() -> Reply {
        Reply::status(200).after(Pause::Forever)
    }

    /// The connection ends instead of an answer.
    pub fn gone(cut: Cut) -> Reply {
        Reply { drop_before_head: Some(cut), ..Reply::status(200) }
    }

    /// These bytes instead of an answer (a malformed one, say), then the end of the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Reply {
        Reply { raw: Some(bytes.into()), ..Reply::status(200) }
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Reply {
        self.content = Content::Bytes(body.into());
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Waits before the head.
    pub fn after(mut self, pause: Pause) -> Reply {
        self.before_head.push(pause);
        self
    }

    /// Waits so long before the head.
    pub fn delay(self, wait: Duration) -> Reply {
        self.after(Pause::For(wait))
    }

    /// Waits once so many bytes of the body are out.
    pub fn pause_at(mut self, offset: u64, pause: Pause) -> Reply {
        self.pauses.push((offset, pause));
        self
    }

    /// Sends so many bytes of the body and then nothing more, with the connection open.
    pub fn stall_at(self, offset: u64) -> Reply {
        self.pause_at(offset, Pause::Forever)
    }

    /// Ends the connection once so many bytes of the body are out.
    pub fn cut_at(mut self, offset: u64, cut: Cut) -> Reply {
        self.cut = Some((offset, cut));
        self
    }

    /// Says this `Content-Length`, whatever the body is. After a body that is shorter the connection ends with FIN.
    pub fn claim_length(mut self, bytes: u64) -> Reply {
        self.framing = Framing::Length(Some(bytes));
        self
    }

    /// `Transfer-Encoding: chunked`, with chunks of at most so many bytes.
    pub fn chunked(mut self, chunk_bytes: u64) -> Reply {
        self.framing = Framing::Chunked(chunk_bytes.max(1));
        self
    }

    /// No length: the body ends with the connection.
    pub fn until_close(mut self) -> Reply {
        self.framing = Framing::UntilClose;
        self
    }

    /// Sends the body at this rate.
    pub fn bytes_per_second(mut self, rate: u64) -> Reply {
        self.bytes_per_second = Some(rate.max(1));
        self
    }

    /// Ends the connection after the answer, without having said so (a keep-alive connection that goes stale).
    pub fn then_close(mut self) -> Reply {
        self.close = true;
        self
    }

    pub(super) fn slice(mut self, object: &Object, range: Range<u64>) -> Reply {
        self.content = Content::Slice(object.clone(), range);
        self
    }
}
