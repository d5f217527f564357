//! Where the open streams are, by their numbers. A client's numbers only grow (RFC 9113 §5.1.1), so the newest one stands last and
//! nothing has to be hashed.

use std::collections::VecDeque;

/// An idle connection keeps room for no more.
const KEPT: usize = 16;

/// The places of streams.
#[derive(Default)]
pub struct Places {
    /// In the order of their numbers. One without a place is gone; neither the first nor the last is.
    entries: VecDeque<(u32, Option<usize>)>,
    gone: usize,
}

impl Places {
    /// A stream that was begun, newer than all others.
    pub fn push(&mut self, number: u32, place: usize) {
        debug_assert!(self.entries.back().is_none_or(|(newest, _)| *newest < number));
        self.entries.push_back((number, Some(place)));
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.entries.len() - self.gone
    }

    /// Where a stream is, if it is open.
    pub fn get(&self, number: u32) -> Option<usize> {
        self.find(number).and_then(|at| self.entries[at].1)
    }

    /// A stream is over, if it was not before.
    pub fn remove(&mut self, number: u32) {
        let Some(at) = self.find(number) else { return };
        self.gone += usize::from(self.entries[at].1.take().is_some());
        while self.entries.pop_front_if(|(_, place)| place.is_none()).is_some() {
            self.gone -= 1;
        }
        while self.entries.pop_back_if(|(_, place)| place.is_none()).is_some() {
            self.gone -= 1;
        }
        // So that those which are gone cost no more than those which are there.
        if self.gone > self.entries.len() / 2 {
            self.entries.retain(|(_, place)| place.is_some());
            self.gone = 0;
        }
        if self.entries.is_empty() {
            self.entries.shrink_to(KEPT);
        }
    }

    fn find(&self, number: u32) -> Option<usize> {
        match self.entries.back()?.0 == number {
            true => Some(self.entries.len() - 1),
            false => self.entries.binary_search_by_key(&number, |(other, _)| *other).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn streams_are_found_whichever_end_first() {
        for step in [1, 2, 3, 7, 50, 99] {
            let (mut places, mut model) = (Places::default(), BTreeMap::new());
            let mut number = 1;
            for round in 0..2_000_u32 {
                places.push(number, round as usize);
                model.insert(number, round as usize);
                number += 2 + 2 * (round % 3);
                // The one at a place that wanders, from both ends and the middle.
                if model.len() > step as usize {
                    let at = (round * step) as usize % model.len();
                    let victim = *model.keys().nth(at).unwrap();
                    model.remove(&victim);
                    places.remove(victim);
                    places.remove(victim);
                }
                for probe in number.saturating_sub(300)..number + 2 {
                    assert_eq!(places.get(probe), model.get(&probe).copied(), "{probe}, step {step}");
                }
                assert_eq!(places.len(), model.len());
                assert!(places.entries.len() <= 2 * model.len() + 1, "{} kept for {}", places.entries.len(), model.len());
            }
            for victim in model.keys() {
                places.remove(*victim);
            }
            assert!(places.entries.is_empty() && places.gone == 0);
        }
    }
}
