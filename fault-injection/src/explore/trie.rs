//! Which ways of answering the disk's questions have been seen: a tree of questions.
//!
//! Two runs of recovery that got the same answers to everything they read are the same run. So the questions that a run
//! asked, in order, with its answers, are a path in a tree; runs on another image that gives the same answers along the path
//! need not be made, and once every answer of every question on the tree has been followed to its end, *all* images of
//! this crash point have been checked, however many there are. This is exact, not a sample.
use crate::sim::{Asked, Question};

/// A run asked another question than an earlier run that had got the same answers: the engine is not deterministic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverged {
    /// How many answers were the same.
    pub after: usize,
}

/// What a branch leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Branch {
    Unseen,
    /// A run ended here.
    Leaf,
    Node(u32),
}

#[derive(Debug)]
struct Node {
    question: Question,
    /// Where its branches begin.
    branches: u32,
    options: u8,
    /// Branches that are not complete.
    open: u8,
}

/// The tree of one crash point.
#[derive(Debug, Default)]
pub struct Trie {
    nodes: Vec<Node>,
    branches: Vec<Branch>,
    /// Whether there was a run that asked nothing.
    silent: bool,
    leaves: u64,
}

impl Trie {
    /// An empty tree.
    pub fn new() -> Trie {
        Trie::default()
    }

    /// Runs that differ.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Whether every way has been seen.
    pub fn is_complete(&self) -> bool {
        self.silent || self.nodes.first().is_some_and(|n| n.open == 0)
    }

    /// Whether a run with these answers has been seen.
    pub fn covers(&self, mut answer: impl FnMut(Question, u8) -> u8) -> bool {
        if self.silent {
            return true;
        }
        let mut at = 0;
        while let Some(node) = self.nodes.get(at) {
            let a = answer(node.question, node.options).min(node.options - 1);
            match self.branches[node.branches as usize + usize::from(a)] {
                Branch::Unseen => return false,
                Branch::Leaf => return true,
                Branch::Node(n) => at = n as usize,
            }
        }
        false
    }

    /// Answers that lead to a run that has not been seen; questions beyond them are open.
    pub fn unseen(&self) -> Option<Vec<(Question, u8)>> {
        if self.is_complete() {
            return None;
        }
        let mut path = Vec::new();
        let mut at = 0;
        while let Some(node) = self.nodes.get(at) {
            let all = &self.branches[node.branches as usize..][..usize::from(node.options)];
            let next = all.iter().position(|b| match b {
                Branch::Unseen => true,
                Branch::Leaf => false,
                Branch::Node(n) => self.nodes[*n as usize].open > 0,
            })?;
            path.push((node.question, next as u8));
            match all[next] {
                Branch::Node(n) => at = n as usize,
                _ => break,
            }
        }
        Some(path)
    }

    /// Enters a run. Whether it is new.
    ///
    /// # Errors
    /// If it contradicts an earlier one.
    pub fn insert(&mut self, asked: &[Asked]) -> Result<bool, Diverged> {
        if asked.is_empty() {
            if !self.nodes.is_empty() {
                return Err(Diverged { after: 0 });
            }
            let new = !self.silent;
            self.silent = true;
            self.leaves += u64::from(new);
            return Ok(new);
        }
        if self.silent {
            return Err(Diverged { after: 0 });
        }
        let mut path = Vec::with_capacity(asked.len());
        let mut at = None;
        for (i, a) in asked.iter().enumerate() {
            let n = match at {
                Some(n) => n,
                None if i == 0 && !self.nodes.is_empty() => 0,
                None => self.node(a, path.last().copied()),
            };
            let node = &self.nodes[n];
            if node.question != a.question || node.options != a.options {
                return Err(Diverged { after: i });
            }
            let b = node.branches as usize + usize::from(a.answer);
            path.push((n, b));
            at = match self.branches[b] {
                Branch::Unseen => None,
                Branch::Node(n) => Some(n as usize),
                Branch::Leaf if i + 1 == asked.len() => return Ok(false),
                Branch::Leaf => return Err(Diverged { after: i + 1 }),
            };
        }
        if at.is_some() {
            // The earlier run went on to ask more.
            return Err(Diverged { after: asked.len() });
        }
        let Some((_, last)) = path.last().copied() else { return Ok(false) };
        self.branches[last] = Branch::Leaf;
        self.leaves += 1;
        // What is complete now, from the leaf upwards.
        for (n, _) in path.iter().rev() {
            self.nodes[*n].open -= 1;
            if self.nodes[*n].open > 0 {
                break;
            }
        }
        Ok(true)
    }

    /// A new node, hung below a branch.
    fn node(&mut self, asked: &Asked, parent: Option<(usize, usize)>) -> usize {
        let n = self.nodes.len();
        let branches = self.branches.len() as u32;
        self.branches.extend(std::iter::repeat_n(Branch::Unseen, usize::from(asked.options)));
        self.nodes.push(Node {
            question: asked.question,
            branches,
            options: asked.options,
            open: asked.options,
        });
        if let Some((_, branch)) = parent {
            self.branches[branch] = Branch::Node(n as u32);
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(list: &[(u64, u8, u8)]) -> Vec<Asked> {
        list.iter()
            .map(|&(sector, options, answer)| Asked {
                question: Question::Sector { file: 1, sector },
                options,
                answer,
            })
            .collect()
    }

    /// A "recovery" that reads sector 1 only if sector 0 is new, and then sector 2.
    fn run(answer: &mut dyn FnMut(u64) -> u8) -> Vec<Asked> {
        let mut log = vec![(0, 2, answer(0))];
        if log[0].2 == 1 {
            log.push((1, 3, answer(1)));
            log.push((2, 2, answer(2)));
        }
        asked(&log)
    }

    #[test]
    fn every_way_is_found_and_none_twice() {
        let mut trie = Trie::new();
        assert!(trie.insert(&run(&mut |_| 0)).unwrap());
        let mut runs = 1;
        while let Some(path) = trie.unseen() {
            let mut next = |sector: u64| {
                let of = |q: &Question| matches!(q, Question::Sector { sector: s, .. } if *s == sector);
                path.iter().find(|(q, _)| of(q)).map_or(0, |(_, a)| *a)
            };
            let log = run(&mut next);
            assert!(trie.insert(&log).unwrap(), "{path:?}");
            runs += 1;
        }
        assert_eq!(runs, 1 + 3 * 2);
        assert!(trie.is_complete());
        assert!(trie.covers(|_, n| n - 1));
        assert_eq!(trie.leaves(), 7);
    }

    #[test]
    fn a_run_that_contradicts_is_noticed() {
        let mut trie = Trie::new();
        trie.insert(&asked(&[(0, 2, 0), (1, 2, 0)])).unwrap();
        assert_eq!(trie.insert(&asked(&[(0, 2, 0), (2, 2, 0)])), Err(Diverged { after: 1 }));
        assert_eq!(trie.insert(&asked(&[(0, 2, 0)])), Err(Diverged { after: 1 }));
        assert_eq!(trie.insert(&asked(&[(0, 2, 0), (1, 2, 0), (3, 2, 0)])), Err(Diverged { after: 2 }));
        assert_eq!(trie.insert(&asked(&[(0, 2, 0), (1, 2, 0)])), Ok(false));
    }
}
