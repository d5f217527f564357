//! The configuration file. Input: its bytes.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use bramble::config::{self, Cause, Command, Program};
use tempfile::TempDir;

use super::flags;

static DIR: LazyLock<TempDir> = LazyLock::new(super::memory_dir);

pub fn run(data: &[u8]) {
    let path = DIR.path().join(format!("{:?}.yml", std::thread::current().id()));
    match read(&path, data) {
        Ok(Command::Serve(config)) => {
            flags::check_config(&config);
            let commented = [b"# a comment changes nothing\n", data].concat();
            match read(&path, &commented) {
                Ok(Command::Serve(other)) => assert_eq!(format!("{other:?}"), format!("{config:?}")),
                other => panic!("a comment spoils it: {other:?}"),
            }
        }
        Ok(other) => panic!("a file asks for {other:?}"),
        Err(Cause::Flags(text)) => assert!(!text.is_empty()),
        Err(other) => panic!("a file is refused as {other:?}"),
    }
}

fn read(path: &PathBuf, data: &[u8]) -> Result<Command, Cause> {
    fs::write(path, data).expect("the memory has room");
    let args = [format!("--config-file={}", path.display())];
    config::read(Program::Bramble, &args, &[]).map_err(|refusal| refusal.cause)
}
