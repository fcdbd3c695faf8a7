//! Any bytes as a file that is loaded.
use hamal_rows::{Format, Row, RowReader, write_row};

/// The first byte chooses the format and whether there is a line of column names; the rest is the file. Reading ends; every row
/// that is read is read back from what is written of it, in all formats; lines are numbered in order.
pub fn load(data: &[u8]) {
    let Some((how, text)) = data.split_first() else { return };
    const FORMATS: [Format; 3] = [Format::Tsv, Format::Csv, Format::Jsonl];
    let rows = read(FORMATS[usize::from(*how) % 3], *how & 128 != 0, text);
    for format in FORMATS {
        let mut written = Vec::new();
        for (key, value) in &rows {
            write_row(&mut written, format, key, value).unwrap_or_else(|e| panic!("{e}"));
        }
        assert_eq!(read(format, false, &written), rows, "as {format:?}");
    }
}

fn read(format: Format, header: bool, text: &[u8]) -> Vec<Row> {
    let mut reader = RowReader::new(text, format, header);
    let (mut rows, mut last) = (Vec::new(), 0);
    loop {
        match reader.next_line() {
            Ok(Some(line)) => {
                assert!(line.number > last, "line {} after {last}", line.number);
                last = line.number;
                match line.row {
                    Ok(row) => rows.push(row),
                    Err(why) => assert!(!why.is_empty() && why.len() < text.len() + 300),
                }
            }
            Ok(None) => return rows,
            Err(e) => panic!("bytes in memory cannot fail to be read: {e}"),
        }
    }
}
