//! What must be there: the states that the acknowledged commits of a scenario allow, whatever happened to the disk.
use crate::op::{Ack, Op, TreeNo, Txn, key_bytes, value_bytes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of one tree, by key.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Everything that a database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The trees that exist, by number.
    pub trees: BTreeMap<TreeNo, Rows>,
}

impl Contents {
    /// Rows in all trees.
    pub fn rows(&self) -> usize {
        self.trees.values().map(BTreeMap::len).sum()
    }

    /// Rows and trees in which they differ.
    fn distance(&self, other: &Contents) -> usize {
        let none = Rows::new();
        let trees: std::collections::BTreeSet<_> = self.trees.keys().chain(other.trees.keys()).collect();
        let rows = |t: &TreeNo| {
            let (a, b) = (self.trees.get(t).unwrap_or(&none), other.trees.get(t).unwrap_or(&none));
            let missing = a.iter().filter(|(k, v)| b.get(*k) != Some(v)).count();
            missing + b.keys().filter(|k| !a.contains_key(*k)).count()
        };
        let gone = |t: &TreeNo| usize::from(self.trees.contains_key(t) != other.trees.contains_key(t));
        trees.into_iter().map(|t| gone(t) + rows(t)).sum()
    }

    /// Says in a sentence how `found` differs from this.
    pub fn difference(&self, found: &Contents) -> Option<String> {
        for (tree, rows) in &self.trees {
            let Some(there) = found.trees.get(tree) else {
                return Some(format!("tree t{tree} ({} rows) is missing", rows.len()));
            };
            for (key, value) in rows {
                let key_text = String::from_utf8_lossy(key);
                match there.get(key) {
                    None => return Some(format!("row {key_text} of t{tree} is missing")),
                    Some(v) if v != value => {
                        let at =
                            v.iter().zip(value).position(|(a, b)| a != b).unwrap_or(v.len().min(value.len()));
                        return Some(format!(
                            "row {key_text} of t{tree} has another value ({} bytes for {}, first different at {at})",
                            v.len(),
                            value.len()
                        ));
                    }
                    Some(_) => {}
                }
            }
            if let Some(key) = there.keys().find(|k| !rows.contains_key(*k)) {
                return Some(format!("row {} of t{tree} should not be there", String::from_utf8_lossy(key)));
            }
        }
        let extra = found.trees.keys().find(|t| !self.trees.contains_key(t))?;
        Some(format!("tree t{extra} should not be there"))
    }

    fn apply(&mut self, effect: &Op) {
        match *effect {
            Op::CreateTree { tree, .. } => {
                self.trees.entry(tree).or_default();
            }
            Op::DropTree { tree, .. } => {
                self.trees.remove(&tree);
            }
            Op::Put { tree, key, len, fill, .. } => {
                if let Some(rows) = self.trees.get_mut(&tree) {
                    rows.insert(key_bytes(key), value_bytes(len, fill));
                }
            }
            Op::Delete { tree, key, .. } => {
                if let Some(rows) = self.trees.get_mut(&tree) {
                    rows.remove(&key_bytes(key));
                }
            }
            Op::Add { tree, key, delta, .. } => {
                if let Some(rows) = self.trees.get_mut(&tree) {
                    let old = rows.get(&key_bytes(key)).map_or(0, |v| number(v));
                    rows.insert(key_bytes(key), old.wrapping_add(i64::from(delta)).to_le_bytes().to_vec());
                }
            }
            _ => {}
        }
    }
}

/// The number that a value holds (see [`Op::Add`]); 0 if it is none.
pub fn number(value: &[u8]) -> i64 {
    value.try_into().map_or(0, i64::from_le_bytes)
}

/// The states that may be found at one moment.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// State `i` is what the first `i` commits made.
    states: Arc<Vec<Contents>>,
    /// So many commits are surely durable.
    low: usize,
    /// So many may be.
    high: usize,
}

/// Why contents are not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// They are a state of earlier commits: acknowledged ones are gone as a whole.
    Lost,
    /// They are no state at all.
    Torn,
}

