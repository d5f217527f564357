//! A disk that keeps what was synced, and of the rest what a seed says.
//!
//! What makes a file's bytes durable is a sync of that file; what makes its name durable is a sync of its directory; nothing else
//! does either. A name and its file are lost or kept independently, so there may be empty files, files of zeros, and old contents.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::content::{Content, Loss};
use super::wear::Wear;
use crate::support::random::Random;

/// A file, directory or link by number.
pub type Node = u64;
/// A name in a directory.
pub type Name = (Node, String);

/// The directory that everything is in.
pub const ROOT: Node = 1;

/// What kind of file it is, by its name now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Segment,
    Spare,
    UnfinishedSpare,
    Checkpoint,
    CheckpointCopy,
    Directory,
    Other,
}

impl Kind {
    fn of(name: &str) -> Kind {
        match name.rsplit_once('.').map_or(name, |(_, suffix)| suffix) {
            "wal" if name != "wal" => Kind::Segment,
            "spare" => Kind::Spare,
            "tmp" => Kind::UnfinishedSpare,
            "db" => Kind::Checkpoint,
            "new" | "compact" => Kind::CheckpointCopy,
            _ => Kind::Other,
        }
    }
}

/// What the disk is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Read,
    Write,
    Truncate,
    Sync,
    /// Creates, renames and removes.
    Name,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The power goes during this operation, and with it everything after.
    PowerCut,
    /// An error; of a sync, what it should have made durable is lost and counts as clean.
    Fails,
    /// This and so many more writes find the disk full.
    NoSpace(u64),
}

/// When it goes wrong: with the operation that comes after `after` others of those that are meant.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What.
    pub trouble: Trouble,
    /// These only; none: all that change something.
    pub operation: Option<Operation>,
    /// Of such files only.
    pub kind: Option<Kind>,
    /// After so many of them.
    pub after: u64,
}

impl Plan {
    fn means(&self, operation: Operation, kind: Kind) -> bool {
        let of_operation = self.operation.map_or(operation != Operation::Read, |only| only == operation);
        of_operation && self.kind.is_none_or(|only| only == kind)
    }
}

/// Why an operation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    Io,
    NoSpace,
    NotFound,
    Exists,
    NotEmpty,
    NotOfThisKind,
}

/// What stands under a number.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Thing {
    File(Content),
    Directory,
    Link(PathBuf),
}

#[derive(Clone, Debug)]
enum Change {
    Add(Name, Node),
    Remove(Name),
    Move(Name, Name, Node),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<Name, Node>) {
        match self {
            Change::Add(name, node) => drop(names.insert(name.clone(), *node)),
            Change::Remove(name) => drop(names.remove(name)),
            Change::Move(from, to, node) => {
                // The old name may be another's by now, if the changes between were lost.
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn is_in(&self, dir: Node) -> bool {
        match self {
            Change::Add(name, _) | Change::Remove(name) => name.0 == dir,
            Change::Move(from, to, _) => from.0 == dir || to.0 == dir,
        }
    }
}

/// Everything on the disk, and what happens to it.
pub struct State {
    random: Random,
    things: HashMap<Node, Thing>,
    kinds: HashMap<Node, Kind>,
    live: BTreeMap<Name, Node>,
    durable: BTreeMap<Name, Node>,
    /// Changes of names that no sync has covered, in order.
    pending: Vec<Change>,
    next_node: Node,
    plan: Option<Plan>,
    happened: Option<(Operation, Kind)>,
    dark: bool,
    full_for: u64,
    /// What it was asked for.
    pub wear: Wear,
}

/// A handle on a disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// An empty one. The seed decides what is lost.
    pub fn new(seed: u64) -> Disk {
        let state = State {
            random: Random::from_seed(seed),
            things: HashMap::from([(ROOT, Thing::Directory)]),
            kinds: HashMap::from([(ROOT, Kind::Directory)]),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            next_node: ROOT + 1,
            plan: None,
            happened: None,
            dark: false,
            full_for: 0,
            wear: Wear::default(),
        };
        Disk(Arc::new(Mutex::new(state)))
    }

    /// Everything on it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("an operation on the disk panicked")
    }

    /// Something will go wrong.
    pub fn plan(&self, plan: Plan) {
        let mut state = self.state();
        state.plan = Some(plan);
        state.happened = None;
    }

    /// Nothing will go wrong any more. What did: the operation and the kind of file, if it came to that.
    pub fn call_off(&self) -> Option<(Operation, Kind)> {
        let mut state = self.state();
        state.plan = None;
        state.full_for = 0;
        state.happened.take()
    }

    /// Whether what was planned has happened.
    pub fn has_happened(&self) -> bool {
        self.state().happened.is_some()
    }

    /// Whether writes still find it full.
    pub fn is_full(&self) -> bool {
        self.state().full_for > 0
    }

    /// The power is off, and comes back: only the disk's own state is left. Nobody may have the file system mounted.
    pub fn lose_power(&self) {
        self.state().lose_power();
    }

    /// The kernel gives its clean pages to others. Nobody may have the file system mounted.
    pub fn forget_clean_pages(&self) {
        let mut state = self.state();
        for thing in state.things.values_mut() {
            if let Thing::File(content) = thing {
                content.forget_clean();
            }
        }
    }
}

