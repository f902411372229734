// The live page: draws the snapshots of /events (their form: edge/web/live.py).
//
// Text reaches the page through textContent only. A frozen page is dangerous: without a
// snapshot for SILENCE_MS the page says so, whatever the connection claims, and ages go
// on growing between snapshots.
"use strict";

const SILENCE_MS = 5000; // the gateway sends at least one snapshot every 2 s
const RETRY_MS = 2000;
const TICK_MS = 500;
const ACTIVE_SHOWN = 8;
const ENDED_SHOWN = 8;
const REFUSALS_SHOWN = 8;
const DETAIL_LENGTH_MAX = 24; // a longer rule is for the tooltip
const QUIET_MS = 15000; // a tile whose newest live value is older has no signal

const PRIORITY = {
  high: { mark: "!!!", word: "HIGH" },
  medium: { mark: "!!", word: "MEDIUM" },
  low: { mark: "!", word: "LOW" },
  technical: { mark: "⚙", word: "TECHNICAL" },
};
const STATE = { off: "sensor off", implausible: "not plausible", missing: "no value" };
const LABEL = {
  heart_rate: "Heart rate",
  pulse_rate: "Pulse",
  spo2: "SpO₂",
  respiratory_rate: "Resp.",
  body_temperature: "Temp.",
  glucose: "Glucose",
  weight: "Weight",
  supplemental_oxygen: "Oxygen",
  acvpu: "ACVPU",
  mean_pressure: "Mean BP",
  ambient_temperature: "Room",
};
const MORE = [
  "glucose", "weight", "supplemental_oxygen", "acvpu", "ambient_temperature",
];
const COUNTERS = [
  ["received", "received"],
  ["committed", "committed"],
  ["duplicates", "duplicates"],
  ["refused", "refused"],
];

const page = {
  snapshot: null,
  at: null, // when it came, by both clocks: one stops in sleep, the other jumps
  lostAt: new Date(),
  connected: false,
  source: null,
  retry: null,
  drawn: new Map(), // container → Map(key → {node, signature})
};

const find = (selector) => document.querySelector(selector);

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null));
  return node;
}

// ---- Time ----

function elapsedMs() {
  if (page.at === null) return 0;
  const steady = performance.now() - page.at.steady;
  const wall = Date.now() - page.at.wall;
  return Math.max(0, steady, wall);
}

const nowMs = () => page.snapshot.now_ms + elapsedMs();