impl Allowed {
    /// Whether `found` is one of the states; which one. Otherwise what is wrong, and a sentence.
    ///
    /// # Errors
    /// The sentence.
    pub fn judge(&self, found: &Contents) -> Result<usize, (Wrong, String)> {
        for i in (self.low..=self.high).rev() {
            if self.states[i] == *found {
                return Ok(i);
            }
        }
        if let Some(i) = (0..self.low).rev().find(|i| self.states[*i] == *found) {
            return Err((
                Wrong::Lost,
                format!("{} commits were acknowledged as durable, only {i} are there", self.low),
            ));
        }
        // The sentence is about the state that is nearest.
        let far = |i: &usize| self.states[*i].distance(found);
        let nearest = (self.low..=self.high).min_by_key(far).unwrap_or(self.low);
        let what = self.states[nearest].difference(found).unwrap_or_default();
        let whose = if nearest == self.low { "acknowledged commits" } else { "commits that may be there" };
        Err((Wrong::Torn, format!("measured by the {nearest} {whose}: {what}")))
    }
    /// A prefix of the commits, however short: what a device that lied about a sync may leave.
    #[must_use]
    pub fn any_prefix(&self) -> Allowed {
        Allowed { low: 0, ..self.clone() }
    }
    /// Exactly state `i`.
    #[must_use]
    pub fn exactly(&self, i: usize) -> Allowed {
        Allowed { states: self.states.clone(), low: i, high: i }
    }
    /// Commits that are surely durable.
    pub fn low(&self) -> usize {
        self.low
    }
    /// Commits that may be.
    pub fn high(&self) -> usize {
        self.high
    }
    /// What the first `i` commits made.
    pub fn state(&self, i: usize) -> &Contents {
        &self.states[i]
    }
}

#[derive(Clone, Debug, Default)]
struct OpenTxn {
    /// The state that it saw when it began.
    began: usize,
    effects: Vec<Op>,
    savepoints: Vec<(u8, usize)>,
}

/// The row that an effect changed.
fn row_of(effect: &Op) -> Option<(TreeNo, u32)> {
    match *effect {
        Op::Put { tree, key, .. } | Op::Delete { tree, key, .. } | Op::Add { tree, key, .. } => {
            Some((tree, key))
        }
        _ => None,
    }
}

/// The tree that an effect made or dropped.
fn catalogue_of(effect: &Op) -> Option<TreeNo> {
    match *effect {
        Op::CreateTree { tree, .. } | Op::DropTree { tree, .. } => Some(tree),
        _ => None,
    }
}

/// Follows a scenario. Tell it of every operation [before](Model::begin) and [after](Model::end).
#[derive(Clone, Debug)]
pub struct Model {
    states: Arc<Vec<Contents>>,
    low: usize,
    open: BTreeMap<Txn, OpenTxn>,
    /// What each commit changed: `commits[i]` made state `i + 1`.
    commits: Vec<Vec<Op>>,
    snapshots: BTreeMap<u8, Allowed>,
}

impl Default for Model {
    fn default() -> Model {
        Model::starting_from(Contents::default())
    }
}

impl Model {
    /// A model of a database that holds `contents`, all of it durable.
    pub fn starting_from(contents: Contents) -> Model {
        Model {
            states: Arc::new(vec![contents]),
            low: 0,
            open: BTreeMap::new(),
            commits: Vec::new(),
            snapshots: BTreeMap::new(),
        }
    }

    /// What may be found now.
    pub fn allowed(&self) -> Allowed {
        Allowed { states: self.states.clone(), low: self.low, high: self.states.len() - 1 }
    }

    /// Whether the transaction is open.
    pub fn is_open(&self, txn: Txn) -> bool {
        self.open.contains_key(&txn)
    }

    /// The operation is about to be applied. From here on its effect may be found, if it is a commit.
    pub fn begin(&mut self, op: &Op) {
        let Op::Commit { txn, .. } = op else { return };
        let Some(t) = self.open.get(txn) else { return };
        let mut next = self.states[self.states.len() - 1].clone();
        for effect in &t.effects {
            next.apply(effect);
        }
        self.commits.push(t.effects.clone());
        Arc::make_mut(&mut self.states).push(next);
    }

    /// It was applied.
    pub fn end(&mut self, op: &Op, all_durable: bool) {
        match op {
            Op::Begin { txn } => {
                let began = self.states.len() - 1;
                self.open.insert(*txn, OpenTxn { began, ..OpenTxn::default() });
            }
            Op::Savepoint { txn, name } => {
                if let Some(t) = self.open.get_mut(txn) {
                    let at = t.effects.len();
                    t.savepoints.push((*name, at));
                }
            }
            Op::RollbackTo { txn, name } => {
                if let Some(t) = self.open.get_mut(txn)
                    && let Some(i) = t.savepoints.iter().rposition(|(n, _)| n == name)
                {
                    t.effects.truncate(t.savepoints[i].1);
                    t.savepoints.truncate(i + 1);
                }
            }
            Op::Commit { txn, ack } => {
                self.open.remove(txn);
                if *ack == Ack::Durable {
                    self.low = self.states.len() - 1;
                }
            }
            Op::Rollback { txn } => {
                self.open.remove(txn);
            }
            Op::Reopen => {
                self.open.clear();
                self.snapshots.clear();
                self.low = self.states.len() - 1;
            }
            Op::Release { name } => {
                self.snapshots.remove(name);
            }
            Op::Read { .. } => {}
            // Removing what the transaction does not see is nothing, whoever may have put it there meanwhile.
            Op::Delete { txn, tree, key } if !self.sees(*txn, *tree, *key) => {}
            Op::Load { txn, .. } => {
                if let Some(t) = self.open.get_mut(txn) {
                    t.effects.extend(op.rows());
                }
            }
            effect => {
                if let Some(t) = effect.txn().and_then(|t| self.open.get_mut(&t)) {
                    t.effects.push(effect.clone());
                }
            }
        }
        if all_durable {
            self.low = self.states.len() - 1;
        }
    }

