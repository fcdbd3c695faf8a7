//! Many threads move money between accounts; whoever meets a conflict tries again; the sum never changes.
use hamal::{Database, ReadTree, Result};

const ACCOUNTS: u32 = 16;
const OPENING: u64 = 1000;

fn name(account: u32) -> [u8; 4] {
    account.to_be_bytes()
}

fn number(value: Option<hamal::Value>) -> u64 {
    value.and_then(|v| v.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn sum(accounts: &ReadTree) -> Result<u64> {
    accounts.iter().map(|row| row.map(|(_, v)| number(Some(v)))).sum()
}

fn transfer(db: &Database, from: u32, to: u32, amount: u64) -> Result<bool> {
    let tx = db.begin_write()?;
    let accounts = tx.tree("accounts")?;
    let have = number(accounts.get(name(from))?);
    if have < amount || from == to {
        return Ok(false); // dropping the transaction rolls it back
    }
    accounts.put(name(from), (have - amount).to_be_bytes())?;
    accounts.put(name(to), (number(accounts.get(name(to))?) + amount).to_be_bytes())?;
    tx.commit()?;
    Ok(true)
}

pub(crate) fn main() -> Result<()> {
    let db = Database::in_memory()?;
    let tx = db.begin_write()?;
    let accounts = tx.create_tree("accounts")?;
    accounts.bulk_load((0..ACCOUNTS).map(|a| (name(a), OPENING.to_be_bytes())))?;
    tx.commit()?;

    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let db = &db;
            scope.spawn(move || {
                let (mut moved, mut retries) = (0, 0);
                for i in 0..200u32 {
                    let (from, to) = ((i * 7 + thread) % ACCOUNTS, (i * 5 + 3 * thread) % ACCOUNTS);
                    loop {
                        match transfer(db, from, to, u64::from(i % 50)) {
                            Ok(done) => break moved += u32::from(done),
                            Err(e) if e.is_retryable() => retries += 1,
                            Err(e) => panic!("{e}"),
                        }
                    }
                }
                println!("thread {thread}: {moved} transfers, {retries} retries");
            });
        }
    });
    let total = sum(&db.begin_read()?.tree("accounts")?)?;
    assert_eq!(total, u64::from(ACCOUNTS) * OPENING);
    println!("the sum is still {total}");
    db.close()
}
