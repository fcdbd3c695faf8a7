// The trace as data: events, the records of the log they speak of, and the state after each event.
// Nothing here touches the document.
"use strict";

/** Reads JSON Lines a slice at a time, so that a long trace does not freeze the page. */
async function readTrace(text, progress) {
  const events = [];
  let header = null;
  let from = 0;
  let slice = performance.now();
  while (from < text.length) {
    let to = text.indexOf("\n", from);
    if (to < 0) to = text.length;
    const line = text.slice(from, to).trim();
    from = to + 1;
    if (!line) continue;
    const event = JSON.parse(line);
    if (event.ev === "header") header = event;
    else events.push(event);
    if (performance.now() - slice > 40) {
      progress(from / text.length);
      await new Promise((done) => setTimeout(done));
      slice = performance.now();
    }
  }
  return { header: header || {}, events };
}

class Model {
  constructor({ header, events }) {
    this.header = header;
    this.events = events;
    /** Records in the order in which they came into being: {at, lsn, rec, label, type, txn, ..., lostAt}. */
    this.records = [];
    /** LSN -> indices of records; a lost LSN is used again, so there may be several. */
    this.byLsn = new Map();
    /** Record index -> indices of the events that speak of it. */
    this.touches = new Map();
    /** Page -> indices of the events that speak of it. */
    this.pageEvents = new Map();
    /** Event index -> record index, or -1. */
    this.recordOf = new Int32Array(events.length).fill(-1);
    /** Where phases and restarts begin: {at, run, phase}. */
    this.sections = [];
    this.crashes = [];
    this.#index();
    this.#snapshots();
  }

  get length() {
    return this.events.length;
  }

  #index() {
    let last = null;
    this.events.forEach((e, at) => {
      if (!last || e.run !== last.run || e.phase !== last.phase) {
        last = { at, run: e.run || 0, phase: e.phase || "run" };
        this.sections.push(last);
      }
      if (e.ev === "log.append") this.#record(e, at);
      else if (e.lsn != null && /^(analysis\.rec|redo\.rec|undo\.rec)$/.test(e.ev) && this.find(e.lsn, at) < 0)
        this.#record({ ...e, old: true }, at);
      if (e.ev === "crash") {
        this.crashes.push(at);
        this.#lose(e, at);
      }
      const record = e.lsn != null ? this.find(e.lsn, at) : -1;
      this.recordOf[at] = record;
      if (record >= 0) push(this.touches, record, at);
      if (e.page != null) push(this.pageEvents, e.page, at);
    });
  }

  #record(e, at) {
    push(this.byLsn, e.lsn, this.records.length);
    this.records.push({
      at, lsn: e.lsn, rec: e.rec, label: e.label || null, type: e.type, txn: e.txn ?? null, page: e.page ?? null,
      slot: e.slot ?? null, key: e.key ?? null, prev: e.prev_lsn ?? null, undoOf: e.undo_of ?? null,
      undoNext: e.undo_next ?? null, run: e.run || 0, old: !!e.old, lostAt: Infinity,
      before: e.before, after: e.after,
    });
  }

  /** A crash takes the records that were not durable: those it names, or all at and above the stable end. */
  #lose(e, at) {
    const named = Array.isArray(e.lost) ? new Set(e.lost) : null;
    for (let i = this.records.length - 1; i >= 0; i--) {
      const r = this.records[i];
      if (r.lostAt !== Infinity) continue;
      const lost = named ? named.has(r.rec) : e.stable_log_end != null && r.lsn >= e.stable_log_end;
      if (lost) r.lostAt = at;
      else if (!named) break;
    }
  }

  /** The record with this LSN as the log stands at an event; -1 if there is none. */
  find(lsn, at) {
    const all = this.byLsn.get(lsn);
    if (!all) return -1;
    for (let k = all.length - 1; k >= 0; k--) {
      const r = this.records[all[k]];
      if (r.at <= at && r.lostAt > at) return all[k];
    }
    return -1;
  }

  #snapshots() {
    this.every = Math.max(64, Math.ceil(this.events.length / 200));
    this.saved = [];
    this.recent = new Map();
    const state = emptyState();
    this.events.forEach((e, at) => {
      if (at % this.every === 0) this.saved.push(copyState(state));
      apply(state, e);
    });
  }

  /** The state after the event at `at`; before all events for -1. Not to be changed. */
  state(at) {
    const known = this.recent.get(at);
    if (known) return known;
    const state = this.#compute(at);
    if (this.recent.size >= 4) this.recent.delete(this.recent.keys().next().value);
    this.recent.set(at, state);
    return state;
  }

  #compute(at) {
    const one = this.recent.get(at - 1);
    if (one) {
      const next = copyState(one);
      apply(next, this.events[at]);
      return next;
    }
    const from = Math.max(0, Math.floor(Math.max(at, 0) / this.every));
    const state = this.saved.length ? copyState(this.saved[from]) : emptyState();
    for (let i = from * this.every; i <= at; i++) apply(state, this.events[i]);
    return state;
  }

  section(at) {
    let low = 0;
    let high = this.sections.length - 1;
    while (low < high) {
      const mid = (low + high + 1) >> 1;
      if (this.sections[mid].at <= at) low = mid;
      else high = mid - 1;
    }
    return low;
  }

  /** The events that a query means: an LSN or ordinal, a label, a page, a transaction, or words of an event. */
  search(query) {
    const q = query.trim().toLowerCase();
    if (!q) return [];
    const number = /^(?:lsn|rec)?\s*[=:]?\s*(\d+)$/.exec(q);
    const n = number ? Number(number[1]) : null;
    const tables = (list) => Array.isArray(list) && list.some((row) => String(row[0]).toLowerCase() === q);
    const hits = [];
    this.events.forEach((e, at) => {
      const named =
        (n != null && (e.lsn === n || e.rec === n)) ||
        [e.label, e.page, e.txn, e.reason, e.decision, e.type, e.key].some((v) => v != null && String(v).toLowerCase() === q) ||
        [e.att_set, e.dpt_add, e.to_undo].some(tables) ||
        (n == null && q.length > 2 && e.ev.includes(q));
      if (named) hits.push(at);
    });
    return hits;
  }
}

