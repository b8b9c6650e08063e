// Sounds of a time span: timeline, filters, table.

import { palette } from "./colours.js";
import { fit, line } from "./paint.js";
import { clock, day, decibels, element, named, score, span, storage } from "./words.js";

const ROWS_SHOWN = 200;
const MAX_EVENTS = 5000;
const MIN_S = 60;
const MAX_S = 7 * 86400;
const STEPS_S = [10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800];

export class Events {
  #model;
  #events = new Map();
  #hidden = new Set(JSON.parse(storage.get("hidden") ?? "[]"));
  #span = 900;
  #end = null;
  #loaded = null;
  #canvas = document.getElementById("timeline");
  #boxes = [];
  #drag = null;

  constructor(model, colourOf, open) {
    this.#model = model;
    Object.assign(this, { colourOf, open });
    this.#buildFilters();
    for (const button of document.querySelectorAll("[data-span]")) button.onclick = () => this.#show(Number(button.dataset.span), this.#end);
    const press = { earlier: () => this.move(-0.5), later: () => this.move(0.5), "zoom-in": () => this.zoom(0.5), "zoom-out": () => this.zoom(2), "to-now": () => this.toNow() };
    for (const [id, act] of Object.entries(press)) document.getElementById(id).onclick = act;
    this.#addPointerHandlers();
    addEventListener("recolour", () => this.draw());
    addEventListener("resize", () => this.draw());
    setInterval(() => this.#end === null && this.draw(), 5000);
  }

  async load() {
    const since = new Date((this.#until - this.#span) * 1000).toISOString();
    const answer = await fetch(`api/events?${new URLSearchParams({ since, limit: MAX_EVENTS })}`);
    if (!answer.ok) return;
    this.#loaded = this.#until - this.#span;
    for (const event of (await answer.json()).events) this.#events.set(event.id, event);
    this.draw();
  }

  update(record) {
    const known = this.#events.get(record.id) ?? { id: record.id, reason: null, duration_s: null, offset_s: null, peak: null };
    const times = record.type === "onset" ? { onset_time: record.time } : { offset_time: record.time };
    if (!known.onset_time && record.type === "offset") times.onset_time = new Date(new Date(record.time) - record.duration_s * 1000).toISOString();
    this.#events.set(record.id, { ...known, ...record, ...times, picture: known.picture ?? `/api/events/${record.id}/picture`, clip: known.clip ?? null });
    this.draw();
  }

  clip(record) {
    const known = this.#events.get(record.id);
    if (known) known.clip = `/api/events/${record.id}/clip`;
    this.draw();
  }

  neighbours = (id) => {
    const ids = this.#shown().map((e) => e.id);
    const at = ids.indexOf(id);
    return at < 0 ? [null, null] : [ids[at + 1] ?? null, ids[at - 1] ?? null];
  };

  zoom(factor) {
    this.#show(Math.min(MAX_S, Math.max(MIN_S, this.#span * factor)), this.#end === null ? null : this.#end + (this.#span * (factor - 1)) / 2);
  }

  move(share) {
    const end = this.#until + share * this.#span;
    this.#show(this.#span, end >= Date.now() / 1000 ? null : end);
  }

  toNow() {
    this.#show(this.#span, null);
  }

  draw() {
    for (const button of document.querySelectorAll("[data-span]")) button.setAttribute("aria-pressed", String(Number(button.dataset.span) === this.#span));
    document.getElementById("to-now").setAttribute("aria-pressed", String(this.#end === null));
    if (this.#canvas.offsetParent === null) return;
    const shown = this.#shown();
    this.#drawTimeline(shown);
    this.#table(shown);
    const from = (this.#until - this.#span) * 1000;
    document.getElementById("span").textContent = `${day(from)} to ${this.#end === null ? "now" : day(this.#until * 1000)} (${span(this.#span)})`;
  }

  get #until() {
    return this.#end ?? Date.now() / 1000;
  }

  #show(seconds, end) {
    this.#span = seconds;
    this.#end = end;
    this.draw();
    if (this.#loaded === null || this.#until - seconds < this.#loaded) this.load();
  }

  // The newest first.
  #shown() {
    const [from, to] = [(this.#until - this.#span) * 1000, this.#until * 1000];
    return [...this.#events.values()]
      .filter((e) => !this.#hidden.has(e.label) && new Date(e.onset_time) <= to && this.#ended(e) >= from)
      .sort((a, b) => new Date(b.onset_time) - new Date(a.onset_time));
  }

  #ended(event) {
    if (event.reason === null) return Date.now();
    return event.offset_time ? new Date(event.offset_time).getTime() : new Date(event.onset_time).getTime();
  }

  #table(shown) {
    document.getElementById("count").textContent = shown.length;
    document.getElementById("none").hidden = shown.length > 0;
    const more = document.getElementById("more");
    more.hidden = shown.length <= ROWS_SHOWN;
    more.textContent = `The newest ${ROWS_SHOWN} are listed; zoom in to see the others.`;
    const several = this.#model.sources.length > 1;
    document.querySelector("th.source").hidden = !several;
    const rows = shown.slice(0, ROWS_SHOWN).map((e) => {
      const kept = [e.picture && "picture", e.clip && "sound"].filter(Boolean).join(", ");
      const cell = (text, className) => element("td", { textContent: text, className });
      const button = element("button", { type: "button", textContent: named(e.label), onclick: () => this.open(e.id) });
      const row = element("tr", { dataset: { id: e.id, label: e.label } }, cell(day(e.onset_time)), element("td", {}, button), ...(several ? [cell(e.source, "source")] : []), cell(e.reason ? span(e.duration_s) : "in progress", "number"), cell(score(e.peak ?? e.score), "number"), cell(decibels(e.level_dbfs), "number wide"), cell(kept || "–", "wide"));
      return row;
    });
    document.getElementById("rows").replaceChildren(...rows);
  }

  #drawTimeline(shown) {
    const canvas = this.#canvas;
    const labels = this.#model.classes.map((c) => c.label).filter((label) => shown.some((e) => e.label === label));
    canvas.style.height = `${Math.max(3, labels.length) * 26 + 26}px`;
    fit(canvas);
    const ratio = canvas.width / canvas.clientWidth;
    const context = canvas.getContext("2d");
    const colours = palette();
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.font = `${11.5 * ratio}px system-ui, sans-serif`;
    const left = Math.min(110 * ratio, canvas.width * 0.26);
    const bottom = canvas.height - 22 * ratio;
    const from = this.#until - this.#span;
    const x = (seconds) => left + ((seconds - from) / this.#span) * (canvas.width - left);
    this.#ticks(context, { left, bottom, from, x, ratio, width: canvas.width });
    this.#boxes = [];
    labels.forEach((label, row) => {
      const y = row * 26 * ratio + 4 * ratio;
      context.fillStyle = colours.ink;
      context.fillText(named(label), 2, y + 13 * ratio, left - 8 * ratio);
      context.strokeStyle = colours.line;
      line(context, left, y + 22 * ratio, canvas.width, y + 22 * ratio);
      context.fillStyle = this.colourOf(this.#model.classes.findIndex((c) => c.label === label));
      for (const event of shown.filter((e) => e.label === label)) {
        const begin = Math.max(left, x(new Date(event.onset_time) / 1000));
        const width = Math.max(3 * ratio, x(this.#ended(event) / 1000) - begin);
        context.globalAlpha = 0.45 + 0.55 * (event.peak ?? event.score ?? 1);
        context.beginPath();
        context.roundRect(begin, y, width, 18 * ratio, 3 * ratio);
        context.fill();
        this.#boxes.push({ x: begin / ratio, y: y / ratio, width: width / ratio, height: 18, event });
      }
      context.globalAlpha = 1;
    });
    if (!labels.length) {
      context.fillStyle = colours.quiet;
      context.fillText("no sounds in this time span", left + 8 * ratio, bottom / 2);
    }
  }

  #ticks(context, { left, bottom, from, x, ratio, width }) {
    const colours = palette();
    const step = STEPS_S.find((s) => this.#span / s <= Math.max(3, (width - left) / (90 * ratio))) ?? 86400;
    const zone = new Date().getTimezoneOffset() * 60;
    context.strokeStyle = colours.line;
    context.fillStyle = colours.quiet;
    context.lineWidth = ratio;
    for (let at = Math.ceil((from - zone) / step) * step + zone; at <= from + this.#span; at += step) {
      line(context, x(at), 0, x(at), bottom);
      const text = step >= 86400 ? day(at * 1000) : clock(at * 1000).slice(0, step < 60 ? 8 : 5);
      context.fillText(text, Math.min(x(at) + 3 * ratio, width - 34 * ratio), bottom + 15 * ratio);
    }
  }

  #buildFilters() {
    const place = document.getElementById("filters");
    const all = element("button", { type: "button", className: "chip", textContent: "All", onclick: () => this.#choose(() => this.#hidden.clear()) });
    const none = element("button", { type: "button", className: "chip", textContent: "None", onclick: () => this.#choose(() => this.#model.classes.forEach((c) => this.#hidden.add(c.label))) });
    const chips = this.#model.classes.filter((c) => c.reported).map((c) => {
      const toggle = () => this.#choose(() => (this.#hidden.has(c.label) ? this.#hidden.delete(c.label) : this.#hidden.add(c.label)));
      return element("button", { type: "button", className: "chip", textContent: named(c.label), dataset: { filter: c.label }, onclick: toggle });
    });
    place.replaceChildren(all, none, ...chips);
    this.#choose(() => {});
  }

  #choose(change) {
    change();
    storage.set("hidden", JSON.stringify([...this.#hidden]));
    for (const chip of document.querySelectorAll("[data-filter]")) chip.setAttribute("aria-pressed", String(!this.#hidden.has(chip.dataset.filter)));
    this.draw();
  }

  #addPointerHandlers() {
    const canvas = this.#canvas;
    const hit = (e) => this.#boxes.find((b) => e.offsetX >= b.x - 3 && e.offsetX <= b.x + b.width + 3 && e.offsetY >= b.y - 2 && e.offsetY <= b.y + b.height + 4);
    canvas.onpointerdown = (e) => {
      this.#drag = { x: e.clientX, end: this.#until, moved: false };
      canvas.setPointerCapture(e.pointerId);
    };
    canvas.onpointermove = (e) => {
      const found = hit(e);
      canvas.title = found ? `${named(found.event.label)}, ${day(found.event.onset_time)}` : "";
      canvas.classList.toggle("over", Boolean(found));
      if (!this.#drag) return;
      const passed = e.clientX - this.#drag.x;
      if (Math.abs(passed) < 5 && !this.#drag.moved) return;
      this.#drag.moved = true;
      const end = this.#drag.end - (passed / canvas.clientWidth) * this.#span;
      this.#show(this.#span, end >= Date.now() / 1000 ? null : end);
    };
    canvas.onpointerup = (e) => {
      if (this.#drag && !this.#drag.moved && hit(e)) this.open(hit(e).event.id);
      this.#drag = null;
    };
    canvas.onpointercancel = () => (this.#drag = null);
    canvas.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && Math.abs(e.deltaY) < Math.abs(e.deltaX)) return;
      e.preventDefault();
      this.zoom(e.deltaY > 0 ? 1.25 : 0.8);
    }, { passive: false });
  }
}