function ageText(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function clockText(time) {
  const two = (n) => String(n).padStart(2, "0");
  const date = new Date(time);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
}

// ---- Tiles ----

function measuredAttributes(node, shown) {
  node.dataset.measuredMs = shown.measured_ms;
  node.dataset.staleAfterMs = shown.stale_after_ms;
  return node;
}

function valueSlot(label, shown, text, className) {
  const slot = make("div", `value ${className}`);
  const unit = shown && shown.unit ? make("span", "unit", ` ${shown.unit}`) : null;
  slot.append(make("span", "label", label, unit));
  if (!shown) {
    slot.classList.add("none");
    slot.append(make("span", "word", "none yet"));
    return slot;
  }
  slot.append(make("span", "number", text));
  if (shown.state !== "ok") {
    slot.classList.add("bad");
    slot.append(make("span", "word", STATE[shown.state] || shown.state));
  }
  slot.append(make("span", "age"));
  slot.title = `${shown.value ?? "no number"} ${shown.unit} from ${shown.device}`;
  return measuredAttributes(slot, shown);
}

function pressureSlot(values, always) {
  const high = values.systolic_pressure;
  const low = values.diastolic_pressure;
  const mean = values.mean_pressure;
  if (!high && !low) {
    if (mean) return valueSlot(LABEL.mean_pressure, mean, mean.text, "small wide");
    return always ? valueSlot("BP", null, "", "small wide") : null;
  }
  const parts = [high, low].filter(Boolean);
  const worst = parts.find((one) => one.state !== "ok");
  const oldest = parts.reduce((a, b) => (a.measured_ms <= b.measured_ms ? a : b));
  const shown = worst ? { ...oldest, state: worst.state } : oldest;
  const text = worst ? "—" : `${high ? high.text : "?"}/${low ? low.text : "?"}`;
  return valueSlot("BP", shown, text, "small wide");
}

function deviceText(line) {
  const signed = line.attestation === "device" ? "signed" : "unsigned";
  const battery = line.battery ? ` · battery ${line.battery} %` : "";
  return `${line.device} · ${line.link} · ${signed}${battery}`;
}

function badge(priority) {
  const { mark, word } = PRIORITY[priority] || { mark: "?", word: priority };
  return make("span", `badge ${priority}`, `${mark} ${word}`);
}

function drawTile({ tile, alarms }) {
  const always = tile.patient !== null;
  const values = tile.values;
  const name = always ? tile.patient : tile.devices[0].device;
  const node = make("article", "tile");
  const head = make("div", "head", make("h3", "", name));
  if (alarms.length) {
    node.classList.add("alarmed", alarms[0].priority);
    head.append(badge(alarms[0].priority));
  }
  head.append(make("span", "quiet-mark", ""));
  const slot = (metric, className) => {
    const shown = values[metric];
    if (!shown && !always) return null;
    return valueSlot(LABEL[metric], shown, shown ? shown.text : "", className);
  };
  const grid = make(
    "div", "values",
    slot(tile.rate || "heart_rate", "big"),
    slot("spo2", "big"),
    slot("respiratory_rate", "small narrow"),
    slot("body_temperature", "small"),
    pressureSlot(values, always),
    ...MORE.filter((metric) => values[metric]).map((metric) => slot(metric, "small")),
  );
  const devices = make("ul", "devices");
  devices.append(...tile.devices.map((line) => make("li", "", deviceText(line))));
  node.append(head);
  if (alarms.length) {
    const titles = alarms.map((alarm) => alarm.title).join(", ");
    node.append(make("p", "alarm-line", titles));
  }
  node.append(grid, devices);
  return node;
}

function tileAlarms(tile, active) {
  const names = new Set(tile.devices.map((line) => line.device));
  return active.filter((alarm) =>
    alarm.patient !== null ? alarm.patient === tile.patient : names.has(alarm.device));
}

// ---- Lists ----

function who(alarm) {
  return alarm.patient || alarm.device || alarm.subject.replace(/:$/, "");
}

function stateText(alarm) {
  const by = alarm.state === "escalated" ? "to" : "by";
  return alarm.note ? `${alarm.state} ${by} ${alarm.note}` : alarm.state;
}

function drawActive(alarm) {
  const since = make("span", "since");
  since.setAttribute("aria-live", "off"); // it changes every second
  since.dataset.sinceMs = alarm.started_ms;
  const short = alarm.detail.length <= DETAIL_LENGTH_MAX;
  const node = make(
    "li", `alarm ${alarm.priority}`,
    badge(alarm.priority),
    make("span", "who", who(alarm)),
    make("span", "title", alarm.title),
    alarm.state === "active" ? null : make("span", "state", stateText(alarm)),
    short ? make("span", "detail", alarm.detail) : null,
    since,
  );
  node.title = `${alarm.contract} / ${alarm.rule}: ${alarm.detail}`;
  return node;
}

function drawEnded(alarm) {
  const started = alarm.started_ms ? `from ${clockText(alarm.started_ms)}, ` : "";
  return make(
    "li", `past ${alarm.priority}`,
    badge(alarm.priority),
    make("span", "who", who(alarm)),
    make("span", "title", alarm.title),
    make("span", "when", `${started}ended ${clockText(alarm.ended_ms)}`),
  );
}

function drawRefusal(refusal) {
  return make(
    "li", "past",
    make("span", "when", clockText(refusal.time_ms)),
    make("span", "who", refusal.device || "unknown sender"),
    make("span", "title", refusal.reason),
    make("span", "detail", refusal.detail),
  );
}

// Redraws only what changed, so that a reader, a selection and the eye keep their place.
function redraw(container, items, keyOf, draw) {
  const before = page.drawn.get(container) || new Map();
  const after = new Map();
  for (const item of items) {
    let key = keyOf(item);
    while (after.has(key)) key += "+";
    const signature = JSON.stringify(item);
    const old = before.get(key);
    const same = old && old.signature === signature;
    after.set(key, same ? old : { node: draw(item), signature });
  }
  const nodes = [...after.values()].map((one) => one.node);
  const order = container.children;
  if (nodes.length !== order.length || nodes.some((node, i) => node !== order[i])) {
    container.replaceChildren(...nodes);
  }
  page.drawn.set(container, after);
}

function redrawSection(selector, items, keyOf, draw) {
  const section = find(selector);
  section.hidden = items.length === 0;
  redraw(section.querySelector("ol, .wall"), items, keyOf, draw);
}

const alarmKey = (alarm) => alarm.reading_id;
const tileKey = ({ tile }) => tile.patient || tile.devices[0].device;

function drawAlarms(snapshot) {
  const { active } = snapshot;
  redraw(find("#active"), active.slice(0, ACTIVE_SHOWN), alarmKey, drawActive);
  const more = Math.max(0, active.length - ACTIVE_SHOWN) + snapshot.active_hidden;
  const quiet = find("#quiet");
  quiet.hidden = active.length > 0 && more === 0;
  quiet.textContent = more ? `and ${more} more active` : "No active alarm.";
  quiet.classList.toggle("more", more > 0);
  redrawSection("#ended", snapshot.ended.slice(0, ENDED_SHOWN), alarmKey, drawEnded);
}

function drawCounters(snapshot) {
  const pair = (label, text, className) =>
    make("div", className || "", make("dt", "", label), make("dd", "", text));
  const count = (n) => (n || 0).toLocaleString("en");
  find("#counters").replaceChildren(
    ...COUNTERS.map(([key, label]) => pair(label, count(snapshot.totals[key]))),
    pair("ledger entries", count(snapshot.tree_size)),
    snapshot.clock_synced
      ? pair("clock", "synchronised")
      : pair("clock", "not synchronised", "warn"),
  );
}

function draw() {
  const { snapshot } = page;
  const tiles = snapshot.tiles.map((tile) => (
    { tile, alarms: tileAlarms(tile, snapshot.active) }));
  const patients = tiles.filter(({ tile }) => tile.patient !== null);
  const unassigned = tiles.filter(({ tile }) => tile.patient === null);
  redraw(find("#patients"), patients, tileKey, drawTile);
  redrawSection("#unassigned", unassigned, tileKey, drawTile);
  drawAlarms(snapshot);
  redrawSection(
    "#refusals", snapshot.refusals.slice(0, REFUSALS_SHOWN),
    (refusal) => `${refusal.time_ms} ${refusal.device} ${refusal.reason}`, drawRefusal);
  drawCounters(snapshot);
  const blocked = find("#blocked");
  blocked.hidden = !snapshot.blocked;
  say(blocked, `The gateway takes no readings: ${snapshot.blocked}`);
  const count = patients.length;
  find("#summary").textContent = `${count} ${count === 1 ? "patient" : "patients"}`;
}

// ---- What goes on between snapshots ----

// Only a change is written: screen readers speak what is written in an alert.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function tickTile(node, now) {
  let newest = -Infinity;
  let live = false;
  for (const slot of node.querySelectorAll("[data-measured-ms]")) {
    const age = now - Number(slot.dataset.measuredMs);
    const limit = Number(slot.dataset.staleAfterMs);
    newest = Math.max(newest, -age);
    live = live || limit <= QUIET_MS;
    const stale = age > limit;
    slot.classList.toggle("stale", stale);
    slot.querySelector(".age").textContent =
      stale ? `${ageText(age)} old` : `${ageText(age)} ago`;
  }
  const quiet = live && -newest > QUIET_MS;
  node.classList.toggle("no-signal", quiet);
  const mark = node.querySelector(".quiet-mark");
  mark.textContent = quiet ? `no signal ${ageText(-newest)}` : "";
}

