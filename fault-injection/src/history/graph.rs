//! The graph of dependencies, and the cycles that levels forbid.
//!
//! Between committed transactions there is an edge for each
//!
//! * write-write: one wrote a version of a row, the other the next one;
//! * write-read: one wrote the version that the other read;
//! * read-write (anti-dependency): one read a version, the other wrote the next one. If a range told that there was no row, the edge
//!   is by its predicate.
//!
//! Read committed forbids cycles of write-write and write-read edges. Snapshot isolation also forbids those in which no two
//! anti-dependencies are adjacent (Adya; Fekete and others, TODS 2005), serializability all. If levels are mixed, a cycle counts unless it leaves
//! a read committed transaction by an anti-dependency, or enters *and* leaves one of snapshot isolation by one: such steps alone can
//! go back in the order of commits.
use super::judge::{Anomaly, Report, Violation};
use super::record::{History, Kind, Level, Outcome, Transaction};
use super::versions::{Origin, Seen, origins, reads, show};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    /// It wrote the version that the other replaced.
    WriteWrite,
    /// It wrote what the other read.
    WriteRead,
    /// It read the version that the other replaced.
    ReadWrite,
    /// A range of it did not find the row that the other wrote.
    PredicateReadWrite,
}

impl Dependency {
    fn is_anti(self) -> bool {
        matches!(self, Dependency::ReadWrite | Dependency::PredicateReadWrite)
    }
    /// In two letters, or three.
    pub fn name(self) -> &'static str {
        match self {
            Dependency::WriteWrite => "ww",
            Dependency::WriteRead => "wr",
            Dependency::ReadWrite => "rw",
            Dependency::PredicateReadWrite => "prw",
        }
    }
}

/// An edge of the graph. Transactions are named by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// Who comes first.
    pub from: u64,
    /// Who comes later.
    pub to: u64,
    /// Why.
    pub dependency: Dependency,
    /// Because of which row.
    pub key: u64,
}

/// A version of a row: who wrote it, and its name; a deletion has none.
#[derive(Clone, Copy, Debug)]
struct Version {
    writer: usize,
    element: Option<u64>,
    at: Option<u64>,
}

/// Judges a history by its graph.
pub fn judge(h: &History) -> Report {
    let mut report = Report::default();
    let origins = origins(h, &mut report.violations);
    let seen: Vec<Vec<Seen<'_>>> = h.transactions.iter().map(|t| reads(t, &mut report.violations)).collect();
    let inside = inside(h, &seen, &origins);
    report.counts.reads = seen.iter().map(|s| s.len() as u64).sum();
    for (t, seen) in h.transactions.iter().zip(&seen).zip(&inside).filter(|(_, i)| **i).map(|(p, _)| p) {
        for s in seen {
            report.violations.extend(origin_of_read(h, t, s, &origins));
        }
    }
    let orders = match h.kind {
        Kind::Lists => by_lists(h, &seen, &inside, &origins, &mut report.violations),
        Kind::Registers => by_timestamps(h, &inside),
    };
    let graph = Graph::new(h, &seen, &inside, &orders);
    report.counts.edges = graph.count();
    report.violations.extend(graph.cycle());
    report
}

