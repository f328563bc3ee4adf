"use strict";
(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  const table = document.getElementById("runs");
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];

  // The sort key of a cell: a number, else text; empty cells are last.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

  const sort = (column, descending) => {
    const rows = [...body.rows].sort((first, second) => {
      const a = value(first, column);
      const b = value(second, column);
      if (a === null || b === null) return (a === null) - (b === null);
      return descending ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : descending ? "descending" : "ascending"));
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(column, head.ariaSort === "ascending"));
  });

  // report.html#sort=3 sorts by the fourth column in ascending order, #sort=-3 in descending order.
  const anchor = /^#sort=(-?)(\d+)$/.exec(location.hash);
  if (anchor && Number(anchor[2]) < heads.length) sort(Number(anchor[2]), anchor[1] === "-");
})();
