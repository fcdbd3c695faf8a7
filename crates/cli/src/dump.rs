//! `hamal dump` and `hamal scan`: rows out of a tree, in key order.

use crate::open::{Common, Stop};
use crate::output::{Failure, Out, Result, bytes, count, hex};
use clap::Args;
use hamal_rows::{Format, escape, json_text, write_row};
use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write};
use std::ops::Bound;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Write all rows of a tree in key order, so that `load` reads them back
///
/// Loading what was dumped gives the same bytes, in every format, whatever the bytes are.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal dump shop prices > prices.tsv
  hamal dump shop prices -o prices.csv
  hamal dump shop prices --format jsonl | jq -r .key

With --json the format is jsonl. With -o the file appears under its name only when it is complete; it must not lie \
in the database's directory. A device or a pipe is written to as it stands.")]
pub(crate) struct Dump {
    /// Directory of the database
    dir: PathBuf,
    /// Name of the tree
    tree: String,
    /// Format of the output [default: by the extension of --output, else tsv]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to this file instead of standard output
    #[arg(short, long)]
    output: Option<PathBuf>,
}

/// Print rows in key order
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal scan shop prices --prefix app
  hamal scan shop prices --from a --to b             keys from a on, below b
  hamal scan shop prices --reverse --limit 1         the last row
  hamal scan shop prices --hex --from 0x00ff

Prints key<TAB>value with control characters and bytes that are not UTF-8 escaped; with --hex both in hexadecimal; \
with --json one object per line.")]
pub(crate) struct Scan {
    /// Directory of the database
    dir: PathBuf,
    /// Name of the tree
    tree: String,
    /// The first key
    #[arg(long)]
    from: Option<String>,
    /// Stop before this key
    #[arg(long)]
    to: Option<String>,
    /// Only keys that begin with this
    #[arg(long)]
    prefix: Option<String>,
    /// From the last key to the first
    #[arg(long)]
    reverse: bool,
    /// At most this many rows
    #[arg(long)]
    limit: Option<u64>,
    /// Print only the keys
    #[arg(long)]
    keys: bool,
    /// Keys are given, keys and values are printed, in hexadecimal
    #[arg(long)]
    hex: bool,
}

pub(crate) fn dump(c: &Dump, common: &Common, out: &mut Out) -> Result<()> {
    let stop = Stop::listen()?;
    let by_name = c.output.as_deref().map_or(Format::Tsv, Format::of);
    let format = c.format.unwrap_or(if common.json { Format::Jsonl } else { by_name });
    if let Some(path) = &c.output {
        keep_out_of(&c.dir, folder_of(path))?;
    }
    let (db, _) = common.read_only(&c.dir, &stop)?;
    let tree = db.begin_read()?.tree(&c.tree)?;
    let rows = |write: &mut WriteRow<'_>| {
        let mut n = 0;
        for row in tree.iter() {
            let (key, value) = row?;
            write(&key, &value)?;
            n += 1;
            check(&stop)?;
        }
        Ok::<u64, Failure>(n)
    };
    let Some(path) = &c.output else {
        return rows(&mut |k, v| out.with(|w| write_row(w, format, k, v))).map(drop);
    };

    let fail = |e| Failure::Io(path.display().to_string(), e);
    let n = if fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        // A device or a pipe: a file must not take its place.
        let mut writer = BufWriter::new(File::options().write(true).open(path).map_err(fail)?);
        let n = rows(&mut |k, v| write_row(&mut writer, format, k, v).map_err(fail))?;
        writer.flush().map_err(fail)?;
        n
    } else {
        // Dropped without being persisted, it is removed.
        let mut file = tempfile::Builder::new()
            .prefix(".hamal-dump-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder_of(path))
            .map_err(fail)?;
        let mut writer = BufWriter::new(&mut file);
        let n = rows(&mut |k, v| write_row(&mut writer, format, k, v).map_err(fail))?;
        writer.flush().map_err(fail)?;
        drop(writer);
        file.as_file().sync_all().map_err(fail)?;
        file.persist(path).map_err(|e| fail(e.error))?;
        n
    };
    if common.json {
        return out.json(&serde_json::json!({ "rows": n, "file": path }));
    }
    out.line(format_args!("{} written to {}", count(n, "row"), path.display()))
}

