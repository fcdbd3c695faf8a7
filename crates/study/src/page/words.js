// Each decision as a sentence, with the operands that decided. Text only.
"use strict";

class Words {
  constructor(model) {
    this.model = model;
    this.mode = "label";
  }

  /** An LSN as the reader wants it: the scenario's label, the record's number, or the real LSN. */
  lsn(lsn, at) {
    if (lsn == null) return "null";
    if (this.mode === "real") return String(lsn);
    const i = this.model.find(lsn, at ?? Infinity);
    const r = i >= 0 ? this.model.records[i] : null;
    if (!r) return String(lsn);
    if (this.mode === "label" && r.label) return r.label;
    return r.rec != null ? `#${r.rec}` : String(lsn);
  }

  sentence(e, at) {
    const say = SENTENCES[e.ev];
    const text = say ? say(e, (lsn) => this.lsn(lsn, at), this) : `${e.ev}.`;
    return e.note ? `${text} ${e.note}` : text;
  }

  /** What the reader is asked while the answer is hidden; null where there is no decision. */
  question(e, at) {
    const l = (lsn) => this.lsn(lsn, at);
    switch (e.ev) {
      case "analysis.rec":
        return `Analysis reads ${what(e, l)}. What changes in the two tables?`;
      case "analysis.end":
        return "Analysis is done. Who are the losers, and where does redo begin?";
      case "redo.rec":
        return `Redo comes to ${what(e, l)}. Is it applied? By which test?`;
      case "undo.pick":
        return "Which record does undo take next, and why?";
      case "undo.rec":
        return `Undo looks at ${what(e, l)}. What does it do with it?`;
      case "undo.clr":
        return `Which compensation log record is written, and what is its undoNextLSN?`;
      default:
        return null;
    }
  }
}

function what(e, l) {
  const parts = [e.type || "record", e.txn, e.page != null ? place(e) : null].filter(Boolean);
  return `${l(e.lsn)} (${parts.join(" ")})`;
}

function place(e) {
  const page = e.pages && e.pages.length > 1 ? e.pages.join(", ") : e.page;
  const slot = e.slot != null ? `[${e.slot}]` : "";
  const key = e.key != null ? ` key ${e.key}` : e.keys != null ? ` keys ${e.keys[0]} to ${e.keys[1]}` : "";
  return `${page ?? ""}${slot}${key}`;
}

const FLUSH = {
  commit: "a commit waits for it",
  "wal-rule": "WAL rule: a page is about to be written, and the log must reach its pageLSN first",
  checkpoint: "a checkpoint needs it",
  asked: "it was asked for",
  full: "the log buffer is full",
};
const WRITE = {
  asked: "it was asked for",
  evict: "its frame is wanted (steal)",
  checkpointer: "the cleaner or a checkpoint writes it",
  recovery: "recovery finishes",
  repair: "it was rebuilt from the log",
};
const SKIP = {
  "not-redoable": () => "it changes no page.",
  "page-not-in-dpt": (e) => `${e.page} is not in the dirty page table, so its version on disk was current. The page is not read.`,
  "lsn-below-reclsn": (e, l) =>
    `LSN ${l(e.lsn)} < recLSN ${l(e.rec_lsn)} of ${e.page}: the version on disk holds it. The page is not read.`,
  "pagelsn-not-below-lsn": (e, l) =>
    `pageLSN ${l(e.page_lsn)} ≥ LSN ${l(e.lsn)}: ${e.page}, as read from disk or as redone so far, holds it.`,
  "older-than-image": (e) => `a later full-page image of ${e.page} holds it.`,
  "page-freed": (e) => `${e.page} was freed later and is not used again.`,
};

