//! Situations: short scenarios in which something happens that random ones rarely come to. Each is a few lines of text; what a
//! mechanism needs to go wrong is in it, and the search of its crashes does the rest.
//!
//! A situation begins with its name and ends where the next begins:
//!
//! ```text
//! situation dead-engine
//! # After a failed sync nothing is committed any more.
//! shows engine-goes-on
//! config page 4096 images on
//! fault wal sync 1..6 once eio
//! begin 1; create 1 0; put 1 0 1 30 1; commit 1
//! repeat 3: begin 1; put 1 0 $ 30 2; commit 1
//! sweep misdirected page
//! ```
//!
//! `shows` names the planted bugs that it is for. In a line after `repeat N:` every `$` is 1, 2, .. N in turn, and every `~` N, .. 2, 1. A range of calls in a fault
//! means one run for each. With `sweep` lines the database that the operations leave is damaged instead of crashed: `closed` or `killed`,
//! and the names of the damage.
use crate::case::{parse_config, parse_sweep};
use crate::engine::Config;
use crate::op::Op;
use crate::sim::IoFault;
use crate::sweep::Damage;
use crate::workload::Workload;

const TEXT: &str = include_str!("situations.txt");

/// One of them.
#[derive(Clone, Debug)]
pub struct Situation {
    /// Its name.
    pub name: String,
    /// What it is about, in sentences.
    pub about: Vec<String>,
    /// The planted bugs that it shows.
    pub shows: Vec<String>,
    /// The set-up.
    pub config: Config,
    /// The operations.
    pub ops: Vec<Op>,
    /// Planned errors; each list is a run of its own. One run without errors if there is none.
    pub faults: Vec<Vec<IoFault>>,
    /// Damage that is done to what is left, each after a proper close or not.
    pub sweeps: Vec<(Damage, bool)>,
}

/// All of them.
///
/// # Panics
/// If the text that is built in is wrong; a test reads it.
pub fn situations() -> Vec<Situation> {
    parse(TEXT).expect("the situations that are built in")
}

/// Reads situations.
///
/// # Errors
/// A sentence with the number of the line.
pub fn parse(text: &str) -> Result<Vec<Situation>, String> {
    let mut all: Vec<Situation> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("situation ") {
            all.push(Situation {
                name: name.trim().to_owned(),
                about: Vec::new(),
                shows: Vec::new(),
                config: Config::default(),
                ops: Vec::new(),
                faults: Vec::new(),
                sweeps: Vec::new(),
            });
        } else if let Some(last) = all.last_mut() {
            last.line(line).map_err(|e| format!("line {}: {e}", n + 1))?;
        } else if !line.is_empty() && !line.starts_with('#') {
            return Err(format!("line {}: there is no situation yet", n + 1));
        }
    }
    Ok(all)
}

impl Situation {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => {}
            "#" => self.about.push(rest.to_owned()),
            "shows" => self.shows.extend(rest.split_whitespace().map(str::to_owned)),
            "config" => parse_config(&mut self.config, &rest.split_whitespace().collect::<Vec<_>>())?,
            "fault" => self.fault(line)?,
            "sweep" => self.sweeps.push(parse_sweep(rest)?),
            "repeat" => {
                let (times, what) = rest.split_once(':').ok_or("repeat: there is no colon")?;
                let times: u32 =
                    times.trim().parse().map_err(|_| format!("repeat: {times:?} is no number"))?;
                for i in 1..=times {
                    let what = what.replace('$', &i.to_string()).replace('~', &(times + 1 - i).to_string());
                    self.operations(&what)?;
                }
            }
            _ => self.operations(line)?,
        }
        Ok(())
    }

    fn operations(&mut self, line: &str) -> Result<(), String> {
        for op in line.split(';').map(str::trim).filter(|op| !op.is_empty()) {
            self.ops.push(op.parse()?);
        }
        Ok(())
    }

    /// Every run so far with each fault of the range.
    fn fault(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let range = words.get(3).and_then(|w| w.split_once(".."));
        let bad = |_| format!("{line:?}: the range is wrong");
        let calls = match range {
            None => vec![line.to_owned()],
            Some((from, to)) => {
                let (from, to): (u64, u64) = (from.parse().map_err(bad)?, to.parse().map_err(bad)?);
                let with = |n: u64| {
                    let mut words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
                    words[3] = n.to_string();
                    words.join(" ")
                };
                (from..=to).map(with).collect()
            }
        };
        let before = if self.faults.is_empty() { vec![Vec::new()] } else { std::mem::take(&mut self.faults) };
        for call in calls {
            let fault: IoFault = call.parse()?;
            for run in &before {
                let mut run = run.clone();
                run.push(fault.clone());
                self.faults.push(run);
            }
        }
        Ok(())
    }

    /// Whether it is crashed (or damaged, if not).
    pub fn is_crashed(&self) -> bool {
        self.sweeps.is_empty()
    }
}

/// The workload `situations`: those that are crashed, in turn by the seed.
#[derive(Clone, Debug)]
pub struct Situations {
    list: Vec<Situation>,
}

impl Default for Situations {
    fn default() -> Situations {
        Situations::of(situations())
    }
}

impl Situations {
    /// These only.
    pub fn of(list: Vec<Situation>) -> Situations {
        Situations { list: list.into_iter().filter(Situation::is_crashed).collect() }
    }

    /// So many seeds, from 0 on, have run each with each of its errors.
    pub fn runs(&self) -> u64 {
        self.list.len() as u64 * self.list.iter().map(|s| s.faults.len().max(1) as u64).max().unwrap_or(0)
    }

    fn pick(&self, seed: u64) -> Option<&Situation> {
        self.list.get((seed % self.list.len().max(1) as u64) as usize)
    }
}

impl Workload for Situations {
    fn name(&self) -> &str {
        "situations"
    }

    fn config(&self, seed: u64) -> Config {
        self.pick(seed).map(|s| s.config.clone()).unwrap_or_default()
    }

    fn operations(&self, seed: u64, _: usize) -> Vec<Op> {
        self.pick(seed).map(|s| s.ops.clone()).unwrap_or_default()
    }

    fn in_turn(&self) -> bool {
        true
    }

    fn faults(&self, seed: u64) -> Vec<IoFault> {
        let Some(s) = self.pick(seed) else { return Vec::new() };
        let runs = s.faults.len().max(1) as u64;
        s.faults.get((seed / self.list.len() as u64 % runs) as usize).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_built_in_can_be_read() {
        let all = situations();
        let mut names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for s in &all {
            assert!(!s.about.is_empty() && !s.ops.is_empty(), "{}", s.name);
            for bug in &s.shows {
                assert!(hamal::mutants::Mutant::find(bug).is_some(), "{}: {bug}", s.name);
            }
        }
    }

    #[test]
    fn a_range_of_calls_is_a_run_for_each() {
        let text = "situation a\nfault wal sync 2..4 once eio\nfault data write 1..2 forever nospace\nrepeat 2: begin $; commit ~";
        let s = &parse(text).unwrap()[0];
        assert_eq!((s.faults.len(), s.faults[5].len(), s.ops.len()), (6, 2, 4));
        assert_eq!(s.ops[1].to_string(), "commit 2");
        for bad in [
            "begin 1",
            "situation a\nrepeat x: begin 1",
            "situation a\nsweep open nothing",
            "situation a\nfly 1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