    /// Whether the transaction sees the row: its own changes, on what was there when it began.
    fn sees(&self, txn: Txn, tree: TreeNo, key: u32) -> bool {
        let Some(t) = self.open.get(&txn) else { return false };
        for effect in t.effects.iter().rev() {
            match *effect {
                Op::Put { tree: at, key: k, .. } | Op::Add { tree: at, key: k, .. }
                    if (at, k) == (tree, key) =>
                {
                    return true;
                }
                Op::Delete { tree: at, key: k, .. } if (at, k) == (tree, key) => return false,
                Op::CreateTree { tree: at, .. } | Op::DropTree { tree: at, .. } if at == tree => {
                    return false;
                }
                _ => {}
            }
        }
        self.states[t.began].trees.get(&tree).is_some_and(|rows| rows.contains_key(&key_bytes(key)))
    }

    /// Whether the transaction sees the tree: its own changes, on what was there when it began.
    fn sees_tree(&self, t: &OpenTxn, tree: TreeNo) -> bool {
        let own = t.effects.iter().rev().find_map(|effect| match *effect {
            Op::CreateTree { tree: at, .. } if at == tree => Some(true),
            Op::DropTree { tree: at, .. } if at == tree => Some(false),
            _ => None,
        });
        own.unwrap_or_else(|| self.states[t.began].trees.contains_key(&tree))
    }

    /// It was refused and changed nothing.
    pub fn refused(&mut self, op: &Op) {
        if let Op::Commit { txn, .. } = op
            && self.open.contains_key(txn)
        {
            Arc::make_mut(&mut self.states).pop();
            self.commits.pop();
        }
    }

    /// A snapshot was opened that must not show the last `early` commits.
    pub fn opened_snapshot(&mut self, name: u8, early: u64) {
        let mut allowed = self.allowed();
        allowed.high -= usize::try_from(early).unwrap_or(usize::MAX).min(allowed.high - allowed.low);
        self.snapshots.insert(name, allowed);
    }

    /// Whether the snapshot is open.
    pub fn has_snapshot(&self, name: u8) -> bool {
        self.snapshots.contains_key(&name)
    }

    /// What is wrong if snapshot `name` shows `found`. A snapshot shows one state for ever; which of those that were possible when
    /// it was opened is known when it is first read.
    pub fn looked(&mut self, name: u8, found: &Contents) -> Option<String> {
        let allowed = self.snapshots.get_mut(&name)?;
        match allowed.judge(found) {
            // Equal states are one.
            Ok(i) => {
                let same = |j: &usize| allowed.states[*j] == allowed.states[i];
                allowed.low = (allowed.low..=i).find(same).unwrap_or(i);
                allowed.high = i;
                None
            }
            Err((_, text)) => Some(format!("snapshot {name} does not show its state: {text}")),
        }
    }

    /// What the transaction sees: the state in which it began, and its own changes.
    pub fn seen_by(&self, txn: Txn) -> Option<Contents> {
        let t = self.open.get(&txn)?;
        let mut contents = self.states[t.began].clone();
        t.effects.iter().for_each(|effect| contents.apply(effect));
        Some(contents)
    }

