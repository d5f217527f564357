//! Half-open key intervals, and a tree that finds all of them which hold a key.
//!
//! An AVL tree ordered by (start, end); each node knows the greatest end below it, so a search leaves out every subtree that
//! ends before the key (Cormen et al., "Introduction to Algorithms", §14.3). Equal intervals share a node.

use std::cmp::Ordering;
use std::sync::Arc;

/// Where an interval ends. Order is the meaning: `Open` is past every key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Before this key.
    Before(Arc<[u8]>),
    /// Never.
    Open,
}

impl End {
    fn is_past(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Open => true,
        }
    }
}

/// The keys from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    /// The first key.
    pub start: Arc<[u8]>,
    /// Past the last key.
    pub end: End,
}

/// A value for each interval.
#[derive(Clone, Debug)]
pub struct IntervalTree<T> {
    root: Link<T>,
}

type Link<T> = Option<Box<Node<T>>>;

#[derive(Clone, Debug)]
struct Node<T> {
    interval: Interval,
    value: T,
    /// The greatest end in this subtree.
    max_end: End,
    /// Levels in this subtree. 1.44 log2(n) at the most, so recursion is shallow.
    height: u8,
    left: Link<T>,
    right: Link<T>,
}

impl<T> Default for IntervalTree<T> {
    fn default() -> IntervalTree<T> {
        IntervalTree { root: None }
    }
}

impl<T> IntervalTree<T> {
    /// The value of exactly this interval.
    pub fn get_mut(&mut self, interval: &Interval) -> Option<&mut T> {
        let mut link = &mut self.root;
        while let Some(node) = link {
            match interval.cmp(&node.interval) {
                Ordering::Less => link = &mut node.left,
                Ordering::Greater => link = &mut node.right,
                Ordering::Equal => return Some(&mut node.value),
            }
        }
        None
    }

    /// Adds an interval, or replaces the value it has.
    pub fn insert(&mut self, interval: Interval, value: T) {
        self.root = Some(insert(self.root.take(), interval, value));
    }

    /// Takes an interval out.
    pub fn remove(&mut self, interval: &Interval) -> Option<T> {
        let (rest, removed) = remove(self.root.take(), interval);
        self.root = rest;
        removed.map(|node| node.value)
    }

    /// Calls `found` with the value of every interval that holds `key`, in interval order.
    pub fn stab(&self, key: &[u8], found: &mut impl FnMut(&T)) {
        stab(&self.root, key, found);
    }
}

fn stab<T>(link: &Link<T>, key: &[u8], found: &mut impl FnMut(&T)) {
    let Some(node) = link.as_deref().filter(|node| node.max_end.is_past(key)) else { return };
    stab(&node.left, key, found);
    // Everything on the right starts at this node's start or later.
    if &node.interval.start[..] <= key {
        if node.interval.end.is_past(key) {
            found(&node.value);
        }
        stab(&node.right, key, found);
    }
}

fn insert<T>(link: Link<T>, interval: Interval, value: T) -> Box<Node<T>> {
    let Some(mut node) = link else {
        let max_end = interval.end.clone();
        return Box::new(Node { interval, value, max_end, height: 1, left: None, right: None });
    };
    match interval.cmp(&node.interval) {
        Ordering::Less => node.left = Some(insert(node.left.take(), interval, value)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), interval, value)),
        Ordering::Equal => node.value = value,
    }
    node.balanced()
}

/// The tree without the interval, and the node that held it.
fn remove<T>(link: Link<T>, interval: &Interval) -> (Link<T>, Link<T>) {
    let Some(mut node) = link else { return (None, None) };
    let removed;
    match interval.cmp(&node.interval) {
        Ordering::Less => (node.left, removed) = remove(node.left.take(), interval),
        Ordering::Greater => (node.right, removed) = remove(node.right.take(), interval),
        Ordering::Equal => {
            let rest = match (node.left.take(), node.right.take()) {
                (None, side) | (side, None) => side,
                (Some(left), Some(right)) => {
                    let (right, mut first) = take_first(right);
                    (first.left, first.right) = (Some(left), right);
                    Some(first.balanced())
                }
            };
            return (rest, Some(node));
        }
    }
    (Some(node.balanced()), removed)
}

/// The tree without its first node, and that node.
fn take_first<T>(mut node: Box<Node<T>>) -> (Link<T>, Box<Node<T>>) {
    match node.left.take() {
        None => (node.right.take(), node),
        Some(left) => {
            let (rest, first) = take_first(left);
            node.left = rest;
            (Some(node.balanced()), first)
        }
    }
}

