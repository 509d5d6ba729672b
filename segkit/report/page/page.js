"use strict";

// Tables: sorted by the buttons in their heads, filtered by what is typed.
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

function rowsOf(table) {
  return Array.from(table.tBodies[0].rows);
}

function sortBy(table, index) {
  const heads = Array.from(table.tHead.rows[0].cells);
  const ascending = heads[index].getAttribute("aria-sort") !== "ascending";
  const isNumber = heads[index].classList.contains("num");
  const keyed = rowsOf(table).map((row) => {
    const text = row.cells[index].textContent;
    return { row, key: isNumber ? Number.parseFloat(text) : text };
  });
  keyed.sort((a, b) => {
    if (!isNumber) return (ascending ? 1 : -1) * collator.compare(a.key, b.key);
    // Undefined values come last, whichever way.
    if (Number.isNaN(a.key) || Number.isNaN(b.key)) return Number.isNaN(a.key) - Number.isNaN(b.key);
    return (ascending ? 1 : -1) * (a.key - b.key);
  });
  table.tBodies[0].append(...keyed.map((one) => one.row));
  heads.forEach((head, at) => head.setAttribute("aria-sort", at === index ? (ascending ? "ascending" : "descending") : "none"));
}

function filterBy(box) {
  const table = box.querySelector("table");
  const wanted = box.querySelector(".filter").value.trim().toLowerCase();
  const rows = rowsOf(table);
  let numShown = 0;
  for (const row of rows) {
    row.hidden = !Array.from(row.cells).some((cell) => cell.textContent.toLowerCase().includes(wanted));
    numShown += row.hidden ? 0 : 1;
  }
  box.querySelector(".num-shown").textContent = wanted ? `${numShown} of ${rows.length} rows` : `${rows.length} rows`;
}

for (const box of document.querySelectorAll(".interactive")) {
  const table = box.querySelector("table");
  Array.from(table.tHead.rows[0].cells).forEach((head, index) => {
    head.querySelector(".sort").addEventListener("click", () => sortBy(table, index));
  });
  const filter = box.querySelector(".filter"); // long tables have one
  if (filter) filter.addEventListener("input", () => filterBy(box));
}

// Cases: one at a time in a dialog, and from there to the next one of where it was opened.
const viewer = document.getElementById("viewer");

if (viewer) {
  const stage = viewer.querySelector(".stage");
  let ids = [];
  let at = 0;

  const figureOf = (id) => document.getElementById(id) || document.getElementById(`${id}-template`).content.firstElementChild;

  // Ids are for one element only, and a picture refers to its own.
  function copyOf(picture) {
    const copy = picture.cloneNode(true);
    for (const part of copy.querySelectorAll("[id]")) part.id += "-large";
    for (const part of copy.querySelectorAll("use")) part.setAttribute("href", `${part.getAttribute("href")}-large`);
    return copy;
  }

  function show(index) {
    at = (index + ids.length) % ids.length;
    const figure = figureOf(ids[at]);
    stage.replaceChildren(copyOf(figure.querySelector(".picture")));
    viewer.querySelector("#viewer-name").textContent = figure.querySelector(".name").textContent;
    const said = [figure.querySelector(".score"), figure.querySelector(".text")].map((part) => part.textContent);
    viewer.querySelector(".viewer-text").textContent = said.join(". ");
    viewer.querySelector(".place").textContent = `${at + 1} of ${ids.length}`;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-case]");
    if (!button) return;
    const around = button.closest("table") || button.closest(".gallery");
    const buttons = Array.from(around.querySelectorAll("button[data-case]")).filter((one) => !one.closest("tr[hidden]"));
    ids = buttons.map((one) => one.dataset.case);
    show(buttons.indexOf(button));
    viewer.showModal();
  });
  viewer.querySelector(".close").addEventListener("click", () => viewer.close());
  viewer.querySelector(".previous").addEventListener("click", () => show(at - 1));
  viewer.querySelector(".next").addEventListener("click", () => show(at + 1));
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close(); // beside it, on the dark ground
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") show(at - 1);
    else if (event.key === "ArrowRight") show(at + 1);
    else return;
    event.preventDefault();
  });
  for (const box of viewer.querySelectorAll(".layers input")) {
    box.addEventListener("change", () => stage.classList.toggle(`hide-${box.dataset.kind}`, !box.checked));
  }
}

// On paper nothing can be opened.
const folded = Array.from(document.querySelectorAll(".facts details"));
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = folded.filter((one) => !one.open);
  for (const one of opened) one.open = true;
});
window.addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});
