// State of the service: counts, outputs, model, and a log since the page was opened.

import { clock, decibels, element, millions, named, span } from "./words.js";

const MAX_LINES = 100;

export class Health {
  constructor(model) {
    const sounds = model.classes.filter((c) => c.reported).length;
    const trial = model.classes.filter((c) => c.results && !c.results.ready).map((c) => named(c.label));
    const facts = [
      ["Name", `${model.name} ${model.model_version}`],
      ["Reported classes", `${sounds} of ${model.classes.length}`],
      ...(trial.length ? [["On trial (*)", trial.join(", ")]] : []),
      ["Sensitivity", model.sensitivity],
      ["Parameters", model.parameters.toLocaleString()],
      ["Spiking neurons", model.layers.filter((l) => l.spikes).reduce((n, l) => n + l.neurons, 0).toLocaleString()],
      ["Frame", `${(1000 * model.features.frame_s).toFixed(0)} ms every ${(1000 * model.features.hop_s).toFixed(0)} ms`],
      ["Algorithmic latency", `${(1000 * model.latency_s).toFixed(0)} ms`],
      ["Licence", model.licence],
      ["SHA-256", model.model_sha256.slice(0, 16)],
      ["snn-detect", model.version],
    ];
    this.several = model.sources.length > 1;
    document.getElementById("model").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  }

  show(state) {
    document.getElementById("cards").replaceChildren(...cards(state).map(card));
    const rows = Object.entries(state.sinks).map(([name, s]) => {
      const troubled = !s.working || s.connected === 0;
      const pill = element("span", { className: "pill", textContent: troubled ? "error" : "ok", dataset: { state: troubled ? "bad" : "ok" } });
      const cell = (value) => element("td", { className: "number", textContent: value });
      return element("tr", {}, element("th", { scope: "row", textContent: name }), element("td", {}, pill), cell(s.written), cell(s.waiting), cell(s.dropped + s.failed));
    });
    document.getElementById("sinks").replaceChildren(...rows);
    const sources = Object.entries(state.sources);
    document.getElementById("sources-card").hidden = sources.length < 2;
    document.getElementById("sources").replaceChildren(...sources.map(sourceRow));
  }

  log(record) {
    const text = { gap: () => `${record.lost_s.toFixed(2)} s of audio lost (${record.cause})`, status: () => record.detail }[record.type];
    if (!text) return;
    const from = this.several ? `${record.source}: ` : "";
    const list = document.getElementById("log");
    if (!list.dataset.filled) list.replaceChildren();
    list.dataset.filled = "1";
    list.prepend(element("li", {}, element("time", { textContent: clock(record.time) }), element("span", { className: "tag", textContent: record.type === "gap" ? "gap" : named(record.state) }), from + text()));
    while (list.children.length > MAX_LINES) list.lastChild.remove();
  }
}

function sourceRow([name, s]) {
  const conditions = s.conditions.map((c) => named(c.name)).join(", ");
  const [state, text] = s.paused ? ["off", "paused"] : conditions ? [s.up ? "warn" : "bad", conditions] : ["ok", "listening"];
  const pill = element("span", { className: "pill", textContent: text, title: s.conditions.map((c) => c.detail).join(" "), dataset: { state } });
  const cell = (value, className) => element("td", { className, textContent: value });
  return element("tr", { dataset: { source: name } }, element("th", { scope: "row", textContent: name }), element("td", {}, pill), cell(s.device || "–"), cell(decibels(s.rms_dbfs), "number"), cell(span(s.lost_s), "number"));
}

function cards(s) {
  const speed = s.realtime_factor > 0 ? 1 / s.realtime_factor : 0;
  const mqtt = Object.entries(s.sinks).filter(([name]) => name.startsWith("mqtt"));
  const saved = s.operations ? 1 - s.operations.effective_per_s / s.operations.dense_per_s : null;
  return [
    { title: "Speed", value: speed ? `${speed.toFixed(0)} ×` : "–", line: `real time; ${(100 * s.realtime_factor).toFixed(2)} % of one core`, bad: s.realtime_factor > 0.8 },
    { title: "Skipped operations", value: saved === null ? "–" : `${(100 * saved).toFixed(0)} %`, line: s.operations ? `${millions(s.operations.dense_per_s - s.operations.effective_per_s)} of ${millions(s.operations.dense_per_s)} synaptic operations per second have no input spike` : "no data yet", share: saved },
    { title: "Lost audio", value: span(s.lost_s), line: `${s.overruns} overruns, ${s.reopens} reopened, ${s.resets} resets`, bad: s.lost_s > 0 },
    { title: "Queue", value: `${(100 * s.queue_depth).toFixed(0)} %`, line: "of the audio buffer is filled", share: s.queue_depth, bad: s.queue_depth > 0.8 },
    { title: "Source", value: s.up ? "open" : "closed", line: `${s.device || "–"}${s.device_rate_hz ? `, ${s.device_rate_hz.toLocaleString()} Hz` : ""}`, bad: !s.up },
    { title: "Level", value: decibels(s.rms_dbfs), line: `peak ${decibels(s.peak_dbfs)}, ${s.clipped_samples.toLocaleString()} samples clipped` },
    { title: "Memory", value: `${(s.rss_bytes / 1e6).toFixed(0)} MB`, line: "resident" },
    { title: "Temperature", value: s.temperature_c === null ? "–" : `${s.temperature_c.toFixed(0)} °C`, line: s.under_voltage ? "under-voltage" : s.temperature_c === null ? "no sensor" : "hottest zone", bad: s.under_voltage || s.temperature_c > 80 },
    { title: "Clock", value: clock(s.time), line: s.clock_synced ? "synchronised" : "not synchronised", bad: !s.clock_synced },
    { title: "MQTT", value: mqtt.length ? (mqtt.every(([, m]) => m.connected !== 0 && m.working) ? "connected" : "error") : "off", line: mqtt.length ? `${mqtt.reduce((n, [, m]) => n + m.written, 0)} records sent` : "not configured", bad: mqtt.some(([, m]) => !m.working || m.connected === 0) },
    { title: "Uptime", value: span(s.uptime_s), line: `${span(s.heard_s)} of audio processed` },
    { title: "Viewers", value: String(s.viewers), line: `${s.dropped_messages} messages dropped for slow viewers` },
  ];
}

function card({ title, value, line, bad, share }) {
  const made = element("div", { className: `card figure${bad ? " bad" : ""}` }, element("h3", { textContent: title }), element("p", { className: "value", textContent: value }), element("p", { className: "quiet", textContent: `${bad ? "⚠ " : ""}${line}` }));
  if (share !== undefined && share !== null) {
    const fill = element("div", { className: "fill" });
    fill.style.transform = `scaleX(${Math.max(0, Math.min(1, share))})`;
    made.append(element("div", { className: "track" }, fill));
  }
  return made;
}
