// Charts as SVG, in the style of the report's: title on the left, a light grid, colours of the page.
import { dashes, known, number, svg } from "./dom.js";

const WIDTH = 400, HEIGHT = 262, LEFT = 50, RIGHT = 10, TOP = 40, BOTTOM = 42;
const FEW = 5; // percentage points: a smaller range would magnify rounding

const steps = (low, high, count) => {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step || 0);
  return found;
};

const powers = (low, high) => {
  const every = Math.max(1, Math.ceil((high - low) / 5));
  const found = [];
  for (let i = Math.ceil(low); i <= high; i += every) found.push(i);
  return found.length > 1 ? found : steps(low, high, 3);
};

// 0.01, 1, 100, and 10⁻⁶ where that is shorter.
const power = (exponent) => (Number.isInteger(exponent) && Math.abs(exponent) > 3
  ? `10${String(exponent).replace(/./g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)])}` : number(10 ** exponent));

const range = (lines, options) => {
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { x, low, high } of lines) {
    for (let i = 0; i < x.length; i += 1) {
      if (!known(low[i])) continue;
      x0 = Math.min(x0, x[i]); x1 = Math.max(x1, x[i]);
      y0 = Math.min(y0, low[i]); y1 = Math.max(y1, (high ?? low)[i]);
    }
  }
  if (x0 > x1) return null;
  if (known(options.collapsed)) { y0 = Math.min(y0, options.collapsed); y1 = Math.max(y1, options.collapsed); }
  if (options.percent && y1 - y0 < FEW) { y0 = Math.max((y0 + y1 - FEW) / 2, -0.25); y1 = y0 + FEW; }
  if (y0 === y1) { const by = Math.abs(y0) * 0.05 || 0.5; y0 -= by; y1 += by; }
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  const pad = 0.05 * (y1 - y0);
  return { x0, x1, y0: y0 - pad, y1: y1 + pad };
};

const path = (xs, ys, place) => {
  let text = "", down = false;
  for (let i = 0; i < xs.length; i += 1) {
    if (!known(ys[i])) { down = false; continue; }
    const [x, y] = place(xs[i], ys[i]);
    text += `${down ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    down = true;
  }
  return text;
};

// Where the points are, a path through a single one shows nothing.
const isSingle = (line) => line.low.filter(known).length === 1;

const drawLine = (line, place) => {
  const parts = [];
  const high = line.high;
  const middle = high ? line.low.map((low, i) => (known(low) ? (low + high[i]) / 2 : null)) : line.low;
  if (high) {
    const shown = line.x.map((_, i) => i).filter((i) => known(line.low[i]));
    const edge = [...shown.map((i) => place(line.x[i], high[i])), ...shown.reverse().map((i) => place(line.x[i], line.low[i]))];
    parts.push(svg("polygon", { points: edge.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" "), fill: line.stroke, opacity: 0.25 }));
  }
  if (isSingle(line)) {
    const i = middle.findIndex(known);
    const [cx, cy] = place(line.x[i], middle[i]);
    parts.push(svg("circle", { cx, cy, r: 3.2, fill: line.stroke }));
  } else {
    parts.push(svg("path", {
      d: path(line.x, middle, place), fill: "none", stroke: line.stroke, "stroke-width": line.width ?? 1.8,
      "stroke-dasharray": dashes[line.style ?? "-"], opacity: line.opacity,
    }));
  }
  return parts;
};

// What the chart says of the position under the pointer.
const readout = (drawing, lines, place, inverse, over, text) => {
  const cursor = svg("line", { y1: TOP, y2: HEIGHT - BOTTOM, stroke: "var(--soft)", "stroke-width": 0.8, visibility: "hidden" });
  drawing.append(cursor);
  const shown = lines.filter((line) => !line.quiet);
  const hide = () => { cursor.setAttribute("visibility", "hidden"); text.replaceChildren(); };
  drawing.addEventListener("pointerleave", hide);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = inverse(((event.clientX - box.left) / box.width) * WIDTH);
    const xs = shown.flatMap((line) => line.x);
    if (!xs.length) return;
    const x = xs.reduce((best, one) => (Math.abs(one - at) < Math.abs(best - at) ? one : best));
    const [px] = place(x, 1);
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, px);
    cursor.setAttribute("visibility", "visible");
    const values = shown.map((line) => [line, line.low[line.x.indexOf(x)]]).filter(([, value]) => known(value));
    text.replaceChildren(
      svg("tspan", {}, `${over} ${number(x)}`),
      ...values.slice(0, 6).map(([line, value]) => svg("tspan", { fill: line.stroke, dx: 6 }, number(line.log ? 10 ** value : value))),
    );
  });
};

// options: title, label, over (name of the x axis), lines [{x, low, high, stroke, style, ...}], collapsed, percent, log,
// bands [[from, state], ...].
export const chart = (options) => {
  const lines = options.lines
    .map((line) => (options.log ? { ...line, log: true, low: line.low.map((v) => (v > 0 ? Math.log10(v) : null)) } : line));
  const drawing = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${options.title} over ${options.over}` });
  drawing.append(svg("text", { x: 2, y: 14, class: "plot-title" }, options.title));
  drawing.append(svg("text", { x: 2, y: 29, class: "plot-label" }, options.label));
  const limits = range(lines, options);
  if (limits === null) {
    drawing.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, class: "plot-label", "text-anchor": "middle" }, "no values yet"));
    return drawing;
  }
  const { x0, x1, y0, y1 } = limits;
  const across = (WIDTH - LEFT - RIGHT) / (x1 - x0);
  const place = (x, y) => [LEFT + (x - x0) * across, HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM)];
  (options.bands ?? []).forEach(([from, state], i, all) => {
    if (state === null) return;
    const start = Math.max(from, x0), end = Math.min(all[i + 1]?.[0] ?? x1, x1);
    if (end < start) return;
    const x = place(start, y0)[0], width = Math.max(2, (end - start) * across);
    drawing.append(svg("rect", { x, y: TOP, width, height: HEIGHT - TOP - BOTTOM, class: `ground ${state}` }));
    drawing.append(svg("rect", { x, y: HEIGHT - BOTTOM, width, height: 4, class: `strip ${state}` }));
  });
  for (const value of options.log ? powers(y0, y1) : steps(y0, y1, 5)) {
    const [, y] = place(x0, value);
    drawing.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, class: "grid" }));
    drawing.append(svg("text", { x: LEFT - 6, y: y + 3.5, class: "tick", "text-anchor": "end" }, options.log ? power(value) : number(value)));
  }
  const whole = steps(x0, x1, 5).filter(Number.isInteger);
  for (const value of whole) {
    drawing.append(svg("text", { x: place(value, y0)[0], y: HEIGHT - BOTTOM + 17, class: "tick", "text-anchor": "middle" }, number(value)));
  }
  drawing.append(svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 7, class: "plot-label", "text-anchor": "end" }, options.over));
  if (known(options.collapsed)) {
    const [, y] = place(x0, options.collapsed);
    drawing.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, class: "collapsed" }));
  }
  for (const line of lines) drawing.append(...drawLine(line, place));
  const text = svg("text", { x: WIDTH - RIGHT, y: 14, class: "tick", "text-anchor": "end" });
  drawing.append(text);
  readout(drawing, lines, place, (x) => x0 + (x - LEFT) / across, options.over, text);
  return drawing;
};
