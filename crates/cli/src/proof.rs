//! The bank of `hamal demo`, and what must be true of it after a crash.
//!
//! Accounts hold a balance. A transfer changes two balances and inserts one row with its own number, all in one
//! transaction. So the rows of `transfers` say what every balance must be, and the numbers that were acknowledged say
//! which rows must be there.

use hamal::{ReadTxn, Result};
use std::collections::HashMap;

pub(crate) const ACCOUNTS: &str = "accounts";
pub(crate) const TRANSFERS: &str = "transfers";
/// What each account holds at first.
pub(crate) const START: u64 = 1000;

/// Money that went from one account to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) amount: u64,
}

impl Transfer {
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut b = [0; 16];
        b[..4].copy_from_slice(&self.from.to_be_bytes());
        b[4..8].copy_from_slice(&self.to.to_be_bytes());
        b[8..].copy_from_slice(&self.amount.to_be_bytes());
        b
    }
    fn decode(b: &[u8]) -> Option<Transfer> {
        let (from, rest) = b.split_first_chunk()?;
        let (to, amount) = rest.split_first_chunk()?;
        Some(Transfer {
            from: u32::from_be_bytes(*from),
            to: u32::from_be_bytes(*to),
            amount: u64::from_be_bytes(amount.try_into().ok()?),
        })
    }
}

/// The acknowledgement of a transfer as a line of text, and back. A line that was cut off by the kill is none.
pub(crate) fn ack_line(number: u64, t: Transfer) -> String {
    format!("{number:016x} {:08x} {:08x} {:016x}\n", t.from, t.to, t.amount)
}

/// See [`ack_line`].
pub(crate) fn parse_ack(line: &str) -> Option<(u64, Transfer)> {
    let line = line.strip_suffix('\n').filter(|l| l.len() == 51)?;
    let mut parts = line.split(' ');
    let mut part = || u64::from_str_radix(parts.next()?, 16).ok();
    let number = part()?;
    let (from, to, amount) = (part()?.try_into().ok()?, part()?.try_into().ok()?, part()?);
    Some((number, Transfer { from, to, amount }))
}

/// What a database holds.
#[derive(Debug, Default)]
pub(crate) struct Bank {
    pub(crate) balances: HashMap<u32, u64>,
    pub(crate) transfers: HashMap<u64, Transfer>,
    /// Rows that no transfer can have written.
    pub(crate) strange: Vec<String>,
}

impl Bank {
    /// Reads all rows of one snapshot.
    pub(crate) fn read(txn: &ReadTxn) -> Result<Bank> {
        let mut bank = Bank::default();
        for row in txn.tree(ACCOUNTS)?.iter() {
            let (key, value) = row?;
            match (key.as_ref().try_into(), value.as_ref().try_into()) {
                (Ok(k), Ok(v)) => {
                    bank.balances.insert(u32::from_be_bytes(k), u64::from_be_bytes(v));
                }
                _ => bank.strange.push(format!("the account {key:?} has the value {value:?}")),
            }
        }
        for row in txn.tree(TRANSFERS)?.iter() {
            let (key, value) = row?;
            match (key.as_ref().try_into(), Transfer::decode(&value)) {
                (Ok(k), Some(t)) => {
                    bank.transfers.insert(u64::from_be_bytes(k), t);
                }
                _ => bank.strange.push(format!("the transfer {key:?} has the value {value:?}")),
            }
        }
        Ok(bank)
    }

    /// Everything that is not as it must be, in words; nothing if all is well. `in_flight` is how many transfers can have
    /// been committed without an acknowledgement having been read.
    pub(crate) fn violations(
        &self,
        accounts: u32,
        acks: &[(u64, Transfer)],
        in_flight: usize,
    ) -> Vec<String> {
        let mut found = self.strange.clone();
        if self.balances.len() != accounts as usize {
            found.push(format!("there are {} accounts instead of {accounts}", self.balances.len()));
        }
        let sum: u128 = self.balances.values().map(|b| u128::from(*b)).sum();
        let start = u128::from(accounts) * u128::from(START);
        if sum != start {
            found.push(format!("the accounts hold {sum} instead of {start}"));
        }
        for (number, t) in acks {
            match self.transfers.get(number) {
                Some(row) if row == t => {}
                Some(row) => {
                    found.push(format!("transfer {number:x} was acknowledged as {t:?} and is {row:?}"))
                }
                None => found.push(format!("transfer {number:x} was acknowledged and is lost")),
            }
        }
        let beyond = self.transfers.len().saturating_sub(acks.len());
        if beyond > in_flight {
            found.push(format!(
                "{beyond} transfers were never acknowledged; at most {in_flight} were in flight"
            ));
        }
        let mut expected: HashMap<u32, i128> = (0..accounts).map(|a| (a, i128::from(START))).collect();
        for t in self.transfers.values() {
            *expected.entry(t.from).or_default() -= i128::from(t.amount);
            *expected.entry(t.to).or_default() += i128::from(t.amount);
        }
        let mut half: Vec<_> = expected
            .iter()
            .filter(|(account, balance)| {
                self.balances.get(account).map(|b| i128::from(*b)) != Some(**balance)
            })
            .collect();
        half.sort();
        for (account, balance) in half {
            let is = self.balances.get(account).map_or("nothing".into(), u64::to_string);
            found.push(format!(
                "account {account} holds {is}; its transfers make {balance}: one is half done"
            ));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Transfer = Transfer { from: 0, to: 1, amount: 5 };

    fn bank() -> Bank {
        Bank {
            balances: HashMap::from([(0, START - 5), (1, START + 5), (2, START)]),
            transfers: HashMap::from([(7, T)]),
            strange: vec![],
        }
    }

    #[test]
    fn a_sound_bank() {
        assert!(bank().violations(3, &[(7, T)], 0).is_empty());
        assert!(bank().violations(3, &[], 1).is_empty());
    }

    #[test]
    fn every_fault_is_found() {
        let has = |b: &Bank, acks: &[(u64, Transfer)], word: &str| {
            let v = b.violations(3, acks, 0);
            assert!(v.iter().any(|m| m.contains(word)), "{word}: {v:?}");
        };
        has(&bank(), &[(7, T), (8, T)], "is lost");
        has(&bank(), &[(7, Transfer { amount: 6, ..T })], "was acknowledged as");
        has(&bank(), &[], "never acknowledged");
        let mut b = bank();
        b.balances.insert(1, START);
        has(&b, &[(7, T)], "instead of 3000");
        has(&b, &[(7, T)], "half done");
        // The sum alone would not notice a transfer between two others.
        let mut b = bank();
        b.balances = HashMap::from([(0, START), (1, START), (2, START)]);
        has(&b, &[(7, T)], "half done");
        let mut b = bank();
        b.balances.remove(&2);
        has(&b, &[(7, T)], "2 accounts");
        has(&b, &[(7, T)], "holds nothing");
    }

    #[test]
    fn acknowledgements_cut_off_do_not_count() {
        let line = ack_line(0x12, T);
        assert_eq!(parse_ack(&line), Some((0x12, T)));
        for n in 0..line.len() {
            assert_eq!(parse_ack(&line[..n]), None, "{n}");
        }
        assert_eq!(Transfer::decode(&T.encode()), Some(T));
        assert_eq!(Transfer::decode(&T.encode()[..15]), None);
    }
}
