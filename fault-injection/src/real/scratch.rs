//! Temporary directories, loop devices and mounts that are gone when the process is, however it ends.
//!
//! Each [`Scratch`] has a helper process, a shell of a few lines that waits for the end of its standard input and then
//! unmounts, detaches and deletes. The pipe closes when the guard is dropped, and also when this process panics, is
//! interrupted or killed. The shell is in a process group of its own, so that Ctrl-C does not reach it.
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const JANITOR: &str = r#"
last=$(cat)
cd /
# The owner was killed: a mount that it had just asked for may be on its way.
[ "$last" = done ] || sleep 1
for m in "$1"/mnt*; do [ -d "$m" ] && umount -l "$m" 2>/dev/null; done
for i in "$1"/*.img; do
  [ -f "$i" ] && losetup -j "$i" | cut -d: -f1 | while read -r d; do losetup -d "$d"; done
done
rm -rf "$1"
"#;

/// A new directory, in memory where the system has `/dev/shm`. Dropping it removes it with everything mounted in it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
}

impl Scratch {
    /// Makes one.
    ///
    /// # Errors
    /// If the directory cannot be made or there is no shell.
    pub fn new() -> io::Result<Scratch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("hamal-real-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).or_else(|_| {
            // A directory of that name can only be left over from a process that had our number.
            std::fs::remove_dir_all(&path)?;
            std::fs::create_dir(&path)
        })?;
        use std::os::unix::process::CommandExt;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Scratch { path, janitor })
    }
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.janitor.stdin.take() {
            // Without the word it only takes a second longer.
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.janitor.wait();
    }
}

/// Runs a program; its standard output.
///
/// # Errors
/// A sentence with what it wrote to standard error.
pub fn call(program: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program} cannot be started: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim()))
}

/// Why file systems cannot be mounted here, if they cannot.
pub fn cannot_mount() -> Option<String> {
    match call("id", &["-u"]) {
        Ok(uid) if uid == "0" => None,
        _ => Some("mounting needs root".to_owned()),
    }
}

fn text(path: &Path) -> &str {
    // Paths of a scratch directory are made here, of ASCII.
    path.to_str().unwrap_or_default()
}

/// A mounted file system. Dropping it unmounts it.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
}

impl Mounted {
    fn mount(point: PathBuf, args: &[&str]) -> Result<Mounted, String> {
        std::fs::create_dir_all(&point).map_err(|e| e.to_string())?;
        let mut all = args.to_vec();
        all.push(text(&point));
        call("mount", &all)?;
        Ok(Mounted { point })
    }
    /// A tmpfs of `kib` KiB at `mnt-NAME`.
    ///
    /// # Errors
    /// What `mount` says.
    pub fn tmpfs(scratch: &Scratch, name: &str, kib: u64) -> Result<Mounted, String> {
        let options = format!("size={kib}k");
        Mounted::mount(scratch.path().join(format!("mnt-{name}")), &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }
    /// Where.
    pub fn path(&self) -> &Path {
        &self.point
    }
    /// Unmounts now.
    ///
    /// # Errors
    /// What `umount` says, when it was still busy after two seconds.
    pub fn unmount(self) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..200 {
            match call("umount", &[text(&self.point)]) {
                Ok(_) => {
                    // Nothing is left for `drop` to do; a second umount of the same point would be another's.
                    std::mem::forget(self);
                    return Ok(());
                }
                Err(e) => last = e,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(last)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = call("umount", &["-l", text(&self.point)]);
    }
}

/// An ext4 or other file system in an image file on a loop device.
#[derive(Debug)]
pub struct LoopFs {
    point: PathBuf,
    device: String,
    options: String,
}

impl LoopFs {
    /// Makes an image of `mib` MiB, attaches it, and makes an ext4 with blocks of `block` bytes in it. `options` are for
    /// `mount -o`.
    ///
    /// # Errors
    /// What the tools say; which one is missing.
    pub fn ext4(
        scratch: &Scratch,
        name: &str,
        mib: u64,
        block: u32,
        options: &str,
    ) -> Result<LoopFs, String> {
        let image = scratch.path().join(format!("{name}.img"));
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(mib << 20).map_err(|e| e.to_string())?;
        call("mkfs.ext4", &["-qF", "-m", "0", "-b", &block.to_string(), text(&image)])?;
        let device = call("losetup", &["-f", "--show", text(&image)])?;
        let point = scratch.path().join(format!("mnt-{name}"));
        Ok(LoopFs { point, device, options: options.to_owned() })
    }
    /// Mounts it.
    ///
    /// # Errors
    /// What `mount` says.
    pub fn mount(&self) -> Result<Mounted, String> {
        Mounted::mount(self.point.clone(), &["-t", "ext4", "-o", &self.options, &self.device])
    }
    /// Changes the options for the next mount.
    pub fn set_options(&mut self, options: &str) {
        options.clone_into(&mut self.options);
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let _ = call("losetup", &["-d", &self.device]);
    }
}
