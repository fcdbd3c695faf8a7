//! `hamal get`, `put`, `del`, `trees`: single rows, and the names of trees.

use crate::open::{Common, Stop, exists};
use crate::output::{Failure, Out, Result, bytes, hex};
use clap::Args;
use hamal_rows::{escape, json_text};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Print the value of a key
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal get shop prices apple
  hamal get shop prices 0x00ff --hex
  hamal get shop photos apple --raw > apple.png

A value that is not UTF-8 text is printed with its bytes escaped; --raw prints the bytes and nothing else. \
Exit code 1 if the key is not there.")]
pub(crate) struct Get {
    /// Directory of the database
    dir: PathBuf,
    /// Name of the tree
    tree: String,
    /// The key
    key: String,
    /// The key is given, the value is printed, in hexadecimal
    #[arg(long)]
    hex: bool,
    /// Print the value's bytes as they are, without a line end
    #[arg(long, conflicts_with_all = ["hex", "json"])]
    raw: bool,
}

/// Store a value under a key, durably
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal put shop prices apple 1.20
  hamal put shop prices 0x00ff 0xcafe --hex
  hamal put shop photos apple --file apple.png

Creates the database and the tree if they are not there. The value is durable when the command has ended.")]
pub(crate) struct Put {
    /// Directory of the database
    dir: PathBuf,
    /// Name of the tree
    tree: String,
    /// The key
    key: String,
    /// The value
    #[arg(required_unless_present = "file")]
    value: Option<String>,
    /// Read the value from this file, or - for standard input
    #[arg(long, conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Key and value are given in hexadecimal
    #[arg(long)]
    hex: bool,
}

/// Remove a key, durably
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  hamal del shop prices apple

Exit code 1 if the key is not there.")]
pub(crate) struct Del {
    /// Directory of the database
    dir: PathBuf,
    /// Name of the tree
    tree: String,
    /// The key
    key: String,
    /// The key is given in hexadecimal
    #[arg(long)]
    hex: bool,
}

/// Print the names of the trees
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal trees shop
  hamal trees shop --count                           with the number of rows in each, counted")]
pub(crate) struct Trees {
    /// Directory of the database
    dir: PathBuf,
    /// Count the rows
    #[arg(long)]
    count: bool,
}

fn no_key(text: &str, is_hex: bool) -> Failure {
    let hint = if !is_hex && text.starts_with("0x") { "; for a key of bytes, give --hex" } else { "" };
    Failure::Check(format!("there is no key `{text}`{hint}"))
}

pub(crate) fn get(c: &Get, common: &Common, out: &mut Out) -> Result<()> {
    let key = bytes(&c.key, c.hex)?;
    let (db, _) = common.read_only(&c.dir, &Stop::listen()?)?;
    let value = db.begin_read()?.tree(&c.tree)?.get(&key)?.ok_or_else(|| no_key(&c.key, c.hex))?;
    match (common.json, c.hex) {
        (true, true) => out.json(&serde_json::json!({ "key": hex(&key), "value": hex(&value) })),
        (true, false) => out.line(json_text(&key, Some(&value))),
        (false, true) => out.line(hex(&value)),
        (false, false) if c.raw => out.with(|w| w.write_all(&value)),
        (false, false) => match std::str::from_utf8(&value) {
            Ok(text) => out.line(text),
            Err(_) => out.line(escape(&value)),
        },
    }
}

fn read_value(path: &Path) -> Result<Vec<u8>> {
    let mut value = Vec::new();
    let read = match path == Path::new("-") {
        true => io::stdin().read_to_end(&mut value),
        false => File::open(path).and_then(|mut f| f.read_to_end(&mut value)),
    };
    read.map_err(|e| Failure::Io(path.display().to_string(), e))?;
    Ok(value)
}

pub(crate) fn put(c: &Put, common: &Common) -> Result<()> {
    let key = bytes(&c.key, c.hex)?;
    let value = match (&c.file, &c.value) {
        (Some(path), _) => read_value(path)?,
        (None, Some(text)) => bytes(text, c.hex)?,
        (None, None) => return Err(Failure::Usage("a value, or --file, is needed".into())),
    };
    let db = common.opening(&Stop::listen()?).run(|b| b.open_or_create(&c.dir))?;
    let txn = db.begin_write()?;
    txn.open_or_create_tree(&c.tree)?.put(&key, &value)?;
    txn.commit()?;
    Ok(db.close()?)
}

pub(crate) fn del(c: &Del, common: &Common) -> Result<()> {
    let key = bytes(&c.key, c.hex)?;
    exists(&c.dir)?;
    let db = common.opening(&Stop::listen()?).run(|b| b.open(&c.dir))?;
    let txn = db.begin_write()?;
    let old = txn.tree(&c.tree)?.remove(&key)?;
    txn.commit()?;
    db.close()?;
    if old.is_some() { Ok(()) } else { Err(no_key(&c.key, c.hex)) }
}

pub(crate) fn trees(c: &Trees, common: &Common, out: &mut Out) -> Result<()> {
    let (db, _) = common.read_only(&c.dir, &Stop::listen()?)?;
    let txn = db.begin_read()?;
    for name in txn.trees()? {
        let rows = if c.count { Some(txn.tree(&name)?.len()?) } else { None };
        match (common.json, rows) {
            (true, None) => out.json(&serde_json::json!({ "tree": name }))?,
            (true, Some(n)) => out.json(&serde_json::json!({ "tree": name, "rows": n }))?,
            (false, None) => out.line(escape(name.as_bytes()))?,
            (false, Some(n)) => out.line(format_args!("{}\t{n}", escape(name.as_bytes())))?,
        }
    }
    Ok(())
}
