//! The checkpoint. First its file: an image with damage is refused, or is one of the two checkpoints that LMDB keeps, and goes on
//! being one. Then its rows, whatever they hold: a server starts on them or says what is wrong.
//!
//! Input: which of the two, and what is changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bramble::backend::{Backend, Options, Table, WriteError};
use bramble::error::Fault;
use bramble::mvcc::Store;
use bramble::pb::etcdserverpb::RangeRequest;

use super::data_dir::{self, DataDir, LEFT};
use super::input::Input;

const OPTIONS: Options = Options { map_bytes: 8 << 20, no_fsync: true };
const TABLES: [Table; 5] = [Table::Alarm, Table::Member, Table::Lease, Table::Meta, Table::Row];
const PAGE: usize = 4096;

type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// The newest checkpoint in the file, and the one before.
static CHECKPOINTS: LazyLock<[Rows; 2]> = LazyLock::new(|| {
    let dir = DataDir::new();
    let mut image = LEFT.db.clone();
    let newest = rows_of(&dir, &image);
    // Without the newer of the two meta pages there is only the older.
    let newer = usize::from(image[PAGE + TXN..PAGE + TXN + 8] > image[TXN..TXN + 8]);
    image[newer * PAGE + TXN..][..8].fill(0);
    [newest, rows_of(&dir, &image)]
});

/// Where a meta page has its transaction's number, on machines of 64 bits; its first byte is the one that differs here.
const TXN: usize = 144;

thread_local! {
    static DIR: RefCell<DataDir> = RefCell::new(DataDir::new());
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    DIR.with_borrow(|dir| match input.byte() % 4 {
        0 => rows(dir, &mut input),
        _ => image(dir, &mut input),
    });
}

fn rows_of(dir: &DataDir, image: &[u8]) -> Rows {
    dir.lay(image);
    let backend = Backend::open(&dir.db(), OPTIONS).expect("the server has left it so");
    read(&backend).expect("the server has left it so")
}

fn read(backend: &Backend) -> Result<Rows, Fault> {
    let mut rows = Rows::new();
    let reader = backend.reader()?;
    for table in TABLES {
        reader.scan(table, b"", |key, value| {
            rows.insert((table as u8, key.to_vec()), value.to_vec());
            Ok(true)
        })?;
    }
    Ok(rows)
}

fn image(dir: &DataDir, input: &mut Input<'_>) {
    let mut image = LEFT.db.clone();
    for _ in 0..=input.byte() % 4 {
        damage(&mut image, input);
    }
    dir.lay(&image);
    let names_it = |fault: &Fault| {
        let text = fault.to_string();
        assert!(text.contains("checkpoint") || text.contains(&*dir.db().to_string_lossy()), "{text}");
    };
    let rows = match open(&dir.db()) {
        Ok(rows) => rows,
        Err(fault) => return names_it(&fault),
    };
    // A file of nothing but zeros is what a power cut leaves of a first start, and counts as none.
    let is_none = rows.is_empty() && image.iter().all(|byte| *byte == 0);
    assert!(is_none || CHECKPOINTS.contains(&rows), "an accepted checkpoint is one that was written");
    if let Err(fault) = go_on(&dir.db(), rows) {
        names_it(&fault);
    }
}

/// What a start reads.
fn open(path: &Path) -> Result<Rows, Fault> {
    let backend = Arc::new(Backend::open(path, OPTIONS)?);
    let store = Store::open(backend.clone(), |_, _| {})?;
    let rows = read(&backend)?;
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    store.range(&all)?.expect("a range of the present").rows.take_while(|_| true)?;
    store.hash_kv(0)?.expect("a hash of the present");
    Ok(rows)
}

/// More is written, onto pages that the file calls free: what was there stays.
fn go_on(path: &Path, mut rows: Rows) -> Result<(), Fault> {
    let backend = Backend::open(path, OPTIONS)?;
    backend.load(Table::Row, |_, _| Ok(()))?;
    for round in 0..4u8 {
        let written = backend.write(|writer| {
            for n in 0..8u8 {
                writer.put(Table::Meta, &[b'z', round, n], &[n; 1500])?;
            }
            writer.put(Table::Meta, &[b'z', round], &[round; 9000])?;
            writer.delete(Table::Meta, &[b'z', round.wrapping_sub(1)])
        });
        match written {
            Ok(()) => {}
            Err(WriteError::Full(why)) => return Err(Fault::new(why)),
            Err(WriteError::Fault(fault)) => return Err(fault),
        }
        for n in 0..8u8 {
            rows.insert((Table::Meta as u8, vec![b'z', round, n]), vec![n; 1500]);
        }
        rows.insert((Table::Meta as u8, vec![b'z', round]), vec![round; 9000]);
        rows.remove(&(Table::Meta as u8, vec![b'z', round.wrapping_sub(1)]));
        assert!(read(&backend)? == rows, "what was written is there, and all that was there before");
    }
    Ok(())
}

/// Changes bytes where pages have their fields, and elsewhere.
fn damage(image: &mut Vec<u8>, input: &mut Input<'_>) {
    let page = usize::from(input.byte()) % (image.len() / PAGE).max(1) * PAGE;
    let within = match input.byte() {
        small @ 0..100 => usize::from(small) * 2,
        _ => usize::from(input.u16()) % PAGE,
    };
    let at = (page + within).min(image.len().saturating_sub(1));
    match input.byte() % 8 {
        0 => image[at] ^= 1 << (input.byte() % 8),
        1 => overwrite(image, at, &input.u16().to_le_bytes()),
        2 => overwrite(image, at, &input.number().to_le_bytes()),
        3 => overwrite(image, at, input.piece()),
        4 => image.truncate(at),
        5 => overwrite(image, page, &[0; PAGE]),
        _ => {
            let from = usize::from(input.byte()) % (image.len() / PAGE).max(1) * PAGE;
            let copied = image[from..(from + PAGE).min(image.len())].to_vec();
            overwrite(image, page, &copied);
        }
    }
    if image.is_empty() {
        image.push(0);
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let count = with.len().min(bytes.len() - at);
    bytes[at..at + count].copy_from_slice(&with[..count]);
}

/// Rows that no server has written, whole and with right checksums.
fn rows(dir: &DataDir, input: &mut Input<'_>) {
    dir.lay(&LEFT.db);
    change_rows(&dir.db(), input);
    let server = match dir.start(&dir.disk()) {
        Ok(server) => server,
        Err(fault) => return assert!(!fault.to_string().is_empty()),
    };
    data_dir::serve(&server.handle());
    server.stop();
    // It may be found later that a row makes no sense; that is said, too.
    let _ = server.wait();
}

fn change_rows(path: &Path, input: &mut Input<'_>) {
    let backend = Backend::open(path, OPTIONS).expect("it is whole");
    let present: Vec<(u8, Vec<u8>)> = read(&backend).expect("it is whole").into_keys().collect();
    let written = backend.write(|writer| {
        for _ in 0..=input.byte() % 8 {
            let table = input.pick(&TABLES);
            let keys: Vec<&Vec<u8>> = present.iter().filter(|(of, _)| *of == table as u8).map(|(_, key)| key).collect();
            let key = match keys.get(usize::from(input.byte())) {
                Some(key) => (*key).clone(),
                None => input.piece().to_vec(),
            };
            match input.byte() % 4 {
                0 => writer.delete(table, &key)?,
                1 => writer.put(table, &key, &input.u64().to_be_bytes())?,
                _ => writer.put(table, &key, input.piece())?,
            }
        }
        Ok(())
    });
    // A key may be longer than LMDB takes.
    drop(written);
}
