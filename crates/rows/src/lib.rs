//! Rows as text: the formats that `load` reads and `dump` and `scan` write.
//!
//! Whatever bytes a tree holds, reading back what was written gives the same bytes, in all three formats:
//!
//! * **TSV**: `key<TAB>value`. Control characters and bytes that are not UTF-8 are written as `\t`, `\n`, `\r`, `\\` or
//!   `\xNN`, so that the output is always text of one line per row.
//! * **CSV**: two fields, RFC 4180. A field that holds a comma, a quote or a line end is quoted; bytes stay as they are.
//! * **JSON Lines**: `{"key":"..","value":".."}`; what is not UTF-8 goes to `key_b64` or `value_b64` as base64.
//!
//! The reader is strict: a line that is not exactly one row is reported with its number and a reason, never guessed at.
//! Blank lines are skipped, a byte order mark at the start and CR before LF are ignored.
//!
//! A crate of its own: the command reads and writes rows with it, and the fuzzer feeds it any bytes.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;

/// The longest line that is read, in bytes: an endless input without line ends is an error, not all memory.
const LONGEST_LINE: usize = 1 << 30;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A row format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Format {
    /// key, a TAB, value, with \t \n \r \\ and \xNN
    Tsv,
    /// Two fields, quoted where needed
    Csv,
    /// JSON Lines: {"key":..,"value":..}, or key_b64 and value_b64
    #[cfg_attr(feature = "clap", value(alias = "json", alias = "ndjson"))]
    Jsonl,
}

impl Format {
    /// The format that a file's extension names; TSV for every other.
    pub fn of(path: &Path) -> Format {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Format::Csv,
            Some("jsonl" | "ndjson" | "json") => Format::Jsonl,
            _ => Format::Tsv,
        }
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// One line of input (in CSV, one record, which may span lines).
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The number of its first line, from 1.
    pub number: u64,
    /// The row, or what is wrong with the line.
    pub row: Result<Row, String>,
}

/// Reads rows.
#[derive(Debug)]
pub struct RowReader<R> {
    input: R,
    format: Format,
    /// A line of column names comes first.
    header: bool,
    line: u64,
    longest: usize,
    buffer: Vec<u8>,
}

impl<R: BufRead> RowReader<R> {
    /// A reader of rows; `header` skips the first line that is not blank (CSV and TSV).
    pub fn new(input: R, format: Format, header: bool) -> Self {
        let header = header && format != Format::Jsonl;
        RowReader { input, format, header, line: 0, longest: LONGEST_LINE, buffer: Vec::new() }
    }

    /// The next line that is not blank, or `None` at the end.
    ///
    /// # Errors
    /// Reading fails, or a line is longer than 1 GiB.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            if self.buffer.iter().all(|b| matches!(b, b'\r' | b'\n')) {
                continue;
            }
            let number = self.line;
            let row = match self.format {
                Format::Tsv => tsv_row(without_line_end(&self.buffer)),
                Format::Csv => self.csv_row()?,
                Format::Jsonl => json_row(without_line_end(&self.buffer)),
            };
            if std::mem::take(&mut self.header) {
                continue;
            }
            return Ok(Some(Line { number, row }));
        }
    }

    /// Reads one line with its end into the buffer; false at the end of the input.
    fn read_line(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        let limit = self.longest as u64 + 1;
        self.input.by_ref().take(limit).read_until(b'\n', &mut self.buffer)?;
        if self.buffer.len() > self.longest {
            let m = format!("line {} is longer than {} bytes", self.line + 1, self.longest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, m));
        }
        self.line += 1;
        if self.line == 1 && self.buffer.starts_with(BOM) {
            self.buffer.drain(..BOM.len());
            return Ok(true);
        }
        Ok(!self.buffer.is_empty())
    }

    /// The CSV record that begins with the line in the buffer.
    fn csv_row(&mut self) -> io::Result<Result<Row, String>> {
        let mut csv = Csv::default();
        loop {
            match csv.feed(&self.buffer) {
                Ok(true) => return Ok(csv.row()),
                Ok(false) => {}
                Err(why) => return Ok(Err(why)),
            }
            if csv.field.len() > self.longest {
                let m = format!("a quoted field is longer than {} bytes", self.longest);
                return Err(io::Error::new(io::ErrorKind::InvalidData, m));
            }
            if !self.read_line()? {
                return Ok(Err("a quote is opened here and never closed".into()));
            }
        }
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

// TSV

fn tsv_row(line: &[u8]) -> Result<Row, String> {
    let mut fields = line.split(|b| *b == b'\t');
    match (fields.next(), fields.next(), fields.next()) {
        (Some(key), Some(value), None) => Ok((unescape(key)?, unescape(value)?)),
        (_, None, _) => Err("no tab between key and value".into()),
        _ => Err("more than one tab (a tab inside a key or value is written \\t)".into()),
    }
}

fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&b) = rest.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        out.push(match rest.next() {
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'\\') => b'\\',
            Some(b'x') => match (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err("\\x is not followed by two hexadecimal digits".into()),
            },
            Some(other) => {
                let shown = char::from(*other).escape_default();
                return Err(format!("unknown escape \\{shown} (a backslash is written \\\\)"));
            }
            None => return Err("a backslash at the end (a backslash is written \\\\)".into()),
        });
    }
    Ok(out)
}

