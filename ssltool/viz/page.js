"use strict";
(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // The sort key of a cell: a number, else text; empty cells are last.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

  const sort = (table, column, descending) => {
    const sorted = [...table.tBodies[0].rows].sort((first, second) => {
      const a = value(first, column);
      const b = value(second, column);
      if (a === null || b === null) return (a === null) - (b === null);
      return descending ? compare(b, a) : compare(a, b);
    });
    table.tBodies[0].append(...sorted);
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      head.setAttribute("aria-sort", i !== column ? "none" : descending ? "descending" : "ascending");
    });
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("button")?.closest("th");
      if (head) sort(table, head.cellIndex, head.ariaSort === "ascending");
    });
    // A page that changes the rows asks for the order that was chosen before.
    table.addEventListener("changed-rows", () => {
      const head = table.tHead.querySelector("[aria-sort='ascending'], [aria-sort='descending']");
      if (head) sort(table, head.cellIndex, head.ariaSort === "descending");
    });
  }

  // report.html#sort=3 sorts by the fourth column in ascending order, #sort=-3 in descending order.
  const anchor = /^#sort=(-?)(\d+)$/.exec(location.hash);
  const first = document.getElementById("runs");
  if (anchor && Number(anchor[2]) < first.tHead.rows[0].cells.length) sort(first, Number(anchor[2]), anchor[1] === "-");
})();
