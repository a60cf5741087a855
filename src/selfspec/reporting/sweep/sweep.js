"use strict";

// Tables: a click on a head sorts the rows, numbers by value, empty cells last.
function sortRows(table, column, head) {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
  const order = (a, b) => a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b);
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => order(key(a), key(b))));
  table.querySelectorAll("th[aria-sort]").forEach(sorted => sorted.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}

// A row is visible if it has the value chosen in every menu and contains every word of the search field.
function filterRows(table, form) {
  const menus = [...form.querySelectorAll("select")].filter(menu => menu.value !== "");
  const words = form.elements.words.value.toLowerCase().split(/\s+/);
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) {
    const text = [...row.cells].map(cell => cell.textContent.trim()).join(" ").toLowerCase();
    row.hidden = !(menus.every(menu => row.dataset[menu.name] === menu.value) && words.every(word => text.includes(word)));
  }
  form.querySelector("output").textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th button").forEach((button, column) =>
    button.addEventListener("click", () => sortRows(table, column, button.parentElement)));
  const form = table.closest("section").querySelector("form");
  if (!form) continue;
  form.addEventListener("input", () => filterRows(table, form));
  form.addEventListener("submit", event => event.preventDefault());
  filterRows(table, form);
}

// Figures: each shows its view of the chosen measure and number of shots, and is hidden if it has none.
const figures = JSON.parse(document.getElementById("figures").textContent);
const viewForm = document.getElementById("view");
function drawFigures() {
  document.querySelectorAll(".plot").forEach((element, index) => {
    const views = figures[index].views;
    const view = views[""] ?? views[`${viewForm.elements.measure.value}/${viewForm.elements.shots.value}`];
    element.parentElement.hidden = !view;
    if (!view) return;
    const {data, layout} = structuredClone(view);  // plotly changes what it gets
    Plotly.react(element, data, layout, {responsive: true, displayModeBar: false});
  });
}
viewForm?.addEventListener("input", drawFigures);
drawFigures();
