//! A small file system of its own, which can be filled and frozen without harm to anybody else, and whose device counts what it is
//! asked for.

use std::fs::File;
use std::io::Write;
use std::ops::Sub;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::wait::until;

/// What a block device has been asked to write. The file system's journal and metadata are in it, and each sector as often as it
/// was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub bytes: u64,
    /// Requests; one that only flushes counts too.
    pub requests: u64,
    /// Flushes of the device's cache.
    pub flushes: u64,
}

impl Sub for Written {
    type Output = Written;

    fn sub(self, before: Written) -> Written {
        Written {
            bytes: self.bytes.saturating_sub(before.bytes),
            requests: self.requests.saturating_sub(before.requests),
            flushes: self.flushes.saturating_sub(before.flushes),
        }
    }
}

/// An ext4 file system in a file, mounted over a loop device. Declare it before the server that lives on it: what is declared
/// first is dropped last.
pub struct Volume {
    mount: PathBuf,
    /// What [`Volume::settle`] itself writes.
    settling: Written,
    dir: TempDir,
}

impl Volume {
    /// Mounts one of so many bytes; none, and says so, where that is not allowed.
    pub fn mount(bytes: u64) -> Option<Volume> {
        Volume::mount_with(bytes, "noatime")
    }

    /// The same with mount's `-o options`.
    pub fn mount_with(bytes: u64, options: &str) -> Option<Volume> {
        let dir = tempfile::Builder::new().prefix("bramble-volume-").tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).and_then(|file| file.set_len(bytes)).unwrap();
        Volume::mount_image(&image, options, dir)
    }

    /// The same in a file that is there, with mount's `-o options`. `dir` is for what else it needs.
    pub fn mount_image(image: &Path, options: &str, dir: TempDir) -> Option<Volume> {
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        // Nothing is left for the kernel to initialise in the background, where it would be counted.
        let made =
            run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(image))
                .and_then(|()| run(Command::new("mount").args(["-o", &format!("loop,{options}")]).arg(image).arg(&mount)));
        match made {
            Ok(()) => {
                let mut volume = Volume { mount, settling: Written::default(), dir };
                let before = volume.settle();
                volume.settling = volume.settle() - before;
                Some(volume)
            }
            Err(why) => {
                eprintln!("\nSKIPPED: this test needs a file system of its own, and none can be mounted here: {why}\n");
                None
            }
        }
    }

    /// What its device has been asked to write so far.
    pub fn written(&self) -> Written {
        let device = std::fs::metadata(&self.mount).unwrap().dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
        // The kernel's Documentation/block/stat.rst; a sector is 512 bytes whatever the device's own are.
        let field = |at: usize| stat.split_whitespace().nth(at).expect("a kernel of 5.5 or later").parse::<u64>().unwrap();
        Written { bytes: field(6) * 512, requests: field(4), flushes: field(15) }
    }

    /// Has all that waits in memory written, the file system's metadata to their places too, and gives what its device has been asked
    /// to write until then. What this itself needs is not counted as the volume's wear: see [`Volume::wear`].
    pub fn settle(&self) -> Written {
        for how in ["-f", "-u"] {
            run(Command::new("fsfreeze").arg(how).arg(&self.mount)).unwrap_or_else(|why| panic!("{why}"));
        }
        self.written()
    }

    /// The same without moving metadata from the journal to their places: where nothing waits, nothing is written.
    pub fn written_and_synced(&self) -> Written {
        let directory = File::open(&self.mount).unwrap();
        rustix::fs::syncfs(&directory).unwrap();
        self.written()
    }

    /// What has been written between two settlements, without what the second one itself writes.
    pub fn wear(&self, before: Written) -> Written {
        self.settle() - before - self.settling
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

/// Bytes that a directory takes, as `du` counts them.
pub fn on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let bytes = |path: &Path| path.metadata().unwrap().blocks() * 512;
    bytes(dir) + entries.map(|path| if path.is_dir() { on_disk(&path) } else { bytes(&path) }).sum::<u64>()
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
