"use strict";
// Sort by a click on a heading, filter by words and by kind of row. Without it, the tables are whole and in order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const first = [...body.rows];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort") || "none";
      const order = { none: "ascending", ascending: "descending", descending: "none" }[now];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const rows = [...first];
      if (order !== "none") {
        const sign = order === "ascending" ? 1 : -1;
        rows.sort((a, b) => compare(a.cells[column].dataset.key, b.cells[column].dataset.key, sign));
      }
      body.append(...rows);
    });
  });
}

// What is not known stands last, whichever way; numbers are compared as numbers.
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [Number(a), Number(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
  return sign * a.localeCompare(b, "en", { numeric: true });
}

const search = document.getElementById("search");
const boxes = [...document.querySelectorAll("input[data-kind]")];
const rows = [...document.querySelectorAll("#runs tbody tr")];
const counted = document.getElementById("status");

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kinds = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.kind));
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !kinds.has(row.dataset.kind) || !words.every((word) => text.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  counted.textContent = `${shown} of ${rows.length} rows`;
}

document.getElementById("filters").hidden = false;
search.addEventListener("input", filter);
boxes.forEach((box) => box.addEventListener("change", filter));
filter();