fn hex_digit(b: &u8) -> Option<u8> {
    char::from(*b).to_digit(16).map(|d| d as u8)
}

/// The bytes as one line of text, in TSV's escapes.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\\' => out.push_str("\\\\"),
                // Not only the controls of ASCII: terminals obey those of U+0080 to U+009F too, and editors drop
                // the byte order mark.
                c if c.is_control() || c == '\u{feff}' => {
                    let mut utf8 = [0; 4];
                    c.encode_utf8(&mut utf8).bytes().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    }
    out
}

// CSV

/// A CSV record as far as it was read.
#[derive(Default)]
struct Csv {
    fields: Vec<Vec<u8>>,
    field: Vec<u8>,
    place: Place,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    /// Before the first byte of a field.
    #[default]
    Start,
    /// In a field without quotes.
    Plain,
    /// Between quotes.
    Quoted,
    /// After a quote between quotes: its end, or the first of two that stand for one.
    Quote,
}

impl Csv {
    /// Takes one line with its end; true if the record ends with it.
    fn feed(&mut self, line: &[u8]) -> Result<bool, String> {
        // Between quotes the line end belongs to the field, and so does every byte of it.
        let body = without_line_end(line);
        for (i, &b) in line.iter().enumerate() {
            if i >= body.len() && self.place != Place::Quoted {
                break;
            }
            self.place = match (self.place, b) {
                (Place::Start, b'"') => Place::Quoted,
                (Place::Start | Place::Plain | Place::Quote, b',') => {
                    self.fields.push(std::mem::take(&mut self.field));
                    Place::Start
                }
                (Place::Plain, b'"') => return Err("a quote inside a field without quotes".into()),
                (Place::Quoted, b'"') => Place::Quote,
                (Place::Quote, b'"') => {
                    self.field.push(b);
                    Place::Quoted
                }
                (Place::Quote, _) => return Err("text after the closing quote of a field".into()),
                (Place::Quoted, _) => {
                    self.field.push(b);
                    Place::Quoted
                }
                (Place::Start | Place::Plain, _) => {
                    self.field.push(b);
                    Place::Plain
                }
            };
        }
        if self.place == Place::Quoted {
            return Ok(false);
        }
        self.fields.push(std::mem::take(&mut self.field));
        Ok(true)
    }

    fn row(self) -> Result<Row, String> {
        let n = self.fields.len();
        let mut fields = self.fields.into_iter();
        match (fields.next(), fields.next(), fields.next()) {
            (Some(key), Some(value), None) => Ok((key, value)),
            _ => Err(format!("{n} fields instead of two, key and value")),
        }
    }
}

fn write_csv_field(out: &mut impl Write, field: &[u8]) -> io::Result<()> {
    let plain = !field.iter().any(|b| matches!(b, b',' | b'"' | b'\r' | b'\n')) && !field.starts_with(BOM);
    if plain {
        return out.write_all(field);
    }
    out.write_all(b"\"")?;
    for (i, part) in field.split(|b| *b == b'"').enumerate() {
        if i > 0 {
            out.write_all(b"\"\"")?;
        }
        out.write_all(part)?;
    }
    out.write_all(b"\"")
}

