//! A port that stays while the server behind it changes.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Passes connections on to a server. It lasts as long as the test.
pub struct Switch {
    pub address: String,
    server: Arc<Mutex<String>>,
}

impl Switch {
    pub fn to(server: &str) -> Switch {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Arc::new(Mutex::new(server.to_owned()));
        let target = server.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let address = target.lock().unwrap().clone();
                // Dropping the client says that nobody is there.
                let Ok(server) = TcpStream::connect(address) else { continue };
                carry(&client, &server);
                carry(&server, &client);
            }
        });
        Switch { address, server }
    }

    pub fn turn_to(&self, server: &str) {
        server.clone_into(&mut self.server.lock().unwrap());
    }
}

fn carry(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}