function tick() {
  if (page.connected && elapsedMs() > SILENCE_MS) lose();
  document.body.classList.toggle("lost", !page.connected);
  const banner = find("#lost");
  banner.hidden = page.connected;
  if (!page.connected) {
    const old = page.snapshot ? " What you see is old." : "";
    const what = `No connection to the gateway since ${clockText(page.lostAt)}.${old}`;
    say(banner.querySelector(".what"), what);
    say(banner.querySelector(".age"), `(${ageText(Date.now() - page.lostAt)})`);
  }
  const alarms = page.snapshot ? page.snapshot.active.length : 0;
  const title = alarms ? `(${alarms}) Ward` : "Ward";
  document.title = page.connected ? title : "NO CONNECTION · Ward";
  if (!page.snapshot) return;
  const now = nowMs();
  find("#clock").textContent = `as of ${clockText(page.snapshot.now_ms)}`;
  for (const node of document.querySelectorAll(".tile")) tickTile(node, now);
  for (const node of document.querySelectorAll(".since")) {
    const since = Number(node.dataset.sinceMs);
    node.textContent = `active since ${clockText(since)} (${ageText(now - since)})`;
  }
}

function lose() {
  if (page.connected) page.lostAt = page.at ? new Date(page.at.wall) : new Date();
  page.connected = false;
  retry();
}

function retry() {
  if (page.source) page.source.close();
  page.source = null;
  if (page.retry === null) page.retry = setTimeout(connect, RETRY_MS);
}

function take(text) {
  page.snapshot = JSON.parse(text);
  page.at = { steady: performance.now(), wall: Date.now() };
  page.connected = true;
  draw();
  tick();
}

// One snapshot first, so that there is something to see even where streams are taken.
async function connect() {
  page.retry = null;
  try {
    const signal = AbortSignal.timeout(SILENCE_MS);
    const answer = await fetch("/api/live", { cache: "no-store", signal });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    take(await answer.text());
  } catch {
    lose();
    tick();
    return;
  }
  const source = new EventSource("/events");
  page.source = source;
  source.onmessage = (event) => take(event.data);
  source.onerror = retry;
}

setInterval(tick, TICK_MS);
connect();
