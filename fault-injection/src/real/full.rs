//! A full device: the statement fails, rollback works, commits work, reads go on; when space was freed, work goes on.
use super::Run;
use super::accounts::{Io, with};
use super::scratch::{LoopFs, Mounted, Scratch, cannot_mount};
use hamal::{Database, Error, ErrorKind, Result as Outcome};
use std::fmt::Debug;
use std::path::Path;

fn is_full(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::LogFull)
}

fn must<T>(what: &str, done: Outcome<T>) -> Result<T, String> {
    done.map_err(|e| format!("{what}: {:?}: {e}", e.kind()))
}

fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

/// Rows of a transaction.
const ROWS: u64 = 10;

/// Fills the device below `dir`, frees space, works on, opens again. Returns how many transactions fitted.
///
/// # Errors
/// What was wrong.
pub fn fill(dir: &Path, io: Io, value_len: usize) -> Result<u64, String> {
    let builder = Database::builder()
        .page_size(4096)
        .cache_bytes(64 * 4096)
        .log_segment_bytes(256 << 10)
        .checkpoint_log_bytes(512 << 10)
        .log_limit_bytes(64 << 20);
    let builder = with(builder, io);
    let db = must("create", builder.create(dir))?;
    {
        let tx = must("begin", db.begin_write())?;
        must("first row", tx.create_tree("t").and_then(|t| t.insert(b"first", b"kept")))?;
        must("commit", tx.commit())?;
    }
    let value = vec![7u8; value_len];
    let mut committed = 0u64;
    let mut refused = 0;
    while refused < 3 {
        if committed > 100_000 {
            return Err("the device is never full".to_owned());
        }
        let tx = must("begin", db.begin_write())?;
        let t = must("tree", tx.tree("t"))?;
        let failed = (0..ROWS).find_map(|i| t.insert((committed * ROWS + i).to_be_bytes(), &value).err());
        match failed {
            Some(e) if is_full(&e) => {
                must("rollback on a full device", tx.rollback())?;
                refused += 1;
            }
            Some(e) => return Err(format!("an insert on a full device: {:?}: {e}", e.kind())),
            None => {
                must("a commit may not fail for want of space", tx.commit())?;
                committed += 1;
            }
        }
    }
    if committed < 3 {
        return Err(format!("only {committed} transactions fitted"));
    }
    let rows = |db: &Database| -> Result<u64, String> {
        let read = must("read", db.begin_read())?;
        let t = must("tree", read.tree("t"))?;
        let first = must("first row", t.get(b"first"))?;
        same("the first row", first.as_deref(), Some(&b"kept"[..]))?;
        must("count", t.len())
    };
    same("rows on the full device", rows(&db)?, committed * ROWS + 1)?;

    // Removing rows gives pages back. Removal itself needs log space, which a checkpoint recycles.
    let mut removed = 0;
    for n in 0..committed / 2 {
        let tx = must("begin", db.begin_write())?;
        let t = must("tree", tx.tree("t"))?;
        match (0..ROWS).find_map(|i| t.remove((n * ROWS + i).to_be_bytes()).err()) {
            None => {
                must("commit of a removal", tx.commit())?;
                removed += ROWS;
            }
            Some(e) if is_full(&e) => {
                must("rollback of a removal", tx.rollback())?;
                must("maintenance", db.maintenance_step())?;
                must("checkpoint", db.checkpoint())?;
            }
            Some(e) => return Err(format!("a removal on a full device: {:?}: {e}", e.kind())),
        }
    }
    if removed == 0 && committed >= 2 {
        return Err("nothing could be removed on a full device".to_owned());
    }
    let mut inserted = 0;
    for attempt in 0..200 {
        let tx = must("begin", db.begin_write())?;
        let key = format!("again {attempt}");
        match must("tree", tx.tree("t"))?.insert(key.as_bytes(), &value) {
            Ok(_) => {
                must("commit", tx.commit())?;
                inserted += 1;
                if inserted == 3 {
                    break;
                }
            }
            Err(e) if is_full(&e) => {
                must("rollback", tx.rollback())?;
                must("maintenance", db.maintenance_step())?;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(e) => return Err(format!("an insert after space was freed: {:?}: {e}", e.kind())),
        }
    }
    same("inserts after space was freed", inserted, 3)?;
    must("close", db.close())?;
    drop(db);
    let db = must("open", builder.open(dir))?;
    let report = must("verify", db.verify(&mut |_, _| {}))?;
    if let Some(finding) = report.findings.first() {
        return Err(format!("verify: {finding:?}"));
    }
    same("rows at last", rows(&db)?, committed * ROWS + 1 - removed + inserted)?;
    Ok(committed)
}

/// The layer [`Full`](super::Layer::Full): small tmpfs and small ext4 by turns, of many sizes.
pub(crate) fn both(run: &mut Run<'_>) -> Result<(), String> {
    if let Some(why) = cannot_mount() {
        return Err(why);
    }
    let scratch = Scratch::new().map_err(|e| e.to_string())?;
    loop {
        let n = run.report.cases;
        let io = Io::ALL[run.random(3) as usize];
        let kib = 5120 + run.random(4096 / 4) * 4;
        let value_len = [40, 900, 900, 3000, 9000][run.random(5) as usize];
        let ext4 = n % 2 == 1;
        let title = format!(
            "{} of {kib} KiB, values of {value_len} bytes ({io})",
            if ext4 { "ext4" } else { "tmpfs" }
        );
        if !run.go_on(&title) {
            return Ok(());
        }
        let name = format!("full{n}");
        let fs = if ext4 {
            Some(LoopFs::ext4(
                &scratch,
                &name,
                kib.div_ceil(1024) + 2,
                [1024, 4096][run.random(2) as usize],
                "data=ordered",
            )?)
        } else {
            None
        };
        let mounted = match &fs {
            Some(fs) => fs.mount()?,
            None => Mounted::tmpfs(&scratch, &name, kib)?,
        };
        let done = fill(&mounted.path().join("db"), io, value_len);
        run.report.cases += 1;
        match done {
            Ok(committed) => {
                run.report.acknowledged += committed;
                run.saw(if ext4 { "ext4 filled" } else { "tmpfs filled" });
            }
            Err(what) => run.violation(format!("{title}: {what}")),
        }
        mounted.unmount()?;
        drop(fs);
        let _ = std::fs::remove_file(scratch.path().join(format!("{name}.img")));
    }
}
