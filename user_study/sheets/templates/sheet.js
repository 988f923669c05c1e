const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const sheet = JSON.parse($("data").textContent);
const token = sha256($("data").textContent);
const RATER = /^[a-z0-9_-]{1,32}$/;
const asked = addressRater();
const storeKey = "picture-comparison:" + token + (asked && ":" + asked); // another rater's answers stay theirs
const tabKey = storeKey + ":tab"; // which tab goes on with this sheet
const tab = Math.random().toString(36).slice(2);
const GUARD_MS = 250; // a second press this soon after an answer is a bounce, not an answer
const PAIRED = { "1": "left", ArrowLeft: "left", "2": "right", ArrowRight: "right", "0": "tie", ArrowDown: "tie" };
const KINDS = { "1": "first", ArrowLeft: "first", "2": "second", ArrowRight: "second" };
const KEYS = { u: "unseen", U: "unseen", ...(sheet.mode === "paired" ? PAIRED : sheet.mode === "ranking" ? {} : KINDS) };
if (sheet.mode !== "ranking") KEYS.ArrowUp = "unseen";
const images = all(".side img");
const text = (name, values) => sheet.text[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
const NAMES = { left: "A", right: "B", tie: sheet.text.tie, unseen: sheet.text.unseen, first: sheet.labels[0],
  second: sheet.labels[1] };

let state = null; // {rater, started, finished, answers: [...], views: {trial: count}}
let order = [];
let clock = null; // {shown, hidden, since} of the screen; null while it loads, so nothing can be answered twice
let picked = []; // ranking: places from best to worst
let told = false; // the feedback of a training trial is on screen
let unsaved = false; // the storage took nothing, so this tab alone has the answers and does not give way

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

// Every answer has its own seal, so that one that was damaged does not cost the others.
function answerSeal(rater, answer) {
  const { seal, ...rest } = answer;
  return sha256([token, rater, canonical(rest)].join("\0")).slice(0, 16);
}

const completionCode = () => sha256([token, state.rater, "complete"].join("\0")).slice(0, 8).toUpperCase();

function exportText() {
  const payload = { study: sheet.study, sheet: sheet.sheet, token, seed: sheet.seed, rater: state.rater,
    started: state.started, finished: state.finished, answers: state.answers };
  return JSON.stringify({ format: "picture-answers", version: 2, payload, seal: sha256(token + "\0" + canonical(payload)) },
    null, 1);
}

function exportCsv() {
  const head = ["study", "sheet", "token", "seed", "rater", "started", "finished"];
  const own = [sheet.study, sheet.sheet, token, sheet.seed, state.rater, state.started, state.finished || ""];
  const fields = ["trial", "choice", "response_ms", "hidden_ms", "views", "window", "seal"];
  const rows = state.answers.map((a) => [...own, ...fields.map((f) => (f === "window" ? a[f].join("x") : a[f]))]);
  return [[...head, ...fields], ...rows].map((row) => row.join(",")).join("\r\n") + "\r\n";
}

function warn(message) {
  $("warning").textContent = message;
  $("warning").hidden = false;
}

function mine() {
  if (unsaved) return true;
  try {
    const owner = localStorage.getItem(tabKey);
    return owner === null || owner === tab;
  } catch (error) {
    return true; // no storage, so no other tab either
  }
}

function claim() {
  try {
    localStorage.removeItem(tabKey); // works in a full storage too, and nobody's is as good as mine
    localStorage.setItem(tabKey, tab);
  } catch (error) { /* save() says so */ }
}

function pause() {
  state = null;
  clock = null;
  if ($("zoom").open) $("zoom").close();
  show("paused");
}

function save() {
  try {
    localStorage.setItem(storeKey, JSON.stringify(state));
    unsaved = false;
  } catch (error) {
    unsaved = true;
    warn(sheet.text.no_storage);
  }
}

// A stored or saved state is taken only if it is this sheet's: its answers are the first of the rater's own order.
function adopt(stored) {
  if (!stored || !RATER.test(stored.rater) || !Array.isArray(stored.answers)) return false;
  const expected = displayOrder(stored.rater);
  if (stored.answers.length > expected.length) return false;
  if (stored.answers.some((a, n) => a.trial !== expected[n].id || a.seal !== answerSeal(stored.rater, a))) return false;
  order = expected;
  state = { rater: stored.rater, started: stored.started, finished: stored.finished, answers: stored.answers,
    views: stored.views || {} };
  return true;
}

function load() {
  try {
    return adopt(JSON.parse(localStorage.getItem(storeKey)));
  } catch (error) {
    return false;
  }
}

function goOn() {
  if (load()) {
    claim();
    $("status").textContent = text("going_on", state);
    showTrial();
  } else {
    show("intro");
  }
}

async function resume(event) {
  const file = event.target.files[0];
  if (!file) return;
  let good = false;
  try {
    const { payload } = JSON.parse((await file.text()).replace(/^\ufeff/, ""));
    good = payload.token === token && (!asked || payload.rater === asked) && adopt(payload);
  } catch (error) {
    good = false;
  }
  event.target.value = "";
  if (!good) return warn(sheet.text.resume_bad);
  $("warning").hidden = true;
  claim();
  save();
  $("status").textContent = text("resumed", state);
  showTrial();
}

function show(name) {
  for (const id of ["intro", "trial", "done", "paused"]) $(id).hidden = id !== name;
  const heading = document.querySelector("#" + name + " h1");
  if (name !== "trial" || !$("trial").contains(document.activeElement)) heading.focus();
}

function showPicked() {
  for (const button of all("[data-pick]")) {
    const at = picked.indexOf(Number(button.dataset.pick));
    const name = String.fromCharCode(65 + Number(button.dataset.pick));
    button.classList.toggle("picked", at >= 0);
    button.setAttribute("aria-pressed", String(at >= 0));
    button.textContent = at < 0 ? name : text("rank", { name, n: at + 1 });
  }
  if ($("next")) $("next").disabled = picked.length < images.length;
}

async function showTrial() {
  const at = state.answers.length;
  clock = null;
  picked = [];
  told = false;
  $("feedback").hidden = true;
  $("choices").hidden = false;
  $("undo").disabled = at === 0;
  if (at === order.length) return showDone();
  const trial = order[at], training = order.filter((t) => t.feedback !== null).length;
  $("pictures").classList.add("loading");
  $("progress").value = at;
  $("count").textContent = at < training ? text("example", { n: at + 1, total: training })
    : text("count", { n: at + 1 - training, total: order.length - training });
  $("caption-line").hidden = trial.caption === null;
  $("caption").textContent = trial.caption === null ? "" : trial.caption;
  $("map-figure").hidden = $("zoom-map").hidden = trial.map === null;
  const pictures = trial.shown.map((uri, n) => [images[n], uri]);
  if (trial.map !== null) pictures.push([$("map"), trial.map]);
  for (const [image, uri] of pictures) image.src = uri;
  showPicked();
  show("trial");
  await Promise.all(pictures.map(([image]) => image.decode().catch(() => warn(sheet.text.no_picture))));
  if (state === null || order[state.answers.length] !== trial) return; // undone or stopped while it loaded
  $("pictures").classList.remove("loading");
  if (!mine()) return pause();
  state.views[trial.id] = (state.views[trial.id] || 0) + 1;
  save(); // so that a reload in the middle of a screen shows in its count of views
  const now = performance.now();
  clock = { shown: now, hidden: 0, since: document.hidden ? now : null };
}

function choose(choice) {
  const now = performance.now();
  if (clock === null || now - clock.shown < GUARD_MS) return;
  if (!mine()) return pause();
  noteVisibility(now);
  const trial = order[state.answers.length];
  const answer = { trial: trial.id, choice, response_ms: Math.round(now - clock.shown),
    hidden_ms: Math.round(clock.hidden), views: state.views[trial.id], window: [window.innerWidth, window.innerHeight] };
  answer.seal = answerSeal(state.rater, answer);
  state.answers.push(answer);
  clock = null;
  if (state.answers.length === order.length) state.finished = new Date().toISOString();
  save();
  $("status").textContent = text("answered", { n: state.answers.length, name: NAMES[choice] || choice });
  if (trial.feedback === null) showTrial();
  else tell(trial, choice);
}

function tell(trial, choice) {
  const places = choice.split(">");
  const good = sheet.mode === "ranking" ? places[places.length - 1] === trial.feedback : choice === trial.feedback;
  const name = String.fromCharCode(65 + Number(trial.feedback));
  const answer = sheet.mode === "ranking" ? text("feedback_last", { name }) : NAMES[trial.feedback];
  $("feedback").firstElementChild.textContent = text(good ? "feedback_right" : "feedback_wrong", { answer });
  $("feedback").hidden = false;
  $("choices").hidden = true;
  told = true;
  $("continue").focus();
}

function pick(place) {
  if (clock === null || picked.includes(place) || place >= images.length) return;
  picked.push(place);
  if (picked.length === images.length - 1) picked.push(images.findIndex((_, n) => !picked.includes(n)));
  showPicked();
}

function next() {
  if (picked.length === images.length) choose(picked.join(">"));
}

function undo() {
  if (state === null) return;
  if (picked.length) { // the last place was filled by itself
    picked.pop();
    if (picked.length === images.length - 1) picked.pop();
    return showPicked();
  }
  if (state.answers.length === 0) return;
  if (!mine()) return pause();
  state.answers.pop();
  state.finished = null;
  save();
  $("status").textContent = sheet.text.taken_back;
  showTrial();
}

function showDone() {
  $("export").value = exportText();
  $("code").textContent = completionCode();
  show("done");
}

function noteVisibility(now) {
  if (clock === null) return;
  if (clock.since !== null) clock.hidden += now - clock.since;
  clock.since = document.hidden ? now : null;
}

function stop() {
  if (!window.confirm(sheet.text.stop_confirm)) return;
  claim(); // no other tab writes the answers back
  state = null;
  clock = null;
  try { localStorage.removeItem(storeKey); } catch (error) { /* nothing was stored */ }
  $("start").reset();
  $("export").value = "";
  $("status").textContent = sheet.text.deleted;
  fillRater();
  show("intro");
}

function hand(content, type, extension) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  const part = state.finished === null ? "-part" : "";
  link.download = "answers-" + sheet.sheet + "-" + state.rater + part + extension;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  $("status").textContent = sheet.text.saved;
}