const SENTENCES = {
  "log.append"(e, l) {
    const who = e.txn != null ? `${e.txn} appends` : "Appended:";
    const prev = e.txn != null ? `, prevLSN ${l(e.prev_lsn)}` : "";
    if (e.type === "clr" && isPart(e))
      return `${who} ${l(e.lsn)}, a compensation log record for ${e.rows != null ? `${e.rows} rows` : "a part"} of ${l(e.undo_of)}${e.page != null ? ` on ${place(e)}` : ""}. ` +
        `Others are left: a later undo goes on with them, and with nothing below before they are undone.`;
    if (e.type === "clr")
      return `${who} ${l(e.lsn)}, a compensation log record for ${l(e.undo_of)}${e.page != null ? ` on ${place(e)}` : ""}. ` +
        `undoNextLSN ${l(e.undo_next)}: this is where a later undo goes on, and a CLR itself is never undone.`;
    if (e.type === "dummy_clr")
      return `${who} ${l(e.lsn)}, a dummy CLR: the nested top action is complete. undoNextLSN ${l(e.undo_next)} leads past it.`;
    const change = e.before !== undefined || e.after !== undefined ? `: ${e.before ?? "nothing"} → ${e.after ?? "nothing"}` : "";
    return `${who} ${l(e.lsn)}, ${e.type}${e.page != null ? ` of ${place(e)}` : ""}${change}${prev}.`;
  },
  "log.flush": (e, l) => `The log is forced to ${l(e.to_lsn)}: ${FLUSH[e.why] || e.why}.`,
  "page.read": (e, l) => `${e.page} is read from disk, pageLSN ${l(e.page_lsn)}.`,
  "page.write": (e, l) =>
    `${e.page} is written to disk with pageLSN ${l(e.page_lsn)}: ${WRITE[e.why] || e.why}. The log was durable that far before (WAL rule).`,
  "page.image": (e, l) => `A full-page image of ${e.page} is logged at ${l(e.lsn)}, so that a torn write can be mended.`,
  "page.evict": (e) => `The frame of ${e.page} is given to another page.`,
  "page.fix": (e) => `${e.page} is latched in memory${e.exclusive ? ", to be changed" : ", to be read"}.`,
  "page.repaired": (e, l) =>
    `${e.page} is not on disk as it was written last: it is rebuilt from its whole image at ${l(e.base)} and the log after it, up to pageLSN ${l(e.page_lsn)}.`,
  "page.rebuilt": (e, l) => `${e.page} is rebuilt from the whole page in ${l(e.lsn)}; its version on disk is not read, torn or not.`,
  "ckpt.begin": (e, l) => `A fuzzy checkpoint begins at ${l(e.lsn)}. Work goes on.`,
  "ckpt.end": (e, l) =>
    `The checkpoint ends: ${count(e.att, "transaction")} and ${count(e.dpt, "dirty page")} are in its tables.` +
    (e.master_set ? ` The master record now names ${l(e.begin)}.` : ""),
  "ckpt.tables": (e, l) =>
    `The tables are copied for the checkpoint: ${count(e.att, "transaction")}, ${count(e.dpt, "dirty page")}; a restart would redo from ${l(e.redo_point)}.`,
  txn(e, l) {
    const what = {
      begin: () => "begins with its first change",
      savepoint: () => `marks savepoint ${e.name}`,
      "rollback-to": () => `rolls back to where it stood at ${l(e.to_lsn)}; it stays alive`,
      abort: () => "rolls back completely",
      commit: () => "commits: the commit record is in the log, and the transaction waits until it is durable",
      end: () => "has ended",
      wait: () => `waits for ${e.for}`,
    }[e.what];
    return `${e.txn} ${what ? what() : e.what}.`;
  },
  "log.end": (e) => `Restart finds the end of the log at ${e.end_lsn}: ${e.verdict}.`,
  error: (e) => `Recovery stops with an error: ${e.message || e.kind}.`,
  crash(e, l) {
    const lost = rows(e.lost);
    const torn = [].concat(e.torn ?? []);
    return `Crash. The log survives up to ${l(e.stable_log_end)}` +
      (lost.length ? `; lost: ${lost.map((r) => `#${r}`).join(", ")}` : "; no record is lost") +
      (torn.length ? `. Torn: ${torn.join(", ")}` : "") +
      ". Buffer pool and tables are gone.";
  },
  "analysis.start": (e, l) =>
    `Analysis starts at ${l(e.start)}: ${e.why === "master" ? "the master record names this checkpoint" : e.why}. It rebuilds who was active and which pages may be dirty.`,
  "analysis.rec"(e, l) {
    const changes = [
      ...rows(e.att_set).map((r) => `ATT: ${r[0]} now ${attRow(r).status}, lastLSN ${l(attRow(r).last)}`),
      ...rows(e.att_del).map((r) => `ATT: ${Array.isArray(r) ? r[0] : r} leaves`),
      ...rows(e.dpt_add).map((r) => `DPT: ${r[0]} enters with recLSN ${l(r[1])}`),
      ...rows(e.dpt_lower).map((r) => `DPT: recLSN of ${r[0]} goes down to ${l(r[1])}`),
    ];
    const why = rows(e.why).map((r) => ` (${Array.isArray(r) ? `${r[0]}: ${r[1]}` : r})`).join("");
    return `Analysis reads ${what(e, l)}: ${changes.length ? changes.join("; ") : "no change"}${why}.`;
  },
  "analysis.end": (e, l) =>
    `Analysis is done. Losers: ${rows(e.losers).join(", ") || "none"}. Redo begins at ${l(e.redo_from)}, the smallest recLSN.`,
  "redo.rec"(e, l) {
    if (e.decision === "redo")
      return `Redo ${what(e, l)}: applied, because pageLSN ${l(e.page_lsn)} < LSN ${l(e.lsn)}. pageLSN is now ${l(e.page_lsn_after)}.`;
    const why = SKIP[e.reason];
    return `Redo ${what(e, l)}: skipped, ${why ? why(e, l) : `${e.reason}.`}`;
  },
  "undo.pick": (e, l) => e.to_undo == null ? `Undo chooses ${l(e.lsn)} of ${e.txn}, the largest undoNextLSN of ${e.losers} losers.` :
    `Undo chooses ${l(e.lsn)}, the largest of {${rows(e.to_undo).map((r) => `${r[0]}: ${l(r[1])}`).join(", ")}}: one backward sweep over the log for all losers.`,
  "undo.rec"(e, l) {
    if (e.decision === "compensate") return `Undo ${what(e, l)}: it is compensated. Next for ${e.txn}: ${l(e.next)}.`;
    if (e.decision === "follow")
      return `Undo meets ${what(e, l)}: what it compensates is undone already, so undo follows its undoNextLSN to ${l(e.next)}.`;
    return `Undo meets ${what(e, l)}: nothing to undo there, so it follows prevLSN to ${l(e.next)}.`;
  },
  "undo.clr": (e, l) =>
    `The compensation is logged${e.lsn != null ? ` at ${l(e.lsn)}` : ""}` +
    (e.page != null ? `; ${e.page} now has pageLSN ${l(e.page_lsn_after)}` : "") +
    (e.left != null ? `. ${e.left} parts of ${l(e.undo_of)} are left: undo goes on at this record.` : e.undo_next !== undefined ? `. undoNextLSN ${l(e.undo_next)}.` : "."),
  "undo.end": (e, l) => `${e.txn} is undone completely${e.lsn != null ? `; its END is ${l(e.lsn)}` : ""}.`,
  finish(e) {
    const n = e.counts || {};
    const skipped = Object.entries(n.skipped || {}).map(([why, times]) => `${times} ${why}`);
    return `Restart is done: ${n.analysed ?? 0} records analysed, ${n.redone ?? 0} redone, ` +
      `${skipped.length ? `skipped ${skipped.join(", ")}` : "none skipped"}; ${n.pages_read ?? 0} pages read, ${n.clrs ?? 0} CLRs, ${n.ends ?? 0} ends.`;
  },
  show(e) {
    if (e.slots) return `${e.page} holds ${rows(e.slots).map((r) => `[${r[0]}] = ${r[1]}`).join(", ") || "nothing"}.`;
    if (e.key !== undefined) return `${e.table ?? ""} ${e.key} = ${e.value ?? "nothing"}.`;
    return "The scenario shows the state here.";
  },
};

function count(list, noun) {
  const n = rows(list).length;
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}