    /// Why the operation must not be let through, if it must not: its tree is not there, or is there already; or an open transaction has
    /// changed the same, or one that committed after this one began.
    pub fn must_refuse(&self, op: &Op) -> Option<String> {
        if matches!(op, Op::Load { .. }) {
            return op.rows().find_map(|row| self.must_refuse(&row));
        }
        let txn = op.txn()?;
        let own = self.open.get(&txn)?;
        let there = match *op {
            Op::Put { tree, .. }
            | Op::Delete { tree, .. }
            | Op::Add { tree, .. }
            | Op::DropTree { tree, .. } => (!self.sees_tree(own, tree)).then_some("sees no such tree"),
            Op::CreateTree { tree, .. } => self.sees_tree(own, tree).then_some("sees that tree already"),
            _ => None,
        };
        if let Some(why) = there {
            return Some(format!("`{op}` is let through, though its transaction {why}"));
        }
        let touches: &dyn Fn(&Op) -> bool = match *op {
            Op::Delete { tree, key, .. } if !self.sees(txn, tree, key) => return None,
            Op::Put { tree, key, .. } | Op::Delete { tree, key, .. } | Op::Add { tree, key, .. } => {
                &move |other: &Op| row_of(other) == Some((tree, key)) || catalogue_of(other) == Some(tree)
            }
            Op::DropTree { tree, .. } => &move |other: &Op| catalogue_of(other) == Some(tree),
            _ => return None,
        };
        let writes = |other: &Op| match *op {
            Op::DropTree { tree, .. } => row_of(other).is_some_and(|(t, _)| t == tree),
            _ => false,
        };
        for (other, t) in self.open.iter().filter(|(other, _)| **other != txn) {
            if t.effects.iter().any(|e| touches(e) || writes(e)) {
                return Some(format!(
                    "`{op}` is let through, though open transaction {other} has changed the same"
                ));
            }
        }
        let later = self.commits.get(own.began..)?.iter().flatten();
        later.into_iter().any(touches).then(|| {
            format!("`{op}` is let through, though what it changes was changed after its transaction began")
        })
    }

    /// The process died, or the engine did: open transactions are gone, and one of the allowed states is what there is.
    pub fn settle(&mut self, state: usize) {
        let contents = self.states[state].clone();
        *self = Model::starting_from(contents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &mut Model, lines: &[&str]) {
        for line in lines {
            let op: Op = line.parse().unwrap();
            assert_eq!(op.to_string(), *line);
            model.begin(&op);
            model.end(&op, false);
        }
    }

    #[test]
    fn a_commit_in_flight_may_be_there_and_an_acknowledged_one_must() {
        let mut m = Model::default();
        run(&mut m, &["begin 1", "create 1 0", "put 1 0 5 10 7", "commit 1", "begin 2", "savepoint 2 1"]);
        run(&mut m, &["add 2 0 6 4", "savepoint 2 2", "delete 2 0 5", "rollback-to 2 1", "add 2 0 6 9"]);
        let one = m.allowed();
        assert_eq!((one.low(), one.high()), (1, 1));
        m.begin(&"commit 2".parse().unwrap());
        let both = m.allowed();
        assert_eq!((both.low(), both.high()), (1, 2));
        assert_eq!(number(&both.state(2).trees[&0][&key_bytes(6)]), 9);
        assert_eq!(both.judge(one.state(1)).unwrap(), 1);
        assert_eq!(both.judge(&Contents::default()).unwrap_err().0, Wrong::Lost);
        let mut torn = one.state(1).clone();
        torn.trees.get_mut(&0).unwrap().clear();
        assert_eq!(both.judge(&torn).unwrap_err().0, Wrong::Torn);
        m.refused(&"commit 2".parse().unwrap());
        assert_eq!(m.allowed().high(), 1);
    }

    #[test]
    fn removing_what_is_not_seen_is_nothing() {
        let mut m = Model::default();
        run(
            &mut m,
            &["begin 1", "create 1 0", "commit 1", "begin 1", "begin 2", "put 2 0 5 9 1", "commit 2"],
        );
        run(&mut m, &["delete 1 0 5", "put 1 0 6 9 1", "commit 1"]);
        assert_eq!(m.allowed().state(3).trees[&0].len(), 2);
    }

    #[test]
    fn what_is_not_there_takes_no_changes() {
        let mut m = Model::default();
        run(&mut m, &["begin 1", "create 1 0", "commit 1", "begin 1", "begin 2", "drop 2 0", "commit 2"]);
        run(&mut m, &["begin 3"]);
        let refused = |m: &Model, op: &str| m.must_refuse(&op.parse().unwrap());
        for op in ["put 3 0 1 9 1", "delete 3 0 1", "add 3 0 1 4", "drop 3 0"] {
            assert!(refused(&m, op).unwrap().ends_with("sees no such tree"), "{op}");
        }
        assert!(refused(&m, "create 1 0").unwrap().ends_with("sees that tree already"));
        assert!(refused(&m, "put 1 0 1 9 1").unwrap().ends_with("changed after its transaction began"));
        assert_eq!(refused(&m, "create 3 0"), None);
        run(&mut m, &["create 3 0"]);
        assert_eq!(refused(&m, "put 3 0 1 9 1"), None);
        assert!(refused(&m, "create 3 0").is_some());
    }

    #[test]
    fn an_early_commit_is_durable_with_the_next_durable_one() {
        let mut m = Model::default();
        run(&mut m, &["begin 1", "create 1 0", "commit-early 1"]);
        assert_eq!((m.allowed().low(), m.allowed().high()), (0, 1));
        run(&mut m, &["begin 1", "put 1 0 1 1 1", "commit 1"]);
        assert_eq!((m.allowed().low(), m.allowed().high()), (2, 2));
    }
}
