//! Which images of a crash point to look at first, where there are too many to look at all.
//!
//! A *plan* says of every pending operation, sector by sector, whether it reached the device. Plans come in levels, each of
//! which is a finite set that can be exhausted:
//!
//! | level | plans |
//! |---|---|
//! | 0 | every prefix of the pending operations |
//! | 1 | every prefix without one operation of it |
//! | 2 | everything without any two operations; any one operation alone |
//! | 3 | of each operation every first part, every last part, every hole of one sector, every other sector; with the other operations kept, and with them lost |
//! | 4 | a 3-wise covering array: every combination of the fates of any three units (sectors; where they are many, blocks of them or operations) |
//! | 5 | weighted random, without end |
//!
//! Levels 0 and 1 are those of ALICE (Pillai et al., OSDI 2014, section 4); covering arrays are combinatorial testing (Kuhn et
//! al., 2004: nearly all failures need at most three factors); the weights of level 5 lean to the ends, where everything
//! or nothing survives.
use crate::random::Random;
use crate::sim::{Fate, PendingOp, Persistence};
use std::ops::Range;

/// The last level that ends.
pub const LAST_FINITE: u8 = 4;
/// Units beyond which a covering array takes blocks of eight sectors for one.
const MOST_UNITS: usize = 48;

/// What happens to the pending operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which level it belongs to.
    pub level: u8,
    /// For each operation: the fate of its length or name, then of its sectors.
    fates: Vec<Fate>,
}

/// The pending operations of a crash point, and where their units lie in a plan.
#[derive(Clone, Debug)]
pub struct Units {
    /// For each operation, where its fates begin.
    starts: Vec<usize>,
    sectors: Vec<Range<u64>>,
}

impl Units {
    /// Of these operations.
    pub fn of(pending: &[PendingOp]) -> Units {
        let mut starts = Vec::with_capacity(pending.len() + 1);
        let mut at = 0;
        for p in pending {
            starts.push(at);
            at += 1 + (p.sectors.end - p.sectors.start) as usize;
        }
        starts.push(at);
        Units { starts, sectors: pending.iter().map(|p| p.sectors.clone()).collect() }
    }
    /// How many operations.
    pub fn operations(&self) -> usize {
        self.sectors.len()
    }
    fn len(&self) -> usize {
        self.starts[self.sectors.len()]
    }
    fn range(&self, op: usize) -> Range<usize> {
        self.starts[op]..self.starts[op + 1]
    }
    fn sectors_of(&self, op: usize) -> usize {
        self.range(op).len() - 1
    }
}

impl Plan {
    /// A plan in which everything is kept, or lost.
    pub fn all(units: &Units, fate: Fate) -> Plan {
        Plan { level: 0, fates: vec![fate; units.len()] }
    }
    /// The fate of sector `sector` (counted from the start of the file) of operation `op`; of its length or name, if the
    /// operation has no such sector.
    pub fn fate(&self, units: &Units, op: usize, sector: u64) -> Fate {
        let sectors = &units.sectors[op];
        let unit = if sectors.contains(&sector) { 1 + (sector - sectors.start) as usize } else { 0 };
        self.fates[units.starts[op] + unit]
    }
    /// Sets the fate of a whole operation.
    pub fn set(&mut self, units: &Units, op: usize, fate: Fate) {
        self.fates[units.range(op)].fill(fate);
    }
    /// Sets the fate of one sector of an operation, counted from its first.
    pub fn set_sector(&mut self, units: &Units, op: usize, sector: usize, fate: Fate) {
        self.fates[units.starts[op] + 1 + sector] = fate;
    }
    /// The fates of an operation: of its length or name, then of its sectors.
    pub fn fates(&self, units: &Units, op: usize) -> &[Fate] {
        &self.fates[units.range(op)]
    }
}

/// Calls `visit` with every plan of a finite level; stops early if it returns `false`. Whether it went to the end.
pub fn level(
    level: u8,
    units: &Units,
    model: Persistence,
    seed: u64,
    visit: &mut dyn FnMut(&Plan) -> bool,
) -> bool {
    let n = units.operations();
    let mut plan = Plan::all(units, Fate::Lost);
    plan.level = level;
    match (level, model) {
        (0, Persistence::Ordered) => ordered(units, &mut plan, visit),
        (_, Persistence::Ordered) => true,
        (0, _) => {
            // The whole first: what a process that dies leaves, and the likeliest.
            (0..=n).rev().all(|k| {
                prefix(units, &mut plan, k);
                visit(&plan)
            })
        }
        (1, _) => (2..=n).rev().all(|k| {
            (0..k - 1).all(|without| {
                prefix(units, &mut plan, k);
                plan.set(units, without, Fate::Lost);
                visit(&plan)
            })
        }),
        (2, _) => {
            let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).filter(|_| n > 2);
            pairs.into_iter().all(|(i, j)| {
                prefix(units, &mut plan, n);
                plan.set(units, i, Fate::Lost);
                plan.set(units, j, Fate::Lost);
                visit(&plan)
            }) && (1..n).all(|only| {
                prefix(units, &mut plan, 0);
                plan.set(units, only, Fate::Kept);
                visit(&plan)
            })
        }
        (3, _) => (0..n).rev().all(|op| {
            [Fate::Kept, Fate::Lost]
                .into_iter()
                .all(|others| inside(units, &mut plan, op, others, model, visit))
        }),
        (4, _) => covering(units, &mut plan, model, seed, visit),
        _ => true,
    }
}

