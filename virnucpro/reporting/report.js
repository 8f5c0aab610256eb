"use strict";
(() => {
  const table = document.getElementById("hits");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const value = (row, column, kind) => {
    const cell = row.cells[column];
    if (kind === "text") return cell.textContent.toLowerCase();
    const number = parseFloat(cell.dataset.v ?? cell.textContent);
    return Number.isNaN(number) ? -Infinity : number;
  };
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const kind = head.dataset.kind;
      const first = kind === "number" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort");
      const next = order === null ? first : order === "ascending" ? "descending" : "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const keyed = rows.map((row, i) => [value(row, column, kind), i, row]);
      keyed.sort((a, b) => (a[0] < b[0] ? -sign : a[0] > b[0] ? sign : a[1] - b[1]));
      body.append(...keyed.map((entry) => entry[2]));
    });
  });
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const text = rows.map((row) => row.textContent.toLowerCase());
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, i) => {
      const found = words.every((word) => text[i].includes(word));
      row.hidden = !found;
      count += found;
    });
    shown.textContent = `${count.toLocaleString("en")} shown`;
  });
})();
