// The page: lists, tables, the sentence, keys, search and links.
"use strict";

const $ = (id) => document.getElementById(id);

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children.map((c) => (c instanceof Node ? c : document.createTextNode(String(c)))));
  return node;
}

/** A list of any length of which only the rows in sight exist. */
class LongList {
  constructor(root, draw) {
    this.root = root;
    this.draw = draw;
    this.items = [];
    this.inner = make("div", { class: "rows" });
    root.append(this.inner);
    root.addEventListener("scroll", () => this.render());
    new ResizeObserver(() => this.render()).observe(root);
  }

  rowHeight() {
    return parseFloat(getComputedStyle(document.documentElement).fontSize) * 1.75;
  }

  set(items, selected) {
    this.items = items;
    this.select(selected);
  }

  select(selected) {
    this.selected = selected;
    const h = this.rowHeight();
    const top = selected * h;
    const { scrollTop, clientHeight } = this.root;
    if (selected >= 0 && (top < scrollTop + h || top + 2 * h > scrollTop + clientHeight))
      this.root.scrollTop = Math.max(0, top - clientHeight / 2);
    this.render();
  }

  render() {
    const h = this.rowHeight();
    this.inner.style.height = `${this.items.length * h}px`;
    const first = Math.max(0, Math.floor(this.root.scrollTop / h) - 4);
    const last = Math.min(this.items.length, first + Math.ceil(this.root.clientHeight / h) + 8);
    const rows = [];
    for (let i = first; i < last; i++) {
      const row = this.draw(this.items[i], i, i === this.selected);
      row.style.top = `${i * h}px`;
      row.style.height = `${h}px`;
      row.id = `${this.root.id}-${i}`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", String(i === this.selected));
      row.setAttribute("aria-setsize", this.items.length);
      row.setAttribute("aria-posinset", i + 1);
      rows.push(row);
    }
    this.inner.replaceChildren(...rows);
    if (this.selected >= 0) this.root.setAttribute("aria-activedescendant", `${this.root.id}-${this.selected}`);
  }
}

class Page {
  constructor(model) {
    this.model = model;
    this.words = new Words(model);
    this.at = -1;
    this.hits = [];
    this.hit = -1;
    this.hiding = false;
    this.revealed = -1;
    this.picked = null;
    this.playing = null;
    this.strip = new Strip($("strip"), model, (at) => this.go(at));
    this.lanes = new Lanes($("lanes"), model, this.words, (i) => this.pickRecord(i));
    this.log = new LongList($("log"), (item, i, on) => this.logRow(item, on));
    this.steps = new LongList($("steps"), (at, i, on) => this.stepRow(at, on));
    this.steps.set(model.events.map((_, at) => at), -1);
    this.logItems();
    this.wire();
    const wanted = /seq=(\d+)/.exec(location.hash);
    this.go(wanted ? this.bySeq(Number(wanted[1])) : 0);
  }

  /** Records and, between them, a bar for each crash and restart. */
  logItems() {
    this.items = [];
    this.itemOf = new Map();
    const bars = this.model.crashes.slice();
    this.model.records.forEach((r, i) => {
      while (bars.length && bars[0] < r.at) this.items.push({ bar: bars.shift() });
      this.itemOf.set(i, this.items.length);
      this.items.push({ record: i });
    });
    for (const bar of bars) this.items.push({ bar });
    this.log.set(this.items, -1);
  }

  bySeq(seq) {
    const guess = this.model.events.findIndex((e) => e.seq === seq);
    return guess >= 0 ? guess : Math.min(seq, this.model.length - 1);
  }

