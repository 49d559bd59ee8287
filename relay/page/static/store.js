// The newest flows, oldest first, each once. Whoever shows them is called at most once for each frame.
export const MOST = 5000;

const keyOf = (row) => `${row.node} ${row.id}`;

export class Store {
  constructor() {
    this.flows = [];
    this.total = 0;
    this.lost = 0;
    this.version = 0;
    this.ids = new Set();
    this.watchers = new Set();
    this.isAsked = false;
  }

  add(rows) {
    let isLate = false;
    const fresh = [];
    for (const row of rows) {
      if (this.ids.has(keyOf(row))) continue;
      this.ids.add(keyOf(row));
      fresh.push(row);
      const last = fresh.length > 1 ? fresh[fresh.length - 2] : this.flows[this.flows.length - 1];
      if (last && last.time > row.time) isLate = true;
    }
    if (!fresh.length) return;
    this.flows.push(...fresh);
    if (isLate) this.flows.sort((one, other) => one.time - other.time);
    if (this.flows.length > MOST) for (const row of this.flows.splice(0, this.flows.length - MOST)) this.ids.delete(keyOf(row));
    this.total += fresh.length;
    this.changed();
  }

  clear() {
    this.flows = [];
    this.ids.clear();
    this.total = this.lost = 0;
    this.changed();
  }

  get newest() { return this.flows.length ? this.flows[this.flows.length - 1].time : 0; }

  changed() {
    this.version += 1;
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => { this.isAsked = false; for (const watch of this.watchers) watch(); });
  }

  watch(watch) { this.watchers.add(watch); return () => this.watchers.delete(watch); }
}
