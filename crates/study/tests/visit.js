// What a visitor does, and what it sees: run in the page by `page.rs`; the outcome becomes the text of an element.
(async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  for (let i = 0; i < 1200 && document.body.dataset.ready !== "yes"; i++) await wait(25);
  const at = () => window.page.at;
  const text = (id) => document.getElementById(id).textContent;
  const key = (key, shiftKey = false) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, bubbles: true }));
  const out = { ready: document.body.dataset.ready, events: window.page.model.length, mute: [] };
  key("Home");
  const steps = Math.min(out.events - 1, 2000);
  for (let i = 0; i < steps; i++) {
    key("ArrowRight");
    const said = text("sentence");
    if (said.length < 8 || /undefined|NaN|\[object/.test(said)) out.mute.push(window.page.model.events[at()].ev + ": " + said);
  }
  out.stepped = at() === steps;
  key("End");
  out.end = at() === out.events - 1;
  const search = document.getElementById("search");
  search.value = "P1";
  search.dispatchEvent(new Event("input"));
  out.found = text("found");
  out.landed = JSON.stringify(window.page.model.events[at()]).includes("P1");
  key("Home");
  key("]");
  out.crash = window.page.model.events[at()].ev;
  key("ArrowRight", true);
  out.phase = text("where");
  while (at() < out.events - 1 && window.page.model.events[at()].ev !== "redo.rec") key("ArrowRight");
  document.getElementById("hide").click();
  out.question = text("sentence");
  key("Enter");
  out.answer = text("sentence");
  document.getElementById("hide").click();
  await wait(400);
  out.link = location.hash === "#seq=" + window.page.model.events[at()].seq;
  out.rows = document.querySelectorAll("#log .row").length;
  out.tables = ["att", "dpt", "pages"].map((id) => document.querySelectorAll("#" + id + " tbody tr").length);
  const pre = document.createElement("pre");
  pre.id = "visit";
  pre.textContent = JSON.stringify(out);
  document.body.append(pre);
})();
