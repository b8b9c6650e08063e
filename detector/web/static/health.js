// How the service is: figures, sinks, model, and what has happened since the page was opened.

import { clock, decibels, element, millions, named, span } from "./words.js";

const MOST_LINES = 100;

export class Health {
  constructor(model) {
    const sounds = model.classes.filter((c) => c.reported).length;
    const facts = [
      ["Name", `${model.name} ${model.model_version}`],
      ["Sounds", `${sounds} of ${model.classes.length}`],
      ["Parameters", model.parameters.toLocaleString()],
      ["Neurons that spike", model.layers.filter((l) => l.spikes).reduce((n, l) => n + l.neurons, 0).toLocaleString()],
      ["Frame", `${(1000 * model.features.frame_s).toFixed(0)} ms every ${(1000 * model.features.hop_s).toFixed(0)} ms`],
      ["Algorithmic latency", `${(1000 * model.latency_s).toFixed(0)} ms`],
      ["Licence", model.licence],
      ["SHA-256", model.model_sha256.slice(0, 16)],
      ["snn-detect", model.version],
    ];
    document.getElementById("model").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  }

  show(state) {
    document.getElementById("cards").replaceChildren(...cards(state).map(card));
    const rows = Object.entries(state.sinks).map(([name, s]) => {
      const troubled = !s.working || s.connected === 0;
      const pill = element("span", { className: "pill", textContent: troubled ? "trouble" : "ok", dataset: { state: troubled ? "bad" : "ok" } });
      const cell = (value) => element("td", { className: "number", textContent: value });
      return element("tr", {}, element("th", { scope: "row", textContent: name }), element("td", {}, pill), cell(s.written), cell(s.waiting), cell(s.dropped + s.failed));
    });
    document.getElementById("sinks").replaceChildren(...rows);
  }

  note(record) {
    const text = { gap: () => `${record.lost_s.toFixed(2)} s of sound lost (${record.cause})`, status: () => record.detail }[record.type];
    if (!text) return;
    const list = document.getElementById("journal");
    if (!list.dataset.filled) list.replaceChildren();
    list.dataset.filled = "1";
    list.prepend(element("li", {}, element("time", { textContent: clock(record.time) }), element("span", { className: "tag", textContent: record.type === "gap" ? "gap" : named(record.state) }), text()));
    while (list.children.length > MOST_LINES) list.lastChild.remove();
  }
}

function cards(s) {
  const speed = s.realtime_factor > 0 ? 1 / s.realtime_factor : 0;
  const mqtt = Object.entries(s.sinks).filter(([name]) => name.startsWith("mqtt"));
  const saved = s.operations ? 1 - s.operations.effective_per_s / s.operations.dense_per_s : null;
  return [
    { title: "Speed", value: speed ? `${speed.toFixed(0)} ×` : "–", line: `as fast as sound comes; ${(100 * s.realtime_factor).toFixed(2)} % of one core`, bad: s.realtime_factor > 0.8 },
    { title: "Saved by silence", value: saved === null ? "–" : `${(100 * saved).toFixed(0)} %`, line: s.operations ? `${millions(s.operations.dense_per_s - s.operations.effective_per_s)} of ${millions(s.operations.dense_per_s)} synaptic operations a second have no spike to work on` : "measured while sound comes", share: saved },
    { title: "Sound lost", value: span(s.lost_s), line: `${s.overruns} overruns, ${s.reopens} reopened, ${s.resets} new beginnings`, bad: s.lost_s > 0 },
    { title: "Queue", value: `${(100 * s.queue_depth).toFixed(0)} %`, line: "of the buffer waits for the detector", share: s.queue_depth, bad: s.queue_depth > 0.8 },
    { title: "Source", value: s.up ? "open" : "away", line: `${s.device || "–"}${s.device_rate_hz ? `, ${s.device_rate_hz.toLocaleString()} Hz` : ""}`, bad: !s.up },
    { title: "Level", value: decibels(s.rms_dbfs), line: `peak ${decibels(s.peak_dbfs)}, ${s.clipped_samples.toLocaleString()} samples clipped` },
    { title: "Memory", value: `${(s.rss_bytes / 1e6).toFixed(0)} MB`, line: "resident" },
    { title: "Temperature", value: s.temperature_c === null ? "–" : `${s.temperature_c.toFixed(0)} °C`, line: s.under_voltage ? "too little voltage" : s.temperature_c === null ? "no thermometer here" : "of the hottest zone", bad: s.under_voltage || s.temperature_c > 80 },
    { title: "Clock", value: clock(s.time), line: s.clock_synced ? "kept right by a time server" : "not set by a time server", bad: !s.clock_synced },
    { title: "MQTT", value: mqtt.length ? (mqtt.every(([, m]) => m.connected !== 0 && m.working) ? "connected" : "trouble") : "off", line: mqtt.length ? `${mqtt.reduce((n, [, m]) => n + m.written, 0)} records sent` : "not in the settings", bad: mqtt.some(([, m]) => !m.working || m.connected === 0) },
    { title: "Up", value: span(s.uptime_s), line: `${span(s.heard_s)} of sound heard` },
    { title: "Viewers", value: String(s.viewers), line: `${s.dropped_messages} messages dropped for slow ones` },
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
