//! A trace as one HTML page that needs nothing else: no network, no other file.
use crate::Trace;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// The page's program, in the order in which its parts build on each other.
const SCRIPTS: [&str; 4] = [
    include_str!("page/model.js"),
    include_str!("page/words.js"),
    include_str!("page/timeline.js"),
    include_str!("page/view.js"),
];

/// The trace as a page: the log as a list and in lanes, a scrubber, and after each step both tables, the pages and the
/// reason of the decision in words. The trace is inside as JSON Lines, so that [`Trace::from_jsonl`] can have it back.
///
/// ```
/// use hamal_study::{Trace, html};
/// let text = "{\"seq\":0,\"run\":0,\"phase\":\"run\",\"ev\":\"header\",\"format\":\"recovery-trace/1\"}\n";
/// let page = html(&Trace::from_jsonl(text).unwrap());
/// assert!(page.starts_with("<!doctype html>") && page.contains("recovery-trace/1"));
/// ```
pub fn html(trace: &Trace) -> String {
    // In JSON `<` stands in strings only, and may be written by its number there: no text of a trace ends the element.
    let data = trace.to_jsonl().replace('<', "\\u003c");
    let mut page = String::with_capacity(data.len() + (128 << 10));
    let (before_style, rest) = cut(PAGE, "/*{css}*/");
    let (before_trace, rest) = cut(rest, "{trace}");
    let (before_script, end) = cut(rest, "/*{js}*/");
    for part in [before_style, STYLE, before_trace, &data, before_script] {
        page.push_str(part);
    }
    for script in SCRIPTS {
        page.push_str(script);
        page.push('\n');
    }
    page.push_str(end);
    page
}

fn cut<'a>(text: &'a str, mark: &str) -> (&'a str, &'a str) {
    text.split_once(mark).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside the trace the page stays below 200 kB, refers to nothing outside itself, and no text of a trace ends the element that holds it.
    #[test]
    fn the_page_is_whole_and_small() {
        let line =
            "{\"seq\":1,\"run\":0,\"phase\":\"run\",\"ev\":\"show\",\"key\":\"</script><script>alert(1)\"}\n";
        let head =
            "{\"seq\":0,\"run\":0,\"phase\":\"run\",\"ev\":\"header\",\"format\":\"recovery-trace/1\"}\n";
        let trace = Trace::from_jsonl(&format!("{head}{line}")).expect("a trace");
        let page = html(&trace);
        assert!(page.len() < 200_000, "{}", page.len());
        assert_eq!(page.matches("</script>").count(), 2);
        for outside in ["http://", "https://", "src=", "@import", "{trace}", "{css}", "{js}"] {
            let found = page.replace("http://www.w3.org/2000/svg", "").contains(outside);
            assert!(!found, "{outside}");
        }
        let (_, data) = cut(&page, "id=\"trace\">");
        let (data, _) = cut(data, "</script>");
        assert_eq!(Trace::from_jsonl(data).expect("the same trace"), trace);
    }
}
