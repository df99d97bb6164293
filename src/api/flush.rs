//! Lets the messages of a stream leave before the stream waits for what others wait for too.
//!
//! A stream is asked for its next message while earlier ones still lie in a buffer. Once it is pending, they are handed to
//! the connection, and the stream is not polled again until the client has made room for them. If it were waiting for a
//! connection of the store meanwhile, or for a place in a queue, it would keep that from everybody else for as long as its
//! client does not read.

/// Is pending once. So whatever was made before is handed over first, and what follows begins with an empty buffer, when
/// the stream is polled as often as it is woken.
pub(crate) async fn flush() {
    tokio::task::yield_now().await;
}