// JSON Lines

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRow<'a> {
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    key_b64: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    value_b64: Option<Cow<'a, str>>,
}

fn json_row(line: &[u8]) -> Result<Row, String> {
    // A list of four would be taken for the fields in their order.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not an object, {\"key\":..,\"value\":..}".into());
    }
    let row: JsonRow<'_> = serde_json::from_slice(line).map_err(|e| {
        let column = e.column();
        let whole = e.to_string();
        let what = whole.split(" at line ").next().unwrap_or(&whole);
        format!("{what} (column {column})")
    })?;
    let field = |name: &str, text: Option<Cow<'_, str>>, b64: Option<Cow<'_, str>>| match (text, b64) {
        (Some(t), None) => Ok(t.into_owned().into_bytes()),
        (None, Some(b)) => BASE64.decode(&*b).map_err(|e| format!("{name}_b64: {e}")),
        (None, None) => Err(format!("neither \"{name}\" nor \"{name}_b64\" is given")),
        (Some(_), Some(_)) => Err(format!("both \"{name}\" and \"{name}_b64\" are given")),
    };
    Ok((field("key", row.key, row.key_b64)?, field("value", row.value, row.value_b64)?))
}

/// The row, or only its key, as a JSON object of one line, without line end.
pub fn json_text(key: &[u8], value: Option<&[u8]>) -> String {
    let field = |bytes| match std::str::from_utf8(bytes) {
        Ok(text) => (Some(Cow::Borrowed(text)), None),
        Err(_) => (None, Some(Cow::Owned(BASE64.encode(bytes)))),
    };
    let (key, key_b64) = field(key);
    let (value, value_b64) = value.map_or((None, None), field);
    // Strings in a struct always have a JSON form.
    serde_json::to_string(&JsonRow { key, key_b64, value, value_b64 }).unwrap_or_default()
}

