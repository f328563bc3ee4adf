// The table of all runs: sorted, filtered, with chosen columns; and which runs are drawn.
import { badge, colour, duration, element, known, left, number, percent, sample } from "./dom.js";

const FIRST_DRAWN = 6;
const MOST_DRAWN = 7; // as many as there are colours

const table = document.getElementById("runs");
const filter = document.getElementById("filter");
const layerValue = (run, metric) => run.values[`${run.layer}_${metric}`];

const progress = (run) => {
  if (!known(run.of)) return element("td", { "data-value": run.at ?? 0 }, `${run.unit} ${number(run.at ?? 0)}`);
  const at = run.at + (run.within ?? 0);
  const meter = element("progress", { max: run.of, value: at, "aria-label": `${number(at)} of ${run.of} epochs` });
  return element("td", { "data-value": at / run.of }, meter, element("span", { class: "words" }, ` ${number(at)} of ${number(run.of)}`));
};

const cellOf = (value, text) => element("td", { class: "number", "data-value": known(value) ? value : "" }, text);

const ago = (run) => (known(run.changed) && run.changed > 0 ? `${duration(Date.now() / 1000 - run.changed)} ago` : "–");

// The columns that are always known; others are the values of records and the settings.
const OWN = {
  state: ["State", (run) => element("td", {}, element("span", { class: `state ${run.state.replace(" ", "-")}` }, run.state))],
  verdict: ["Verdict", (run) => element("td", { "data-value": ["healthy", "partial", "complete"].indexOf(run.verdict) }, run.verdict === null ? element("span", { class: "words" }, run.unjudged ? "not finite" : "none yet") : badge(run.verdict))],
  kinds: ["Kind", (run) => element("td", {}, run.kinds)],
  at: ["Progress", progress],
  left: ["Time left", (run) => cellOf(run.ends, left(run))],
  changed: ["Last record", (run) => cellOf(run.changed, ago(run))],
  loss: ["Loss", (run) => cellOf(run.values.loss, run.diverged ? "not finite" : number(run.values.loss))],
  lr: ["Learning rate", (run) => cellOf(run.values.lr, number(run.values.lr))],
  images_per_second: ["Images/s", (run) => cellOf(run.values.images_per_second, number(run.values.images_per_second))],
  auc: ["AUC", (run) => cellOf(layerValue(run, "auc"), number(layerValue(run, "auc")))],
  effective_rank: ["Effective rank", (run) => cellOf(layerValue(run, "effective_rank"), number(layerValue(run, "effective_rank")))],
  dead_directions: ["Dead directions (%)", (run) => cellOf(layerValue(run, "dead_directions"), percent(layerValue(run, "dead_directions")))],
  knn: ["kNN (%)", (run) => cellOf(layerValue(run, "knn"), percent(layerValue(run, "knn")))],
};

const DEFAULT = ["state", "verdict", "at", "loss", "images_per_second", "left", "auc", "effective_rank", "dead_directions", "knn"];
const FEW_SETTINGS = 4;

export class Overview {
  constructor(onChoice) {
    this.onChoice = onChoice;
    this.runs = [];
    this.drawn = []; // ids, in the order of their colours
    this.isChosen = false; // until the user chooses, the first runs are drawn
    this.columns = null; // null: the default ones and the settings that differ
    filter.addEventListener("input", () => this.render());
    table.addEventListener("change", (event) => this.choose(event.target.value, event.target.checked));
    document.getElementById("columns").addEventListener("change", () => {
      this.columns = [...document.querySelectorAll("#columns input:checked")].map((box) => box.value);
      this.render();
    });
  }

  update(runs, differing) {
    this.runs = runs;
    this.differing = differing;
    this.drawn = this.drawn.filter((id) => runs.some((run) => run.id === id));
    if (!this.isChosen) {
      const running = runs.filter((run) => run.state === "running");
      this.drawn = [...new Set([...this.drawn, ...[...running, ...runs].map((run) => run.id)])].slice(0, FIRST_DRAWN);
    }
    this.render();
  }

