// Rolling plots of the last seconds: an off-screen ring of columns, drawn with the newest at the right edge.

import { palette } from "./colours.js";
import { spikes } from "./frames.js";
import { drawCurves, encoderPainter, fit, layerPainter, line, melPainter, membranePainter } from "./paint.js";
import { element, named } from "./words.js";

const SPAN_S = 10;
const LAG_COLUMNS = 8;
const RATE_WEIGHT = 0.08;

export class Strips {
  #place;
  #model;
  #strips = [];
  #columns;
  #newest = null;
  #right = 0;
  #drawnAt = 0;
  #means = [];
  #sounds = [];
  #isDue = true;
  held = false;

  constructor(place, model, colourOf) {
    this.#place = place;
    this.#model = model;
    this.colourOf = colourOf;
    this.labels = model.classes.map((c) => named(c.label));
    this.thresholds = model.classes.map((c) => c.threshold);
    this.#columns = Math.round(SPAN_S / model.features.hop_s);
    this.#build();
    addEventListener("recolour", () => this.#clear());
    addEventListener("resize", () => (this.#isDue = true));
    requestAnimationFrame((now) => this.#turn(now));
  }

  // Newest frame that is drawn, for tests.
  get position() {
    return this.#newest ?? 0;
  }

  push(frame) {
    if (this.held) return;
    const first = Math.round(frame.first / frame.hop);
    if (this.#newest !== null && first <= this.#newest - this.#columns) this.#forget();
    if (this.#newest !== null) for (let i = Math.max(this.#newest + 1, first - this.#columns); i < first; i++) this.#blank(i);
    for (let k = 0; k < frame.n; k++) {
      this.#means.push([first + k, Array.from(frame.means.subarray(k * this.labels.length, (k + 1) * this.labels.length), (v) => v / 255)]);
      for (const strip of this.#strips) strip.write?.(frame, k, (first + k) % this.#columns);
    }
    this.#newest = first + frame.n - 1;
    while (this.#means.length && this.#means[0][0] < this.#newest - this.#columns - LAG_COLUMNS) this.#means.shift();
    this.#isDue = true;
  }

  sound(record) {
    const known = this.#sounds.find((s) => s.id === record.id);
    if (known) Object.assign(known, record);
    else this.#sounds.push({ ...record });
    this.#sounds = this.#sounds.slice(-40);
    this.#isDue = true;
  }

  #build() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const { layers } = this.#model;
    const add = (name, title, painter, hint) => this.#add(name, title, hint, painter);
    add("mel", "Log mel", melPainter(this.#model), "mel bands, high frequencies on top");
    add("encoder", "Encoder", encoderPainter(this.#model, 140 * ratio), "up spikes on top, down spikes below", (f) => f.encoder);
    for (const layer of layers.filter((l) => l.spikes)) add(`layer ${layer.kind}`, layer.name, layerPainter(layer.name, layer.neurons, 80 * ratio), `${layer.neurons} neurons`);
    this.#strips[1].rows = (frame) => frame.encoder;
    layers.filter((l) => l.spikes).forEach((layer, i) => (this.#strips[2 + i].rows = (frame) => frame.layers[layer.name]));
    add("membrane", "Membranes", membranePainter(this.#model), "of the output layer, one row per class");
    this.#add("curves", "Scores", "moving means; thresholds dashed", null, (canvas, ratio) => this.#drawScores(canvas, ratio));
    this.#add("sounds", "Sounds", "of the last 10 seconds", null, (canvas, ratio) => this.#drawSounds(canvas, ratio));
  }

  #add(name, title, hint, painter, draw) {
    const canvas = element("canvas", { role: "img", "aria-label": `${title}${hint ? `: ${hint}` : ""}` });
    const rate = element("output", { className: "rate" });
    const caption = element("figcaption", {}, element("b", { textContent: title }), rate, element("small", { textContent: hint }));
    this.#place.append(element("figure", { className: `strip ${name}` }, caption, canvas));
    const strip = { canvas, rate, draw, mean: null, scale: painter?.scale };
    if (painter) {
      const ring = new OffscreenCanvas(this.#columns, painter.rows);
      const context = ring.getContext("2d");
      const pixels = context.createImageData(1, painter.rows);
      strip.ring = ring;
      strip.blank = (at) => context.clearRect(at, 0, 1, painter.rows);
      strip.write = (frame, k, at) => {
        painter.column(pixels.data, frame, k);
        context.putImageData(pixels, at, 0);
        const rows = strip.rows?.(frame);
        if (rows) {
          const now = spikes(rows, k) / rows.neurons / frame.hop;
          strip.mean = strip.mean === null ? now : strip.mean + RATE_WEIGHT * (now - strip.mean);
        }
      };
    }
    this.#strips.push(strip);
  }

  #blank(index) {
    for (const strip of this.#strips) strip.blank?.(index % this.#columns);
  }

  #forget() {
    this.#clear();
    this.#newest = null;
    this.#sounds = [];
    this.#means = [];
  }

  // Old columns have the colours of the other theme.
  #clear() {
    for (let i = 0; i < this.#columns; i++) this.#blank(i);
    this.#isDue = true;
  }

  #turn(now) {
    requestAnimationFrame((next) => this.#turn(next));
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (this.#newest === null || this.#place.offsetParent === null || this.held || now - this.#drawnAt < 30) return;
    const passed = (now - this.#drawnAt) / 1000 / this.#model.features.hop_s;
    this.#drawnAt = now;
    const target = this.#newest + 1;
    const before = this.#right;
    this.#right = still ? target : Math.min(target, Math.max(this.#right + passed, target - LAG_COLUMNS));
    if (this.#right === before && !this.#isDue) return;
    this.#isDue = false;
    for (const strip of this.#strips) this.#draw(strip);
  }

  #draw(strip) {
    const { canvas } = strip;
    fit(canvas);
    const context = canvas.getContext("2d");
    const ratio = canvas.width / Math.max(1, canvas.clientWidth);
    context.fillStyle = palette().well;
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (strip.draw) {
      strip.draw(canvas, ratio);
      return;
    }
    context.imageSmoothingEnabled = false;
    const n = this.#columns;
    const right = Math.floor(this.#right);
    const scale = canvas.width / n;
    const shift = (this.#right - right) * scale;
    const cut = ((right % n) + n) % n; // position of the oldest column in the ring
    const rows = strip.ring.height;
    if (n - cut) context.drawImage(strip.ring, cut, 0, n - cut, rows, -shift, 0, (n - cut) * scale, canvas.height);
    if (cut) context.drawImage(strip.ring, 0, 0, cut, rows, (n - cut) * scale - shift, 0, cut * scale, canvas.height);
    strip.scale?.(context, canvas, ratio);
    this.#marks(context, canvas, ratio);
    if (strip.mean !== null) strip.rate.value = `${strip.mean.toFixed(1)} Hz`;
  }

  #x(canvas, index) {
    return canvas.width - ((this.#right - index) * canvas.width) / this.#columns;
  }

  // Where sounds began.
  #marks(context, canvas, ratio) {
    context.strokeStyle = palette().accent;
    context.lineWidth = ratio;
    context.setLineDash([3 * ratio, 3 * ratio]);
    for (const sound of this.#sounds) {
      const x = this.#x(canvas, sound.onset_s / this.#model.features.hop_s);
      if (x >= 0 && x <= canvas.width) line(context, x, 0, x, canvas.height);
    }
    context.setLineDash([]);
  }

  #drawScores(canvas, ratio) {
    const context = canvas.getContext("2d");
    const breaks = new Set();
    this.#means.forEach(([index], i) => i && index !== this.#means[i - 1][0] + 1 && breaks.add(i));
    const series = { values: this.#means.map(([, row]) => row), x: this.#means.map(([index]) => this.#x(canvas, index + 1)), breaks };
    const box = { x: 0, y: 6 * ratio, width: canvas.width, height: canvas.height - 8 * ratio };
    drawCurves(context, box, series, { ratio, colourOf: this.colourOf, labels: this.labels, thresholds: this.thresholds });
    this.#marks(context, canvas, ratio);
  }

  #drawSounds(canvas, ratio) {
    const context = canvas.getContext("2d");
    const hop = this.#model.features.hop_s;
    context.font = `${10 * ratio}px system-ui, sans-serif`;
    context.fillStyle = context.strokeStyle = palette().quiet;
    for (let ago = 2; ago < SPAN_S; ago += 2) {
      const x = canvas.width * (1 - ago / SPAN_S);
      line(context, x, canvas.height - 3 * ratio, x, canvas.height);
      context.fillText(`−${ago} s`, x + 3 * ratio, canvas.height - 3 * ratio);
    }
    const ends = [];
    const height = 16 * ratio;
    context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
    for (const sound of this.#sounds) {
      const from = this.#x(canvas, sound.onset_s / hop);
      const to = sound.offset_s === undefined || sound.offset_s === null ? canvas.width : this.#x(canvas, sound.offset_s / hop);
      if (to < 0) continue;
      let lane = ends.findIndex((end) => end <= from);
      if (lane < 0) lane = ends.length;
      ends[lane] = to;
      const y = 2 * ratio + lane * (height + 2 * ratio);
      const colour = this.colourOf(this.#model.classes.findIndex((c) => c.label === sound.label));
      context.fillStyle = colour;
      context.globalAlpha = 0.25;
      context.fillRect(from, y, to - from, height);
      context.globalAlpha = 1;
      context.fillRect(from, y, 3 * ratio, height);
      context.fillText(named(sound.label), Math.max(from, 0) + 7 * ratio, y + height - 4.5 * ratio);
    }
  }
}
