// Dialogue of one sound: its record, its picture, and its clip where there is one.

import { showPicture } from "./picture.js";
import { day, decibels, element, named, relative, score, span } from "./words.js";

const dialog = document.getElementById("detail");
const byId = (id) => document.getElementById(`detail-${id}`);

export class Detail {
  #event = null;
  #picture = null;

  // `neighbours(id)` gives the ids of the sounds before and after.
  constructor(model, colourOf, neighbours) {
    Object.assign(this, { model, colourOf, neighbours });
    byId("close").onclick = () => dialog.close();
    byId("previous").onclick = () => this.#step(0);
    byId("next").onclick = () => this.#step(1);
    dialog.onclick = (click) => click.target === dialog && dialog.close();
    dialog.onclose = () => {
      byId("clip").pause();
      if (location.hash.startsWith("#event/")) history.replaceState(null, "", "#events");
    };
    dialog.onkeydown = (key) => {
      if (key.target.tagName === "AUDIO") return;
      if (key.key === "ArrowLeft") this.#step(0);
      if (key.key === "ArrowRight") this.#step(1);
    };
    addEventListener("recolour", () => this.#draw());
    addEventListener("resize", () => this.#draw());
  }

  async open(id) {
    const answer = await fetch(`api/events/${encodeURIComponent(id)}`);
    if (!answer.ok) return;
    const event = (this.#event = await answer.json());
    this.#picture = null;
    byId("title").textContent = named(event.label);
    byId("line").textContent = [event.onset_time && day(event.onset_time), event.reason ? span(event.duration_s) : "in progress", event.category].filter(Boolean).join(" · ");
    byId("clip").hidden = !event.clip;
    if (event.clip) byId("clip").src = relative(event.clip);
    else byId("clip").removeAttribute("src");
    this.#record(event);
    const [before, after] = this.neighbours(id);
    byId("previous").disabled = !before;
    byId("next").disabled = !after;
    byId("picture").replaceChildren(element("p", { className: "quiet", textContent: "loading…" }));
    if (!dialog.open) dialog.showModal();
    await this.#fetchPicture(event);
  }

  async #fetchPicture(event) {
    const answer = event.picture ? await fetch(relative(event.picture)) : null;
    if (this.#event !== event) return;
    if (answer?.ok) {
      this.#picture = await answer.json();
      this.#draw();
    }
    if (!this.#picture?.parts.length) {
      byId("picture").replaceChildren(element("p", { className: "quiet", textContent: "The picture of this sound is no longer available: pictures are kept in memory for recent sounds, and can be computed for sounds with a clip." }));
    }
  }

  #draw() {
    if (dialog.open && this.#picture?.parts.length) showPicture(byId("picture"), this.#picture, this.#event, this.model, this.colourOf);
  }

  #record(event) {
    const facts = [
      ["Onset", event.onset_time && `${day(event.onset_time)}${event.clock_synced === false ? " (clock not synchronised)" : ""}`],
      ["Duration", event.reason ? span(event.duration_s) : "in progress"],
      ["Score at the onset", `${score(event.score)}, threshold ${score(event.threshold)}`],
      ["Peak, mean", event.peak === null ? "–" : `${score(event.peak)}, ${score(event.mean)}`],
      ["Level", decibels(event.level_dbfs)],
      ["Reason of the offset", event.reason ? named(event.reason) : "–"],
      ["Source", `${event.source}${event.device ? ` (${event.device})` : ""}`],
      ["Position", `${event.onset_s.toFixed(3)} s in the stream`],
      ["Model", event.model ?? "–"],
      ["Id", event.id],
    ];
    byId("record").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value || "–" })]));
  }

  #step(which) {
    const id = this.#event && this.neighbours(this.#event.id)[which];
    if (id) this.open(id);
  }
}
