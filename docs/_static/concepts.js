// The figures of concepts.html: pictures become panels with a slider over the training steps. Without scripts the
// pictures stay. The data is window.conceptFrames, from concepts-*.js, which docs/concept_figures.py writes.
(() => {
  "use strict";
  const FIGURES = {
    "concepts-clouds.png": ["concepts-collapse", clouds],
    "concepts-spectra.png": ["concepts-collapse", spectra],
    "concepts-losses.png": ["concepts-losses", clouds],
  };
  const MILLISECONDS_PER_FRAME = 500;
  const players = {};

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function shape(parent, name, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  function canvas(viewBox, label) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("viewBox", viewBox);
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", label);
    return made;
  }

  // Each kind of figure fills `place` and returns a function that draws a frame.
  function clouds(data, place) {
    const draws = data.runs.map((run) => {
      const side = 200 * run.half;
      const svg = canvas(`${-side / 2} ${-side / 2} ${side} ${side}`, `Points of ${run.name}, ${run.note}`);
      if (run.circle) shape(svg, "circle", { r: 100, class: "guide" });
      const count = run.points[0].length / 2;
      const dots = Array.from({ length: count }, (_, i) =>
        shape(svg, "circle", { r: side / 55, fill: data.colours[Math.floor(i / data.perCluster)] }));
      const text = element("span", { class: "numbers" });
      place.append(element("div", {}, element("b", {}, run.name), element("code", {}, run.note), svg, text));
      return (frame) => {
        const xy = run.points[frame];
        dots.forEach((dot, i) => { dot.style.transform = `translate(${xy[2 * i]}px, ${-xy[2 * i + 1]}px)`; });
        text.replaceChildren(...run.text[frame].map((line) => element("span", {}, line)));
      };
    });
    return (frame) => draws.forEach((draw) => draw(frame));
  }

  function spectra(data, place) {
    const all = data.runs.flatMap((run) => run.s.flat()).filter((s) => s > 0);
    const low = Math.floor(Math.log10(Math.min(...all)));
    const high = Math.ceil(Math.log10(Math.max(...all)));
    const powers = Array.from({ length: high - low + 1 }, (_, i) => low + i);
    const total = (s) => s.reduce((a, b) => a + b, 0);
    const plots = [
      { title: "Singular values", ticks: powers.map((p) => [`${10 ** p}`, (p - low) / (high - low)]),
        heights: (s) => s.map((v) => (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low)) },
      { title: "Cumulative explained variance", ticks: [0, 0.5, 1].map((t) => [`${t}`, t]), flat: true,
        heights: (s) => s.map((_, j) => total(s.slice(0, j + 1)) / total(s)) },
    ];
    const width = data.runs[0].s[0].length;
    const x = (j) => 42 + (j * 246) / (width - 1);
    const y = (height) => 170 - 160 * height;
    const path = (heights) => heights.map((h, j) => `${j ? "L" : "M"}${x(j).toFixed(1)} ${y(h).toFixed(1)}`).join("");
    const draws = plots.map((plot) => {
      const svg = canvas("0 0 300 212", plot.title);
      for (const [text, height] of plot.ticks) {
        shape(svg, "path", { d: `M42 ${y(height)}H288`, class: "guide" });
        shape(svg, "text", { x: 36, y: y(height) + 4, "text-anchor": "end" }, text);
      }
      for (let j = 0; j < width; j++) shape(svg, "text", { x: x(j), y: 187, "text-anchor": "middle" }, `${j + 1}`);
      shape(svg, "text", { x: 165, y: 206, "text-anchor": "middle" }, "principal direction");
      if (plot.flat) shape(svg, "path", { d: `M${x(0)} ${y(1 / width)}L${x(width - 1)} ${y(1)}`, class: "guide flat" });
      const lines = data.runs.map((_, i) => shape(svg, "path", { class: `run run${i}` }));
      place.append(element("div", {}, element("b", {}, plot.title), svg));
      return (frame) => lines.forEach((line, i) => line.setAttribute("d", path(plot.heights(data.runs[i].s[frame]))));
    });
    const legend = data.runs.map((run, i) => {
      const svg = canvas("0 0 30 10", "");
      svg.setAttribute("aria-hidden", "true");
      shape(svg, "path", { d: "M0 5H30", class: `run run${i}` });
      const numbers = element("span", { class: "numbers" });
      place.append(element("div", { class: "legend" }, svg, element("b", {}, run.name), numbers));
      return (frame) => numbers.replaceChildren(...run.text[frame].slice(1).map((line) => element("span", {}, line)));
    });
    return (frame) => [...draws, ...legend].forEach((draw) => draw(frame));
  }

  // Figures of the same data have one player, so that they show the same step.
  class Player {
    constructor(data) {
      this.data = data;
      this.last = data.steps.length - 1;
      this.draws = [];
      this.timer = null;
    }

    controls() {
      const button = element("button", { type: "button" });
      const slider = element("input", { type: "range", min: 0, max: this.last, "aria-label": "Training step" });
      const step = element("output", {});
      button.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
      slider.addEventListener("input", () => this.stop(Number(slider.value)));
      this.draws.push((frame) => {
        button.textContent = this.timer ? "Pause" : "Play";
        slider.value = frame;
        slider.setAttribute("aria-valuetext", `step ${this.data.steps[frame]}`);
        step.textContent = `step ${this.data.steps[frame]}`;
      });
      return element("div", { class: "controls" }, button, slider, step);
    }

    show(frame) {
      this.frame = frame;
      this.draws.forEach((draw) => draw(frame));
    }

    play() {
      this.timer = setInterval(() => {
        const next = this.frame + 1;
        if (next < this.last) this.show(next);
        else this.stop(this.last);
      }, MILLISECONDS_PER_FRAME);
      this.show(this.frame < this.last ? this.frame : 0);
    }

    stop(frame = this.frame) {
      clearInterval(this.timer);
      this.timer = null;
      this.show(frame);
    }
  }

  for (const image of document.querySelectorAll("article img")) {
    const found = FIGURES[image.getAttribute("src").split("/").pop()];
    const data = found && window.conceptFrames?.[found[0]];
    if (!data) continue;
    const player = (players[found[0]] ??= new Player(data));
    const panels = element("div", { class: `panels panels${data.runs.length} ${found[1].name}` });
    player.draws.push(found[1](data, panels));
    const figure = element("div", { class: "concept", role: "group", "aria-label": image.alt }, panels, player.controls());
    image.replaceWith(figure);
  }
  for (const player of Object.values(players)) player.show(player.last);
})();