  go(at) {
    const next = Math.max(0, Math.min(this.model.length - 1, at));
    if (next === this.at) return;
    this.at = next;
    this.picked = null;
    this.sayStep(this.model.events[next]);
    if (!this.waiting) {
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        this.update();
      });
    }
    clearTimeout(this.link);
    this.link = setTimeout(() => history.replaceState(null, "", `#seq=${this.model.events[this.at].seq ?? this.at}`), 120);
  }

  /** Whether the event under the cursor is a question that has not been answered yet. */
  hidden() {
    return this.hiding && this.revealed !== this.at && this.words.question(this.model.events[this.at], this.at) != null;
  }

  update() {
    const { model, at } = this;
    const e = model.events[at];
    const record = this.picked ?? model.recordOf[at];
    this.strip.draw(at);
    $("strip").setAttribute("aria-valuenow", at);
    $("strip").setAttribute("aria-valuetext", `step ${at + 1} of ${model.length}, ${phaseName(e)}`);
    this.lanes.draw(at, record, this.chain(record));
    this.log.select(record >= 0 ? this.itemOf.get(record) : this.barBefore(at));
    this.steps.select(at);
    this.sayStep(e);
    this.panels();
  }

  barBefore(at) {
    return this.items.findIndex((item) => item.bar === at);
  }

  /** A record, its prevLSN chain, and what it compensates. */
  chain(record) {
    const chain = new Set();
    for (let i = record, n = 0; i >= 0 && n < 500 && !chain.has(i); n++) {
      chain.add(i);
      const r = this.model.records[i];
      const of = r.undoOf == null ? -1 : this.model.find(r.undoOf, r.at);
      if (of >= 0) chain.add(of);
      const back = /clr/.test(r.type) ? r.undoNext : r.prev;
      i = back == null ? -1 : this.model.find(back, r.at);
    }
    return chain;
  }

  sayStep(e) {
    const question = this.hidden() ? this.words.question(e, this.at) : null;
    $("where").textContent = `${phaseName(e)} · step ${this.at + 1} of ${this.model.length}`;
    $("where").dataset.phase = e.phase || "run";
    $("sentence").textContent = question || this.words.sentence(e, this.at);
    $("sentence").classList.toggle("question", !!question);
    $("reveal").hidden = !question;
    $("raw").textContent = question ? "" : JSON.stringify(e);
    this.touched();
  }

  /** All that happened to the record that was picked, in any restart. */
  touched() {
    const box = $("touched");
    if (this.picked == null) {
      box.hidden = true;
      return;
    }
    this.history(this.model.touches.get(this.picked) || [], `All steps that speak of ${this.words.lsn(this.model.records[this.picked].lsn, this.at)}`);
  }

  history(list, title) {
    const box = $("touched");
    box.hidden = false;
    const few = list.slice(0, 200);
    box.replaceChildren(
      make("h3", {}, title, list.length > few.length ? ` (first ${few.length} of ${list.length})` : ""),
      make("ol", {}, ...few.map((at) => make("li", {}, make("button", { class: "link", onclick: () => this.go(at) },
        `${phaseName(this.model.events[at])}: ${this.words.sentence(this.model.events[at], at)}`)))),
    );
  }

  pickRecord(i) {
    this.picked = i;
    this.update();
  }

  pickPage(page) {
    this.history(this.model.pageEvents.get(page) || [], `The life of ${page}`);
  }

  panels() {
    const shown = this.hidden() ? this.at - 1 : this.at;
    const now = this.model.state(shown);
    const before = this.model.state(shown - 1);
    const l = (lsn) => this.words.lsn(lsn, this.at);
    const changed = (a, b) => (JSON.stringify(a) === JSON.stringify(b) ? "" : "changed");
    table($("att"), ["transaction", "status", "lastLSN", "undoNextLSN"], sorted(now.att).map(([txn, t]) => ({
      class: changed(t, before.att.get(txn)),
      cells: [txn, make("abbr", { title: { U: "active", A: "aborting", C: "committed" }[t.status] || "" }, t.status), l(t.last), t.undoNext === undefined ? "" : l(t.undoNext)],
    })), "no transaction");
    table($("dpt"), ["page", "recLSN"], sorted(now.dpt).map(([page, lsn]) => ({
      class: changed(lsn, before.dpt.get(page)),
      cells: [this.pageButton(page), l(lsn)],
    })), "no dirty page");
    table($("pages"), ["page", "in the pool", "on disk", ""], sorted(now.pages).map(([page, p]) => ({
      class: changed(p, before.pages.get(page)),
      cells: [this.pageButton(page), p.pool === undefined ? "—" : l(p.pool), p.torn ? "torn" : l(p.disk),
        p.torn ? "torn" : p.pool === undefined || p.pool === p.disk ? "" : "dirty"],
    })), "no page yet");
    const pick = now.undo && now.undo.length ? now.undo.reduce((a, b) => ((b[1] ?? -1) > (a[1] ?? -1) ? b : a)) : null;
    table($("undo"), ["loser", "undoNextLSN"], (now.undo || []).map((row) => ({
      class: row === pick ? "changed" : "",
      cells: [row[0], l(row[1]) + (row === pick ? "  ← largest" : "")],
    })), now.undo ? "empty: all losers are undone" : "only during undo");
  }

  pageButton(page) {
    return make("button", { class: "link", title: `the life of ${page}`, onclick: () => this.pickPage(page) }, page);
  }

  logRow(item, on) {
    if (item.bar != null) {
      const e = this.model.events[item.bar];
      return make("div", { class: `row bar${item.bar > this.at ? " future" : ""}${on ? " on" : ""}`, onclick: () => this.go(item.bar) },
        `crash${e.stable_log_end != null ? `: the log survives to ${this.words.lsn(e.stable_log_end, item.bar)}` : ""} · restart ${(e.run || 0) + 1}`);
    }
    const r = this.model.records[item.record];
    const l = (lsn) => this.words.lsn(lsn, r.at);
    const lost = r.lostAt <= this.at;
    const clr = /clr/.test(r.type);
    const chain = clr ? `undoes ${l(r.undoOf)}, next ${l(r.undoNext)}` : r.prev != null ? `prev ${l(r.prev)}` : "";
    return make("div", {
      class: `row run${r.run % 4}${r.at > this.at ? " future" : ""}${lost ? " lost" : ""}${on ? " on" : ""}`,
      onclick: () => (r.at > this.at ? this.go(r.at) : this.pickRecord(item.record)),
    }, cell("lsn", l(r.lsn)), cell("type", r.type || ""), cell("txn", r.txn ?? ""),
    cell("page", r.page != null ? `${r.page}${r.slot != null ? `[${r.slot}]` : ""}` : ""), cell("chain", lost ? "lost in the crash" : chain),
    cell("mark", r.at > this.at ? "" : this.mark(item.record)));
  }

  /** What the present restart has done with a record so far. */
  mark(record) {
    const run = this.model.events[this.at].run;
    let mark = "";
    for (const at of this.model.touches.get(record) || []) {
      const e = this.model.events[at];
      if (at > this.at || (at === this.at && this.hidden())) break;
      if (e.run !== run) continue;
      if (e.ev === "redo.rec") mark = e.decision === "redo" ? "✓ redone" : "– skipped";
      if (e.ev === "undo.rec") mark = e.decision === "compensate" ? "↶ undone" : "→ followed";
    }
    return mark;
  }

  stepRow(at, on) {
    const e = this.model.events[at];
    const secret = this.hiding && at >= this.at && this.words.question(e, at) != null && this.revealed !== at;
    return make("div", { class: `row step${at > this.at ? " future" : ""}${on ? " on" : ""}`, onclick: () => this.go(at) },
      cell("phase", phaseName(e)), cell("text", secret ? "?" : this.words.sentence(e, at)));
  }

  section(by) {
    const { sections } = this.model;
    const here = this.model.section(this.at);
    const back = by < 0 && sections[here].at < this.at ? here : here + by;
    this.go(sections[Math.max(0, Math.min(sections.length - 1, back))].at);
  }

  restart(by) {
    const starts = [0, ...this.model.crashes];
    const next = by > 0 ? starts.find((at) => at > this.at) : starts.filter((at) => at < this.at).pop();
    if (next != null) this.go(next);
    else this.go(by > 0 ? this.model.length - 1 : 0);
  }

  play() {
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = null;
    } else {
      this.playing = setInterval(() => (this.at + 1 < this.model.length ? this.go(this.at + 1) : this.play()), 900);
    }
    $("play").textContent = this.playing ? "pause" : "play";
  }

  search(query) {
    this.hits = this.model.search(query);
    this.hit = -1;
    this.strip.hits = this.hits;
    if (this.hits.length) this.nextHit(1);
    else this.strip.draw(this.at);
    $("found").textContent = !query.trim() ? "" : this.hits.length ? `${this.hit + 1} of ${this.hits.length}` : "nothing found";
  }

  nextHit(by) {
    const n = this.hits.length;
    if (!n) return;
    this.hit = this.hit < 0 ? 0 : (this.hit + by + n) % n;
    $("found").textContent = `${this.hit + 1} of ${n}`;
    this.go(this.hits[this.hit]);
  }

  reveal() {
    this.revealed = this.at;
    this.update();
  }

  wire() {
    $("strip").setAttribute("aria-valuemax", this.model.length - 1);
    const click = (id, f) => $(id).addEventListener("click", f);
    click("first", () => this.go(0));
    click("back", () => this.go(this.at - 1));
    click("play", () => this.play());
    click("next", () => this.go(this.at + 1));
    click("end", () => this.go(this.model.length - 1));
    click("reveal", () => this.reveal());
    click("theme", () => toggleTheme());
    click("larger", () => resize(1.15));
    click("smaller", () => resize(1 / 1.15));
    click("help", () => $("keys").showModal());
    $("hide").addEventListener("change", (event) => {
      this.hiding = event.target.checked;
      this.revealed = -1;
      this.update();
    });
    $("lsn").addEventListener("change", (event) => {
      this.words.mode = event.target.value;
      this.update();
    });
    for (const tab of ["log", "steps"]) click(`tab-${tab}`, () => showTab(tab));
    $("search").addEventListener("input", (event) => this.search(event.target.value));
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.nextHit(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") event.target.blur();
    });
    addEventListener("hashchange", () => {
      const wanted = /seq=(\d+)/.exec(location.hash);
      if (wanted) this.go(this.bySeq(Number(wanted[1])));
    });
    addEventListener("resize", () => this.update());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox") return;
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    const keys = {
      ArrowRight: () => (event.shiftKey ? this.section(1) : this.go(this.at + 1)),
      ArrowLeft: () => (event.shiftKey ? this.section(-1) : this.go(this.at - 1)),
      "]": () => this.restart(1),
      "[": () => this.restart(-1),
      Home: () => this.go(0),
      End: () => this.go(this.model.length - 1),
      PageDown: () => this.go(this.at + Math.max(10, Math.round(this.model.length / 50))),
      PageUp: () => this.go(this.at - Math.max(10, Math.round(this.model.length / 50))),
      " ": () => event.target.tagName !== "BUTTON" && this.play(),
      h: () => $("hide").click(),
      Enter: () => event.target.tagName !== "BUTTON" && this.hidden() && this.reveal(),
      n: () => this.nextHit(1),
      N: () => this.nextHit(-1),
      "/": () => $("search").focus(),
      "?": () => $("keys").showModal(),
    };
    const f = keys[event.key];
    if (!f || f() === false) return;
    event.preventDefault();
  }
}