fn height<T>(link: &Link<T>) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

impl<T> Node<T> {
    /// Height of the left side over that of the right.
    fn lean(&self) -> i16 {
        i16::from(height(&self.left)) - i16::from(height(&self.right))
    }

    /// Restores the AVL rule at this node, below which it holds; the sides differ by two levels at the most.
    fn balanced(mut self: Box<Self>) -> Box<Self> {
        match self.lean() {
            2.. => {
                if let Some(left) = self.left.take_if(|left| left.lean() < 0) {
                    self.left = Some(left.rotated_left());
                }
                self.rotated_right()
            }
            ..=-2 => {
                if let Some(right) = self.right.take_if(|right| right.lean() > 0) {
                    self.right = Some(right.rotated_right());
                }
                self.rotated_left()
            }
            _ => {
                self.refresh();
                self
            }
        }
    }

    fn rotated_right(mut self: Box<Self>) -> Box<Self> {
        let Some(mut top) = self.left.take() else { return self };
        self.left = top.right.take();
        self.refresh();
        top.right = Some(self);
        top.refresh();
        top
    }

    fn rotated_left(mut self: Box<Self>) -> Box<Self> {
        let Some(mut top) = self.right.take() else { return self };
        self.right = top.left.take();
        self.refresh();
        top.left = Some(self);
        top.refresh();
        top
    }

    /// Derives height and greatest end from the children's.
    fn refresh(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
        let ends = [&self.left, &self.right].into_iter().flatten().map(|child| &child.max_end);
        let max_end = ends.fold(&self.interval.end, |max, end| max.max(end)).clone();
        self.max_end = max_end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::watch::testing::Dice;

    fn some_interval(dice: &mut Dice) -> Interval {
        let start: Arc<[u8]> = dice.key().into();
        let end = if dice.one_in(8) { End::Open } else { End::Before([&start[..], &dice.key()].concat().into()) };
        let end = if dice.one_in(2) { end } else { End::Before([&[start[0] + 1], &start[1..]].concat().into()) };
        Interval { start, end }
    }

    fn assert_sound<T>(link: &Link<T>) -> (u8, Option<End>) {
        let Some(node) = link else { return (0, None) };
        let ((left, left_end), (right, right_end)) = (assert_sound(&node.left), assert_sound(&node.right));
        assert!(left.abs_diff(right) <= 1, "sides of {left} and {right} levels");
        assert_eq!(node.height, 1 + left.max(right));
        let max_end = [left_end, right_end, Some(node.interval.end.clone())].into_iter().flatten().max();
        assert_eq!(Some(node.max_end.clone()), max_end);
        (node.height, max_end)
    }

    #[test]
    fn finds_what_a_naive_list_finds() {
        for seed in 0..40 {
            println!("seed {seed}");
            let mut dice = Dice::new(seed);
            let mut tree = IntervalTree::default();
            let mut naive: Vec<(Interval, u64)> = Vec::new();
            for step in 0..400 {
                if dice.one_in(3) && !naive.is_empty() {
                    let (interval, value) = naive.swap_remove(dice.below(naive.len()));
                    assert_eq!(tree.remove(&interval), Some(value));
                    assert_eq!(tree.remove(&interval), None);
                } else {
                    let interval = some_interval(&mut dice);
                    naive.retain(|(other, _)| *other != interval);
                    naive.push((interval.clone(), step));
                    tree.insert(interval, step);
                }
                assert_sound(&tree.root);
                let key = dice.key();
                let mut found = Vec::new();
                tree.stab(&key, &mut |value| found.push(*value));
                naive.sort();
                let holds = |i: &Interval| i.start[..] <= key[..] && i.end.is_past(&key);
                let expected: Vec<u64> = naive.iter().filter(|(i, _)| holds(i)).map(|(_, value)| *value).collect();
                assert_eq!(found, expected, "at {key:?}");
            }
        }
    }

    #[test]
    fn sorted_insertion_stays_shallow() {
        let mut tree = IntervalTree::default();
        for n in 0..10_000_u32 {
            let start: Arc<[u8]> = n.to_be_bytes().to_vec().into();
            tree.insert(Interval { start, end: End::Open }, n);
        }
        assert!(assert_sound(&tree.root).0 <= 19, "1.44 * log2(10000)");
    }
}
