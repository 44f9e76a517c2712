"use strict";
// Draws the charts as they come into view, and sorts tables by a click on a heading: numbers from the largest, texts from A.
const charts = JSON.parse(document.getElementById("data").textContent).charts;
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const look = {
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: "system-ui, sans-serif", size: 12, color: dark ? "#ddd" : "#222" },
};
const lines = { gridcolor: dark ? "#444" : "#e4e4e4", zerolinecolor: dark ? "#777" : "#bbb" };

function draw(place) {
  const { data, layout } = charts[place.dataset.chart];
  const axes = Object.fromEntries(["xaxis", "yaxis"].map((axis) => [axis, { ...lines, ...layout[axis] }]));
  Plotly.newPlot(place, data, { ...look, ...layout, ...axes }, { responsive: true, displaylogo: false })
    .then(() => { place.dataset.drawn = ""; });
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) { seen.unobserve(target); draw(target); }
  }
}, { rootMargin: "400px" });
document.querySelectorAll("[data-chart]").forEach((place) => seen.observe(place));
addEventListener("beforeprint", () => document.querySelectorAll("[data-chart]:not([data-drawn])").forEach(draw));

function compare(left, right) {
  const [a, b] = [left.dataset.by, right.dataset.by];
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  return left.dataset.text === undefined ? a - b : a.localeCompare(b, undefined, { numeric: true });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const rows = [...table.tBodies[0].rows];
    const texts = rows.some((row) => row.cells[column].dataset.text !== undefined);
    const [first, second] = texts ? ["ascending", "descending"] : ["descending", "ascending"];
    const direction = head.getAttribute("aria-sort") === first ? second : first;
    heads.forEach((other) => other.setAttribute("aria-sort", other === head ? direction : "none"));
    rows.sort((one, other) => {
      const [left, right] = [one.cells[column], other.cells[column]];
      const empty = (left.dataset.by === undefined) || (right.dataset.by === undefined);
      return empty || direction === "ascending" ? compare(left, right) : compare(right, left);
    });
    table.tBodies[0].append(...rows);
  }));
}
document.body.dataset.ready = "";
