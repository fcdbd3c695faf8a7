//! Rounds into medians, and medians into JSON, a Markdown table and a page with bars.
use super::engine::Kind;
use super::measure::Measured;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// All that was measured: workload, then engine, then one entry a round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// The machine and the command, in words.
    pub about: String,
    /// The order in which workloads came up.
    pub order: Vec<String>,
    /// The rounds.
    pub rounds: BTreeMap<String, BTreeMap<String, Vec<Measured>>>,
}

/// Median, minimum and maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the lower of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// The spread of some numbers; none of none.
#[must_use]
pub fn spread(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut v: Vec<f64> = numbers.into_iter().collect();
    v.sort_by(f64::total_cmp);
    Some(Spread { median: *v.get(v.len().checked_sub(1)? / 2)?, min: v[0], max: *v.last()? })
}

impl Results {
    /// Notes one round of a workload.
    pub fn add(&mut self, workload: &str, engine: &str, m: Measured) {
        if !self.order.iter().any(|w| w == workload) {
            self.order.push(workload.into());
        }
        self.rounds.entry(workload.into()).or_default().entry(engine.into()).or_default().push(m);
    }

    /// The spread of a figure.
    #[must_use]
    pub fn figure(
        &self,
        workload: &str,
        engine: &str,
        f: impl Fn(&Measured) -> Option<f64>,
    ) -> Option<Spread> {
        spread(self.rounds.get(workload)?.get(engine)?.iter().filter_map(f))
    }

    fn rate(&self, workload: &str, engine: &str) -> Option<Spread> {
        self.figure(workload, engine, |m| Some(m.rate))
    }

    /// Engines that measured anything, in the order given.
    fn engines<'k>(&self, kinds: &'k [Kind]) -> Vec<&'k str> {
        let known = |n: &str| self.rounds.values().any(|e| e.contains_key(n));
        ["raw"].into_iter().chain(kinds.iter().map(|k| k.name)).filter(|n| known(n)).collect()
    }

    /// Tables in Markdown: rates, then what each workload cost.
    #[must_use]
    pub fn markdown(&self, kinds: &[Kind]) -> String {
        let engines = self.engines(kinds);
        let mut out = format!("{}\n\n", self.about);
        let _ = writeln!(out, "| operations/s | {} |", engines.join(" | "));
        let _ = writeln!(out, "|---|{}", "---:|".repeat(engines.len()));
        for workload in &self.order {
            let best = engines.iter().filter(|e| !matches!(**e, "raw" | "BTreeMap"));
            let best = best.filter_map(|e| self.rate(workload, e)).map(|s| s.median).fold(0.0, f64::max);
            let cells: Vec<String> = engines.iter().map(|e| cell(self.rate(workload, e), best)).collect();
            let _ = writeln!(out, "| {workload} | {} |", cells.join(" | "));
        }
        out.push_str("\nMedian, with minimum and maximum of the rounds; the best engine is bold.\n\n");
        out.push_str(
            "| workload | engine | p50 us | p99 us | p99.9 us | CPU us/op | device bytes/op | flushes/op | log bytes/op | other |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        );
        for workload in &self.order {
            for engine in &engines {
                let _ = write!(out, "{}", self.cost(workload, engine).unwrap_or_default());
            }
        }
        out.push_str("\n| engine | settings | a durable commit waits for | an asynchronous commit |\n|---|---|---|---|\n");
        for k in kinds.iter().filter(|k| engines.contains(&k.name)) {
            let _ = writeln!(out, "| {} | {} | {} | {} |", k.name, k.settings, k.durable, k.asynchronous);
        }
        out
    }

    fn cost(&self, workload: &str, engine: &str) -> Option<String> {
        let rounds = self.rounds.get(workload)?.get(engine)?;
        let show = |f: &dyn Fn(&Measured) -> Option<f64>| {
            spread(rounds.iter().filter_map(f)).map_or("–".into(), |s| short(s.median))
        };
        let more = rounds.first().into_iter().flat_map(|m| m.more.keys()).map(|name| {
            let s = spread(rounds.iter().filter_map(|m| m.more.get(name).copied()));
            format!("{name} {}", s.map_or("–".into(), |s| short(s.median)))
        });
        Some(format!(
            "| {workload} | {engine} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            show(&|m| m.p50),
            show(&|m| m.p99),
            show(&|m| m.p999),
            show(&|m| (m.cpu > 0.0).then_some(m.cpu)),
            show(&|m| Some(m.device_bytes)),
            show(&|m| Some(m.flushes)),
            show(&|m| m.log_bytes),
            more.collect::<Vec<_>>().join(", "),
        ))
    }

    /// One self-contained page with a bar for each engine and workload.
    #[must_use]
    pub fn html(&self, kinds: &[Kind]) -> String {
        let engines = self.engines(kinds);
        let mut body = String::new();
        for workload in &self.order {
            let rates: Vec<(&str, Spread)> =
                engines.iter().filter_map(|e| Some((*e, self.rate(workload, e)?))).collect();
            let top = rates.iter().map(|(_, s)| s.max).fold(1.0, f64::max);
            let _ = write!(body, "<section><h2>{}</h2><table>", escape(workload));
            for (engine, s) in rates {
                let (width, low, high) = (s.median / top * 100.0, s.min / top * 100.0, s.max / top * 100.0);
                let class = if engine == "hamal" { " class=own" } else { "" };
                let _ = write!(
                    body,
                    "<tr{class}><th scope=row>{}</th><td class=bar><span style='width:{width:.1}%'></span>\
                     <i style='left:{low:.1}%;width:{:.1}%'></i></td><td>{}</td></tr>",
                    escape(engine),
                    high - low,
                    short(s.median)
                );
            }
            body.push_str("</table></section>\n");
        }
        format!(
            "{HEAD}<p>{}</p><p>Operations a second; the line shows minimum and maximum.</p><main>{body}</main>",
            escape(&self.about)
        )
    }
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
<title>hamal beside other engines</title><style>:root{color-scheme:light dark;font:15px/1.4 system-ui,sans-serif}body{margin:1.5rem}\
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(26rem,1fr));gap:1rem 2rem}h1{font-size:1.4rem}h2{font-size:1rem;margin:.4rem 0}\
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}th{text-align:left;font-weight:400;width:7rem}\
.bar{position:relative;width:60%}.bar span{display:block;height:.9rem;background:#8a94a6}.own .bar span{background:#0b5cad}.own th{font-weight:700}\
.bar i{position:absolute;top:50%;height:2px;background:currentColor}td:last-child{text-align:right}</style><h1>hamal beside other engines</h1>";

fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn cell(s: Option<Spread>, best: f64) -> String {
    let Some(s) = s else { return "–".into() };
    let bold = if s.median >= best { "**" } else { "" };
    let around =
        if s.min == s.max { String::new() } else { format!(" ({}–{})", short(s.min), short(s.max)) };
    format!("{bold}{}{bold}{around}", short(s.median))
}

/// A number with three or four digits.
#[must_use]
pub fn short(n: f64) -> String {
    match n.abs() {
        a if a >= 1e9 => format!("{:.2}G", n / 1e9),
        a if a >= 1e6 => format!("{:.2}M", n / 1e6),
        a if a >= 1e4 => format!("{:.1}k", n / 1e3),
        a if a >= 100.0 || n == 0.0 => format!("{n:.0}"),
        a if a >= 1.0 => format!("{n:.1}"),
        _ => format!("{n:.3}"),
    }
}

/// A ratio table: for each workload the median of hamal by that of each engine that a machine always has. What is kept in the
/// repository and compared by the quick mode.
#[must_use]
pub fn ratios(results: &Results, against: &[&str]) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    for workload in &results.order {
        let Some(own) = results.rate(workload, "hamal") else { continue };
        for engine in against {
            if let Some(other) = results.rate(workload, engine) {
                out.insert(format!("{workload} / {engine}"), own.median / other.median);
            }
        }
    }
    out
}

