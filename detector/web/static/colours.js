// Colours of both themes, from the stylesheet, and colour maps, computed once per theme.

const STOPS = {
  dark: [[9, 11, 16], [38, 22, 74], [105, 28, 107], [178, 49, 88], [235, 101, 52], [252, 180, 60], [252, 253, 191]],
  light: [[255, 255, 255], [222, 231, 243], [164, 196, 222], [98, 150, 195], [52, 96, 162], [38, 48, 112], [18, 14, 48]],
};

let cache = null;

export function theme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  cache = null;
  dispatchEvent(new Event("recolour"));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  cache = null;
  dispatchEvent(new Event("recolour"));
});

export function palette() {
  if (cache) return cache;
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["ink", "quiet", "line", "surface", "well", "accent", "up", "down", "spike", "warn"];
  cache = Object.fromEntries(names.map((name) => [name, read(name)]));
  cache.rgb = Object.fromEntries(["well", "up", "down", "spike", "accent"].map((name) => [name, parse(cache[name])]));
  cache.map = ramp(STOPS[theme()]);
  cache.rising = ramp([cache.rgb.well, mixed(cache.rgb.well, cache.rgb.accent, 0.35), cache.rgb.accent, cache.rgb.up, cache.rgb.spike]);
  return cache;
}

// Colours of the categories in their order: hue and lightness both differ, and a label is always shown, too.
export function categoryColour(index) {
  const hues = theme() === "dark" ? ["#f2a65a", "#6cb6ff", "#7bd88f", "#d8a1ff", "#4fd1c5", "#ff8fa3"]
    : ["#a34a00", "#0b5cad", "#1d7a34", "#7a3bb0", "#0b6e78", "#b3123f"];
  return hues[index % hues.length];
}

const mixed = (from, to, share) => from.map((value, i) => value + share * (to[i] - value));

function parse(colour) {
  const hex = colour.replace("#", "");
  return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function ramp(stops) {
  const map = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c++) map[3 * i + c] = stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]);
  }
  return map;
}
