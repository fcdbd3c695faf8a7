//! Short and interrupted transfers, finished.
//!
//! A system call may transfer less than it was asked to, or be interrupted by a signal before it transferred
//! anything. Both are normal, and neither is seen above this crate: every disk runs its transfers through the
//! loops here. A disk that simulates such calls runs them through the same loops, so a test of it is a test
//! of them.

use hamal_mutants::{self as mutants, Mutant};
use std::io;

/// Repeats a transfer until `total` bytes are done, and returns how many are. `step` is told how many are
/// done, makes one system call for the rest, and returns what that transferred. An interrupted call is
/// repeated; one that transfers nothing ends the loop (at the end of a file, for a read).
///
/// # Errors
/// The first of `step` that is not `Interrupted`. What was transferred before it stays transferred.
pub fn continued(total: usize, mut step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
    let mut done = 0;
    while done < total {
        match step(done) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// [`continued`] for a write, which must not end early.
///
/// # Errors
/// As `continued`; and `WriteZero` if a call writes nothing and says that it succeeded.
pub fn continued_write(total: usize, step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let total = if mutants::is(Mutant::ShortWriteIsWhole) { total.min(1) } else { total };
    if continued(total, step)? < total {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the operating system wrote nothing"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn goes_on_until_all_is_done() {
        let answers = [Ok(3), Err(ErrorKind::Interrupted), Ok(1), Ok(6)];
        let mut calls = Vec::new();
        let step = |done| {
            calls.push(done);
            answers[calls.len() - 1].map_err(io::Error::from)
        };
        assert_eq!(continued(10, step).unwrap(), 10);
        assert_eq!(calls, [0, 3, 3, 4]);
        continued_write(0, |_| panic!("nothing to do")).unwrap();
    }

    #[test]
    fn ends_at_nothing_and_at_errors() {
        let step = |done| Ok(if done == 0 { 4 } else { 0 });
        assert_eq!(continued(10, step).unwrap(), 4);
        assert_eq!(continued_write(10, step).unwrap_err().kind(), ErrorKind::WriteZero);
        let full = |_| Err(ErrorKind::StorageFull.into());
        assert_eq!(continued(10, full).unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
