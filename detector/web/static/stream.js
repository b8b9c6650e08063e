// The live stream: one connection, closed while the page is hidden.

const HIDDEN_MS = 20000;
const SILENT_MS = 4000;

export class Stream extends EventTarget {
  #source = null;
  #address;
  #receivedAt = 0;
  #timer = null;
  #reported = null;

  constructor(address) {
    super();
    this.#address = address;
  }

  start() {
    document.addEventListener("visibilitychange", () => this.#onVisibility());
    addEventListener("pageshow", () => this.#onVisibility());
    setInterval(() => this.#report(), 1000);
    this.#open();
  }

  get isOpen() {
    return this.#source?.readyState === EventSource.OPEN && performance.now() - this.#receivedAt < SILENT_MS;
  }

  #onVisibility() {
    clearTimeout(this.#timer);
    if (!document.hidden) this.#open();
    else this.#timer = setTimeout(() => this.#close(), HIDDEN_MS);
  }

  #open() {
    if (this.#source && this.#source.readyState !== EventSource.CLOSED) return;
    const source = (this.#source = new EventSource(this.#address));
    for (const kind of ["frames", "record", "state"]) {
      source.addEventListener(kind, (event) => {
        this.#receivedAt = performance.now();
        this.dispatchEvent(new CustomEvent(kind, { detail: JSON.parse(event.data) }));
        this.#report();
      });
    }
    source.addEventListener("open", () => this.dispatchEvent(new Event("opened")));
    source.addEventListener("error", () => {
      this.#report();
      // A refusal (too many viewers, no token) ends an EventSource for good; it reconnects by itself otherwise.
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(() => document.hidden || this.#open(), 3000);
      this.dispatchEvent(new Event("refused"));
    });
  }

  #close() {
    this.#source?.close();
    this.#source = null;
  }

  #report() {
    if (this.isOpen === this.#reported) return;
    this.#reported = this.isOpen;
    this.dispatchEvent(new Event("connection"));
  }
}
