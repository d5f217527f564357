//! The heads of HTTP/2's frames in a direction of a connection (RFC 9113 §4.1). In: its bytes, however they are cut. Out: the kind and
//! flags of each frame as soon as its head is there. Nothing is judged: that is the library's.

/// Bytes of a head.
const HEAD: usize = 9;
/// Bytes before the first frame of a client.
const PREFACE: usize = 24;

/// Frame kinds of RFC 9113 §6.
pub mod kind {
    /// A message's bytes.
    pub const DATA: u8 = 0;
    /// The beginning or the end of a message.
    pub const HEADERS: u8 = 1;
    /// Is anybody there?
    pub const PING: u8 = 6;
    /// No more streams.
    pub const GOAWAY: u8 = 7;
}

/// The flag by which a PING is the answer to one.
pub const ACK: u8 = 1;

/// Walks from head to head.
pub struct FrameHeads {
    /// Bytes until the next head.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
}

impl FrameHeads {
    /// Of what a client sends.
    pub fn of_client() -> FrameHeads {
        FrameHeads { skip: PREFACE, head: [0; HEAD], have: 0 }
    }

    /// Of what we send.
    pub fn of_server() -> FrameHeads {
        FrameHeads { skip: 0, head: [0; HEAD], have: 0 }
    }

    /// Whether the next byte begins a frame.
    pub fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.have == 0
    }

    /// Goes on by these bytes; `each` is told kind and flags.
    pub fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8, u8)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                let [a, b, c, kind, flags, ..] = self.head;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
                each(kind, flags);
            }
        }
    }
}

/// A GOAWAY frame with a word for the client's log (RFC 9113 §6.8).
pub fn go_away(last_stream: u32, code: u32, word: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + word.len()).expect("a word is short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind::GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend(last_stream.to_be_bytes());
    frame.extend(code.to_be_bytes());
    frame.extend(word);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_is_told_once_however_the_bytes_are_cut() {
        let mut bytes = vec![0xff; PREFACE];
        let mut frames = Vec::new();
        for (kind, length) in [(4, 0), (1, 300), (0, 0), (0, 70_000), (6, 8), (9, 1)] {
            bytes.extend(&(length as u32).to_be_bytes()[1..]);
            bytes.extend([kind, kind + 1, 0, 0, 0, 1]);
            bytes.extend(vec![6; length]);
            frames.push((kind, kind + 1));
        }
        for step in [1, 2, 8, 9, 10, 1000, usize::MAX] {
            let (mut heads, mut told) = (FrameHeads::of_client(), Vec::new());
            for piece in bytes.chunks(step.min(bytes.len())) {
                heads.walk(piece, |kind, flags| told.push((kind, flags)));
            }
            assert!(told == frames && heads.is_between_frames(), "in steps of {step}: {told:?}");
        }
    }

    #[test]
    fn a_frame_that_is_not_complete_is_not_between_frames() {
        let frame = go_away(7, 11, b"word");
        let mut heads = FrameHeads::of_server();
        for byte in &frame {
            assert_eq!(heads.is_between_frames(), std::ptr::eq(byte, frame.as_ptr()));
            heads.walk(std::slice::from_ref(byte), |kind, _| assert_eq!(kind, kind::GOAWAY));
        }
        assert!(heads.is_between_frames());
    }
}
