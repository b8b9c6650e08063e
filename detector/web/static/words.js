// Texts and numbers as they are shown.

export const named = (label) => label.replaceAll("_", " ");

// A path of the API from here: the page may be below a path of a proxy.
export const relative = (path) => path.replace(/^\//, "");

// What the browser keeps of the last visit; in a frame it may keep nothing, and refuse to be asked.
export const storage = {
  get(name) {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(name, value);
    } catch {
      // It is shown as chosen until the page is closed.
    }
  },
};

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { dataset = {}, ...rest } = properties;
  for (const [name, value] of Object.entries(rest)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  Object.assign(made.dataset, dataset);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const clock = (moment) => new Date(moment).toLocaleTimeString([], { hour12: false });

export function day(moment) {
  const date = new Date(moment);
  const same = date.toDateString() === new Date().toDateString();
  return same ? clock(date) : `${date.toLocaleDateString([], { day: "numeric", month: "short" })} ${clock(date)}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.round((seconds % 86400) / 3600)} h`;
}

export const decibels = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} dBFS`);

export const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

export const millions = (value) => `${(value / 1e6).toFixed(1)} M`;
