// Two pictures of the log: all of it in a strip that is also the scrubber, and the part around the cursor with a lane for each
// transaction and the arrows between records.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text != null) node.textContent = text;
  return node;
}

/** The whole trace in as many columns as there are pixels: a column shows the phase and how much happens in it. */
class Strip {
  constructor(canvas, model, jump) {
    this.canvas = canvas;
    this.model = model;
    this.hits = [];
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      return Math.min(model.length - 1, Math.floor(share * model.length));
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      jump(at(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) jump(at(event));
    });
    new ResizeObserver(() => this.draw(this.cursor || 0)).observe(canvas);
  }

  draw(cursor) {
    this.cursor = cursor;
    const { canvas, model } = this;
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width || !height) return;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const g = canvas.getContext("2d");
    g.scale(scale, scale);
    const css = getComputedStyle(document.documentElement);
    const color = (name) => css.getPropertyValue(name).trim();
    const n = Math.max(1, model.length);
    const x = (at) => (at / n) * width;
    model.sections.forEach((s, i) => {
      const to = i + 1 < model.sections.length ? model.sections[i + 1].at : n;
      g.fillStyle = color(`--phase-${s.phase}`) || color("--phase-run");
      g.fillRect(x(s.at), 0, Math.max(1, x(to) - x(s.at)), height);
    });
    this.#bars(g, width, height, color("--ink"));
    g.fillStyle = color("--bad");
    for (const at of model.crashes) g.fillRect(x(at) - 1, 0, 3, height);
    g.fillStyle = color("--accent");
    for (const at of this.hits) g.fillRect(x(at), height - 5, 2, 5);
    g.fillStyle = color("--ink");
    g.fillRect(x(cursor + 0.5) - 1.5, 0, 3, height);
  }

  /** How many changes (records, pages redone, CLRs) fall in each column. */
  #bars(g, width, height, ink) {
    const columns = Math.min(width, this.model.length);
    if (!this.density || this.density.length !== columns) {
      this.density = new Uint32Array(columns);
      this.model.events.forEach((e, at) => {
        const change = e.ev === "log.append" || e.decision === "redo" || e.ev === "page.write";
        if (change) this.density[Math.floor((at / this.model.length) * columns)]++;
      });
      this.peak = this.density.reduce((a, b) => Math.max(a, b), 1);
    }
    g.fillStyle = ink;
    g.globalAlpha = 0.35;
    const step = width / columns;
    for (let i = 0; i < columns; i++) {
      const h = (this.density[i] / this.peak) * (height - 8);
      if (h > 0) g.fillRect(i * step, height - 4 - h, Math.max(1, step - 0.5), h);
    }
    g.globalAlpha = 1;
  }
}

const STEP = 64;
const LANE = 34;
const TOP = 26;

/** The records around one record, in lanes. */
class Lanes {
  constructor(root, model, words, pick) {
    Object.assign(this, { root, model, words, pick });
  }

  draw(at, center, chain) {
    const { model, root } = this;
    const room = Math.max(6, Math.floor((root.clientWidth - 90) / STEP));
    const known = this.#known(at);
    const focus = center >= 0 ? center : known - 1;
    const first = Math.max(0, Math.min(focus - Math.floor(room / 2), known - room));
    const shown = [];
    for (let i = first; i < Math.min(known, first + room); i++) shown.push(i);
    const lanes = [...new Set(shown.map((i) => model.records[i].txn ?? ""))].sort(byName);
    const height = TOP + Math.max(1, lanes.length) * LANE + 34;
    const picture = svg("svg", { width: "100%", height, role: "img", "aria-label": this.#describe(shown, lanes) });
    picture.append(arrowHeads());
    lanes.forEach((txn, i) => {
      const y = TOP + i * LANE + LANE / 2;
      picture.append(svg("line", { x1: 60, x2: 84 + shown.length * STEP, y1: y, y2: y, class: "lane" }));
      picture.append(svg("text", { x: 4, y: y + 5, class: "lane-name" }, txn || "log"));
    });
    const place = new Map(shown.map((i, k) => {
      const lane = lanes.indexOf(model.records[i].txn ?? "");
      return [i, { x: 70 + k * STEP + STEP / 2, y: TOP + lane * LANE + LANE / 2 }];
    }));
    for (const i of shown) this.#arrows(picture, i, at, place, chain);
    for (const i of shown) this.#node(picture, i, at, place.get(i), i === center, chain.has(i));
    this.#stable(picture, at, shown, place, height);
    const scrolled = root.scrollTop;
    root.replaceChildren(picture);
    const y = place.has(center) ? place.get(center).y : null;
    root.scrollTop = y != null && (y - 30 < scrolled || y + 40 > scrolled + root.clientHeight) ? y - root.clientHeight / 2 : scrolled;
  }

  /** How many records there are at an event. */
  #known(at) {
    let low = 0;
    let high = this.model.records.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (this.model.records[mid].at <= at) low = mid + 1;
      else high = mid;
    }
    return low;
  }

