//! Any text as a case file.
use crate::case::Case;

/// What parses is printed, and parses again to the same case.
pub fn case(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(case) = text.parse::<Case>() else { return };
    let printed = case.to_string();
    match printed.parse::<Case>() {
        Ok(again) => {
            assert_eq!(again, case, "printed as\n{printed}");
            assert_eq!(again.to_string(), printed);
            assert!(case.decisions() <= printed.len(), "more decisions than letters");
        }
        Err(e) => panic!("what was printed does not parse: {e}\n{printed}"),
    }
}
