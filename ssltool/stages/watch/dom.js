// Elements, numbers and times. Text always goes through textContent, so that nothing of a file is read as HTML.

export const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
};

export const svg = (tag, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

export const facts = JSON.parse(document.getElementById("watch").dataset.facts);

export const known = (value) => value !== null && value !== undefined;

// Four significant digits at most: 12,345, 0.0523, 1.2e-7.
export const number = (value) => {
  if (!known(value)) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace("e+", "e");
  if (Number.isInteger(value) || size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(size >= 1 ? 4 : 3)));
};

export const percent = (value) => (known(value) ? `${(100 * value).toFixed(1)}` : "–");

export const duration = (seconds) => {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
};

export const left = (run) => (known(run.ends) ? duration(run.ends - Date.now() / 1000) : "–");

export const badge = (state) => element("span", { class: `badge ${state}` }, facts.states[state] ?? state);

export const fetched = async (address, options) => {
  const answer = await fetch(address, options);
  if (answer.status === 204) return null;
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
};

// The line of a run, as in the legends of a report.
export const colour = (i) => (i < 6 ? `var(--series-${i})` : "currentColor");
export const dashes = { "-": null, "--": "6 3", "-.": "7 3 2 3", ":": "2 3" };
export const sample = (stroke, style = "-") =>
  svg("svg", { class: "sample", viewBox: "0 0 28 12", "aria-hidden": "true" },
    svg("path", { d: "M1 6H27", stroke, "stroke-width": 2.4, "stroke-dasharray": dashes[style] }));
