//! Bytes on an HTTP/1.1 connection: paths, queries, headers, bodies. Every answer has a head that can be read.
//!
//! Input: pieces of bytes as they arrive, each with what happens behind it.

use std::time::Duration;

use super::input::Input;
use super::served;

pub fn run(data: &[u8]) {
    served::with(|served| {
        let mut input = Input::new(data);
        let mut connection = served.connect();
        while !input.is_empty() {
            match input.byte() {
                0 => connection.settle(),
                1 => connection.advance(Duration::from_secs(u64::from(input.byte()))),
                2 => connection.reads = !connection.reads,
                3 => {
                    let (method, path) = (input.pick(&["GET", "HEAD", "POST", "OPTIONS", "PUT"]), input.piece());
                    let headers = input.piece();
                    connection
                        .send(&[method.as_bytes(), b" /", path, b" HTTP/1.1\r\nhost: h\r\n", headers, b"\r\n\r\n"].concat());
                }
                4 => connection.send(input.rest()),
                _ => connection.send(input.piece()),
            }
        }
        let answers = connection.close();
        assert!(answers.is_empty() || answers.starts_with(b"HTTP/1.") || answers.starts_with(&[0, 0]), "{answers:?}");
    });
}