impl State {
    /// Called before each operation: what becomes of it.
    fn begin(&mut self, operation: Operation, node: Node) -> Result<bool, Refusal> {
        if self.dark {
            return Err(Refusal::Io);
        }
        let kind = self.kind(node);
        if self.full_for > 0 && operation == Operation::Write {
            self.full_for -= 1;
            return Err(Refusal::NoSpace);
        }
        let Some(plan) = &mut self.plan else { return Ok(false) };
        if !plan.means(operation, kind) {
            return Ok(false);
        }
        if plan.after > 0 {
            plan.after -= 1;
            return Ok(false);
        }
        let trouble = plan.trouble;
        self.plan = None;
        self.happened = Some((operation, kind));
        match trouble {
            Trouble::PowerCut => self.dark = true,
            Trouble::NoSpace(more) => {
                self.full_for = more;
                return Err(Refusal::NoSpace);
            }
            Trouble::Fails if operation == Operation::Sync => self.fail_sync(node),
            Trouble::Fails => {}
        }
        if trouble == Trouble::Fails { Err(Refusal::Io) } else { Ok(true) }
    }

    /// What the kernel hears of an operation that was under way when the power went.
    fn end<T>(&self, answer: T) -> Result<T, Refusal> {
        if self.dark { Err(Refusal::Io) } else { Ok(answer) }
    }

    fn fail_sync(&mut self, node: Node) {
        let mut random = self.random.fork();
        // Names stay in the journal until it can be written, or the power goes.
        if let Some(Thing::File(content)) = self.things.get_mut(&node) {
            content.fail_sync(&mut random);
        }
    }

    fn lose_power(&mut self) {
        let mut random = self.random.fork();
        self.lose_names(&mut random);
        let junk = self.junk();
        for thing in self.things.values_mut() {
            if let Thing::File(content) = thing {
                content.cut(Loss::random(&mut random), &mut random, &junk);
            }
        }
        self.dark = false;
        self.full_for = 0;
        self.plan = None;
    }

