// The live stream: one connection, closed while nobody can see the page.

const HIDDEN_MS = 20000;
const SILENT_MS = 4000;

export class Stream extends EventTarget {
  #source = null;
  #heard = 0;
  #timer = null;
  #isTold = null;

  start() {
    document.addEventListener("visibilitychange", () => this.#look());
    addEventListener("pageshow", () => this.#look());
    setInterval(() => this.#tell(), 1000);
    this.#open();
  }

  get isOpen() {
    return this.#source?.readyState === EventSource.OPEN && performance.now() - this.#heard < SILENT_MS;
  }

  #look() {
    clearTimeout(this.#timer);
    if (!document.hidden) this.#open();
    else this.#timer = setTimeout(() => this.#close(), HIDDEN_MS);
  }

  #open() {
    if (this.#source && this.#source.readyState !== EventSource.CLOSED) return;
    const source = (this.#source = new EventSource("/api/stream"));
    for (const kind of ["frames", "record", "state"]) {
      source.addEventListener(kind, (event) => {
        this.#heard = performance.now();
        this.dispatchEvent(new CustomEvent(kind, { detail: JSON.parse(event.data) }));
        this.#tell();
      });
    }
    source.addEventListener("open", () => this.dispatchEvent(new Event("opened")));
    source.addEventListener("error", () => {
      this.#tell();
      // A refusal (too many, no token) ends an EventSource for good; a lost connection it mends itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || this.#open(), 3000);
    });
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  #tell() {
    if (this.isOpen === this.#isTold) return;
    this.#isTold = this.isOpen;
    this.dispatchEvent(new Event("connection"));
  }
}
