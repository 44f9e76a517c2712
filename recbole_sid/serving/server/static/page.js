// The page at /: a history picked by hand, and what two models say to it. It asks the same API as any other client.

const $ = (id) => document.getElementById(id);
const state = { models: [], history: [], panels: [], found: [], active: -1 };

// ---------------------------------------------------------------- the server

class Refusal extends Error {}

async function ask(path, body, signal) {
  const headers = body ? { "content-type": "application/json" } : {};
  const key = sessionStorage.getItem("key");
  if (key) headers["x-api-key"] = key;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (answer.status === 401) {
    await askForKey();
    return ask(path, body, signal);
  }
  const value = await answer.json().catch(() => ({ error: `The server answered with status ${answer.status}.` }));
  if (!answer.ok) throw new Refusal(value.error);
  return value;
}

let keyGiven = null; // one dialog for all requests that wait for a key

function askForKey() {
  keyGiven ??= new Promise((resolve) => {
    const dialog = $("ask-key");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("key", $("key").value);
      $("key").value = "";
      keyGiven = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return keyGiven;
}

// ---------------------------------------------------------------- small things

function made(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function percent(p) {
  if (p === null || !Number.isFinite(p)) return "";
  const value = 100 * p;
  if (value >= 10) return `${value.toFixed(1)}%`;
  if (value >= 0.01) return `${value.toFixed(2)}%`;
  return value > 0 ? "<0.01%" : "0%";
}

const say = (text) => { $("status").textContent = text; };
const debounced = (act, ms) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(act, ms); }; };

// ---------------------------------------------------------------- search: a combobox

let searching = null;

async function search() {
  searching?.abort();
  searching = new AbortController();
  const words = $("words").value.slice(0, 200);
  const query = new URLSearchParams({ words, limit: 30, model: state.panels[0].model });
  try {
    state.found = (await ask(`/items?${query}`, null, searching.signal)).items;
  } catch (error) {
    if (error.name === "AbortError") return;
    state.found = [];
    say(error.message);
  }
  showFound(words);
}

function showFound(words) {
  const list = $("found");
  list.replaceChildren(...state.found.map((item, n) => {
    const option = made("li");
    option.id = `found-${n}`;
    option.setAttribute("role", "option");
    option.append(made("span", "name", item.title || item.item), made("span", "id", item.item));
    option.addEventListener("mousedown", (event) => { event.preventDefault(); add(item); });
    option.addEventListener("mousemove", () => activate(n));
    return option;
  }));
  if (!state.found.length) {
    const none = made("li", "none", `No item has “${words}” in its title.`);
    none.setAttribute("role", "option");
    none.setAttribute("aria-disabled", "true");
    list.append(none);
  }
  list.hidden = false;
  $("words").setAttribute("aria-expanded", "true");
  activate(state.found.length ? 0 : -1);
}

function activate(n) {
  state.active = n;
  [...$("found").children].forEach((option, place) => option.setAttribute("aria-selected", String(place === n)));
  const active = n >= 0 ? $(`found-${n}`) : null;
  if (active) {
    $("words").setAttribute("aria-activedescendant", active.id);
    active.scrollIntoView({ block: "nearest" });
  } else $("words").removeAttribute("aria-activedescendant");
}

function closeFound() {
  searching?.abort();
  $("found").hidden = true;
  $("words").setAttribute("aria-expanded", "false");
  $("words").removeAttribute("aria-activedescendant");
}

function onSearchKey(event) {
  const open = !$("found").hidden, last = state.found.length - 1;
  if (event.key === "ArrowDown" && !open) search();
  else if (event.key === "ArrowDown") activate(state.active < last ? state.active + 1 : 0);
  else if (event.key === "ArrowUp" && open) activate(state.active > 0 ? state.active - 1 : last);
  else if (event.key === "Enter" && open && state.active >= 0) add(state.found[state.active]);
  else if (event.key === "Escape" && open) closeFound();
  else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- history

function add(item) {
  state.history.push({ item: item.item, title: item.title });
  $("words").value = "";
  closeFound();
  historyChanged(`${item.title || item.item} added.`);
}

function remove(place) {
  const [gone] = state.history.splice(place, 1);
  historyChanged(`${gone.title || gone.item} removed.`);
  const buttons = $("history").querySelectorAll("button");
  (buttons[Math.min(place, buttons.length - 1)] ?? $("words")).focus();
}

function historyChanged(message) {
  $("history").replaceChildren(...state.history.map((item, place) => {
    const row = made("li");
    const name = made("span", "name", item.title || item.item);
    name.title = item.title || item.item;
    const button = made("button", "quiet", "×");
    button.type = "button";
    button.setAttribute("aria-label", `Remove ${item.title || item.item}`);
    button.addEventListener("click", () => remove(place));
    row.append(name, button);
    return row;
  }));
  $("history").lastElementChild?.scrollIntoView({ block: "nearest" });
  $("empty").hidden = state.history.length > 0;
  $("clear").disabled = !state.history.length;
  if (message) say(message);
  recommend();
}

async function example() {
  const popular = (await ask(`/items?${new URLSearchParams({ limit: 60, model: state.panels[0].model })}`)).items;
  state.history = Array.from({ length: 3 }, () => popular.splice(Math.floor(Math.random() * popular.length), 1)[0])
    .filter(Boolean).map(({ item, title }) => ({ item, title }));
  historyChanged("An example history.");
}

// ---------------------------------------------------------------- lists

const recommend = () => Promise.all(state.panels.map(recommendIn));

async function recommendIn(panel) {
  panel.asking?.abort();
  const asking = panel.asking = new AbortController();
  if (!state.history.length) return showNothing(panel);
  panel.element.classList.add("old");
  const started = performance.now();
  const k = Math.min(100, Math.max(1, Number($("k").value) || 10));
  const history = state.history.map(({ item }) => item);
  try {
    const answer = await ask("/recommend", {
      model: panel.model, histories: [history], k, exclude: $("seen").checked ? "seen" : [], titles: true,
    }, asking.signal);
    const roundTrip = performance.now() - started;
    showList(panel, answer, roundTrip);
    if (answer.lists[0].how === "model" && answer.lists[0].items.length) await explainIn(panel, history, asking.signal);
  } catch (error) {
    if (error.name !== "AbortError") showNote(panel, error.message, true);
  }
}

function showNothing(panel) {
  panel.rows = [];
  panel.element.classList.remove("old");
  panel.element.querySelector(".items").replaceChildren();
  panel.element.querySelector(".speed").textContent = "";
  showNote(panel, "", false);
}

function showNote(panel, text, bad) {
  const note = panel.element.querySelector(".note");
  note.textContent = text;
  note.hidden = !text;
  note.classList.toggle("bad", bad);
  if (bad) panel.element.classList.remove("old");
}

function showList(panel, answer, roundTrip) {
  const list = answer.lists[0];
  panel.rows = list.items.map((item, n) => row(panel, item, list.titles[n] || item, n));
  if (list.how === "popularity") showProbabilities(panel, list.scores.map(Math.exp), []);
  panel.element.classList.remove("old");
  panel.element.querySelector(".items").classList.remove("with-memory");
  panel.element.querySelector(".items").replaceChildren(...panel.rows.map(({ element }) => element));
  panel.element.querySelector(".speed").textContent = `${answer.milliseconds.toFixed(1)} ms · ${roundTrip.toFixed(0)} ms round trip`;
  const popular = list.how === "popularity" ? "Nothing of this history is known to the model: these are the most popular items." : "";
  const some = list.unknown ? `${list.unknown} of the history's items are unknown to this model and were skipped.` : "";
  showNote(panel, popular || some, false);
  markTwins();
  say(`${panel.rows.length} items by ${panel.model} in ${answer.milliseconds.toFixed(1)} milliseconds.`);
}

function row(panel, item, title, n) {
  const element = $("row").content.firstElementChild.cloneNode(true);
  const part = (name) => element.querySelector(`.${name}`);
  part("rank").textContent = n + 1;
  part("title").textContent = title;
  part("open").title = title;
  part("why").id = `why-${panel.number}-${n}`;
  part("open").setAttribute("aria-controls", part("why").id);
  part("open").addEventListener("click", () => {
    const open = part("open").getAttribute("aria-expanded") !== "true";
    part("open").setAttribute("aria-expanded", String(open));
    part("why").hidden = !open;
  });
  part("why").append(made("p", "hint", "No explanation: the model was not asked."));
  part("add").setAttribute("aria-label", `Add ${title} to the history`);
  part("add").title = "Add to the history";
  part("add").addEventListener("click", () => add({ item, title }));
  return { element, item, title, part };
}

function markTwins() {
  if (state.panels.length < 2) return;
  state.panels.forEach((panel, side) => {
    panel.element.querySelector(".items").classList.add("with-twins");
    const places = new Map(state.panels[1 - side].rows.map(({ item }, n) => [item, n + 1]));
    panel.rows.forEach(({ item, part }) => {
      part("twin").hidden = !places.has(item);
      part("twin").textContent = `also #${places.get(item)}`;
      part("twin").title = "Its place in the other list";
    });
  });
}

// ---------------------------------------------------------------- why

// Scores order a list; probabilities are what the model makes of an item, as its explanation has them.
async function explainIn(panel, history, signal) {
  const items = panel.rows.map(({ item }) => item), found = [];
  for (let start = 0; start < items.length; start += 25) {
    const part = items.slice(start, start + 25);
    found.push(...(await ask("/explain", { model: panel.model, history, items: part }, signal)).explanations);
  }
  found.forEach((explanation, n) => showWhy(panel.rows[n], explanation));
  showProbabilities(panel, found.map(({ probability }) => probability), found.map(({ memory_share }) => memory_share));
}

function showProbabilities(panel, probabilities, shares) {
  const most = Math.max(...probabilities, 1e-12);
  panel.element.querySelector(".items").classList.toggle("with-memory", shares.some((share) => share >= 0.005));
  panel.rows.forEach(({ part }, n) => {
    const width = 100 * (probabilities[n] ?? 0) / most, share = shares[n] ?? 0;
    part("probability").textContent = percent(probabilities[n]);
    part("share").hidden = share < 0.005;
    part("share").textContent = `memory ${Math.round(100 * share)}%`;
    part("of-model").style.width = `${width * (1 - share)}%`;
    part("of-memory").style.width = `${width * share}%`;
  });
}

function showWhy(row, explanation) {
  const { probability, levels, parts, remembered, memory_share: share } = explanation;
  const told = row.title.length > 40 ? [made("p", "full", row.title)] : [];
  if (levels.length) told.push(path(levels));
  told.push(partsOf(parts, probability, share));
  if (remembered.length) {
    const names = remembered.map((id) => state.history.find(({ item }) => item === id)?.title || id);
    told.push(made("p", "hint", `Seen to follow: ${[...new Set(names)].join(", ")}`));
  }
  row.part("why").replaceChildren(...told);
}

function path(levels) {
  const list = made("ol", "path");
  list.setAttribute("aria-label", "Path through the tree of semantic IDs");
  levels.forEach(({ code, probability, siblings }, n) => {
    const level = made("li");
    const head = made("p", "level", `Level ${n + 1} `);
    head.append(made("b", "", percent(probability)));
    const codes = made("ul", "codes");
    const shown = siblings.slice(0, 5);
    if (!shown.some(([sibling]) => sibling === code)) shown.splice(4, 1, [code, probability]);
    const most = Math.max(...shown.map(([, p]) => p), 1e-12);
    shown.forEach(([sibling, p]) => {
      const entry = made("li", sibling === code ? "chosen" : "");
      const fill = made("span", "fill");
      fill.style.width = `${100 * p / most}%`;
      entry.append(fill, made("span", "", sibling), made("span", "", percent(p)));
      if (sibling === code) entry.setAttribute("aria-label", `code ${sibling}, the item's, ${percent(p)}`);
      codes.append(entry);
    });
    level.append(head, codes);
    list.append(level);
  });
  return list;
}

function partsOf(parts, probability, share) {
  const line = made("p", "parts");
  const tell = (text, value, className = "") => {
    const entry = made("span", className, `${text} `);
    entry.append(made("b", "", value));
    line.append(entry);
  };
  tell("Probability", percent(probability));
  for (const [name, value] of Object.entries(parts)) {
    if (name === "memory") tell("of which memory", `${percent(value)} (${Math.round(100 * share)}%)`, "memory");
    else tell(`${name} alone`, percent(value));
  }
  return line;
}

// ---------------------------------------------------------------- start

function panelOf(number) {
  const element = $("list").content.firstElementChild.cloneNode(true);
  const panel = { number, element, rows: [], model: state.models[number].name, asking: null };
  const select = element.querySelector(".model");
  select.append(...state.models.map(({ name }) => new Option(name, name, false, name === panel.model)));
  select.addEventListener("change", () => {
    panel.model = select.value;
    aboutModel(panel);
    recommendIn(panel);
  });
  element.setAttribute("aria-label", `List ${number + 1}`);
  aboutModel(panel);
  return panel;
}

function aboutModel(panel) {
  const { model, version, items, metrics } = state.models.find(({ name }) => name === panel.model);
  const [metric, value] = Object.entries(metrics.test ?? {}).find(([name]) => name.toLowerCase() === "ndcg@10") ?? [];
  const parts = [model, `${items.toLocaleString("en")} items`, `version ${version.slice(0, 8)}`];
  if (metric) parts.push(`test ${metric} ${value}`);
  panel.element.querySelector(".about").textContent = parts.join(" · ");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", theme === "dark" ? "Use the light theme" : "Use the dark theme");
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
  setTheme(kept());
  dark.addEventListener("change", () => setTheme(kept()));
  $("theme").addEventListener("click", () => {
    localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    setTheme(kept());
  });
}

async function start() {
  startTheme();
  state.models = (await ask("/models")).models;
  state.panels = state.models.slice(0, 2).map((_, number) => panelOf(number));
  $("lists").replaceChildren(...state.panels.map(({ element }) => element));
  $("lists").classList.toggle("single", state.panels.length < 2);
  $("catalogue").textContent = `${state.models.length} ${state.models.length === 1 ? "model" : "models"}`;
  $("words").addEventListener("input", debounced(search, 90));
  $("words").addEventListener("focus", search);
  $("words").addEventListener("blur", closeFound);
  $("words").addEventListener("keydown", onSearchKey);
  $("clear").addEventListener("click", () => { state.history = []; historyChanged("The history is empty."); $("words").focus(); });
  $("example").addEventListener("click", example);
  $("k").addEventListener("change", recommend);
  $("seen").addEventListener("change", recommend);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select")) return;
    event.preventDefault();
    $("words").focus();
  });
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  const note = made("p", "note bad", error.message);
  note.setAttribute("role", "alert");
  $("lists").replaceChildren(note);
});
