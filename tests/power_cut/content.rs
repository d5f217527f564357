//! A file's bytes: as every process sees them, and as the disk has them.

use crate::support::random::Random;

/// The unit that a disk writes as a whole.
pub const SECTOR: usize = 512;

/// What a power cut does to writes that no sync has covered.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// All of them had made it.
    Nothing,
    /// None had.
    Everything,
    /// Those up to some moment had.
    Tail,
    /// Of each sector, any of the versions written since the last sync.
    Scattered,
}

impl Loss {
    /// Any.
    pub fn random(random: &mut Random) -> Loss {
        match random.below(8) {
            0 => Loss::Nothing,
            1 => Loss::Everything,
            2..4 => Loss::Tail,
            _ => Loss::Scattered,
        }
    }
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub struct Content {
    live: Image,
    durable: Image,
    /// Changes that no sync has covered, in order.
    pending: Vec<Change>,
}

/// Whole sectors, the last one filled up with zeros.
#[derive(Clone, Debug, Default)]
struct Image {
    sectors: Vec<u8>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Change {
    /// Whole sectors as they were after the write, and who wrote.
    Write {
        at: usize,
        sectors: Vec<u8>,
        handle: u64,
    },
    Length(usize),
}

impl Image {
    fn set_len(&mut self, len: usize) {
        self.sectors.resize(len.next_multiple_of(SECTOR), 0);
        if len < self.sectors.len() {
            self.sectors[len..].fill(0);
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { at, sectors, .. } => self.put(*at, sectors),
            Change::Length(len) => self.set_len(*len),
        }
    }

    /// Puts whole sectors. They may lie behind the end: the length is another matter.
    fn put(&mut self, at: usize, sectors: &[u8]) {
        let end = at + sectors.len();
        if self.sectors.len() < end {
            self.sectors.resize(end, 0);
        }
        self.sectors[at..end].copy_from_slice(sectors);
    }
}

impl Content {
    /// The length that is seen.
    pub fn len(&self) -> usize {
        self.live.len
    }

    /// The bytes that are seen, as many as there are.
    pub fn read(&self, at: usize, count: usize) -> &[u8] {
        let at = at.min(self.live.len);
        &self.live.sectors[at..self.live.len.min(at + count)]
    }

    /// Writes through an open file.
    pub fn write(&mut self, at: usize, data: &[u8], handle: u64) {
        let end = at + data.len();
        if end > self.live.len {
            self.set_len(end);
        }
        self.live.sectors[at..end].copy_from_slice(data);
        let (first, last) = (at / SECTOR * SECTOR, end.next_multiple_of(SECTOR));
        self.pending.push(Change::Write { at: first, sectors: self.live.sectors[first..last].to_vec(), handle });
    }

    /// Cuts or extends.
    pub fn set_len(&mut self, len: usize) {
        self.live.set_len(len);
        self.pending.push(Change::Length(len));
    }

    /// Makes all that was written durable.
    pub fn sync(&mut self) {
        for change in self.pending.drain(..) {
            self.durable.apply(&change);
        }
    }

    /// Makes durable what was written through one open file, and what lengths that needed; nothing else.
    pub fn sync_handle(&mut self, by: u64) {
        for change in &self.pending {
            match change {
                Change::Write { handle, .. } if *handle != by => {}
                change => self.durable.apply(change),
            }
        }
        self.pending.retain(|change| matches!(change, Change::Write { handle, .. } if *handle != by));
    }

    /// A sync that failed: some of it is on the disk, the rest never will be. It is still seen, and counts as clean.
    pub fn fail_sync(&mut self, random: &mut Random) {
        self.keep_some(Loss::Scattered, random, &[]);
    }

    /// The kernel forgets what it holds in memory and calls clean: from now on the disk is what is seen.
    pub fn forget_clean(&mut self) {
        let mut seen = self.durable.clone();
        for change in &self.pending {
            seen.apply(change);
        }
        self.live = seen;
    }

    /// A power cut. `junk` is what blocks that were given to the file and not written may hold.
    pub fn cut(&mut self, loss: Loss, random: &mut Random, junk: &[u8]) {
        self.keep_some(loss, random, junk);
        self.live = self.durable.clone();
    }

    fn keep_some(&mut self, loss: Loss, random: &mut Random, junk: &[u8]) {
        let pending = std::mem::take(&mut self.pending);
        let kept = random.below(pending.len() as u64 + 1) as usize;
        for (at, change) in pending.iter().enumerate() {
            match (loss, change) {
                (Loss::Everything, _) => {}
                (Loss::Tail, _) if at > kept => {}
                // The write that was under way.
                (Loss::Tail, Change::Write { at: from, sectors, .. }) if at == kept => {
                    self.scatter(*from, sectors, random, junk);
                }
                (Loss::Scattered, Change::Write { at: from, sectors, .. }) => self.scatter(*from, sectors, random, junk),
                (Loss::Scattered, Change::Length(_)) if random.below(2) == 0 => {}
                (_, change) => self.durable.apply(change),
            }
        }
        let len = self.durable.len;
        self.durable.set_len(len);
    }

    /// Some sectors of a write make it. One that is new to the file and did not make it may hold anything.
    fn scatter(&mut self, at: usize, sectors: &[u8], random: &mut Random, junk: &[u8]) {
        let old = self.durable.sectors.len();
        for (n, sector) in sectors.chunks(SECTOR).enumerate() {
            let at = at + n * SECTOR;
            match random.below(4) {
                0 | 1 => self.durable.put(at, sector),
                2 if at >= old && junk.len() >= SECTOR => {
                    let from = random.below((junk.len() / SECTOR) as u64) as usize * SECTOR;
                    self.durable.put(at, &junk[from..from + SECTOR]);
                }
                _ => {}
            }
        }
    }

    /// All bytes that are seen.
    pub fn bytes(&self) -> &[u8] {
        &self.live.sectors[..self.live.len]
    }
}
