//! `power_cut MOUNTPOINT`: says `ready`, waits for the end of its standard input, and stops the file system there, as if the
//! power had failed: nothing that it has not sent to the device yet will be, its journal included. Needs root. The file system
//! can only be unmounted afterwards.
#![cfg_attr(not(target_os = "linux"), allow(unused))]
use std::io::Read;
use std::os::fd::AsRawFd;

/// `_IOR('X', 125, u32)`: EXT4_IOC_SHUTDOWN, the same as XFS_IOC_GOINGDOWN.
#[cfg(target_os = "linux")]
const SHUTDOWN: libc::Ioctl = 0x8004_587D_u32 as libc::Ioctl;
/// Do not write the log before stopping.
static NO_LOG_FLUSH: u32 = 2;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let Some(point) = std::env::args_os().nth(1) else {
        eprintln!("usage: power_cut MOUNTPOINT");
        return 2.into();
    };
    let done = std::fs::File::open(point).and_then(|dir| {
        println!("ready");
        std::io::stdin().read_to_end(&mut Vec::new())?;
        // SAFETY: the descriptor is open, and the kernel reads one u32 that outlives the call.
        let rc = unsafe { libc::ioctl(dir.as_raw_fd(), SHUTDOWN, &raw const NO_LOG_FLUSH) };
        if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    });
    match done {
        Ok(()) => 0.into(),
        Err(e) => {
            eprintln!("shutdown: {e}");
            1.into()
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("only Linux has this");
    2.into()
}
