// The page asks for news and shows all runs, one, or two side by side, as the address says:
// #, #run=ID, #compare=ID,ID.
import { colour, element, facts, fetched, known, number, percent, sample } from "./dom.js";
import { Overview } from "./overview.js";
import { RunView, curvePanels, layerLegend } from "./run_view.js";

const byId = (name) => document.getElementById(name);
const FEW = 50; // runs whose table is made again each time
const SOON = 0.15; // seconds until the next part of curves that are not read to the end

let news = { version: null, runs: [], differing: [], summary: "", note: "" };
let views = [];
let drawnOf = ""; // the view, and the runs and sizes whose curves are shown

const overview = new Overview(() => drawCurves());

const route = () => {
  const found = /^#(run|compare)=([0-9a-f,]+)$/.exec(location.hash);
  return found ? found[2].split(",").slice(0, 2) : [];
};

const say = (text, isWrong = false) => {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", isWrong);
};

const differences = ([a, b]) => {
  const runs = [a, b].map((id) => news.runs.find((run) => run.id === id));
  if (runs.some((run) => !run)) return "";
  const names = news.differing.filter((name) => String(runs[0].settings[name]) !== String(runs[1].settings[name]));
  if (!names.length) return element("p", { class: "words" }, "All settings are the same.");
  const cell = (run, name) => element("td", {}, element("code", {}, String(run.settings[name] ?? "–")));
  return element("div", { class: "scroll", tabindex: 0 }, element("table", { class: "settings" },
    element("thead", {}, element("tr", {}, element("th", {}, "Differences"), ...runs.map((run) => element("th", { scope: "col" }, run.name)))),
    element("tbody", {}, ...names.map((name) => element("tr", {}, element("th", { scope: "row" }, name), ...runs.map((run) => cell(run, name)))))));
};

const show = () => {
  const ids = route();
  byId("overview").hidden = ids.length > 0;
  byId("details").hidden = byId("back").hidden = ids.length === 0;
  if (ids.join() !== views.map((view) => view.id).join()) {
    views = ids.map((id) => new RunView(id));
    const side = element("div", { class: `runs of-${ids.length}` }, ...views.map((view) => view.root));
    byId("details").replaceChildren(element("div", { id: "differences" }), side);
    scrollTo(0, 0);
  }
  render();
};

const render = () => {
  const ids = route();
  for (const view of views) {
    const run = news.runs.find((one) => one.id === view.id);
    if (run) view.update(run);
    else if (known(news.version)) view.root.replaceChildren(element("p", {}, "There is no such run; it may have been moved."));
  }
  byId("title").textContent = ids.length === 0 ? "Runs" : ids.length === 1 ? views[0].run?.name ?? "Run" : "Two runs";
  byId("summary").textContent = ids.length ? "" : news.summary;
  byId("note").textContent = news.note;
  byId("differences")?.replaceChildren(ids.length === 2 ? differences(ids) : "");
  document.title = ids.length ? `${views.map((view) => view.run?.name ?? "").join(", ")} · ssltool watch` : "ssltool watch";
  drawCurves();
};

// The curves of the shown runs, again until they are read to the end.
const drawCurves = async () => {
  const ids = route().length ? route() : overview.drawn;
  const key = route().join() + ids.map((id) => `${id} ${news.runs.find((run) => run.id === id)?.size}`).join();
  if (key === drawnOf) return;
  drawnOf = key;
  try {
    for (;;) {
      const found = await fetched(`/api/curves?ids=${ids.join(",")}`);
      if (key !== drawnOf) return;
      drawFound(found);
      if (found.complete) return;
      await new Promise((wake) => setTimeout(wake, 1000 * SOON));
    }
  } catch { drawnOf = ""; }
};

const drawFound = (found) => {
  if (views.length) {
    for (const view of views) view.draw(found);
    return;
  }
  const names = found.runs.map((run) => news.runs.find((one) => one.id === run.id)?.name ?? "");
  byId("legend").replaceChildren(...names.map((name, i) => element("li", {}, sample(colour(i)), name)), ...layerLegend(found.layers));
  byId("curves").replaceChildren(...curvePanels(found, found.runs.map((_, i) => colour(i))));
};

const rank = async (checkpoints) => {
  const box = byId("ranking");
  const address = `/api/rank?ids=${overview.drawn.join(",")}${checkpoints ? "&checkpoints=1" : ""}`;
  let options = { method: "POST" };
  try {
    for (;;) {
      const job = await fetched(address, options);
      options = undefined;
      if (job.state === "failed") box.replaceChildren(element("p", {}, job.error));
      else if (job.state !== "done") box.replaceChildren(element("p", { class: "words" }, "ssltool rank is at work …"));
      else showRanking(box, job.result);
      if (job.state === "done" || job.state === "failed" || job.state === "none") return;
      await new Promise((wake) => setTimeout(wake, 1500));
    }
  } catch (error) { box.replaceChildren(element("p", {}, `no answer: ${error.message}`)); }
};

const showRanking = (box, result) => {
  const at = result.rows.every((row) => known(row.epoch)) ? "epoch" : "step";
  const titles = ["Rank", "Run", at, result.by, "verdict", "kNN (%)"];
  const rows = result.rows.map((row) => {
    const name = row.id ? element("a", { href: `#run=${row.id}` }, row.run) : row.run;
    const place = at === "epoch" && known(row.epoch) ? row.epoch + 1 : row[at];
    return element("tr", {}, element("td", { class: "number" }, number(row.rank)), element("th", { scope: "row" }, name),
      ...[number(place), number(row.value), row.verdict ?? "–", percent(row.knn)].map((text) => element("td", { class: "number" }, text)));
  });
  box.replaceChildren(element("p", {}, result.why),
    element("div", { class: "scroll", tabindex: 0 }, element("table", { class: "ranks" },
      element("thead", {}, element("tr", {}, ...titles.map((title, i) => element("th", { scope: "col", class: i === 1 ? null : "number" }, title)))),
      element("tbody", {}, ...rows))),
    element("ul", { class: "notes" }, ...result.notes.map((note) => element("li", {}, note))));
};

byId("rank").addEventListener("click", () => rank(false));
byId("rank-checkpoints").addEventListener("click", () => rank(true));

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (document.activeElement === byId("filter")) byId("filter").blur();
    else if (route().length) location.hash = "";
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type='search'], input[type='text']")) return;
  const actions = route().length ? {} : {
    j: () => overview.step(1), k: () => overview.step(-1), x: () => overview.toggleFocused(),
    c: () => { if (!byId("compare").hidden) location.hash = byId("compare").hash; }, "/": () => byId("filter").focus(),
  };
  if (actions[event.key]) { actions[event.key](); event.preventDefault(); }
});

addEventListener("hashchange", show);

const ask = async () => {
  try {
    const found = await fetched(`/api/runs?seen=${news.version ?? ""}`);
    if (found) news = found;
    if (found || news.runs.length <= FEW) { // times pass without news, too
      overview.update(news.runs, news.differing);
      render();
    }
    const running = news.runs.filter((run) => run.state === "running").length;
    say(`live · ${running} of ${news.runs.length} running`);
  } catch (error) {
    say(error.message === "401" ? "the token is not valid any more" : "no answer from the server", true);
  }
  setTimeout(ask, 1000 * facts.every);
};

show();
ask();
