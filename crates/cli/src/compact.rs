//! `hamal compact`: makes the data file of a database smaller.

use crate::open::{Common, Stop, exists};
use crate::output::{Failure, Out, Result, count, grouped, progress};
use clap::Args;
use std::path::PathBuf;

/// Make the data file smaller: move pages from its end to free ones, and cut it
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  hamal compact shop

What was deleted leaves free pages in the file, which are used again. This gives them back to the file system. \
A program that has the database open calls `Database::compact`. Ctrl-C ends the work; what was done stays, and nothing is lost.")]
pub(crate) struct Compact {
    /// Directory of the database
    dir: PathBuf,
}

pub(crate) fn compact(c: &Compact, common: &Common, out: &mut Out) -> Result<()> {
    exists(&c.dir)?;
    let stop = Stop::listen()?;
    let db = common.opening(&stop).run(|b| b.open(&c.dir))?;
    let bar = progress("compacting", None);
    let mut stopped = false;
    let done = db.compact(&mut |r| {
        bar.set_position(r.moved + r.rewritten);
        if stop.asked() {
            stopped = true;
            return Err(hamal::Error::new(hamal::ErrorKind::Limit, "stopped"));
        }
        Ok(())
    });
    bar.finish_and_clear();
    if stopped {
        db.close()?;
        return Err(Failure::Interrupted(
            "the database is whole; pages that were moved stay where they are".into(),
        ));
    }
    let r = done?;
    db.close()?;
    let size = db.page_size() as u64;
    if common.json {
        let (moved, rewritten) = (r.moved, r.rewritten);
        return out.json(&serde_json::json!({
            "bytes_before": r.pages_before * size, "bytes_after": r.pages_after * size,
            "bytes_used": r.pages_used * size, "moved": moved, "rewritten": rewritten,
        }));
    }
    out.line(format_args!(
        "{} bytes before, {} after, {} in use; {} moved, {} written anew",
        grouped(r.pages_before * size),
        grouped(r.pages_after * size),
        grouped(r.pages_used * size),
        count(r.moved, "page"),
        count(r.rewritten, "large value"),
    ))
}
