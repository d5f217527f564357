//! Makes a failing case smaller: first fewer steps, then simpler ones, as long as something still differs.

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use super::method::method;
use super::step::Step;

/// A case that fails, and what can still be tried on it.
pub struct Shrinking<F> {
    steps: Vec<Step>,
    /// The part of the steps that still fails, if it does.
    fails: F,
    replays: usize,
}

/// Shrinks with at most so many replays. `fails` plays steps, and gives those up to the first difference.
pub fn shrunk(steps: Vec<Step>, replays: usize, fails: impl FnMut(&[Step]) -> Option<Vec<Step>>) -> Vec<Step> {
    let mut shrinking = Shrinking { steps, fails, replays };
    shrinking.drop_steps();
    while shrinking.simplify() {
        shrinking.drop_steps();
    }
    shrinking.steps
}

impl<F: FnMut(&[Step]) -> Option<Vec<Step>>> Shrinking<F> {
    fn still_fails(&mut self, steps: &[Step]) -> bool {
        let Some(left) = self.replays.checked_sub(1) else { return false };
        self.replays = left;
        match (self.fails)(steps) {
            Some(smaller) => {
                self.steps = smaller;
                true
            }
            None => false,
        }
    }

    /// Drops steps, first many at a time.
    fn drop_steps(&mut self) {
        let mut drop = self.steps.len() / 2;
        while drop > 0 {
            let mut from = 0;
            while from < self.steps.len() {
                let end = (from + drop).min(self.steps.len());
                let fewer = [&self.steps[..from], &self.steps[end..]].concat();
                if !self.still_fails(&fewer) {
                    from += drop;
                }
            }
            drop /= 2;
        }
    }

    /// Makes steps simpler, one after the other; whether it could.
    fn simplify(&mut self) -> bool {
        let mut could = false;
        let mut at = 0;
        while at < self.steps.len() {
            let simpler = simpler(&self.steps[at]);
            let found = simpler.into_iter().any(|step| {
                let mut steps = self.steps.clone();
                steps[at] = step;
                self.still_fails(&steps)
            });
            could |= found;
            at += usize::from(!found);
        }
        could
    }
}

/// Steps that are a little simpler than this one, the simplest first.
fn simpler(step: &Step) -> Vec<Step> {
    match step {
        Step::Call(method, messages) => {
            let mut all: Vec<Step> = (0..messages.len())
                .filter(|_| messages.len() > 1)
                .map(|at| Step::Call(method, [&messages[..at], &messages[at + 1..]].concat()))
                .collect();
            for (at, message) in messages.iter().enumerate() {
                for simpler in simpler_message(method.request(), message) {
                    let mut messages = messages.clone();
                    messages[at] = simpler;
                    all.push(Step::Call(method, messages));
                }
            }
            all
        }
        Step::PutOf(length, put) => {
            simpler_message(method("KV/Put").request(), put).into_iter().map(|put| Step::PutOf(*length, put)).collect()
        }
        Step::Watch(request) => simpler_message(method("Watch/Watch").request(), request).into_iter().map(Step::Watch).collect(),
        Step::Body { path, body, fields } => {
            let step = |body, fields| Step::Body { path: path.clone(), body, fields };
            let fewer = (0..fields.len()).map(|at| step(body.clone(), [&fields[..at], &fields[at + 1..]].concat()));
            fewer.chain(shorter(body).into_iter().map(|body| step(body, fields.clone()))).collect()
        }
        Step::LeaseAndExpiry(keys, request) => {
            keys.checked_sub(1).map(|fewer| Step::LeaseAndExpiry(fewer, request.clone())).into_iter().collect()
        }
        Step::EndWatches | Step::Http { .. } | Step::LeaseAndRevoke(_) | Step::Restart(_) => Vec::new(),
    }
}

/// The message without one of its fields, elements or bytes.
fn simpler_message(kind: MessageDescriptor, message: &Bytes) -> Vec<Bytes> {
    match DynamicMessage::decode(kind, message.clone()) {
        Ok(dynamic) if dynamic.encode_to_vec() == message[..] => {
            without(&dynamic).iter().map(|simpler| simpler.encode_to_vec().into()).collect()
        }
        _ => shorter(message),
    }
}

fn shorter(bytes: &Bytes) -> Vec<Bytes> {
    let half = bytes.slice(..bytes.len() / 2);
    let less = (0..bytes.len().min(40)).map(|at| [&bytes[..at], &bytes[at + 1..]].concat().into());
    std::iter::once(half).chain(less).filter(|shorter| shorter.len() < bytes.len()).collect()
}

fn without(message: &DynamicMessage) -> Vec<DynamicMessage> {
    let mut all = Vec::new();
    for (field, value) in message.fields() {
        let mut cleared = message.clone();
        cleared.clear_field(&field);
        all.push(cleared);
        for simpler in simpler_values(value) {
            let mut changed = message.clone();
            changed.set_field(&field, simpler);
            all.push(changed);
        }
    }
    all
}

fn simpler_values(value: &Value) -> Vec<Value> {
    match value {
        Value::Message(message) => without(message).into_iter().map(Value::Message).collect(),
        Value::List(list) => {
            let mut all = vec![Value::List(list[..list.len() / 2].to_vec()), Value::List(list[list.len() / 2..].to_vec())];
            all.retain(|half| half != value);
            for (at, element) in list.iter().enumerate().take(12) {
                all.push(Value::List([&list[..at], &list[at + 1..]].concat()));
                for simpler in simpler_values(element) {
                    let mut list = list.clone();
                    list[at] = simpler;
                    all.push(Value::List(list));
                }
            }
            all
        }
        _ => Vec::new(),
    }
}

#[test]
fn what_does_not_matter_is_left_out() {
    let lines = [
        "KV/Put key:\"b\"",
        "KV/Put key:\"a\",value:\"1\",lease:3",
        "end-watches",
        "KV/Txn success:[{request_put{key:\"z\"}},{request_range{key:\"a\",limit:4}}]",
    ];
    let steps = lines.map(Step::parse).to_vec();
    let matters = |steps: &[Step]| {
        let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
        (text.contains("value:\"1\"") && text.contains("limit:4")).then(|| steps.to_vec())
    };
    let small: Vec<String> = shrunk(steps, 1000, matters).iter().map(Step::to_string).collect();
    assert_eq!(small, ["KV/Put value:\"1\"", "KV/Txn success:[{request_range{limit:4}}]"]);
}