/// Writes one row and its line end.
///
/// # Errors
/// As the output's.
pub fn write_row(out: &mut impl Write, format: Format, key: &[u8], value: &[u8]) -> io::Result<()> {
    match format {
        Format::Tsv => writeln!(out, "{}\t{}", escape(key), escape(value)),
        Format::Csv => {
            write_csv_field(out, key)?;
            out.write_all(b",")?;
            write_csv_field(out, value)?;
            out.write_all(b"\n")
        }
        Format::Jsonl => writeln!(out, "{}", json_text(key, Some(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(format: Format, header: bool, input: &[u8]) -> Vec<(u64, Result<Row, String>)> {
        let mut r = RowReader::new(input, format, header);
        std::iter::from_fn(|| r.next_line().unwrap()).map(|l| (l.number, l.row)).collect()
    }
    fn row(k: &str, v: &str) -> Result<Row, String> {
        Ok((k.into(), v.into()))
    }

    #[test]
    fn extension_names_the_format() {
        for (name, format) in [
            ("a.csv", Format::Csv),
            ("a.CSV", Format::Csv),
            ("a.jsonl", Format::Jsonl),
            ("a.ndjson", Format::Jsonl),
            ("a.tsv", Format::Tsv),
            ("a", Format::Tsv),
            ("-", Format::Tsv),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn tsv_good_and_bad() {
        let got = read(
            Format::Tsv,
            false,
            b"a\t1\r\n\nb\\t\\\\\\x00\t\n\nno tab\nx\ty\tz\n\\q\t1\nend\\\t1\n\\x1\t1\nc\t3",
        );
        assert_eq!(got[0], (1, row("a", "1")));
        assert_eq!(got[1], (3, row("b\t\\\0", "")));
        assert_eq!(got[2], (5, Err("no tab between key and value".into())));
        assert!(got[3].1.as_ref().unwrap_err().contains("more than one tab"));
        assert!(got[4].1.as_ref().unwrap_err().contains("unknown escape \\q"));
        assert!(got[5].1.as_ref().unwrap_err().contains("backslash at the end"));
        assert!(got[6].1.as_ref().unwrap_err().contains("hexadecimal"));
        assert_eq!(got[7], (10, row("c", "3")));
        assert_eq!(got.len(), 8);
    }

    #[test]
    fn csv_good_and_bad() {
        let got = read(
            Format::Csv,
            true,
            b"\xef\xbb\xbfkey,value\r\n\"a,\"\"b\",\"two\r\nlines\"\r\n\n,\none\na,b,c\na\"b,c\n\"a\"b,c\nlast,1",
        );
        assert_eq!(got[0], (2, row("a,\"b", "two\r\nlines")));
        assert_eq!(got[1], (5, row("", "")));
        assert_eq!(got[2], (6, Err("1 fields instead of two, key and value".into())));
        assert_eq!(got[3], (7, Err("3 fields instead of two, key and value".into())));
        assert!(got[4].1.as_ref().unwrap_err().contains("inside a field"));
        assert!(got[5].1.as_ref().unwrap_err().contains("after the closing quote"));
        assert_eq!(got[6], (10, row("last", "1")));
        let got = read(Format::Csv, false, b"a,b\nc,\"open\nd,e\n");
        assert_eq!(got[1].0, 2);
        assert!(got[1].1.as_ref().unwrap_err().contains("never closed"));
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn json_good_and_bad() {
        let got = read(
            Format::Jsonl,
            false,
            b"{\"key\":\"a\\u0000\",\"value\":\"\\\"\"}\n{\"key_b64\":\"/w==\",\"value\":\"\"}\n{}\n{\"key\":\"a\",\"valu\":\"b\"}\n[\n{\"key\":1,\"value\":\"\"}\n{\"key_b64\":\"!\",\"value\":\"\"}\n{\"key\":\"\",\"key_b64\":\"\",\"value\":\"\"}\n",
        );
        assert_eq!(got[0], (1, row("a\0", "\"")));
        assert_eq!(got[1], (2, Ok((vec![0xff], vec![]))));
        assert!(got[2].1.as_ref().unwrap_err().contains("neither"));
        assert!(got[3..].iter().all(|(_, r)| r.is_err()));
        assert_eq!(got.len(), 8);
    }

    #[test]
    fn endless_line_is_an_error() {
        let mut r = RowReader::new(&b"a\t1\naaaaaaaaaaaa"[..], Format::Tsv, false);
        r.longest = 8;
        assert_eq!(r.next_line().unwrap().unwrap().row, row("a", "1"));
        assert!(r.next_line().unwrap_err().to_string().contains("line 2 is longer than 8 bytes"));
        let mut r = RowReader::new(&b"a,\"b\nc\nd\ne\nf\ng"[..], Format::Csv, false);
        r.longest = 8;
        assert!(r.next_line().unwrap_err().to_string().contains("quoted field"));
    }

    #[test]
    fn escapes_leave_text_alone_and_nothing_dangerous() {
        assert_eq!(escape("grüß dich".as_bytes()), "grüß dich");
        assert_eq!(escape(b"\x1b[2J\xff\xc2\x9b"), "\\x1b[2J\\xff\\xc2\\x9b");
    }

    /// Bytes that hit the special cases often.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let special =
            proptest::sample::select(b"\t\n\r\\\",xnt0a{}\xef\xbb\xbf\xff\x00\xc3\xa4\xc2\x9b".to_vec());
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20),
            proptest::collection::vec(special, 0..12),
            Just(b"\xef\xbb\xbf".to_vec())
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            rows in proptest::collection::vec((bytes(), bytes()), 0..8),
            format in proptest::sample::select(vec![Format::Tsv, Format::Csv, Format::Jsonl]),
        ) {
            let mut text = Vec::new();
            for (k, v) in &rows {
                write_row(&mut text, format, k, v).unwrap();
            }
            let back: Vec<Row> = read(format, false, &text).into_iter().map(|(_, r)| r.unwrap()).collect();
            prop_assert_eq!(back, rows);
        }

        #[test]
        fn any_input_is_read_to_its_end(
            input in proptest::collection::vec(bytes(), 0..8),
            format in proptest::sample::select(vec![Format::Tsv, Format::Csv, Format::Jsonl]),
        ) {
            read(format, true, &input.concat());
        }
    }
}
