// The present: level, strips, scores, sounds in progress.

import { categoryColour } from "./colours.js";
import { decode } from "./frames.js";
import { Strips } from "./strips.js";
import { clock, element, named, span } from "./words.js";

const FLOOR_DBFS = -70;
const LATEST = 8;
const LAMP_MS = 2000;

// What is known of a class: how many of the sounds that stand out were found, and with how many false events.
function results(r) {
  if (!r) return "";
  const latency = r.latency_s == null ? "" : `, ${r.latency_s.toFixed(1)} s`;
  return `${r.ready ? "ready" : "on trial"}: ${r.found} of ${r.references} found, ${r.false_per_hour.toFixed(1)} false an hour${latency}`;
}

export class Now {
  #model;
  #strips;
  #bars = [];
  #active = new Map();
  #latest = [];
  #lampUntil = 0;
  #held = 0;
  #frames = 0;

  constructor(model, open) {
    this.#model = model;
    this.open = open;
    const categories = [...new Set(model.classes.map((c) => c.category))];
    this.colourOf = (index) => categoryColour(Math.max(0, categories.indexOf(model.classes[index]?.category)));
    document.getElementById("strips").replaceChildren();
    this.#strips = new Strips(document.getElementById("strips"), model, this.colourOf);
    this.#buildScores();
    addEventListener("recolour", () => this.#recolour());
    setInterval(() => this.#showActive(), 500);
  }

  frames(part) {
    const frame = decode(part, this.#model);
    this.#strips.push(frame);
    this.#level(part);
    const count = this.#model.classes.length;
    const last = frame.means.subarray((frame.n - 1) * count, frame.n * count);
    this.#bars.forEach((bar, i) => {
      const value = last[i] / 255;
      bar.fill.style.transform = `scaleX(${value})`;
      bar.value.textContent = value.toFixed(2);
      bar.item.classList.toggle("over", value >= this.#model.classes[i].threshold);
    });
    this.#frames += frame.n;
    // For tests.
    document.getElementById("strips").dataset.frames = String(this.#frames);
    document.getElementById("strips").dataset.position = String(this.#strips.position);
  }

  sound(record) {
    this.#strips.sound(record);
    if (record.type === "onset") this.#active.set(record.id, record);
    else this.#active.delete(record.id);
    this.#update({ ...record, onset_time: record.type === "onset" ? record.time : undefined });
    this.#showActive();
  }

  // Start with the events that the server knows.
  known(events) {
    this.#latest = events.slice(0, LATEST);
    this.#active = new Map(events.filter((e) => e.reason === null).map((e) => [e.id, e]));
    this.#showLatest();
    this.#showActive();
  }

  togglePause() {
    const button = document.getElementById("pause");
    this.#strips.held = !this.#strips.held;
    button.setAttribute("aria-pressed", String(this.#strips.held));
    button.textContent = this.#strips.held ? "Resume" : "Pause";
  }

  #update(record) {
    const known = this.#latest.find((e) => e.id === record.id);
    const given = Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined));
    if (known) Object.assign(known, given);
    else this.#latest.unshift({ onset_time: new Date(new Date(record.time) - 1000 * (record.duration_s ?? 0)), ...given });
    this.#latest = this.#latest.slice(0, LATEST);
    this.#showLatest();
  }

  #showLatest() {
    const list = document.getElementById("latest");
    if (!this.#latest.length) return;
    list.replaceChildren(
      ...this.#latest.map((e) => {
        const duration = e.duration_s === null || e.duration_s === undefined ? "in progress" : span(e.duration_s);
        const button = element(
          "button",
          { type: "button", onclick: () => this.open(e.id) },
          element("time", { textContent: e.onset_time ? clock(e.onset_time) : "" }),
          element("b", { textContent: named(e.label) }),
          element("span", { className: "quiet", textContent: duration }),
        );
        return element("li", { dataset: { id: e.id, label: e.label } }, button);
      }),
    );
  }

  #showActive() {
    const place = document.getElementById("active");
    const ids = [...this.#active.keys()].join();
    if (place.dataset.ids !== ids) {
      place.dataset.ids = ids;
      const chips = [...this.#active.values()].map((e) =>
        element("button", { type: "button", className: "chip", dataset: { label: e.label }, onclick: () => this.open(e.id) }, element("b", { textContent: named(e.label) }), element("span", { className: "since", "aria-hidden": "true" })),
      );
      place.replaceChildren(...(chips.length ? chips : [element("p", { className: "quiet", textContent: "none" })]));
      this.#recolour();
    }
    [...this.#active.values()].forEach((e, i) => {
      const began = e.onset_time ?? e.time;
      const since = place.querySelectorAll(".since")[i];
      if (since && began) since.textContent = span(Math.max(0, (Date.now() - new Date(began)) / 1000));
    });
  }

  #level(part) {
    const now = performance.now();
    const share = (value) => Math.max(0, Math.min(1, 1 - value / FLOOR_DBFS));
    this.#held = Math.max(share(part.peak_dbfs), this.#held - 0.02);
    document.getElementById("level").style.transform = `scaleX(${share(part.rms_dbfs)})`;
    document.getElementById("peak").style.left = `${100 * this.#held}%`;
    document.getElementById("dbfs").value = `${part.rms_dbfs.toFixed(0)} dBFS`;
    if (part.clipped) this.#lampUntil = now + LAMP_MS;
    const lamp = document.getElementById("clip");
    lamp.classList.toggle("on", now < this.#lampUntil);
    lamp.textContent = now < this.#lampUntil ? "CLIPPING" : "clip";
  }

  #buildScores() {
    const list = document.getElementById("scores");
    this.#bars = this.#model.classes.map((c) => {
      const fill = element("div", { className: "fill" });
      const mark = element("div", { className: "mark" });
      mark.style.left = `${100 * c.threshold}%`;
      const value = element("span", { className: "value", textContent: "0.00" });
      const track = element("div", { className: "track", title: `threshold ${c.threshold.toFixed(2)}` }, fill, mark);
      const trial = c.results && !c.results.ready;
      const label = element("span", { className: "label", textContent: named(c.label) + (trial ? " *" : ""), title: results(c.results) });
      const item = element("li", { className: c.reported ? "" : "unreported" }, label, track, value);
      return { item, fill, value };
    });
    list.replaceChildren(...this.#bars.map((bar) => bar.item));
    this.#recolour();
  }

  #recolour() {
    this.#bars.forEach((bar, i) => (bar.fill.style.backgroundColor = this.colourOf(i)));
    for (const chip of document.querySelectorAll("#active .chip")) {
      chip.style.borderColor = this.colourOf(this.#model.classes.findIndex((c) => c.label === chip.dataset.label));
    }
  }
}