function copy() {
  $("export").select();
  let copied = false;
  try { copied = document.execCommand("copy"); } catch (error) { copied = false; }
  $("status").textContent = copied ? sheet.text.copied : sheet.text.copy_by_hand;
}

function look(which) {
  const trial = order[state.answers.length - (told ? 1 : 0)];
  const map = which === "map";
  if (map && trial.map === null) return;
  $("zoom-name").textContent = map ? sheet.text.map : String.fromCharCode(65 + Number(which));
  $("zoom-picture").src = map ? trial.map : trial.shown[Number(which)];
  $("zoom-picture").alt = map ? sheet.text.map_alt : text("picture", { name: $("zoom-name").textContent });
  $("zoom").dataset.which = which;
  if (!$("zoom").open) $("zoom").showModal();
}

function lookOn(step) {
  const there = all("[data-look]").filter((button) => !button.hidden).map((button) => button.dataset.look);
  look(there[(there.indexOf($("zoom").dataset.which) + step + there.length) % there.length]);
}

function onKey(event) {
  const typing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
  if ($("trial").hidden || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if ($("zoom").open) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) lookOn(step);
    if (event.key === "z" || event.key === "Z") $("zoom").close();
    return;
  }
  if (event.key in KEYS || event.key === "Backspace") event.preventDefault();
  if (event.repeat) { // a key held down answers once, a button's too
    if (event.key === "Enter" || event.key === " ") event.preventDefault();
    return;
  }
  if (event.key in KEYS) choose(KEYS[event.key]);
  else if (event.key === "Backspace") undo();
  else if (event.key === "z" || event.key === "Z") look("0");
  else if (sheet.mode === "ranking" && /^[1-9]$/.test(event.key)) pick(Number(event.key) - 1);
  else if (event.key === "Enter" && sheet.mode === "ranking" && event.target.tagName !== "BUTTON") next();
}

