const $ = (id) => document.getElementById(id);
const sheet = JSON.parse($("data").textContent);
const token = sha256($("data").textContent);
const storeKey = "picture-comparison:" + token;
const GUARD_MS = 250; // a second press this soon after an answer is a bounce, not an answer
const KEYS = { "1": "left", ArrowLeft: "left", "2": "right", ArrowRight: "right", "0": "tie", ArrowDown: "tie",
  u: "unseen", U: "unseen", ArrowUp: "unseen" };
const NAMES = { left: "A", right: "B", tie: "Tie", unseen: "Can’t see" };

let state = null; // {rater, started, finished, answers: [...], views: {trial: count}}
let order = [];
let clock = null; // {shown, hidden, since} of the pair on screen; null while it loads, so nothing can be answered twice

// Same rule as the importer: by block, then by sha256(seed, rater, trial).
function displayOrder(rater) {
  return sheet.trials
    .map((trial) => ({ trial, rank: sha256([sheet.seed, rater, trial.id].join("\0")) }))
    .sort((a, b) => a.trial.block - b.trial.block || (a.rank < b.rank ? -1 : 1))
    .map((entry) => entry.trial);
}

// JSON with sorted keys and no spaces; only ASCII strings and whole numbers occur.
function canonical(value) {
  if (Array.isArray(value)) return "[" + value.map(canonical).join(",") + "]";
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return "{" + Object.keys(value).sort().map((k) => JSON.stringify(k) + ":" + canonical(value[k])).join(",") + "}";
}

function exportText() {
  const payload = {
    study: sheet.study, sheet: sheet.sheet, token, seed: sheet.seed, rater: state.rater, started: state.started,
    finished: state.finished, order: order.map((trial) => trial.id), answers: state.answers,
  };
  return JSON.stringify({ format: "picture-answers", version: 1, payload, seal: sha256(token + "\0" + canonical(payload)) },
    null, 1);
}

function warn(text) {
  $("warning").textContent = text;
  $("warning").hidden = false;
}

function save() {
  try {
    localStorage.setItem(storeKey, JSON.stringify(state));
  } catch (error) {
    warn("This browser cannot store your answers (storage is full or switched off). Do not reload or close this page "
      + "before you have saved the answer file at the end.");
  }
}

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(storeKey));
    if (!found || !/^[a-z0-9_-]{1,32}$/.test(found.rater) || !Array.isArray(found.answers)) return false;
    order = displayOrder(found.rater);
    if (found.answers.length > order.length || found.answers.some((a, n) => a.trial !== order[n].id)) return false;
    state = found;
    return true;
  } catch (error) {
    return false;
  }
}

function show(name) {
  for (const id of ["intro", "trial", "done"]) $(id).hidden = id !== name;
  const heading = document.querySelector("#" + name + " h1");
  if (name !== "trial" || !$("trial").contains(document.activeElement)) heading.focus();
}

async function showTrial() {
  const at = state.answers.length;
  clock = null;
  $("undo").disabled = at === 0;
  if (at === order.length) return showDone();
  const trial = order[at];
  $("pair").classList.add("loading");
  $("progress").value = at;
  $("count").textContent = "Pair " + (at + 1) + " of " + order.length;
  $("caption-line").hidden = trial.caption === null;
  $("caption").textContent = trial.caption === null ? "" : trial.caption;
  $("map-figure").hidden = trial.map === null;
  const pictures = [["left", trial.left], ["right", trial.right], ["map", trial.map]].filter((entry) => entry[1] !== null);
  for (const [id, uri] of pictures) $(id).src = uri;
  show("trial");
  await Promise.all(pictures.map(([id]) => $(id).decode().catch(() => warn("A picture could not be shown; choose Can’t see."))));
  if (state === null || order[state.answers.length] !== trial) return; // undone or stopped while it loaded
  $("pair").classList.remove("loading");
  state.views[trial.id] = (state.views[trial.id] || 0) + 1;
  save(); // so that a reload in the middle of a pair shows in its count of views
  const now = performance.now();
  clock = { shown: now, hidden: 0, since: document.hidden ? now : null };
}

function choose(choice) {
  const now = performance.now();
  if (clock === null || now - clock.shown < GUARD_MS) return;
  noteVisibility(now);
  const trial = order[state.answers.length];
  state.answers.push({
    trial: trial.id, choice, response_ms: Math.round(now - clock.shown), hidden_ms: Math.round(clock.hidden),
    views: state.views[trial.id], window: [window.innerWidth, window.innerHeight],
  });
  clock = null;
  if (state.answers.length === order.length) state.finished = new Date().toISOString();
  save();
  $("status").textContent = "Answer " + state.answers.length + ": " + NAMES[choice];
  showTrial();
}

function undo() {
  if (state === null || state.answers.length === 0) return;
  state.answers.pop();
  state.finished = null;
  save();
  $("status").textContent = "Last answer taken back";
  showTrial();
}

function showDone() {
  $("export").value = exportText();
  show("done");
}

function noteVisibility(now) {
  if (clock === null) return;
  if (clock.since !== null) clock.hidden += now - clock.since;
  clock.since = document.hidden ? now : null;
}

function stop() {
  if (!window.confirm("Delete all answers of this sheet from this browser?")) return;
  state = null;
  clock = null;
  try { localStorage.removeItem(storeKey); } catch (error) { /* nothing was stored */ }
  $("start").reset();
  $("export").value = "";
  $("status").textContent = "Answers deleted";
  show("intro");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([$("export").value], { type: "application/json" }));
  link.download = "answers-" + sheet.sheet + "-" + state.rater + ".json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  $("status").textContent = "Answer file saved";
}

function copy() {
  $("export").select();
  let copied = false;
  try { copied = document.execCommand("copy"); } catch (error) { copied = false; }
  $("status").textContent = copied ? "Copied" : "Press Ctrl+C (or Cmd+C) to copy the marked text";
}

function onKey(event) {
  const typing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
  if ($("trial").hidden || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in KEYS || event.key === "Backspace") event.preventDefault();
  if (event.repeat) return; // a key held down answers once
  if (event.key in KEYS) choose(KEYS[event.key]);
  else if (event.key === "Backspace") undo();
}

function begin(event) {
  event.preventDefault();
  const rater = $("rater").value.trim().toLowerCase();
  if (!/^[a-z0-9_-]{1,32}$/.test(rater) || !$("consent").checked) return;
  state = { rater, started: new Date().toISOString(), finished: null, answers: [], views: {} };
  order = displayOrder(rater);
  save();
  showTrial();
}

$("start").addEventListener("submit", begin);
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => choose(button.dataset.choice));
}
for (const button of document.querySelectorAll(".stop")) button.addEventListener("click", stop);
$("undo").addEventListener("click", undo);
$("undo-last").addEventListener("click", undo);
$("download").addEventListener("click", download);
$("copy").addEventListener("click", copy);
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => noteVisibility(performance.now()));

if (load()) {
  $("status").textContent = "Going on as rater " + state.rater;
  showTrial();
} else {
  show("intro");
}
