//! Rows of tables: values, and what a load takes.
use super::lex::BadScenario;
use super::parse::Parser;

type Result<T> = std::result::Result<T, BadScenario>;

/// Most bytes of a value.
const VALUE_MOST: usize = 64 << 10;
/// Most rows of a load.
const ROWS_MOST: usize = 1000;

impl Parser<'_> {
    /// `v`, `"a text"`, or `x * 900`: so many of them.
    pub(super) fn row_value(&mut self) -> Result<String> {
        let value = self.string("a value")?;
        if !self.eat("*") {
            return Ok(value);
        }
        let times: usize = self.number("how many times")?;
        if value.len().saturating_mul(times) > VALUE_MOST {
            return self.bad_before(format!("a value has at most {VALUE_MOST} bytes"));
        }
        Ok(value.repeat(times))
    }

    /// `{ k1 v1, k2 v2 }`, or `k1..k9 v`.
    pub(super) fn rows(&mut self) -> Result<Vec<(String, String)>> {
        let mut rows = Vec::new();
        if self.eat_mark("{") {
            while !self.eat_mark("}") {
                if self.done() {
                    return self.wanted("`}`");
                }
                rows.push((self.string("a key")?, self.row_value()?));
                self.eat_mark(",");
            }
        } else {
            let first = self.string("a key, or `{`")?;
            self.mark("..")?;
            let last = self.string("the last key")?;
            let keys = match range(&first, &last) {
                Ok(keys) => keys,
                Err(what) => return self.bad_before(what),
            };
            let value = self.row_value()?;
            rows = keys.into_iter().map(|key| (key, value.clone())).collect();
        }
        if rows.is_empty() {
            return self.bad_before("a load has rows");
        }
        Ok(rows)
    }
}

/// The keys from `first` to `last`, which differ in the digits at their end.
fn range(first: &str, last: &str) -> std::result::Result<Vec<String>, String> {
    let split = |key: &str| {
        let digits = key.len() - key.bytes().rev().take_while(u8::is_ascii_digit).count();
        key.get(digits..).and_then(|d| Some((key[..digits].to_string(), d.len(), d.parse::<usize>().ok()?)))
    };
    let (Some((a, width, from)), Some((b, other, to))) = (split(first), split(last)) else {
        return Err("a range of keys is like k1..k9".into());
    };
    if a != b || width != other || from > to {
        return Err("a range of keys ascends, with as many digits at both ends: k1..k9, k01..k12".into());
    }
    if to - from >= ROWS_MOST {
        return Err(format!("a load has at most {ROWS_MOST} rows"));
    }
    Ok((from..=to).map(|n| format!("{a}{n:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_keys() {
        assert_eq!(range("k8", "k9").unwrap(), ["k8", "k9"]);
        assert_eq!(range("a09", "a11").unwrap(), ["a09", "a10", "a11"]);
        assert_eq!(range("7", "7").unwrap(), ["7"]);
        for (first, last) in [("k", "k9"), ("k1", "j9"), ("k1", "k12"), ("k9", "k1"), ("k0000", "k1000")] {
            assert!(range(first, last).is_err(), "{first}..{last}");
        }
    }
}