  #arrows(picture, i, at, place, chain) {
    const r = this.model.records[i];
    const from = place.get(i);
    const arrow = (lsn, kind, up) => {
      if (lsn == null) return;
      const to = place.get(this.model.find(lsn, r.at));
      if (!to) return;
      const bend = up ? Math.min(24, 8 + Math.abs(from.x - to.x) / 16) : 0;
      const path = bend
        ? `M${from.x},${from.y - 10} C${from.x},${from.y - 10 - bend} ${to.x},${to.y - 10 - bend} ${to.x},${to.y - 11}`
        : `M${from.x - 24},${from.y} L${to.x + 25},${to.y}`;
      const lit = chain.has(i) ? " lit" : "";
      picture.append(svg("path", { d: path, class: `arrow ${kind}${lit}`, "marker-end": `url(#head-${kind})` }));
    };
    if (r.lostAt <= at) return;
    arrow(r.prev, "prev", false);
    arrow(r.undoOf, "undoes", true);
    if (/clr/.test(r.type)) arrow(r.undoNext, "next", true);
  }

  #node(picture, i, at, p, current, lit) {
    const r = this.model.records[i];
    const lost = r.lostAt <= at;
    const group = svg("g", { class: `record ${r.type}${lost ? " lost" : ""}${current ? " current" : ""}${lit ? " lit" : ""}` });
    group.append(svg("rect", { x: p.x - 25, y: p.y - 11, width: 50, height: 22, rx: r.txn == null ? 0 : 6 }));
    const name = this.words.lsn(r.lsn, r.at);
    group.append(svg("text", { x: p.x, y: p.y + 4.5, "text-anchor": "middle" }, name.length > 7 ? `…${name.slice(-6)}` : name));
    group.append(svg("title", {}, `${name} ${r.type}${r.page != null ? ` ${r.page}` : ""}${lost ? " (lost in the crash)" : ""}`));
    if (lost) group.append(svg("line", { x1: p.x - 25, x2: p.x + 25, y1: p.y, y2: p.y, class: "strike" }));
    group.append(svg("text", { x: p.x, y: p.y + 21, "text-anchor": "middle", class: "what" }, short(r)));
    group.addEventListener("click", () => this.pick(i));
    picture.append(group);
  }

  /** Where the durable part of the log ends. */
  #stable(picture, at, shown, place, height) {
    const stable = this.model.state(at).stable;
    if (stable == null || !shown.length) return;
    const durable = shown.filter((i) => this.model.records[i].lsn < stable && this.model.records[i].lostAt > at);
    if (!durable.length || durable.length === shown.length) return;
    const x = place.get(durable[durable.length - 1]).x + STEP / 2;
    picture.append(svg("line", { x1: x, x2: x, y1: 14, y2: height - 6, class: "stable" }));
    picture.append(svg("text", { x: x - 4, y: 12, "text-anchor": "end", class: "what" }, "durable"));
  }

  #describe(shown, lanes) {
    return `${shown.length} log records around the cursor in ${lanes.length} lanes; the list of the log has the same in words.`;
  }
}

function short(r) {
  const kind = { begin_checkpoint: "ckpt", end_checkpoint: "ckpt end", dummy_clr: "dummy", update: "" }[r.type] ?? r.type;
  return `${kind} ${r.page ?? ""}`.trim().slice(0, 12);
}

function byName(a, b) {
  return a === "" ? -1 : b === "" ? 1 : a.localeCompare(b, "en", { numeric: true });
}

function arrowHeads() {
  const defs = svg("defs", {});
  for (const kind of ["prev", "undoes", "next"]) {
    const marker = svg("marker", { id: `head-${kind}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, orient: "auto", markerUnits: "userSpaceOnUse" });
    marker.append(svg("path", { d: "M0,0 L8,4 L0,8 z", class: `head ${kind}` }));
    defs.append(marker);
  }
  return defs;
}
