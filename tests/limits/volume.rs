//! A small file system of its own, which can be filled and frozen without harm to anybody else.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::wait::until;

/// An ext4 file system in a file, mounted over a loop device. Declare it before the server that lives on it: what is declared
/// first is dropped last.
pub struct Volume {
    mount: PathBuf,
    dir: TempDir,
}

impl Volume {
    /// Mounts one of so many bytes; none, and says so, where that is not allowed.
    pub fn mount(bytes: u64) -> Option<Volume> {
        let dir = tempfile::Builder::new().prefix("bramble-volume-").tempdir().unwrap();
        let image = dir.path().join("image");
        let mount = dir.path().join("mount");
        File::create(&image).and_then(|file| file.set_len(bytes)).unwrap();
        std::fs::create_dir(&mount).unwrap();
        let made = run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))
            .and_then(|()| run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount)));
        match made {
            Ok(()) => Some(Volume { mount, dir }),
            Err(why) => {
                eprintln!("\nSKIPPED: this test needs a file system of its own, and none can be mounted here: {why}\n");
                None
            }
        }
    }

    /// A directory on it.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Takes all the room that is left, to the last block, with a file that can be removed to give it back.
    pub fn fill(&self) -> PathBuf {
        let path = self.mount.join("filler");
        let mut file = File::create(&path).unwrap();
        for block in [1 << 20, 4096] {
            // Synced, so that no room is promised to what has not been written yet.
            while file.write_all(&vec![1; block]).and_then(|()| file.sync_data()).is_ok() {}
        }
        path
    }

    /// Stops every write for so long. Another process thaws it, so that it does even if this one is killed.
    pub fn freeze(&self, time: Duration) -> Frozen {
        let script = "fsfreeze -f \"$1\" && echo frozen > \"$3\"; sleep \"$2\"; fsfreeze -u \"$1\"";
        let told = self.dir.path().join("frozen");
        let child = Command::new("sh")
            .args(["-c", script, "freeze"])
            .arg(&self.mount)
            .arg(time.as_secs().to_string())
            .arg(&told)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        until("the file system to freeze", || std::fs::read(&told).ok().filter(|text| !text.is_empty()));
        std::fs::remove_file(&told).unwrap();
        Frozen(child)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Nothing that still uses it may keep it: lazily.
        if let Err(why) =
            run(Command::new("umount").arg(&self.mount)).or_else(|_| run(Command::new("umount").arg("-l").arg(&self.mount)))
        {
            eprintln!("{} is still mounted: {why}", self.mount.display());
        }
    }
}

/// A freeze under way.
pub struct Frozen(Child);

impl Frozen {
    /// Whether it lasts.
    pub fn lasts(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(mut self) {
        assert!(self.0.wait().unwrap().success(), "the file system was not thawed");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
