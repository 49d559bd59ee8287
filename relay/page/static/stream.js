// The events of the relay. A connection that ends is opened again, from where the last flow was; silence counts as an end.
import { ask } from "./dom.js";

const SILENCE_MS = 15_000;
const LONGEST_MS = 5000;
const OVERLAP_MS = 2000;

export class Stream {
  constructor(store, tell) {
    this.store = store;
    this.tell = tell;
    this.query = new URLSearchParams();
    this.delay = 500;
  }

  open(query) {
    this.query = query;
    this.delay = 500;
    this.connect(0);
  }

  close() {
    clearTimeout(this.timer);
    clearTimeout(this.watchdog);
    this.source?.close();
    this.source = null;
  }

  connect(since) {
    this.close();
    const query = new URLSearchParams(this.query);
    if (since) query.set("since", String(Math.floor(since)));
    const source = new EventSource(`events?${query}`);
    this.source = source;
    const on = (name, act) => source.addEventListener(name, (event) => { this.heard(); act(JSON.parse(event.data)); });
    on("begin", () => { this.delay = 500; this.tell({ state: "live" }); });
    on("beat", () => {});
    on("flows", (data) => this.store.add(data.flows));
    on("lost", (data) => { this.store.lost += data.number; this.store.changed(); });
    on("nodes", (data) => this.tell({ nodes: data }));
    on("refused", (data) => { this.close(); this.tell({ state: "refused", message: data.message }); });
    source.onerror = () => this.again();
    this.heard();
  }

  heard() {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.again(), SILENCE_MS);
  }

  async again() {
    this.close();
    this.timer = setTimeout(() => this.connect(this.store.newest ? this.store.newest - OVERLAP_MS : 0), this.delay);
    this.delay = Math.min(this.delay * 2, LONGEST_MS);
    try {
      await ask("state");
      this.tell({ state: "lost", message: "The stream of flows ended; it is being opened again." });
    } catch (error) {
      const isRefused = error.status === 401 || error.status === 403;
      this.tell({
        state: "lost",
        message: isRefused ? `No permission to read flows: ${error.message}. Start clustermesh ui again.`
          : error.status ? `The relay cannot answer: ${error.message}` : "The relay does not answer. What is shown is from before; it is being asked again.",
      });
    }
  }
}
