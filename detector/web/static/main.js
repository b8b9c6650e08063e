// The page: fetches the description of the model, follows the stream, and shows one view at a time.

import { setTheme, theme } from "./colours.js";
import { Detail } from "./detail.js";
import { Events } from "./events.js";
import { Health } from "./health.js";
import { Now } from "./now.js";
import { Stream } from "./stream.js";
import { storage } from "./words.js";

const VIEWS = ["now", "events", "health"];
const byId = (id) => document.getElementById(id);
const section = (name) => byId(`view-${name}`);
const source = new URLSearchParams(location.search).get("source");
const query = source ? `?source=${encodeURIComponent(source)}` : "";
const stream = new Stream(`api/stream${query}`);
let parts = null;
let model = null;
let state = null;
let early = []; // records that arrived while earlier events were still being fetched

async function begin() {
  const chosen = storage.get("theme");
  if (chosen) setTheme(chosen);
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", route);
  byId("theme").onclick = otherTheme;
  byId("pause").onclick = () => parts?.now.togglePause();
  stream.addEventListener("opened", refresh);
  if (source) stream.addEventListener("refused", refresh); // it may no longer be there
  stream.addEventListener("connection", showStatus);
  stream.addEventListener("frames", (e) => parts?.now.frames(e.detail));
  stream.addEventListener("record", (e) => onRecord(e.detail));
  stream.addEventListener("state", (e) => {
    state = e.detail;
    parts?.health.show(state);
    showStatus();
  });
  route();
  stream.start();
}

// After each connection: the service may have been restarted with another configuration.
async function refresh() {
  early ??= [];
  const answer = await fetch(`api/model${query}`);
  if (answer.status === 404 && source) location.search = "";
  if (answer.status === 401) location.reload();
  if (!answer.ok) return;
  const found = await answer.json();
  if (model && JSON.stringify(found) !== JSON.stringify(model)) location.reload();
  if (!parts) {
    model = found;
    build();
  }
  const known = await fetch(`api/events?limit=50${query.replace("?", "&")}`);
  if (known.ok) parts.now.known((await known.json()).events);
  await parts.events.load();
  const waited = early ?? [];
  early = null;
  waited.forEach(onRecord);
  route();
}

function build() {
  byId("where").textContent = `${model.source} on ${model.node}`;
  document.title = `${model.source} – snn-detect`;
  if (model.sources.length > 1) chooseSource();
  const open = (id) => (location.hash = `#event/${id}`);
  const now = new Now(model, open);
  const events = new Events(model, now.colourOf, open);
  parts = { now, events, health: new Health(model), detail: new Detail(model, now.colourOf, events.neighbours) };
}

function chooseSource() {
  const select = byId("source");
  select.replaceChildren(...model.sources.map((name) => new Option(name, name, false, name === model.source)));
  select.onchange = () => (location.search = `?source=${encodeURIComponent(select.value)}`);
  select.hidden = false;
}

function onRecord(record) {
  if (early) {
    early.push(record);
    return;
  }
  if (record.type === "onset" || record.type === "offset") {
    if (record.source === model.source) parts.now.sound(record);
    parts.events.update(record);
  }
  if (record.type === "clip") parts.events.clip(record);
  parts.health.log(record);
}

function route() {
  const [name, id] = location.hash.slice(1).split("/");
  if (name === "event" && id) parts?.detail.open(id);
  const view = VIEWS.includes(name) ? name : name === "event" ? (VIEWS.find((v) => !section(v).hidden) ?? "events") : "now";
  for (const each of VIEWS) section(each).hidden = each !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "events") parts?.events.draw();
}

function showStatus() {
  const pill = byId("status");
  const waiting = state?.conditions.find((c) => c.name === "waiting");
  const others = state?.conditions.filter((c) => c.name !== "waiting") ?? [];
  let [name, text] = ["ok", "listening"];
  if (!stream.isOpen) [name, text] = state ? ["bad", "no connection"] : ["connecting", "connecting"];
  else if (state?.paused) [name, text] = ["off", "paused"];
  else if (waiting) [name, text] = ["bad", "source lost"];
  else if (others.length) [name, text] = ["warn", others.map((c) => c.name.replaceAll("_", " ")).join(", ")];
  if (pill.dataset.state !== name) pill.dataset.state = name;
  if (pill.textContent !== text) pill.textContent = text;
  const lost = !stream.isOpen && state ? ["The page has no connection to the detector; it keeps trying to reconnect."] : [];
  const lines = lost.length ? lost : (state?.conditions ?? []).map((c) => c.detail);
  const trouble = byId("trouble");
  trouble.hidden = !lines.length;
  if (trouble.textContent !== lines.join(" ")) trouble.textContent = lines.join(" ");
  document.body.classList.toggle("lost", name === "bad");
}

function otherTheme() {
  const next = theme() === "dark" ? "light" : "dark";
  storage.set("theme", next);
  setTheme(next);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("detail").open || event.target.matches("input, select")) return;
  const inEvents = !section("events").hidden;
  const act = {
    1: () => (location.hash = "#now"),
    2: () => (location.hash = "#events"),
    3: () => (location.hash = "#health"),
    t: otherTheme,
    " ": () => !section("now").hidden && !event.target.matches("button, a") && (parts?.now.togglePause(), event.preventDefault()),
    ArrowLeft: () => inEvents && parts?.events.move(-0.25),
    ArrowRight: () => inEvents && parts?.events.move(0.25),
    "+": () => inEvents && parts?.events.zoom(0.5),
    "-": () => inEvents && parts?.events.zoom(2),
    0: () => inEvents && parts?.events.toNow(),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  act?.();
}

begin();
