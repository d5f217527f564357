//! The store as its clients may expect it: what an operation does to the rows, revision by revision.

use std::collections::BTreeMap;

use bramble::pb::mvccpb::{self, KeyValue};

/// A value by what made it: a stamp that no other write has, and a length. Its bytes follow from the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    stamp: u64,
    bytes: usize,
}

impl Value {
    /// A value of so many bytes; shorter ones than a stamp are empty.
    pub fn new(stamp: u64, bytes: usize) -> Value {
        if bytes < 8 { Value { stamp: 0, bytes: 0 } } else { Value { stamp, bytes } }
    }

    /// Its bytes: no sector of it looks like another.
    pub fn bytes(self) -> Vec<u8> {
        (0..self.bytes.div_ceil(8) as u64).flat_map(|word| self.word(word)).take(self.bytes).collect()
    }

    fn word(self, at: u64) -> [u8; 8] {
        (self.stamp ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
    }

    /// The value with these bytes.
    ///
    /// # Panics
    /// If no value has them: something wrote over it.
    pub fn read(bytes: &[u8]) -> Value {
        let stamp = bytes.first_chunk().map_or(0, |stamp| u64::from_le_bytes(*stamp));
        let value = Value::new(stamp, bytes.len());
        for (at, chunk) in bytes.chunks(8).enumerate() {
            assert_eq!(*chunk, value.word(at as u64)[..chunk.len()], "a value of {} bytes is damaged at {}", bytes.len(), at * 8);
        }
        value
    }
}

/// A key's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // etcd's words
pub struct Row {
    pub value: Value,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

impl Row {
    /// The row that was read.
    pub fn read(kv: &KeyValue) -> Row {
        let KeyValue { create_revision, mod_revision, version, lease, .. } = *kv;
        Row { value: Value::read(&kv.value), create: create_revision, modified: mod_revision, version, lease }
    }
}

/// What a revision did to one key: its new row, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// None: deleted.
    pub row: Option<Row>,
}

impl Event {
    /// The event that was watched.
    pub fn read(event: &mvccpb::Event) -> Event {
        let kv = event.kv.as_ref().expect("an event has a key");
        let deleted = event.r#type == mvccpb::event::EventType::Delete as i32;
        Event { key: text(&kv.key), row: (!deleted).then(|| Row::read(kv)) }
    }
}

/// A key as text.
pub fn text(key: &[u8]) -> String {
    String::from_utf8(key.to_vec()).expect("our keys are text")
}

/// What an operation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // etcd's words
pub enum Effect {
    Put {
        key: String,
        value: Value,
        lease: i64,
    },
    /// `[from, to)`, or `from` alone.
    Delete {
        from: String,
        to: Option<String>,
    },
}

/// All rows at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows(BTreeMap<String, Row>);

impl Rows {
    /// The row of a key.
    pub fn get(&self, key: &str) -> Option<&Row> {
        self.0.get(key)
    }

    /// Rows by key.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Row)> {
        self.0.iter()
    }

    /// Keys of `[from, to)`, or `from` alone if it is there.
    pub fn within(&self, from: &str, to: Option<&str>) -> Vec<String> {
        let inside = |key: &&String| to.map_or(*key == from, |to| key.as_str() >= from && key.as_str() < to);
        self.0.keys().filter(inside).cloned().collect()
    }

    /// Keys attached to a lease.
    pub fn attached(&self, lease: i64) -> Vec<String> {
        self.0.iter().filter(|(_, row)| row.lease == lease).map(|(key, _)| key.clone()).collect()
    }

    /// What these effects come to at `revision`, in one transaction.
    pub fn events(&self, effects: &[Effect], revision: i64) -> Vec<Event> {
        let mut events = Vec::new();
        for effect in effects {
            match effect {
                Effect::Put { key, value, lease } => {
                    let (create, version) = self.0.get(key).map_or((revision, 1), |row| (row.create, row.version + 1));
                    let row = Row { value: *value, create, modified: revision, version, lease: *lease };
                    events.push(Event { key: key.clone(), row: Some(row) });
                }
                Effect::Delete { from, to } => {
                    events.extend(self.within(from, to.as_deref()).into_iter().map(|key| Event { key, row: None }));
                }
            }
        }
        events
    }

    /// What the end of a lease comes to.
    pub fn end_of_lease(&self, lease: i64) -> Vec<Event> {
        self.attached(lease).into_iter().map(|key| Event { key, row: None }).collect()
    }

    /// Goes on by one revision.
    pub fn apply(&mut self, events: &[Event]) {
        for event in events {
            match event.row {
                Some(row) => drop(self.0.insert(event.key.clone(), row)),
                None => drop(self.0.remove(&event.key)),
            }
        }
    }
}