// The rater code may stand in the address: ?rater=CODE, or the names that Prolific uses.
function addressRater() {
  const query = new URLSearchParams(location.search);
  const code = (query.get("rater") || query.get("PROLIFIC_PID") || query.get("participant") || "").toLowerCase();
  return RATER.test(code) ? code : "";
}

function fillRater() {
  if (!asked) return;
  $("rater").value = asked;
  $("rater").readOnly = true;
}

function begin(event) {
  event.preventDefault();
  const rater = $("rater").value.trim().toLowerCase();
  if (!RATER.test(rater) || !$("consent").checked) return;
  if (load()) return goOn(); // begun in another tab since this page was opened
  state = { rater, started: new Date().toISOString(), finished: null, answers: [], views: {} };
  order = displayOrder(rater);
  claim();
  save();
  showTrial();
}

$("start").addEventListener("submit", begin);
$("resume").addEventListener("change", resume);
for (const button of all("[data-choice]")) button.addEventListener("click", () => choose(button.dataset.choice));
for (const button of all("[data-pick]")) button.addEventListener("click", () => pick(Number(button.dataset.pick)));
for (const button of all("[data-zoom]")) button.addEventListener("click", () => look(button.dataset.zoom));
for (const button of all("[data-look]")) button.addEventListener("click", () => look(button.dataset.look));
for (const button of all(".stop")) button.addEventListener("click", stop);
for (const button of all(".save")) button.addEventListener("click", () => hand(exportText(), "application/json", ".json"));
if ($("next")) $("next").addEventListener("click", next);
$("csv").addEventListener("click", () => hand(exportCsv(), "text/csv", ".csv"));
$("continue").addEventListener("click", () => { if (told) showTrial(); });
$("zoom-close").addEventListener("click", () => $("zoom").close());
$("undo").addEventListener("click", undo);
$("undo-last").addEventListener("click", undo);
$("copy").addEventListener("click", copy);
$("go-on").addEventListener("click", () => { claim(); goOn(); });
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => noteVisibility(performance.now()));
window.addEventListener("storage", (event) => {
  if (event.key === tabKey && event.newValue !== null && event.newValue !== tab && !unsaved) pause();
});

fillRater();
goOn();