/// Takes a key and a value.
type WriteRow<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    }
}

/// Refuses a folder for output that lies in the database: `-o shop/data` would replace the data file.
fn keep_out_of(database: &Path, folder: &Path) -> Result<()> {
    let within = match (database.canonicalize(), folder.canonicalize()) {
        (Ok(database), Ok(folder)) => folder.starts_with(database),
        // One of them is not there: what comes next says so.
        _ => false,
    };
    if within {
        let m = format!("{} is the directory of the database: write elsewhere", folder.display());
        return Err(Failure::Usage(m));
    }
    Ok(())
}

fn check(stop: &Stop) -> Result<()> {
    if stop.asked() { Err(Failure::Interrupted("the output is not complete".into())) } else { Ok(()) }
}

pub(crate) fn scan(c: &Scan, common: &Common, out: &mut Out) -> Result<()> {
    let stop = Stop::listen()?;
    let key = |text: &Option<String>| text.as_deref().map(|t| bytes(t, c.hex)).transpose();
    let range = range(key(&c.from)?, key(&c.to)?, key(&c.prefix)?);
    let (db, _) = common.read_only(&c.dir, &stop)?;
    let tree = db.begin_read()?.tree(&c.tree)?;
    let Some(range) = range else { return Ok(()) };
    let mut rows = tree.range(range);
    let mut left = c.limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some(row) = if c.reverse { rows.next_back() } else { rows.next() }
    {
        let (key, value) = row?;
        let text = match (common.json, c.hex, c.keys) {
            (true, false, false) => json_text(&key, Some(&value)),
            (true, false, true) => json_text(&key, None),
            (true, true, false) => serde_json::json!({ "key": hex(&key), "value": hex(&value) }).to_string(),
            (true, true, true) => serde_json::json!({ "key": hex(&key) }).to_string(),
            (false, false, false) => format!("{}\t{}", escape(&key), escape(&value)),
            (false, false, true) => escape(&key),
            (false, true, false) => format!("{}\t{}", hex(&key), hex(&value)),
            (false, true, true) => hex(&key),
        };
        out.line(text)?;
        check(&stop)?;
        left -= 1;
    }
    Ok(())
}

type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The keys from `from` on, below `to`, that begin with `prefix`; `None` if there can be none.
fn range(from: Option<Vec<u8>>, to: Option<Vec<u8>>, prefix: Option<Vec<u8>>) -> Option<KeyRange> {
    let end = prefix.as_deref().and_then(after_prefix);
    let low = from.into_iter().chain(prefix).max();
    let high = to.into_iter().chain(end).min();
    if let (Some(low), Some(high)) = (&low, &high)
        && low >= high
    {
        return None;
    }
    Some((low.map_or(Bound::Unbounded, Bound::Included), high.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// The least key above every key with that prefix; `None` if there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(s: &str) -> Option<Vec<u8>> {
        Some(s.as_bytes().to_vec())
    }

    #[test]
    fn prefix_ends() {
        assert_eq!(after_prefix(b"ab"), v("ac"));
        assert_eq!(after_prefix(b"a\xff\xff"), v("b"));
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }

    #[test]
    fn ranges_meet() {
        use Bound::*;
        assert_eq!(range(None, None, None), Some((Unbounded, Unbounded)));
        assert_eq!(range(v("b"), v("a"), None), None);
        assert_eq!(range(v("a"), v("a"), None), None);
        assert_eq!(range(v("aa"), None, v("a")), Some((Included(b"aa".to_vec()), Excluded(b"b".to_vec()))));
        assert_eq!(range(v("0"), v("z"), v("a")), Some((Included(b"a".to_vec()), Excluded(b"b".to_vec()))));
        assert_eq!(range(v("b"), None, v("a")), None);
        assert_eq!(range(None, None, v("")), Some((Included(vec![]), Unbounded)));
    }
}