    fn lose_names(&mut self, random: &mut Random) {
        let loss = Loss::random(random);
        let pending = std::mem::take(&mut self.pending);
        let kept = random.below(pending.len() as u64 + 1) as usize;
        for (at, change) in pending.iter().enumerate() {
            let survives = match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                // A journal in order.
                Loss::Tail => at < kept,
                Loss::Scattered => random.below(2) == 0,
            };
            if survives {
                change.apply(&mut self.durable);
            }
        }
        loop {
            let before = self.durable.len();
            let named: Vec<Node> = self.durable.values().copied().chain([ROOT]).collect();
            self.durable.retain(|(dir, _), _| named.contains(dir));
            if self.durable.len() == before {
                break;
            }
        }
        self.live = self.durable.clone();
        let named: Vec<Node> = self.live.values().copied().chain([ROOT]).collect();
        self.things.retain(|node, _| named.contains(node));
        self.kinds = self.live.iter().map(|((_, name), node)| (*node, Kind::of(name))).collect();
        for (node, thing) in &self.things {
            if matches!(thing, Thing::Directory) {
                self.kinds.insert(*node, Kind::Directory);
            }
        }
    }

    /// What blocks may hold that belonged to another file.
    fn junk(&self) -> Vec<u8> {
        let files = self.things.values().filter_map(|thing| match thing {
            Thing::File(content) => Some(content.bytes()),
            _ => None,
        });
        files.max_by_key(|bytes| bytes.len()).map(|bytes| bytes[..bytes.len().min(1 << 20)].to_vec()).unwrap_or_default()
    }

    fn kind(&self, node: Node) -> Kind {
        self.kinds.get(&node).copied().unwrap_or(Kind::Other)
    }

    /// What stands under a number.
    pub fn thing(&self, node: Node) -> Result<&Thing, Refusal> {
        self.things.get(&node).ok_or(Refusal::NotFound)
    }

    fn content(&mut self, node: Node) -> Result<&mut Content, Refusal> {
        match self.things.get_mut(&node) {
            Some(Thing::File(content)) => Ok(content),
            Some(_) => Err(Refusal::NotOfThisKind),
            None => Err(Refusal::NotFound),
        }
    }

    /// What a name stands for.
    pub fn look_up(&self, name: &Name) -> Result<Node, Refusal> {
        self.live.get(name).copied().ok_or(Refusal::NotFound)
    }

    /// Names and numbers in a directory.
    pub fn list(&self, dir: Node) -> Vec<(String, Node)> {
        let range = self.live.range((dir, String::new())..(dir + 1, String::new()));
        range.map(|((_, name), node)| (name.clone(), *node)).collect()
    }

    /// Bytes of a file, as many as there are.
    pub fn read(&mut self, node: Node, at: usize, count: usize) -> Result<Vec<u8>, Refusal> {
        self.begin(Operation::Read, node)?;
        let bytes = self.content(node)?.read(at, count).to_vec();
        self.end(bytes)
    }

    /// Writes through an open file.
    pub fn write(&mut self, node: Node, at: usize, data: &[u8], handle: u64) -> Result<(), Refusal> {
        self.begin(Operation::Write, node)?;
        self.wear.write(self.kind(node), data.len());
        self.content(node)?.write(at, data, handle);
        self.end(())
    }

    /// Cuts or extends a file.
    pub fn set_len(&mut self, node: Node, len: usize) -> Result<(), Refusal> {
        self.begin(Operation::Truncate, node)?;
        self.content(node)?.set_len(len);
        self.end(())
    }

    /// Makes a file durable; `only` what was written through one open file, where that was opened to sync each write.
    pub fn sync(&mut self, node: Node, only: Option<u64>) -> Result<(), Refusal> {
        // Power that goes during a sync leaves any part of it.
        if self.begin(Operation::Sync, node)? {
            return self.end(());
        }
        self.wear.sync(self.kind(node));
        let content = self.content(node)?;
        match only {
            Some(handle) => content.sync_handle(handle),
            None => content.sync(),
        }
        Ok(())
    }

    /// Makes a directory's names durable.
    pub fn sync_dir(&mut self, dir: Node) -> Result<(), Refusal> {
        if self.begin(Operation::Sync, dir)? {
            return self.end(());
        }
        self.wear.sync(Kind::Directory);
        for change in self.pending.extract_if(.., |change| change.is_in(dir)) {
            change.apply(&mut self.durable);
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), Refusal> {
        change.apply(&mut self.live);
        self.pending.push(change);
        self.end(())
    }

    /// Makes a file, directory or link.
    pub fn create(&mut self, name: Name, thing: Thing) -> Result<Node, Refusal> {
        if self.live.contains_key(&name) {
            return Err(Refusal::Exists);
        }
        self.begin(Operation::Name, name.0)?;
        let node = self.next_node;
        self.next_node += 1;
        let kind = if matches!(thing, Thing::Directory) { Kind::Directory } else { Kind::of(&name.1) };
        self.kinds.insert(node, kind);
        self.things.insert(node, thing);
        self.change(Change::Add(name, node))?;
        Ok(node)
    }

    /// Removes a name. Who has the file open keeps it.
    pub fn remove(&mut self, name: Name) -> Result<(), Refusal> {
        let node = self.look_up(&name)?;
        if matches!(self.thing(node)?, Thing::Directory) && !self.list(node).is_empty() {
            return Err(Refusal::NotEmpty);
        }
        self.begin(Operation::Name, name.0)?;
        self.change(Change::Remove(name))
    }

    /// Renames, and replaces what had the name.
    pub fn rename(&mut self, from: Name, to: Name) -> Result<(), Refusal> {
        let node = self.look_up(&from)?;
        self.begin(Operation::Name, from.0)?;
        if self.kind(node) != Kind::Directory {
            self.kinds.insert(node, Kind::of(&to.1));
        }
        self.change(Change::Move(from, to, node))
    }
}