function phaseName(e) {
  const run = e.run || 0;
  return run === 0 && (e.phase || "run") === "run" ? "normal work" : `${run ? `restart ${run}, ` : ""}${e.phase === "run" ? "work" : e.phase || "work"}`;
}

function cell(name, text) {
  return make("span", { class: name, title: text }, text);
}

function sorted(map) {
  return [...map].sort((a, b) => String(a[0]).localeCompare(String(b[0]), "en", { numeric: true }));
}

/** At most 400 rows are made; the rest is counted. */
function table(root, heads, rows, empty) {
  const few = rows.slice(0, 400);
  const body = few.length
    ? few.map((row) => make("tr", { class: row.class }, ...row.cells.map((c) => make("td", {}, c))))
    : [make("tr", { class: "empty" }, make("td", { colspan: heads.length }, empty))];
  if (rows.length > few.length) body.push(make("tr", { class: "empty" }, make("td", { colspan: heads.length }, `and ${rows.length - few.length} more`)));
  root.replaceChildren(make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...body));
}

function showTab(name) {
  for (const tab of ["log", "steps"]) {
    $(tab).hidden = tab !== name;
    $(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
  }
  window.page.update();
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  window.page.update();
}

function resize(by) {
  const root = document.documentElement;
  const size = Math.min(30, Math.max(11, parseFloat(getComputedStyle(root).fontSize) * by));
  root.style.fontSize = `${size}px`;
  window.page.update();
}

async function start() {
  try {
    const trace = await readTrace($("trace").textContent, (share) => {
      $("sentence").textContent = `Reading the trace: ${Math.round(share * 100)} %`;
    });
    $("title").textContent = trace.header.scenario || trace.header.database || "recovery trace";
    document.title = `${$("title").textContent} · recovery`;
    if (!trace.events.length) {
      $("sentence").textContent = "The trace has no events.";
      return;
    }
    if (trace.events.some((e) => e.label)) $("lsn").value = "label";
    window.page = new Page(new Model(trace));
    $("trace").textContent = "";
    document.body.dataset.ready = "yes";
  } catch (error) {
    $("sentence").textContent = `The trace cannot be read: ${error.message}`;
    throw error;
  }
}

start();
