// The picture of one sound: features, spikes and scores around it, drawn once.

import { palette } from "./colours.js";
import { decode, spikes } from "./frames.js";
import { drawCurves, encoderPainter, fit, layerPainter, line, melPainter, membranePainter } from "./paint.js";
import { element, named } from "./words.js";

export function showPicture(place, picture, event, model, colourOf) {
  const parts = picture.parts.map((part) => decode(part, model));
  place.replaceChildren();
  if (!parts.length) return;
  const hop = model.features.hop_s;
  const first = Math.round(parts[0].first / hop);
  const last = parts.at(-1);
  const columns = Math.round(last.first / hop) + last.n - first;
  const labels = model.classes.map((c) => named(c.label));
  const strip = (name, title, draw) => {
    const canvas = element("canvas", { role: "img", "aria-label": `${title} around this sound` });
    place.append(element("figure", { className: `strip ${name}` }, element("figcaption", {}, element("b", { textContent: title })), canvas));
    return () => {
      fit(canvas);
      const context = canvas.getContext("2d");
      context.fillStyle = palette().well;
      context.fillRect(0, 0, canvas.width, canvas.height);
      draw(context, canvas);
      if (picture.origin === "memory") marks(context, canvas);
    };
  };
  const x = (canvas, index) => ((index - first) * canvas.width) / columns;
  function marks(context, canvas) {
    context.strokeStyle = palette().accent;
    context.lineWidth = canvas.width / canvas.clientWidth;
    for (const moment of [event.onset_s, event.offset_s]) {
      if (moment !== null) line(context, x(canvas, moment / hop), 0, x(canvas, moment / hop), canvas.height);
    }
  }
  const painted = (painter) => (context, canvas) => {
    const sheet = new OffscreenCanvas(columns, painter.rows);
    const ink = sheet.getContext("2d");
    const pixels = ink.createImageData(1, painter.rows);
    for (const part of parts) {
      for (let k = 0; k < part.n; k++) {
        painter.column(pixels.data, part, k);
        ink.putImageData(pixels, Math.round(part.first / hop) - first + k, 0);
      }
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(sheet, 0, 0, columns, painter.rows, 0, 0, canvas.width, canvas.height);
    painter.scale?.(context, canvas, canvas.width / canvas.clientWidth);
  };
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const draws = [strip("mel", "Log mel", painted(melPainter(model))), strip("encoder", "Encoder spikes", painted(encoderPainter(model, 140 * ratio)))];
  for (const layer of model.layers.filter((l) => parts.some((part) => part.layers[l.name]))) {
    draws.push(strip(`layer ${layer.kind}`, `${layer.name}, ${rate(parts, layer.name)} Hz`, painted(layerPainter(layer.name, layer.neurons, 80 * ratio))));
  }
  if (parts.some((part) => part.membranes.length)) draws.push(strip("membrane", "Membranes of the output layer", painted(membranePainter(model))));
  draws.push(
    strip("curves", "Scores (means), thresholds dashed", (context, canvas) => {
      const series = { values: [], x: [], breaks: new Set() };
      for (const part of parts) {
        const before = series.x.at(-1);
        if (before === undefined || x(canvas, Math.round(part.first / hop)) - before > 1) series.breaks.add(series.values.length);
        for (let k = 0; k < part.n; k++) {
          series.values.push(Array.from(part.means.subarray(k * labels.length, (k + 1) * labels.length), (v) => v / 255));
          series.x.push(x(canvas, Math.round(part.first / hop) + k + 1));
        }
      }
      const scale = canvas.width / canvas.clientWidth;
      const box = { x: 0, y: 6 * scale, width: canvas.width, height: canvas.height - 8 * scale };
      drawCurves(context, box, series, { ratio: scale, colourOf, labels, thresholds: model.classes.map((c) => c.threshold) });
    }),
  );
  place.append(element("p", { className: "quiet", textContent: legend(picture, columns * hop) }));
  for (const draw of draws) draw();
}

function legend(picture, seconds) {
  const where = picture.origin === "memory" ? "lines mark the onset and the offset" : "computed from its clip";
  return `${seconds.toFixed(1)} s; ${where}.`;
}

function rate(parts, name) {
  let count = 0;
  let total = 0;
  for (const part of parts) {
    const rows = part.layers[name];
    for (let k = 0; rows && k < part.n; k++) count += spikes(rows, k);
    if (rows) total += rows.neurons * part.n * part.hop;
  }
  return (total ? count / total : 0).toFixed(1);
}
