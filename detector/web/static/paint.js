// Painters: each turns one frame into a column of pixels, for live strips and for pictures of events.

import { palette } from "./colours.js";

const [LOWEST, HIGHEST] = [-7, 5];

// Log mel bands, the highest on top.
export function melPainter(model) {
  const rows = model.features.mel_hz.length;
  return {
    rows,
    scale: (context, canvas, ratio) => hertz(context, canvas, ratio, model.features.mel_hz),
    column(out, frame, k) {
      const { map } = palette();
      for (let band = 0; band < rows; band++) {
        const value = 3 * frame.mel[k * rows + band];
        put(out, rows - 1 - band, map[value], map[value + 1], map[value + 2]);
      }
    },
  };
}

// The encoder: up spikes above the middle, down spikes below it, the smallest threshold next to the middle.
export function encoderPainter(model, most) {
  const { planes, width } = model.encoder;
  const levels = planes / 2;
  const order = [];
  for (let level = 0; level < levels; level++) for (let i = width - 1; i >= 0; i--) order.push([2 * level * width + i, 1]);
  for (let level = levels - 1; level >= 0; level--) for (let i = width - 1; i >= 0; i--) order.push([(2 * level + 1) * width + i, 0]);
  return rasterPainter((frame) => frame.encoder, order, most);
}

export function layerPainter(name, neurons, most) {
  const order = Array.from({ length: neurons }, (_, i) => [i, 2]);
  return rasterPainter((frame) => frame.layers[name], order, most);
}

// Where there are more neurons than pixels, several share a row, which is brighter the more of them spike.
function rasterPainter(find, order, most) {
  const rows = Math.min(order.length, Math.max(16, most));
  const sums = [new Uint16Array(rows), new Uint16Array(rows), new Uint16Array(rows)];
  const share = Math.max(1, order.length / rows);
  const rowOf = Uint16Array.from(order, (_, i) => Math.min(rows - 1, Math.floor((i * rows) / order.length)));
  return {
    rows,
    column(out, frame, k) {
      const { well, up, down, spike } = palette().rgb;
      const found = find(frame);
      for (const sum of sums) sum.fill(0);
      if (found) {
        const base = k * found.stride;
        for (let i = 0; i < order.length; i++) {
          const [neuron, kind] = order[i];
          if (found.data[base + (neuron >> 3)] & (128 >> (neuron & 7))) sums[kind][rowOf[i]]++;
        }
      }
      for (let row = 0; row < rows; row++) {
        const counts = [sums[0][row], sums[1][row], sums[2][row]];
        const colour = counts[2] ? spike : counts[1] >= counts[0] ? up : down;
        const most = Math.max(...counts);
        const weight = most ? Math.min(1, 0.35 + 0.65 * (most / share)) : 0;
        put(out, row, ...well.map((value, c) => value + weight * (colour[c] - value)));
      }
    },
  };
}

// Frequencies at the left edge of a picture of bands.
function hertz(context, canvas, ratio, bands) {
  context.font = `${10 * ratio}px system-ui, sans-serif`;
  context.lineWidth = 3 * ratio;
  context.strokeStyle = palette().well;
  context.fillStyle = palette().ink;
  for (const wanted of [500, 1000, 2000, 4000]) {
    const band = bands.findIndex((hz) => hz >= wanted);
    if (band < 0) continue;
    const y = canvas.height * (1 - (band + 0.5) / bands.length) + 3.5 * ratio;
    const text = wanted < 1000 ? `${wanted} Hz` : `${wanted / 1000} kHz`;
    context.strokeText(text, 4 * ratio, y);
    context.fillText(text, 4 * ratio, y);
  }
}

// Membrane potentials of the output layer, one row per class, brighter for higher; 0 is a score of one half.
export function membranePainter(model) {
  const rows = model.classes.length;
  return {
    rows,
    column(out, frame, k) {
      const { rising } = palette();
      for (let row = 0; row < rows; row++) {
        const value = frame.membranes.length ? frame.membranes[k * rows + row] * model.membrane_step : 0;
        const at = 3 * Math.max(0, Math.min(255, Math.round((255 * (value - LOWEST)) / (HIGHEST - LOWEST))));
        put(out, row, rising[at], rising[at + 1], rising[at + 2]);
      }
    },
  };
}

function put(out, row, red, green, blue) {
  out[4 * row] = red;
  out[4 * row + 1] = green;
  out[4 * row + 2] = blue;
  out[4 * row + 3] = 255;
}

// Fit a canvas to its box and the screen's pixels; true where it has changed.
export function fit(canvas) {
  const ratio = Math.min(devicePixelRatio || 1, 2);
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width === width && canvas.height === height) return false;
  canvas.width = width;
  canvas.height = height;
  return true;
}

// Curves of the classes' means over time, with the thresholds of those shown. `value(c, i)` is 0 to 1, `x(i)` pixels.
export function drawCurves(context, box, series, options) {
  const { ratio, colourOf, labels, thresholds, most = 5 } = options;
  const colours = palette();
  const highest = labels.map((_, c) => series.values.reduce((top, row) => Math.max(top, row[c]), 0));
  const shown = labels.map((_, c) => c).filter((c) => highest[c] >= 0.2).sort((a, b) => highest[b] - highest[a]).slice(0, most);
  const y = (value) => box.y + box.height - value * box.height;
  context.strokeStyle = colours.line;
  context.lineWidth = ratio;
  for (const mark of [0.5, 1]) line(context, box.x, y(mark), box.x + box.width, y(mark));
  const taken = [];
  for (const c of shown) {
    context.strokeStyle = context.fillStyle = colourOf(c);
    context.setLineDash([4 * ratio, 4 * ratio]);
    context.globalAlpha = 0.6;
    line(context, box.x, y(thresholds[c]), box.x + box.width, y(thresholds[c]));
    context.setLineDash([]);
    context.globalAlpha = 1;
    context.lineWidth = 1.8 * ratio;
    context.beginPath();
    series.values.forEach((row, i) => {
      if (i && !series.breaks.has(i)) context.lineTo(series.x[i], y(row[c]));
      else context.moveTo(series.x[i], y(row[c]));
    });
    context.stroke();
    context.lineWidth = ratio;
    label(context, box, series, c, highest[c], y, labels[c], ratio, taken);
  }
}

// Write the label of a curve at its highest point, clear of the labels before it.
function label(context, box, series, c, highest, y, text, ratio, taken) {
  context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
  const width = context.measureText(text).width;
  const at = series.values.findIndex((row) => row[c] >= highest);
  const x = Math.max(box.x + 2, Math.min(series.x[at] - width / 2, box.x + box.width - width - 2));
  let top = Math.max(box.y + 11 * ratio, y(highest) - 4 * ratio);
  while (taken.some(([a, b, t]) => x < b && x + width > a && Math.abs(t - top) < 12 * ratio)) top += 12 * ratio;
  taken.push([x, x + width, top]);
  context.strokeStyle = palette().well;
  context.lineWidth = 3 * ratio;
  context.strokeText(text, x, top);
  context.fillText(text, x, top);
  context.lineWidth = ratio;
}

export function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}
