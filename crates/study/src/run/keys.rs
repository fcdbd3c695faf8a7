//! Key mode: rows of real B-trees, and the names of their pages.
use super::{Runner, Tx};
use crate::trace::Trace;
use hamal::raw::{SPACE_RM, header};
use hamal::{Error, ErrorKind, Result};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};

fn short(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(24) {
        Some((i, _)) => format!("{}...", &text[..i]),
        None => text.into_owned(),
    }
}

impl Runner<'_> {
    /// Puts a row, or takes it away.
    pub(super) fn put(&mut self, txn: &str, table: &str, key: &str, value: Option<&str>) -> Result<()> {
        let recorder = self.recorder.clone();
        let Tx::Tree(tx) = &self.txn(txn)?.tx else { return Err(Error::internal("a row in page mode")) };
        let tree = tx.tree(table)?;
        let before = recorder.muted(|| tree.get(key))?;
        let mut more = Map::new();
        more.insert("key".into(), format!("{table} {key}").into());
        more.insert("before".into(), before.map_or(Value::Null, |b| short(&b).into()));
        more.insert("after".into(), value.map_or(Value::Null, |v| short(v.as_bytes()).into()));
        {
            let mut state = recorder.lock();
            state.action.txn = Some(txn.to_string());
            state.action.more = more;
        }
        match value {
            Some(v) => tree.put(key, v),
            None if tree.remove(key)?.is_some() => Ok(()),
            None => Err(Error::new(ErrorKind::NotFound, format!("{table} has no row {key}"))),
        }
    }

    /// Puts rows with ascending keys, all at once.
    pub(super) fn load(&mut self, txn: &str, table: &str, rows: &[(String, String)]) -> Result<()> {
        let recorder = self.recorder.clone();
        let Tx::Tree(tx) = &self.txn(txn)?.tx else { return Err(Error::internal("a row in page mode")) };
        let tree = tx.tree(table)?;
        recorder.lock().action.txn = Some(txn.to_string());
        tree.bulk_load(rows.iter().map(|(k, v)| (k, v))).map(|_| ())
    }

    /// Lets the collector do what it finds to do.
    pub(super) fn tidy(&mut self) -> Result<()> {
        const STEPS: usize = 1000;
        let db = self.open_db()?;
        self.recorder.lock().action.names_a_free = true;
        for _ in 0..STEPS {
            if !db.engine().collect()? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn get(
        &mut self,
        txn: &str,
        table: &str,
        key: &str,
        expect: Option<&Option<String>>,
    ) -> Result<()> {
        let Tx::Tree(tx) = &self.txn(txn)?.tx else { return Err(Error::internal("a row in page mode")) };
        let found = tx.tree(table)?.get(key)?.map(|v| String::from_utf8_lossy(&v).into_owned());
        let shown = found.as_deref().map_or(Value::Null, Value::from);
        let row = vec![("txn", txn.into()), ("table", table.into()), ("key", key.into()), ("value", shown)];
        self.recorder.lock().push("show", row);
        match expect {
            Some(wanted) if *wanted != found => {
                let m = format!("expected {wanted:?}, found {found:?}");
                Err(Error::new(ErrorKind::InvalidArgument, m))
            }
            _ => Ok(()),
        }
    }

    /// Names the pages that have none yet: `t/leaf1`, `t/node1`, `catalogue1`, `map0`. Their numbers go up as they appear.
    pub(super) fn learn_pages(&mut self) {
        let Some(db) = self.db.clone().filter(|_| self.page_ids.is_empty()) else { return };
        let recorder = self.recorder.clone();
        recorder.muted(|| {
            let mut trees = BTreeMap::new();
            if let Ok(snapshot) = db.begin_read() {
                for name in snapshot.trees().unwrap_or_default() {
                    if let Ok(tree) = snapshot.tree(&name) {
                        trees.insert(tree.id(), name);
                    }
                }
            }
            for id in 0..db.engine().pool().file_pages() {
                let id = hamal::PageId(id);
                if recorder.lock().facts.pages.contains_key(&id) {
                    continue;
                }
                let Ok(page) = db.page(id.0) else { continue };
                let what = match (header::rm(&page), header::kind(&page), trees.get(&header::tree(&page))) {
                    (SPACE_RM, ..) => "map".to_string(),
                    (_, 1, Some(t)) => format!("{t}/leaf"),
                    (_, 2, Some(t)) => format!("{t}/node"),
                    (_, 1 | 2, None)
                        if header::page_id(&page) == id && !header::page_lsn(&page).is_null() =>
                    {
                        "system".to_string()
                    }
                    _ => continue,
                };
                let mut state = recorder.lock();
                let n = state
                    .facts
                    .pages
                    .values()
                    .filter(|n| n.trim_end_matches(|c: char| c.is_ascii_digit()) == what);
                let name = format!("{what}{}", n.count() + 1);
                state.facts.pages.insert(id, name);
            }
        });
    }

    /// Rows that were recorded before their page had a name get it now.
    pub(super) fn name_pages(&self, trace: &mut Trace) {
        let names: HashMap<String, String> = {
            let state = self.recorder.lock();
            state.facts.pages.iter().map(|(id, name)| (format!("page{id}"), name.clone())).collect()
        };
        fn walk(v: &mut Value, names: &HashMap<String, String>) {
            match v {
                Value::String(s) => {
                    if let Some(name) = names.get(s.as_str()) {
                        *s = name.clone();
                    }
                }
                Value::Array(list) => list.iter_mut().for_each(|v| walk(v, names)),
                Value::Object(map) => map.values_mut().for_each(|v| walk(v, names)),
                _ => {}
            }
        }
        for row in &mut trace.rows {
            row.fields.values_mut().for_each(|v| walk(v, &names));
        }
    }
}
