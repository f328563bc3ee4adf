// One run: numbers, diagnosis, curves with the verdict's colour, the spectrum of each checkpoint, and pictures.
import { badge, colour, duration, element, facts, fetched, known, left, number, percent, sample } from "./dom.js";
import { chart } from "./charts.js";

const post = { method: "POST" };

// The panels of curves of some runs; each run has one colour, each layer one style.
export const curvePanels = (document_, colours, bands) => {
  const own = [
    { title: "Learning rate", label: "", keys: [["lr", "-"]], scale: 1, collapsed: null },
    { title: "Speed", label: "images per second", keys: [["images_per_second", "-"]], scale: 1, collapsed: null },
  ];
  const units = [...new Set(document_.runs.map((run) => run.unit).filter(Boolean))];
  return [...document_.panels, ...own].map((panel) => {
    const lines = document_.runs.flatMap((run, i) => panel.keys.filter(([name]) => run.low[name]?.some(known)).map(([name, style]) => {
      const scaled = (values) => values?.map((value) => (known(value) ? value * panel.scale : null));
      return { x: run.x, low: scaled(run.low[name]), high: scaled(run.high[name]), stroke: colours[i], style };
    }));
    if (!lines.length) return null;
    return chart({ ...panel, lines, percent: panel.scale === 100, over: units.length === 1 ? units[0] : "epoch or step", bands });
  }).filter(Boolean);
};

export const layerLegend = (layers) => (Object.keys(layers).length > 1
  ? Object.entries(layers).map(([name, style]) => element("li", {}, sample("currentColor", style), name)) : []);

const LEVELS = { healthy: "Note", partial: "Warning", complete: "Fault" };

const finding = (one) => element("div", { class: "layer" },
  element("h4", {}, `${LEVELS[one.state]}: ${one.kind}`, known(one.since) ? element("span", { class: "words" }, `since ${number(one.since)}`) : null),
  element("p", { class: "evidence" }, one.line),
  ...one.kinds.filter((name) => facts.kinds[name]).map((name) => element("p", { class: "words" }, `${facts.kinds[name]} (kind: ${name})`)),
  one.cause ? element("p", {}, element("b", {}, "Probable cause: "), one.cause) : null,
  one.advice ? element("p", {}, element("b", {}, "Advice: "), one.advice, element("span", { class: "words" }, ` (${one.tested ? `tested: ${one.tested}` : "not tested"})`)) : null);

export class RunView {
  constructor(id) {
    this.id = id;
    this.root = document.getElementById("run").content.cloneNode(true).firstElementChild;
    this.slider = this.find("slider");
    this.measurement = null;
    this.follows = false;
    this.find("measure").addEventListener("click", () => { this.follows = true; this.measure(post); });
    this.slider.addEventListener("input", () => { this.isPinned = this.slider.value !== this.slider.max; this.drawSpectra(); });
    this.loadSettings();
    this.measure();
  }

  find(name) { return this.root.querySelector(`.${name}`); }

