//! `hamal dump` and `hamal scan`: rows out of a tree, in key order.

use crate::open::{Common, Stop};
use crate::output::{Failure, Out, Result, bytes, count, hex};
use crate::rows::{Format, escape, json_text, write_row};
use clap::Args;
use std::io::{BufWriter, Write};
use std::ops::Bound;
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

With --json the format is jsonl. With -o the file appears under its name only when it is complete.")]
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

Prints key<TAB>value with control characters and bytes that are not UTF-8 escaped; with --hex both in hexadecimal;
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
    let (db, _) = common.read_only(&c.dir, &stop)?;
    let tree = db.begin_read()?.tree(&c.tree)?;
    let Some(path) = &c.output else {
        for row in tree.iter() {
            let (key, value) = row?;
            out.with(|w| write_row(w, format, &key, &value))?;
            check(&stop)?;
        }
        return Ok(());
    };

    let fail = |e| Failure::Io(path.display().to_string(), e);
    let folder = match path.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    };
    // Dropped without being persisted, it is removed.
    let mut file = tempfile::Builder::new().prefix(".hamal-dump-").tempfile_in(folder).map_err(fail)?;
    let mut rows = 0;
    let mut writer = BufWriter::new(&mut file);
    for row in tree.iter() {
        let (key, value) = row?;
        write_row(&mut writer, format, &key, &value).map_err(fail)?;
        rows += 1;
        check(&stop)?;
    }
    writer.flush().map_err(fail)?;
    drop(writer);
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    if common.json {
        return out.json(&serde_json::json!({ "rows": rows, "file": path }));
    }
    out.line(format_args!("{} written to {}", count(rows, "row"), path.display()))
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