  choose(id, chosen) {
    this.isChosen = true;
    const others = this.drawn.filter((one) => one !== id);
    this.drawn = chosen ? [...others, id].slice(-MOST_DRAWN) : others;
    this.render();
    this.onChoice();
  }

  shownColumns() {
    return this.columns ?? [...DEFAULT, ...this.differing.slice(0, FEW_SETTINGS).map((name) => `setting ${name}`)];
  }

  title(column) {
    return OWN[column]?.[0] ?? column.replace(/^(setting|value) /, "").replaceAll("_", " ");
  }

  matches(run) {
    const text = [run.name, run.state, run.verdict ?? "", run.kinds, ...Object.entries(run.settings).map(([name, value]) => `${name} ${value}`)].join(" ").toLowerCase();
    return filter.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  }

  cell(run, column) {
    if (OWN[column]) return OWN[column][1](run);
    const name = column.replace(/^(setting|value) /, "");
    const value = column.startsWith("setting ") ? run.settings[name] : run.values[name];
    return typeof value === "number" ? cellOf(value, number(value)) : element("td", {}, known(value) ? String(value) : "–");
  }

  render() {
    const focused = document.activeElement?.dataset?.key;
    const columns = this.shownColumns();
    this.renderHead(columns);
    const rows = this.runs.filter((run) => this.matches(run)).map((run) => {
      const place = this.drawn.indexOf(run.id);
      const box = element("input", { type: "checkbox", value: run.id, checked: place >= 0, "aria-label": `draw ${run.name}`, "data-key": `box ${run.id}` });
      const link = element("a", { href: `#run=${run.id}`, "data-key": run.id }, run.name);
      const name = element("th", { scope: "row" }, box, place >= 0 ? sample(colour(place)) : element("span", { class: "sample" }), link);
      return element("tr", { "data-id": run.id }, name, ...columns.map((column) => this.cell(run, column)));
    });
    table.tBodies[0].replaceChildren(...rows);
    table.dispatchEvent(new Event("changed-rows"));
    if (focused) table.querySelector(`[data-key="${focused}"]`)?.focus();
    this.renderChooser(columns);
    const compare = document.getElementById("compare");
    compare.hidden = this.drawn.length !== 2;
    compare.href = `#compare=${this.drawn.join(",")}`;
  }

  renderHead(columns) {
    const key = columns.join();
    if (this.headKey === key) return;
    this.headKey = key;
    const titles = ["Run", ...columns.map((column) => this.title(column))];
    table.tHead.rows[0].replaceChildren(...titles.map((title, i) => {
      const align = i && !["state", "verdict", "kinds", "at"].includes(columns[i - 1]) && !columns[i - 1].startsWith("setting ") ? "number" : null;
      return element("th", { scope: "col", "aria-sort": "none", class: align }, element("button", { type: "button" }, title));
    }));
  }

  renderChooser(columns) {
    const values = [...new Set(this.runs.flatMap((run) => Object.keys(run.values)))].map((name) => `value ${name}`);
    const settings = [...new Set(this.runs.flatMap((run) => Object.keys(run.settings)))].map((name) => `setting ${name}`);
    const all = [...Object.keys(OWN), ...settings, ...values];
    const key = all.join();
    if (this.chooserKey === key) return;
    this.chooserKey = key;
    document.getElementById("columns").replaceChildren(...all.map((column) => element("label", {},
      element("input", { type: "checkbox", value: column, checked: columns.includes(column) }), ` ${this.title(column)}`)));
  }

  // Moves the focus to the run below or above.
  step(by) {
    const links = [...table.querySelectorAll("tbody a")];
    const now = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
    links[Math.min(links.length - 1, Math.max(0, now + by))]?.focus();
  }

  toggleFocused() {
    const id = document.activeElement?.closest("tr")?.dataset.id;
    if (id) this.choose(id, !this.drawn.includes(id));
  }
}