  update(run) {
    const isNew = this.run?.size !== run.size;
    this.run = run;
    this.find("run-head").replaceChildren(element("h2", { class: "name" }, run.name),
      element("span", { class: `state ${run.state.replace(" ", "-")}` }, run.state), run.verdict ? badge(run.verdict) : "");
    for (const part of this.root.querySelectorAll(".of-checkpoints")) part.hidden = Boolean(run.log);
    const layer = (metric) => run.values[`${run.layer}_${metric}`];
    const tiles = [
      [run.unit, known(run.of) ? `${number(run.at)} of ${number(run.of)}` : number(run.at)],
      ["loss", run.diverged ? "not finite" : number(run.values.loss)],
      ["learning rate", number(run.values.lr)],
      ["images/s", number(run.values.images_per_second)],
      ["time left", left(run)],
      [`effective rank (${run.layer})`, number(layer("effective_rank"))],
      [`dead directions (${run.layer})`, known(layer("dead_directions")) ? `${percent(layer("dead_directions"))} %` : "–"],
      ["last record", run.changed ? `${duration(Date.now() / 1000 - run.changed)} ago` : "–"],
    ].filter(([name, text]) => text !== "–" || ["loss"].includes(name));
    this.find("tiles").replaceChildren(...tiles.map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, text))));
    if (isNew) {
      this.diagnose();
      if (this.follows && String(run.at) !== this.measurement?.version) this.measure(post);
    }
  }

  draw(document_) {
    const own = { ...document_, runs: document_.runs.filter((run) => run.id === this.id) };
    if (!own.runs.length) return;
    this.find("live").replaceChildren(...curvePanels(own, [colour(0)], own.runs[0].verdicts));
    const bad = own.runs[0].malformed;
    this.find("legend").replaceChildren(...layerLegend(document_.layers),
      bad ? element("li", { class: "words" }, `${bad} lines of metrics.jsonl are no records and are left out`) : "");
  }

  async diagnose() {
    if (!known(this.run.at) || this.run.at === 0) {
      this.find("diagnosis").replaceChildren(element("p", { class: "words" }, "No record yet: the first follows at the end of the first epoch."));
      return;
    }
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      for (let seconds = 1; ; seconds = Math.min(4, seconds + 1)) {
        const job = await fetched(`/api/runs/${this.id}/diagnosis`, seconds === 1 ? post : {});
        this.showDiagnosis(job);
        if (job.state === "done" || job.state === "failed") break;
        await new Promise((wake) => setTimeout(wake, 1000 * seconds));
      }
    } catch { /* the server is away; the status line says so */ } finally { this.isAsking = false; }
  }

  showDiagnosis(job) {
    const parts = [];
    const report = job.result?.reports?.[0];
    if (report) {
      parts.push(element("p", { class: "plain" }, report.line), ...report.findings.map(finding));
      if (report.keep) {
        const at = report.keep.epoch ?? report.keep.step;
        const what = report.keep.path === null ? "no checkpoint" : `the checkpoint of ${report.unit} ${number(at)}`;
        parts.push(element("p", {}, element("b", {}, "Keep: "), `${what} (${report.keep.why})`));
      }
    }
    if (job.state === "failed") parts.push(element("p", { class: "words" }, `ssltool diagnose: ${job.error}`));
    if (!report && job.state !== "failed") parts.push(element("p", { class: "words" }, "ssltool diagnose looks for the kind, its cause and advice …"));
    const card = element("div", { class: "card" }, ...parts);
    if (card.textContent !== this.find("diagnosis").textContent) this.find("diagnosis").replaceChildren(card);
  }

  async measure(options) {
    try {
      for (;;) {
        const job = await fetched(`/api/runs/${this.id}/measure`, options);
        options = undefined;
        this.measurement = job;
        this.showMeasured(job);
        if (!["waiting", "working"].includes(job.state)) break;
        this.follows = true;
        await new Promise((wake) => setTimeout(wake, 2000));
      }
    } catch { /* as above */ }
  }

  showMeasured(job) {
    const said = {
      none: "Passes 512 training images through each checkpoint, in a process of low priority; nothing is written.",
      waiting: "waiting for other measurements …", working: "measuring …", failed: job.error,
    }[job.state] ?? `on ${number(job.result.images)} images; new checkpoints are measured while this page is open`;
    this.find("measured").textContent = said;
    this.find("measure").disabled = ["waiting", "working"].includes(job.state);
    const count = job.result?.checkpoints.length ?? 0;
    this.find("slide").hidden = count < 2;
    if (!count) return;
    this.slider.max = count - 1;
    if (!this.isPinned) this.slider.value = count - 1;
    this.drawSpectra();
    const pictures = Object.values(job.result.pictures).join("");
    if (pictures !== this.pictures) this.showPictures(job.result.pictures);
    this.pictures = pictures;
  }

  // The server made this HTML with the functions of the report, which escape what is in files.
  showPictures(sections) {
    const titles = { neighbours: "Nearest neighbours", views: "Views" };
    this.find("pictures-of").replaceChildren(...Object.entries(sections).flatMap(([name, html]) => {
      const content = new DOMParser().parseFromString(html, "text/html").body;
      return [element("div", {}, element("h3", {}, titles[name]), ...content.childNodes)];
    }));
  }

  drawSpectra() {
    const { checkpoints, untrained } = this.measurement.result;
    const chosen = checkpoints[Number(this.slider.value)] ?? checkpoints.at(-1);
    const at = chosen.epoch ? `epoch ${chosen.epoch}` : `step ${chosen.step}`;
    this.find("chosen").textContent = at;
    this.slider.setAttribute("aria-valuetext", at);
    const charts = Object.keys(chosen.layers).flatMap((name) => {
      const line = (layer, key, more) => ({ x: layer.index, low: layer[key], stroke: colour(0), ...more });
      const all = (key) => [
        ...checkpoints.filter((one) => one !== chosen && one.layers[name]).map((one) => line(one.layers[name], key, { opacity: 0.14, width: 1.2, quiet: true })),
        ...(untrained?.[name] ? [line(untrained[name], key, { style: ":", stroke: "var(--soft)", width: 1.5 })] : []),
        line(chosen.layers[name], key, { width: 2.2 }),
      ];
      const d = Math.max(...chosen.layers[name].index);
      const flat = { x: [1, d], low: [1 / d, 1], stroke: "var(--line)", width: 1.2, quiet: true };
      const auc = known(chosen.layers[name].auc) ? `, AUC ${number(chosen.layers[name].auc)}` : "";
      return [
        chart({ title: `${name}: singular values`, label: `at ${at}; dotted: untrained`, over: "index", log: true, lines: all("s") }),
        chart({ title: `${name}: cumulative`, label: `share of the sum${auc}`, over: "index", lines: [flat, ...all("cumulative")] }),
      ];
    });
    this.find("spectra").replaceChildren(...charts);
  }

  async loadSettings() {
    try {
      const { settings } = await fetched(`/api/runs/${this.id}`);
      const rows = Object.entries(settings).map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, element("code", {}, value))));
      this.find("settings-of").replaceChildren(element("div", { class: "scroll", tabindex: 0 }, element("table", { class: "settings" }, element("tbody", {}, ...rows))));
    } catch { /* as above */ }
  }
}