fn prefix(units: &Units, plan: &mut Plan, k: usize) {
    plan.fates[..units.starts[k]].fill(Fate::Kept);
    plan.fates[units.starts[k]..].fill(Fate::Lost);
}

/// Every prefix, the last operation cut at every sector.
fn ordered(units: &Units, plan: &mut Plan, visit: &mut dyn FnMut(&Plan) -> bool) -> bool {
    (0..=units.operations()).rev().all(|k| {
        prefix(units, plan, k);
        if !visit(plan) {
            return false;
        }
        let Some(last) = k.checked_sub(1) else { return true };
        (0..units.sectors_of(last)).all(|cut| {
            prefix(units, plan, k);
            let range = units.range(last);
            plan.fates[range.start + 1 + cut..range.end].fill(Fate::Lost);
            visit(plan)
        })
    })
}

/// What one operation can look like inside.
fn inside(
    units: &Units,
    plan: &mut Plan,
    op: usize,
    others: Fate,
    model: Persistence,
    visit: &mut dyn FnMut(&Plan) -> bool,
) -> bool {
    let sectors = units.sectors_of(op);
    let mut shape = |length: Fate, of: &dyn Fn(usize) -> Fate| {
        plan.fates.fill(others);
        let range = units.range(op);
        plan.fates[range.start] = length;
        for (i, fate) in plan.fates[range.start + 1..range.end].iter_mut().enumerate() {
            *fate = of(i);
        }
        visit(plan)
    };
    let kept = |yes: bool| if yes { Fate::Kept } else { Fate::Lost };
    let mut ok = shape(Fate::Kept, &|_| Fate::Lost) && (sectors == 0 || shape(Fate::Lost, &|_| Fate::Kept));
    for cut in 1..sectors {
        ok = ok && shape(Fate::Kept, &|i| kept(i < cut)) && shape(Fate::Kept, &|i| kept(i >= cut));
    }
    for hole in 0..sectors {
        ok = ok && shape(Fate::Kept, &|i| kept(i != hole)) && shape(Fate::Kept, &|i| kept(i == hole));
        if model == Persistence::Hostile {
            for damage in [Fate::Zeros, Fate::Garbage] {
                ok = ok && shape(Fate::Kept, &|i| if i == hole { damage } else { Fate::Kept });
            }
        }
    }
    if model == Persistence::Hostile && sectors > 0 {
        ok = ok && shape(Fate::Kept, &|_| Fate::Garbage) && shape(Fate::Kept, &|_| Fate::Zeros);
    }
    for odd in [0, 1] {
        ok = ok && shape(Fate::Kept, &|i| kept(i % 2 == odd));
    }
    ok
}

/// Units of a covering array: ranges of fates that share one. And whether they are all there are.
fn groups(units: &Units) -> (Vec<Range<usize>>, bool) {
    for block in [1, 8, usize::MAX] {
        let mut out = Vec::new();
        for op in 0..units.operations() {
            let range = units.range(op);
            if block == usize::MAX {
                out.push(range);
                continue;
            }
            let mut at = range.start + 1;
            // The length goes with the first block: it has a level of its own (3).
            let mut first = range.start;
            while at < range.end || first < at {
                let to = (at + block).min(range.end.max(at));
                out.push(first..to.max(first + 1));
                if to >= range.end {
                    break;
                }
                first = to;
                at = to;
            }
        }
        if out.len() <= MOST_UNITS || block == usize::MAX {
            let all = out.len() <= 4 * MOST_UNITS;
            out.truncate(4 * MOST_UNITS);
            return (out, all);
        }
    }
    (Vec::new(), true)
}

/// Random rows, until every combination of the fates of any three units has been seen.
fn covering(
    units: &Units,
    plan: &mut Plan,
    model: Persistence,
    seed: u64,
    visit: &mut dyn FnMut(&Plan) -> bool,
) -> bool {
    let (groups, all_units) = groups(units);
    let n = groups.len();
    let fates: &[Fate] = match model {
        Persistence::Hostile => &[Fate::Lost, Fate::Kept, Fate::Garbage],
        _ => &[Fate::Lost, Fate::Kept],
    };
    let f = fates.len();
    let cells = f * f * f;
    let mut triples = Vec::new();
    for a in 0..n {
        for b in a + 1..n {
            triples.extend((b + 1..n).map(|c| (a as u16, b as u16, c as u16)));
        }
    }
    let all = (1u32 << cells) - 1;
    let mut missing: Vec<_> = triples.into_iter().map(|t| (t, all)).collect();
    let mut left = missing.len() * cells;
    let mut random = Random::new(seed ^ 0xC0BE);
    let mut row = vec![0u8; n];
    while left > 0 {
        for r in &mut row {
            *r = random.below(f as u64) as u8;
        }
        // A row that covers nothing new is not worth a run.
        let (mut news, mut done) = (0, 0);
        for (t, m) in &mut missing {
            let at = |i: u16| usize::from(row[usize::from(i)]);
            let bit = 1u32 << ((at(t.0) * f + at(t.1)) * f + at(t.2));
            if *m & bit != 0 {
                *m &= !bit;
                news += 1;
                done += usize::from(*m == 0);
            }
        }
        if done > 0 {
            // The last combinations take most of the rows: only those triples are looked at then.
            missing.retain(|(_, m)| *m != 0);
        }
        left -= news;
        if news == 0 {
            continue;
        }
        for (g, r) in groups.iter().zip(&row) {
            plan.fates[g.clone()].fill(fates[usize::from(*r)]);
        }
        if !visit(plan) {
            return false;
        }
    }
    all_units
}