function push(map, key, value) {
  const list = map.get(key);
  if (list) list.push(value);
  else map.set(key, [value]);
}

function emptyState() {
  return { att: new Map(), dpt: new Map(), pages: new Map(), undo: null, stable: null, master: null };
}

function copyState(s) {
  const pages = new Map();
  for (const [name, p] of s.pages) pages.set(name, { ...p });
  const att = new Map();
  for (const [name, t] of s.att) att.set(name, { ...t });
  return { att, dpt: new Map(s.dpt), pages, undo: s.undo && s.undo.slice(), stable: s.stable, master: s.master };
}

/** One event's effect on tables and pages. In normal running the tables follow from the records appended. */
function apply(s, e) {
  const step = EFFECTS[e.ev];
  if (step) step(s, e);
}

function pageOf(s, name) {
  let p = s.pages.get(name);
  if (!p) s.pages.set(name, (p = { pool: undefined, disk: null, torn: false }));
  return p;
}

const EFFECTS = {
  "log.append"(s, e) {
    if (e.txn != null) {
      if (e.type === "end") s.att.delete(e.txn);
      else {
        const t = s.att.get(e.txn) || { status: "U", last: null, undoNext: null };
        if (e.type === "commit") t.status = "C";
        else if (e.type === "abort") t.status = "A";
        t.last = e.lsn;
        // A CLR that leaves parts of its record leads to that, and is where undo goes on.
        if (e.undo_next !== undefined && /clr/.test(e.type)) t.undoNext = isPart(e) ? e.lsn : e.undo_next;
        else if (e.type === "update") t.undoNext = e.lsn;
        s.att.set(e.txn, t);
      }
    }
    // An image changes nothing: it holds what the page is.
    const pages = e.type === "image" ? [] : e.pages || (e.page != null ? [e.page] : []);
    for (const page of pages) {
      if (!s.dpt.has(page)) s.dpt.set(page, e.lsn);
      pageOf(s, page).pool = e.lsn;
    }
  },
  "log.flush"(s, e) {
    s.stable = e.to_lsn;
  },
  "page.read"(s, e) {
    const p = pageOf(s, e.page);
    p.pool = e.page_lsn;
    if (!e.torn) p.disk = e.page_lsn;
  },
  "page.write"(s, e) {
    const p = pageOf(s, e.page);
    p.disk = e.page_lsn;
    p.torn = false;
    if (p.pool === undefined) p.pool = e.page_lsn;
    s.dpt.delete(e.page);
  },
  "page.evict"(s, e) {
    pageOf(s, e.page).pool = undefined;
  },
  "ckpt.end"(s, e) {
    if (e.master_set) s.master = e.begin;
  },
  "page.repaired"(s, e) {
    const p = pageOf(s, e.page);
    p.pool = e.page_lsn;
    p.torn = false;
  },
  crash(s, e) {
    s.att.clear();
    s.dpt.clear();
    s.undo = null;
    s.stable = e.stable_log_end;
    for (const p of s.pages.values()) p.pool = undefined;
    for (const [page, lsn] of e.disk || []) pageOf(s, page).disk = lsn;
    for (const page of [].concat(e.torn ?? [])) pageOf(s, page).torn = true;
  },
  "analysis.start"(s, e) {
    s.att.clear();
    s.dpt.clear();
    s.master = e.master ?? null;
    for (const [page, lsn] of rows(e.disk)) pageOf(s, page).disk = lsn;
  },
  "analysis.rec"(s, e) {
    for (const row of rows(e.att_set)) s.att.set(row[0], attRow(row));
    for (const row of rows(e.att_del)) s.att.delete(Array.isArray(row) ? row[0] : row);
    for (const [page, lsn] of rows(e.dpt_add)) s.dpt.set(page, lsn);
    for (const [page, lsn] of rows(e.dpt_lower)) s.dpt.set(page, lsn);
  },
  "analysis.end"(s, e) {
    s.att = new Map(rows(e.att).map((row) => [row[0], attRow(row)]));
    s.dpt = new Map(rows(e.dpt).map((row) => [row[0], row[1]]));
  },
  "redo.rec"(s, e) {
    if (e.page == null) return;
    const p = pageOf(s, e.page);
    if (e.page_read && e.page_lsn !== undefined && p.pool === undefined) p.pool = e.page_lsn;
    if (e.decision === "redo" && e.page_lsn_after !== undefined) p.pool = e.page_lsn_after;
    if (e.reason === "pagelsn-not-below-lsn") p.pool = e.page_lsn;
  },
  "undo.pick"(s, e) {
    s.undo = rows(e.to_undo).map((row) => [row[0], row[1]]);
  },
  "undo.clr"(s, e) {
    if (e.page != null && e.page_lsn_after !== undefined) pageOf(s, e.page).pool = e.page_lsn_after;
  },
  "undo.end"(s, e) {
    s.att.delete(e.txn);
    if (s.undo) s.undo = s.undo.filter(([txn]) => txn !== e.txn);
  },
  finish(s, e) {
    s.undo = null;
    for (const [page, lsn] of rows(e.pages)) {
      const p = pageOf(s, page);
      if (p.pool === undefined) p.disk = lsn;
      else p.pool = lsn;
    }
  },
};

function rows(list) {
  return Array.isArray(list) ? list : [];
}

/** Whether a CLR leaves parts of the record that it undoes. */
function isPart(e) {
  return e.undo_of != null && e.undo_of === e.undo_next;
}

/** `[txn, status, last, undoNext]`, or the short `[txn, last]` of a step. */
function attRow(row) {
  if (row.length >= 4) return { status: row[1], last: row[2], undoNext: row[3] };
  if (row.length === 3) return { status: row[1], last: row[2], undoNext: undefined };
  return { status: "U", last: row[1], undoNext: undefined };
}
