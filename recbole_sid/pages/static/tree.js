"use strict";
// The tree of semantic IDs. Items stand in its order, so that a branch is a range of them and needs no object of its own.
const { codes, items, titles, tokenizer_levels: tokenizerLevels } = JSON.parse(document.getElementById("data").textContent);
const LEVELS = codes.length, AT_ONCE = 200, FOUND = 50;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  Object.assign(made, attributes);
  return made;
}

const count = (n) => n.toLocaleString("en");
const named = (row) => (titles?.[row] ? `${titles[row]} (${items[row]})` : items[row]);
const idOf = (row, depth = LEVELS) => codes.slice(0, depth).map((level) => level[row]).join(", ");

// The ranges of equal codes of a level within a range.
function branches(level, low, high) {
  const found = [];
  for (let row = low; row < high; row++) {
    if (row === low || codes[level][row] !== codes[level][row - 1]) found.push([row, row]);
    found[found.length - 1][1] = row + 1;
  }
  return found;
}

// Shows the first of many, and a button for the next ones.
function inParts(place, many, show) {
  let shown = 0;
  const more = element("button", "", { type: "button", className: "more" });
  const next = () => {
    const made = many.slice(shown, shown + AT_ONCE).map(show);
    shown += made.length;
    more.remove();
    place.append(...made);
    if (shown < many.length) {
      more.textContent = `${count(Math.min(AT_ONCE, many.length - shown))} more of ${count(many.length)}`;
      place.append(more);
    }
  };
  more.addEventListener("click", next);
  next();
  return next;
}

function itemLine(row) {
  const line = element("div", undefined, { className: "item" });
  const open = element("button", named(row), { type: "button" });
  open.addEventListener("click", () => showItem(row));
  line.append(open);
  return line;
}

function branch(level, [low, high]) {
  const node = element("details", undefined, { className: "branch" });
  Object.assign(node.dataset, { level, low, high });
  const head = element("summary");
  const below = level + 1 < LEVELS ? `, ${count(branches(level + 1, low, high).length)} codes below` : "";
  const sample = [low, Math.floor((low + high) / 2), high - 1].filter((row, at, all) => all.indexOf(row) === at);
  head.append(
    element("code", String(codes[level][low])),
    element("span", ` ${count(high - low)} item${high - low > 1 ? "s" : ""}${below} `, { className: "soft" }),
    element("span", sample.map((row) => titles?.[row] || items[row]).join(" · "), { className: "sample" }),
  );
  node.append(head);
  node.fill = () => {
    if (node.dataset.filled !== undefined) return;
    node.dataset.filled = "";
    fill(node, level + 1, low, high);
  };
  node.addEventListener("toggle", () => { if (node.open) node.fill(); });
  return node;
}

function fill(place, level, low, high) {
  const inner = element("div", undefined, { className: "inner" });
  place.append(inner);
  if (level < LEVELS) place.next = inParts(inner, branches(level, low, high), (range) => branch(level, range));
  else place.next = inParts(inner, Array.from({ length: high - low }, (_, at) => low + at), itemLine);
}

// Opens the branches above a row, as far as they are many more than are shown at once.
function openTo(row) {
  let place = tree;
  for (let level = 0; level < LEVELS; level++) {
    const holds = (node) => +node.dataset.low <= row && row < +node.dataset.high;
    const find = () => [...place.querySelector(":scope > .inner").children].find((node) => node.dataset.low && holds(node));
    let node = find();
    while (!node && place.querySelector(":scope > .inner > .more")) { place.next(); node = find(); }
    if (!node) return;
    node.fill();
    node.open = true;
    place = node;
  }
  place.scrollIntoView({ block: "center" });
}

// An item's neighbours: the others below the longest prefix that it shares, then below shorter ones.
function showItem(row) {
  chosen.replaceChildren(element("h3", named(row)), element("p", `Semantic ID: ${idOf(row)}`));
  const go = element("button", "Show in the tree", { type: "button" });
  go.addEventListener("click", () => openTo(row));
  chosen.append(go);
  let [inLow, inHigh] = [row, row + 1];
  for (let depth = LEVELS; depth > 0; depth--) {
    let [low, high] = [inLow, inHigh];
    const same = (other) => codes.slice(0, depth).every((level) => level[other] === level[row]);
    while (low > 0 && same(low - 1)) low--;
    while (high < items.length && same(high)) high++;
    const others = [];
    for (let other = low; other < high; other++) if (other < inLow || other >= inHigh) others.push(other);
    [inLow, inHigh] = [low, high];
    if (!others.length) continue;
    const part = element("details", undefined, { open: others.length <= AT_ONCE });
    part.append(element("summary", `${count(others.length)} more share the first ${depth} of ${LEVELS} codes: ${idOf(row, depth)}`));
    inParts(part, others, itemLine);
    chosen.append(part);
  }
  chosen.hidden = false;
  chosen.scrollIntoView({ block: "nearest" });
}

function showFound() {
  const words = search.value.trim().toLowerCase();
  found.replaceChildren();
  if (!words) return;
  let n = 0;
  for (let row = 0; row < items.length && n < FOUND; row++) {
    if (items[row].toLowerCase().includes(words) || titles?.[row].toLowerCase().includes(words)) {
      found.append(itemLine(row));
      n++;
    }
  }
  found.prepend(element("p", n === FOUND ? `The first ${FOUND} found.` : `${n} found.`, { className: "soft" }));
}

// Groups of items whose codes are equal before the rule that tells them apart.
function groups() {
  let ranges = [[0, items.length]];
  for (let level = 0; level < tokenizerLevels; level++) {
    ranges = ranges.filter(([low, high]) => high - low > 1).flatMap(([low, high]) => branches(level, low, high));
  }
  return ranges.filter(([low, high]) => high - low > 1).sort((one, other) => other[1] - other[0] - one[1] + one[0]);
}

function group([low, high]) {
  const node = element("details");
  node.append(element("summary", `${count(high - low)} items: ${idOf(low, tokenizerLevels)}`));
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) {
      inParts(node, Array.from({ length: high - low }, (_, at) => low + at), itemLine);
    }
  });
  return node;
}

const [tree, chosen, search, found, shared] = ["tree", "chosen", "search", "found", "shared"].map((id) => document.getElementById(id));
fill(tree, 0, 0, items.length);
const together = groups();
document.getElementById("n-shared").textContent = together.length
  ? `${count(together.length)} groups of items with the same codes, the largest first.`
  : "No two items of this page have the same codes.";
inParts(shared, together, group);
let waiting;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(showFound, 150); });
document.body.dataset.ready = "";