/// Which transactions are part of the committed history: those of which nobody knows are if one that committed saw something of them.
fn inside(h: &History, seen: &[Vec<Seen<'_>>], origins: &HashMap<u64, Origin>) -> Vec<bool> {
    let mut inside: Vec<bool> = h.transactions.iter().map(Transaction::committed).collect();
    // What one that is inside saw is inside: from reader to writer.
    let mut todo: Vec<usize> = (0..inside.len()).filter(|t| inside[*t]).collect();
    while let Some(t) = todo.pop() {
        for element in seen[t].iter().filter_map(|s| s.state).flatten() {
            if let Some(o) = origins.get(element)
                && h.transactions[o.writer].outcome == Outcome::Unknown
                && !inside[o.writer]
            {
                inside[o.writer] = true;
                todo.push(o.writer);
            }
        }
    }
    inside
}

/// Whether a committed transaction may have read that.
fn origin_of_read(
    h: &History,
    t: &Transaction,
    s: &Seen<'_>,
    origins: &HashMap<u64, Origin>,
) -> Option<Violation> {
    let row = s.state?;
    for (i, element) in row.iter().enumerate() {
        let read = format!("T{} read {} of key {}", t.id, show(Some(row)), s.key);
        let Some(o) = origins.get(element).filter(|o| o.key == s.key) else {
            return Some(Violation::of(
                Anomaly::Garbage,
                &[t.id],
                format!("{read}: nobody wrote {element} there"),
            ));
        };
        let writer = &h.transactions[o.writer];
        let ids = [writer.id, t.id];
        let gone = match writer.outcome {
            Outcome::Aborted => Some("was rolled back"),
            Outcome::Lost { .. } => Some("was lost by a crash"),
            _ if !o.kept => Some("undid it with a savepoint"),
            Outcome::Committed { .. } | Outcome::Unknown => None,
        };
        if let Some(gone) = gone {
            let m = format!("{read}: {element} is of T{}, which {gone}", writer.id);
            return Some(Violation::of(Anomaly::G1a, &ids, m));
        }
        if i + 1 == row.len() && !o.last && writer.id != t.id {
            let m = format!("{read}: T{} wrote the row again after {element}", writer.id);
            return Some(Violation::of(Anomaly::G1b, &ids, m));
        }
    }
    None
}

/// The order of versions that lists tell: each read is a first part of the longest one.
fn by_lists(
    h: &History,
    seen: &[Vec<Seen<'_>>],
    inside: &[bool],
    origins: &HashMap<u64, Origin>,
    wrong: &mut Vec<Violation>,
) -> BTreeMap<u64, Vec<Version>> {
    let mut longest: BTreeMap<u64, (&[u64], usize)> = BTreeMap::new();
    let all = || (0..seen.len()).filter(|t| inside[*t]).flat_map(|t| seen[t].iter().map(move |s| (t, s)));
    for (t, s) in all() {
        let Some(row) = s.state else { continue };
        let entry = longest.entry(s.key).or_insert((row, t));
        if row.len() > entry.0.len() {
            *entry = (row, t);
        }
    }
    for (t, s) in all() {
        let Some((most, by)) = longest.get(&s.key) else { continue };
        let row = s.state.unwrap_or(&[]);
        if !most.starts_with(row) || row.iter().collect::<HashSet<_>>().len() < row.len() {
            let (a, b) = (h.transactions[t].id, h.transactions[*by].id);
            let m = format!(
                "of key {} T{a} read {} and T{b} read {}: not a beginning of it",
                s.key,
                show(s.state),
                show(Some(most))
            );
            wrong.push(Violation::of(Anomaly::IncompatibleOrder, &[a, b], m));
        }
    }
    let mut orders: BTreeMap<u64, Vec<Version>> = BTreeMap::new();
    for (key, (row, _)) in &longest {
        let order = orders.entry(*key).or_default();
        for element in *row {
            if let Some(o) = origins.get(element) {
                order.push(Version {
                    writer: o.writer,
                    element: Some(*element),
                    at: h.transactions[o.writer].at(),
                });
            }
        }
    }
    // An append that nobody saw, beside those that were seen, is the last one if it is the only one.
    for (key, writers) in unseen(h, inside, &longest) {
        if let [(writer, element)] = writers[..] {
            let at = h.transactions[writer].at();
            orders.entry(key).or_default().push(Version { writer, element: Some(element), at });
        }
    }
    orders
}

/// For each key who appended what nobody saw.
fn unseen(
    h: &History,
    inside: &[bool],
    longest: &BTreeMap<u64, (&[u64], usize)>,
) -> BTreeMap<u64, Vec<(usize, u64)>> {
    let seen: HashSet<u64> = longest.values().flat_map(|(row, _)| row.iter().copied()).collect();
    let mut unseen: BTreeMap<u64, Vec<(usize, u64)>> = BTreeMap::new();
    for (writer, t) in h.transactions.iter().enumerate().filter(|(w, _)| inside[*w]) {
        for (key, state) in t.writes() {
            if let Some(element) = state.as_ref().and_then(|s| s.last())
                && !seen.contains(element)
            {
                unseen.entry(key).or_default().push((writer, *element));
            }
        }
    }
    unseen
}

/// The order of versions that commits tell. A key of which a writer's timestamp is not known has none.
fn by_timestamps(h: &History, inside: &[bool]) -> BTreeMap<u64, Vec<Version>> {
    let mut orders: BTreeMap<u64, Vec<Version>> = BTreeMap::new();
    let mut unknown = HashSet::new();
    for (writer, t) in h.transactions.iter().enumerate().filter(|(w, _)| inside[*w]) {
        for (key, state) in t.writes() {
            if t.at().is_none() {
                unknown.insert(key);
            }
            let element = state.as_ref().and_then(|s| s.last().copied());
            orders.entry(key).or_default().push(Version { writer, element, at: t.at() });
        }
    }
    orders.retain(|key, _| !unknown.contains(key));
    for order in orders.values_mut() {
        order.sort_by_key(|v| v.at);
    }
    orders
}

/// How far a search goes: these edges and those before them.
const STAGES: [Dependency; 4] =
    [Dependency::WriteWrite, Dependency::WriteRead, Dependency::ReadWrite, Dependency::PredicateReadWrite];

struct Graph<'h> {
    h: &'h History,
    /// For each transaction to whom, why, because of which key.
    out: Vec<Vec<(usize, Dependency, u64)>>,
}

impl<'h> Graph<'h> {
    fn new(
        h: &'h History,
        seen: &[Vec<Seen<'_>>],
        inside: &[bool],
        orders: &BTreeMap<u64, Vec<Version>>,
    ) -> Graph<'h> {
        let mut g = Graph { h, out: vec![Vec::new(); h.transactions.len()] };
        let mut places: HashMap<u64, usize> = HashMap::new();
        for (key, order) in orders {
            for pair in order.windows(2) {
                g.edge(pair[0].writer, pair[1].writer, Dependency::WriteWrite, *key);
            }
            places.extend(order.iter().enumerate().filter_map(|(i, v)| Some((v.element?, i))));
        }
        for (reader, seen) in seen.iter().enumerate().filter(|(r, _)| inside[*r]) {
            for s in seen.iter().filter(|s| s.kept) {
                if let Some(order) = orders.get(&s.key) {
                    g.read(reader, s, order, &places);
                }
            }
        }
        for out in &mut g.out {
            out.sort_unstable();
            out.dedup_by_key(|(to, why, _)| (*to, *why));
        }
        g
    }

    fn edge(&mut self, from: usize, to: usize, why: Dependency, key: u64) {
        if from != to {
            self.out[from].push((to, why, key));
        }
    }

    /// The edges of a read.
    fn read(&mut self, reader: usize, s: &Seen<'_>, order: &[Version], places: &HashMap<u64, usize>) {
        // Which version it read: none is the state before all of them.
        let place = match s.state.and_then(|row| row.last()) {
            Some(element) => match places.get(element) {
                Some(p) => Some(*p),
                None => return,
            },
            None => deletion(self.h, reader, s, order),
        };
        if let Some(p) = place {
            self.edge(order[p].writer, reader, Dependency::WriteRead, s.key);
        }
        let why = if s.predicate { Dependency::PredicateReadWrite } else { Dependency::ReadWrite };
        // One that wrote a row more than once has several versions of it, of which others see the last.
        let next = order[place.map_or(0, |p| p + 1)..]
            .iter()
            .find(|v| place.is_none_or(|p| v.writer != order[p].writer));
        if let Some(next) = next {
            self.edge(reader, next.writer, why, s.key);
        }
    }

    fn count(&self) -> u64 {
        self.out.iter().map(|o| o.len() as u64).sum()
    }

    /// The shortest forbidden cycle of the worst sort.
    fn cycle(&self) -> Option<Violation> {
        let cycle = STAGES.iter().find_map(|most| Search { graph: self, most: *most }.shortest())?;
        let anomaly = classify(&cycle);
        let mut message = format!("a cycle of {} transactions", cycle.len());
        for e in &cycle {
            let [from, to] = [e.from, e.to];
            let why = match e.dependency {
                Dependency::WriteWrite => format!("T{to} replaced what T{from} had written"),
                Dependency::WriteRead => format!("T{to} read what T{from} wrote"),
                Dependency::ReadWrite => format!("T{from} read what T{to} replaced"),
                Dependency::PredicateReadWrite => format!("a range of T{from} has not what T{to} wrote"),
            };
            message += &format!("\n  T{from} -{}-> T{to}: key {}: {why}", e.dependency.name(), e.key);
        }
        for e in &cycle {
            if let Some(t) = self.h.transactions.iter().find(|t| t.id == e.from) {
                message += &format!("\n  {}", super::elle::line(t));
            }
        }
        let transactions = cycle.iter().map(|e| e.from).collect();
        Some(Violation { anomaly, transactions, message, cycle })
    }
}

/// The deletion that one saw who found no row: the newest one at its snapshot, if it is known; none if there was never a row. Of a
/// statement with some choice it is the first that it may have seen: what it did see comes after that one.
fn deletion(h: &History, reader: usize, s: &Seen<'_>, order: &[Version]) -> Option<usize> {
    let t = &h.transactions[reader];
    let at = s.at.map(|(low, _)| low).or(t.snapshot);
    // Who reads for update under read committed reads what is there at its commit.
    let at = if s.locked && t.level == Level::ReadCommitted { t.at().or(at) } else { at };
    let deletions = order.iter().enumerate().filter(|(_, v)| v.element.is_none());
    deletions
        .filter(|(_, v)| v.at.zip(at).is_none_or(|(v, at)| v <= at))
        .filter(|(_, v)| v.writer != reader)
        .map(|(i, _)| i)
        .next_back()
}

/// The name of a cycle.
fn classify(cycle: &[Edge]) -> Anomaly {
    let anti: Vec<bool> = cycle.iter().map(|e| e.dependency.is_anti()).collect();
    let adjacent = (0..anti.len()).any(|i| anti[i] && anti[(i + 1) % anti.len()]);
    match anti.iter().filter(|a| **a).count() {
        0 if cycle.iter().all(|e| e.dependency == Dependency::WriteWrite) => Anomaly::G0,
        0 => Anomaly::G1c,
        1 => Anomaly::GSingle,
        _ if !adjacent => Anomaly::GNonadjacent,
        _ if cycle.iter().any(|e| e.dependency == Dependency::PredicateReadWrite) => Anomaly::G2,
        _ => Anomaly::G2Item,
    }
}

/// A search among some sorts of edges. Its states are transactions, each twice: entered by an anti-dependency, or not.
struct Search<'g, 'h> {
    graph: &'g Graph<'h>,
    most: Dependency,
}

/// A search begins at so many states of a component at most: one bug can tie all transactions together.
const STARTS: usize = 300;

impl Search<'_, '_> {
    fn next(&self, state: usize) -> impl Iterator<Item = (usize, Dependency, u64)> {
        let (t, entered_by_anti) = (state / 2, state % 2 == 1);
        let may_leave_by_anti = match self.graph.h.transactions[t].level {
            Level::ReadCommitted => false,
            Level::Snapshot | Level::ReadOnly => !entered_by_anti,
            Level::Serializable => true,
        };
        self.graph.out[t]
            .iter()
            .filter(move |(_, why, _)| *why <= self.most && (may_leave_by_anti || !why.is_anti()))
            .map(|(to, why, key)| (to * 2 + usize::from(why.is_anti()), *why, *key))
    }

    fn shortest(&self) -> Option<Vec<Edge>> {
        let component = self.components();
        let mut size: HashMap<usize, usize> = HashMap::new();
        component.iter().for_each(|c| *size.entry(*c).or_default() += 1);
        let starts = (0..component.len()).filter(|s| size[&component[*s]] > 1).take(STARTS);
        starts.filter_map(|s| self.cycle_from(s, &component)).min_by_key(Vec::len)
    }

    /// The shortest way from a state back to it, within its component: breadth first.
    fn cycle_from(&self, start: usize, component: &[usize]) -> Option<Vec<Edge>> {
        let id = |state: usize| self.graph.h.transactions[state / 2].id;
        let mut came: HashMap<usize, (usize, Dependency, u64)> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(from) = queue.pop_front() {
            for (to, why, key) in self.next(from).filter(|(to, ..)| component[*to] == component[start]) {
                if came.contains_key(&to) {
                    continue;
                }
                came.insert(to, (from, why, key));
                if to == start {
                    let (mut cycle, mut at) = (Vec::new(), start);
                    loop {
                        let (from, dependency, key) = came[&at];
                        cycle.push(Edge { from: id(from), to: id(at), dependency, key });
                        at = from;
                        if at == start {
                            cycle.reverse();
                            return Some(cycle);
                        }
                    }
                }
                queue.push_back(to);
            }
        }
        None
    }

    /// The strongly connected component of each state (Tarjan 1972, without recursion).
    fn components(&self) -> Vec<usize> {
        const NONE: usize = usize::MAX;
        let n = self.graph.out.len() * 2;
        let (mut index, mut low, mut component) = (vec![NONE; n], vec![0; n], vec![NONE; n]);
        let (mut stack, mut found, mut counter) = (Vec::new(), 0, 0);
        for root in 0..n {
            if index[root] != NONE {
                continue;
            }
            let mut calls = vec![(root, self.next(root))];
            (index[root], low[root]) = (counter, counter);
            counter += 1;
            stack.push(root);
            while let Some((at, next)) = calls.last_mut() {
                let at = *at;
                match next.next() {
                    Some((to, ..)) if index[to] == NONE => {
                        (index[to], low[to]) = (counter, counter);
                        counter += 1;
                        stack.push(to);
                        calls.push((to, self.next(to)));
                    }
                    Some((to, ..)) => {
                        if component[to] == NONE {
                            low[at] = low[at].min(index[to]);
                        }
                    }
                    None => {
                        if low[at] == index[at] {
                            while let Some(s) = stack.pop() {
                                component[s] = found;
                                if s == at {
                                    break;
                                }
                            }
                            found += 1;
                        }
                        calls.pop();
                        if let Some((caller, _)) = calls.last() {
                            low[*caller] = low[*caller].min(low[at]);
                        }
                    }
                }
            }
        }
        component
    }
}
