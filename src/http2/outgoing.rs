//! Bytes on their way to the client. Short ones are gathered, long ones are kept as they are, and what has to live until they have left
//! lives here.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// What is this long is not copied to be gathered.
const LONG: usize = 8 * 1024;
/// An idle connection keeps no larger buffer.
const KEPT: usize = 8 * 1024;

/// A queue of bytes. `H` is what is held until the bytes before it have left.
pub struct Outgoing<H> {
    gathered: Vec<u8>,
    /// How much of `gathered` has left.
    left: usize,
    /// Long ones, each before a place in `gathered`.
    long: VecDeque<(usize, Bytes)>,
    /// Bytes that were ever queued, and that ever left.
    queued: u64,
    sent: u64,
    held: VecDeque<(u64, H)>,
}

impl<H> Outgoing<H> {
    pub fn new() -> Outgoing<H> {
        Outgoing { gathered: Vec::new(), left: 0, long: VecDeque::new(), queued: 0, sent: 0, held: VecDeque::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.queued == self.sent
    }

    pub fn len(&self) -> usize {
        usize::try_from(self.queued - self.sent).expect("it is in memory")
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
        self.queued += bytes.len() as u64;
    }

    pub fn put_body(&mut self, bytes: Bytes) {
        if bytes.len() < LONG {
            return self.put(&bytes);
        }
        self.queued += bytes.len() as u64;
        self.long.push_back((self.gathered.len(), bytes));
    }

    /// Keeps something until all that was put so far has left.
    pub fn hold(&mut self, held: H) {
        self.held.push_back((self.queued, held));
    }

    /// What is next, as far as there is room for it in `slices`. How many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut at = self.left;
        let mut filled = 0;
        let mut add = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            let free = slices.get_mut(filled).map(|slice| *slice = IoSlice::new(bytes));
            filled += usize::from(free.is_some());
            free.is_some()
        };
        for (place, bytes) in &self.long {
            if !(add(&self.gathered[at..*place]) && add(bytes)) {
                return filled;
            }
            at = *place;
        }
        add(&self.gathered[at..]);
        filled
    }

    /// So many bytes have left.
    pub fn sent(&mut self, mut count: usize) {
        self.sent += count as u64;
        while let Some((place, bytes)) = self.long.front_mut() {
            let before = (*place - self.left).min(count);
            self.left += before;
            count -= before;
            let of_it = bytes.len().min(count);
            bytes::Buf::advance(bytes, of_it);
            count -= of_it;
            if !bytes.is_empty() {
                break;
            }
            self.long.pop_front();
        }
        self.left += count;
        while self.held.pop_front_if(|(until, _)| *until <= self.sent).is_some() {}
        if self.is_empty() {
            self.left = 0;
            self.gathered.clear();
            self.gathered.shrink_to(KEPT);
        } else if self.left > KEPT && self.left > self.gathered.len() / 2 {
            self.gathered.drain(..self.left);
            self.long.iter_mut().for_each(|(place, _)| *place -= self.left);
            self.left = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_their_order_however_they_are_cut() {
        for step in [1, 7, 1000, LONG, 100_000] {
            let mut outgoing = Outgoing::new();
            let (mut expected, mut seen) = (Vec::new(), Vec::new());
            for round in 0..6u8 {
                for length in [1, LONG, 20, LONG + 1, LONG - 1, 3 * LONG] {
                    let bytes: Vec<u8> = (0..length).map(|at| at as u8 ^ round).collect();
                    expected.extend_from_slice(&bytes);
                    outgoing.put_body(bytes.into());
                }
                for _ in 0..round {
                    take(&mut outgoing, step, &mut seen);
                }
            }
            while !outgoing.is_empty() {
                assert_eq!(outgoing.len(), expected.len() - seen.len());
                take(&mut outgoing, step, &mut seen);
            }
            assert!(seen == expected, "in steps of {step}");
        }
    }

    fn take(outgoing: &mut Outgoing<()>, most: usize, seen: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); 3];
        let filled = outgoing.slices(&mut slices);
        let before = seen.len();
        for slice in &slices[..filled] {
            let room = most - (seen.len() - before);
            seen.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        outgoing.sent(seen.len() - before);
    }

    #[test]
    fn what_is_held_is_let_go_of_when_the_bytes_before_it_have_left() {
        let held = std::rc::Rc::new(());
        let mut outgoing = Outgoing::new();
        outgoing.put(b"some");
        outgoing.hold(held.clone());
        outgoing.put_body(vec![0; LONG].into());
        outgoing.hold(held.clone());
        for (count, still) in [(3, 3), (1, 2), (LONG - 1, 2), (1, 1)] {
            outgoing.sent(count);
            assert_eq!(std::rc::Rc::strong_count(&held), still);
        }
    }
}