/// The entries of `stored` that have lost more than `share` (0.15: 15 %), with what they are now: those of which the medians have, and of
/// which hamal's best round beside the other engine's worst is below what is stored too. The rounds of some workloads lie far apart,
/// and are no loss then.
#[must_use]
pub fn losses(stored: &BTreeMap<String, f64>, results: &Results, share: f64) -> Vec<(String, f64, f64)> {
    let lost = |(name, was): (&String, &f64)| {
        let (workload, engine) = name.rsplit_once(" / ")?;
        let (own, other) = (results.rate(workload, "hamal")?, results.rate(workload, engine)?);
        let is = own.median / other.median;
        (is < was * (1.0 - share) && own.max / other.min < *was).then(|| (name.clone(), *was, is))
    };
    stored.iter().filter_map(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rate: f64) -> Measured {
        Measured { rate, ..Measured::default() }
    }

    #[test]
    fn a_loss_beyond_the_limit_is_named() {
        let mut r = Results::default();
        for (engine, rate) in [("hamal", 80.0), ("redb", 100.0), ("hamal", 90.0), ("hamal", 70.0)] {
            r.add("w", engine, measured(rate));
        }
        let now = ratios(&r, &["redb", "lmdb"]);
        assert_eq!(now, BTreeMap::from([("w / redb".to_string(), 0.8)]));
        let stored =
            |was: f64| BTreeMap::from([("w / redb".to_string(), was), ("gone / redb".to_string(), 9.0)]);
        assert_eq!(losses(&stored(0.9), &r, 0.15), []);
        assert_eq!(losses(&stored(1.0), &r, 0.15), [("w / redb".to_string(), 1.0, 0.8)]);
        // The rounds of redb now lie so far apart that nothing can be said.
        r.add("w", "redb", measured(50.0));
        r.add("w", "redb", measured(100.0));
        assert_eq!(losses(&stored(1.0), &r, 0.15), []);
    }

    #[test]
    fn the_best_engine_is_bold_and_the_page_has_a_bar_for_each() {
        let mut r = Results::default();
        r.add("gets <all>", "hamal", measured(2e6));
        r.add("gets <all>", "redb", measured(1e6));
        let kinds = super::super::engines::all();
        let text = r.markdown(&kinds);
        assert!(text.contains("| gets <all> | **2.00M** | 1.00M |"), "{text}");
        let page = r.html(&kinds);
        assert!(page.contains("gets &lt;all&gt;") && page.matches("class=bar").count() == 2, "{page}");
    }

    #[test]
    fn spreads() {
        assert_eq!(spread([]), None);
        assert_eq!(spread([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread([4.0, 1.0]), Some(Spread { median: 1.0, min: 1.0, max: 4.0 }));
    }
}
