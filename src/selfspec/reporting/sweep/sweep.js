"use strict";
// Every table: a click on a head sorts; numbers as numbers, what is missing last.
function sort(table, column, head) {
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
  const order = (a, b) => a === "" || b === "" ? (a === "") - (b === "") : sign * compare(a, b);
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((one, other) => order(key(one), key(other))));
  table.querySelectorAll("th[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
}
// A row is shown if every menu's choice is its own, and every word is in it.
function filter(table, form) {
  const menus = [...form.querySelectorAll("select")].filter(menu => menu.value !== "");
  const words = form.elements.words.value.toLowerCase().split(/\s+/);
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) {
    const text = [...row.cells].map(cell => cell.textContent.trim()).join(" ").toLowerCase();
    row.hidden = !(menus.every(menu => row.dataset[menu.name] === menu.value) && words.every(word => text.includes(word)));
  }
  form.querySelector("output").textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
}
for (const table of document.querySelectorAll("table.sheet")) {
  table.querySelectorAll("th button").forEach((button, column) =>
    button.addEventListener("click", () => sort(table, column, button.parentElement)));
  const form = table.closest("section").querySelector("form");
  if (!form) continue;
  form.addEventListener("input", () => filter(table, form));
  form.addEventListener("submit", event => event.preventDefault());
  filter(table, form);
}
// The figures, at the measure and the number of shots that are chosen.
const figures = JSON.parse(document.getElementById("figures").textContent);
const view = document.getElementById("view");
function draw() {
  document.querySelectorAll(".plot").forEach((plot, index) => {
    const views = figures[index].views;
    const shown = structuredClone(views[""] ?? views[`${view.elements.measure.value}/${view.elements.shots.value}`]);
    plot.parentElement.hidden = !shown;
    if (shown) Plotly.react(plot, shown.data, shown.layout, {responsive: true, displayModeBar: false});
  });
}
view?.addEventListener("input", draw);
draw();