/// One plan of level 5.
pub fn random(units: &Units, model: Persistence, random: &mut Random) -> Plan {
    let mut plan = Plan::all(units, Fate::Lost);
    plan.level = 5;
    let n = units.operations();
    if model == Persistence::Ordered {
        let k = random.below(n as u64 + 1) as usize;
        prefix(units, &mut plan, k);
        if let Some(last) = k.checked_sub(1) {
            let range = units.range(last);
            let cut = random.below(range.len() as u64) as usize;
            plan.fates[range.start + 1 + cut.min(range.len() - 1)..range.end].fill(Fate::Lost);
        }
        return plan;
    }
    for op in 0..n {
        let range = units.range(op);
        match random.below(10) {
            0..3 => plan.fates[range].fill(Fate::Kept),
            3..6 => {}
            shape => {
                for at in range {
                    plan.fates[at] = match (model, random.below(8)) {
                        (Persistence::Hostile, 0) if shape > 7 => Fate::Zeros,
                        (Persistence::Hostile, 1..3) if shape > 7 => Fate::Garbage,
                        (_, 0..4) => Fate::Kept,
                        _ => Fate::Lost,
                    };
                }
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Act, Site};
    use std::collections::HashSet;

    fn pending(sectors: &[u64]) -> Vec<PendingOp> {
        let site = Site { role: "data", act: Act::Write };
        sectors
            .iter()
            .enumerate()
            .map(|(event, n)| PendingOp { site, file: 1, event, sectors: 8..8 + n })
            .collect()
    }

    fn plans(l: u8, sectors: &[u64], model: Persistence) -> Vec<Vec<Fate>> {
        let units = Units::of(&pending(sectors));
        let mut out = Vec::new();
        assert!(level(l, &units, model, 1, &mut |p| {
            out.push(p.fates.clone());
            true
        }));
        out
    }

    #[test]
    fn levels_are_what_the_table_says() {
        assert_eq!(plans(0, &[1, 1, 1], Persistence::Posix).len(), 4);
        assert_eq!(plans(1, &[1, 1, 1], Persistence::Posix).len(), 3);
        assert_eq!(plans(2, &[1, 1, 1], Persistence::Posix).len(), 3 + 2);
        let unique: HashSet<_> = plans(3, &[8], Persistence::Posix).into_iter().collect();
        assert!(unique.len() >= 7 + 7 + 16 + 2 - 4);
        // Ordered: prefixes of sectors only.
        let all = plans(0, &[2, 3], Persistence::Ordered);
        assert_eq!(all.len(), 1 + (1 + 2) + (1 + 3));
    }

    #[test]
    fn a_covering_array_covers_every_three() {
        let rows = plans(4, &[4, 4, 4], Persistence::Posix);
        let n = rows[0].len();
        assert!(rows.len() < 120, "{}", rows.len());
        // Fates 1.. of each operation are its sectors; the length goes with the first.
        let sectors: Vec<usize> = (0..n).filter(|i| i % 5 != 0).collect();
        for (i, a) in sectors.iter().enumerate() {
            for (j, b) in sectors.iter().enumerate().skip(i + 1) {
                for c in &sectors[j + 1..] {
                    let seen: HashSet<_> = rows.iter().map(|r| (r[*a], r[*b], r[*c])).collect();
                    assert_eq!(seen.len(), 8, "{a} {b} {c}");
                }
            }
        }
    }

    /// More operations than an array has units: what is left out is not called exhausted.
    #[test]
    fn what_is_left_out_is_not_exhausted() {
        for (operations, whole) in [(4 * MOST_UNITS, true), (4 * MOST_UNITS + 1, false)] {
            let units = Units::of(&pending(&vec![0; operations]));
            assert_eq!(level(4, &units, Persistence::Posix, 1, &mut |_| true), whole, "{operations}");
        }
    }

    #[test]
    fn many_units_are_grouped() {
        let rows = plans(4, &[64, 64, 1, 0], Persistence::Hostile);
        assert!(rows.len() > 27 && rows.len() < 1000, "{}", rows.len());
    }
}
