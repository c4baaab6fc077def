// The page: parts, toolbar, grid, keys.

const CHUNK = 60; // tiles that are added at a time, as the end of the grid comes near
const BEHIND = [["checker", "checkerboard"], ["#ffffff", "white"], ["#808080", "gray"], ["#000000", "black"],
  ["#00b140", "green"], ["#ff00c8", "magenta"]];
const field = (name) => document.getElementById(name);
const root = document.documentElement;
const grid = field("grid");
const tiles = new Map(); // by number of the object; made when first shown
let listed = []; // numbers of the objects that meet the conditions, in order
let drawn = 0; // of which that many are in the grid
let current = 0; // place of the one that Tab goes to
let view = "composite";

// --- the grid -------------------------------------------------------------------------------------------------------

function tileAt(at) {
  if (!tiles.has(at)) {
    const tile = tileOf(at);
    tile.querySelector(".open").tabIndex = -1;
    tiles.set(at, tile);
  }
  return tiles.get(at);
}

function grow(until) {
  const next = listed.slice(drawn, until).map(tileAt);
  for (const tile of next) show(tile, objects[tile.dataset.at], tile.dataset.own || view);
  grid.append(...next);
  drawn = Math.min(listed.length, Math.max(drawn, until));
}

function refresh() {
  const number = (name) => (field(name).value === "" ? null : Number(field(name).value));
  listed = chosen(field("sort").value, {
    search: field("search").value, status: field("status").value, code: field("code").value, kind: field("kind").value,
    label: field("label").value === "" ? null : labelValues[field("label").value],
    low: number("quality-low"), high: number("quality-high"),
  });
  grid.replaceChildren();
  drawn = 0;
  grow(CHUNK);
  setCurrent(0);
  field("nothing").hidden = listed.length > 0;
  field("count").textContent = `${listed.length.toLocaleString("en")} of ${objects.length.toLocaleString("en")}`;
}

function setCurrent(place) {
  const before = tiles.get(listed[current]);
  if (before) before.querySelector(".open").tabIndex = -1;
  for (const open of grid.querySelectorAll('.open[tabindex="0"]')) open.tabIndex = -1;
  current = place;
  if (listed.length) tileAt(listed[place]).querySelector(".open").tabIndex = 0;
}

function focusObject(place) {
  if (place < 0 || place >= listed.length || field("objects").dataset.off !== undefined) return;
  if (place >= drawn) grow(place + CHUNK);
  setCurrent(place);
  const open = tileAt(listed[place]).querySelector(".open");
  open.focus({ preventScroll: true });
  open.scrollIntoView({ block: "nearest" });
}

function columns() {
  const all = grid.children;
  let count = 1;
  while (count < all.length && all[count].offsetTop === all[0].offsetTop) count += 1;
  return count;
}

new IntersectionObserver((seen) => {
  if (seen.some((one) => one.isIntersecting) && drawn < listed.length) grow(drawn + CHUNK);
}, { rootMargin: "1200px" }).observe(field("more"));

// --- what is shown of objects ----------------------------------------------------------------------------------------

function setView(name) {
  view = name;
  for (const key of field("views").children) key.setAttribute("aria-pressed", String(key.dataset.view === name));
  for (const tile of document.querySelectorAll(".tile")) {
    delete tile.dataset.own;
    show(tile, objects[tile.dataset.at], name);
  }
  for (const tile of tiles.values()) delete tile.dataset.own;
}

function setOwnView(tile, name) {
  tile.dataset.own = name;
  show(tile, objects[tile.dataset.at], name);
  markPeek(tile);
}

const peek = element("div", "segments peek");
for (const name of VIEWS) {
  const key = button(name === "composite" ? "comp." : name, `This one: ${name}`, () => setOwnView(peek.parentNode, name));
  key.dataset.view = name;
  key.tabIndex = -1;
  peek.append(key);
}

function markPeek(tile) {
  for (const key of peek.children) {
    key.setAttribute("aria-pressed", String(key.dataset.view === tile.dataset.view));
    key.disabled = !canShow(objects[tile.dataset.at], key.dataset.view);
  }
}

for (const kind of ["pointerover", "focusin"]) {
  document.querySelector("main").addEventListener(kind, (event) => {
    const tile = event.target.closest(".grid > .tile");
    if (tile && peek.parentNode !== tile) tile.append(peek);
    if (tile) markPeek(tile);
    else if (kind === "pointerover") peek.remove();
    if (kind === "focusin" && tile) setCurrent(listed.indexOf(Number(tile.dataset.at)));
  });
}

function setBehind(value) {
  root.dataset.behind = value === "checker" ? value : "colour";
  root.style.setProperty("--behind", value === "checker" ? "transparent" : value);
  for (const key of document.querySelectorAll(".swatches button")) {
    key.setAttribute("aria-pressed", String(key.dataset.value === value));
  }
  const preset = BEHIND.some(([known]) => known === value);
  for (const input of document.querySelectorAll(".swatches input")) {
    input.toggleAttribute("data-on", !preset);
    if (value !== "checker") input.value = value;
  }
  setBehind.value = value;
}

function nextBehind() {
  const place = BEHIND.findIndex(([value]) => value === setBehind.value);
  setBehind(BEHIND[(place + 1) % BEHIND.length][0]);
}

for (const place of ["swatches", "viewer-swatches"]) {
  for (const [value, name] of BEHIND) {
    const key = button("", `Behind: ${name}`, () => setBehind(value));
    key.title = name;
    key.dataset.value = value;
    if (value === "checker") key.classList.add("checker");
    else key.style.backgroundColor = value;
    field(place).append(key);
  }
  const input = element("input");
  input.type = "color";
  input.value = "#2563eb";
  input.title = "any colour";
  input.setAttribute("aria-label", "Behind: any colour");
  input.addEventListener("input", () => setBehind(input.value));
  field(place).append(input);
}

// --- toolbar ---------------------------------------------------------------------------------------------------------

function options(name, values, words = values) {
  field(name).append(...values.map((value, at) => {
    const made = element("option", "", String(words[at]).slice(0, 80));
    made.value = String(value);
    return made;
  }));
}

const distinct = (name) => [...new Set(objects.map((one) => one[name] || ""))].filter(Boolean).sort();
const labelValues = [...distinct("label"), ...(objects.some((one) => !one.label) ? [""] : [])];
options("code", distinct("code"));
options("kind", distinct("kind"));
options("label", labelValues.map((_, at) => at), labelValues.map((label) => label || "(no label)"));

for (const name of ["sort", "status", "code", "label", "kind"]) field(name).addEventListener("change", refresh);
for (const name of ["search", "quality-low", "quality-high"]) field(name).addEventListener("input", refresh);
for (const key of field("views").children) key.addEventListener("click", () => setView(key.dataset.view));

function reset() {
  for (const name of ["search", "status", "code", "label", "kind", "quality-low", "quality-high"]) field(name).value = "";
}
field("reset").addEventListener("click", () => { reset(); refresh(); });

/** Make the texts of a table into buttons that show the objects which they are about. */
function linked(selector, known, select) {
  for (const cell of document.querySelectorAll(selector)) {
    const at = known.indexOf(cell.textContent);
    if (at < 0) continue;
    const key = button(cell.textContent, "", () => { reset(); field(select).value = select === "label" ? at : known[at]; refresh(); location.hash = "#objects"; });
    key.className = "link";
    key.title = "Show the objects";
    cell.replaceChildren(key);
  }
}
linked("#labels .clip", labelValues, "label");
linked("#codes .code", distinct("code"), "code");

// --- parts of the page -----------------------------------------------------------------------------------------------

const parts = ["overview", "objects", "errors", "run"];
function showPart() {
  const name = parts.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview";
  for (const part of parts) field(part).toggleAttribute("data-off", part !== name);
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (name === "objects" && !drawn) refresh();
  window.scrollTo(0, 0);
}
window.addEventListener("hashchange", showPart);

function fillStrip(name, numbers) {
  field(name).append(...numbers.map((at) => {
    const tile = tileOf(at);
    show(tile, objects[at], view);
    return tile;
  }));
}

// --- keys ------------------------------------------------------------------------------------------------------------

function inViewer(event) {
  const actions = { ArrowLeft: () => turnPage(-1), ArrowRight: () => turnPage(1), k: () => turnPage(-1), j: () => turnPage(1),
    5: () => setLargeView("side"), "+": () => zoomTo(large.zoom * 1.5, 0.5, 0.5), "=": () => zoomTo(large.zoom * 1.5, 0.5, 0.5),
    "-": () => zoomTo(large.zoom / 1.5, 0.5, 0.5), 0: () => moveTo(1, 0, 0), b: nextBehind };
  VIEWS.forEach((name, at) => { actions[at + 1] = () => setLargeView(name); });
  return actions[event.key];
}

function inPage(event) {
  const actions = { "?": () => field("help").showModal(), b: nextBehind };
  actions["/"] = () => { location.hash = "#objects"; showPart(); field("search").focus(); };
  const digit = /^Digit([1-4])$/.exec(event.code);
  const tile = document.activeElement.closest(".tile");
  if (digit && !event.shiftKey) return () => setView(VIEWS[digit[1] - 1]);
  if (digit && tile) return () => setOwnView(tile, VIEWS[digit[1] - 1]);
  if (field("objects").dataset.off === undefined) {
    const inGrid = tile && tile.parentNode === grid;
    const step = (by) => () => focusObject(inGrid ? current + by : current);
    Object.assign(actions, { j: step(1), k: step(-1) });
    if (inGrid) {
      Object.assign(actions, { ArrowRight: step(1), ArrowLeft: step(-1), Home: () => focusObject(0),
        ArrowDown: () => focusObject(Math.min(listed.length - 1, current + columns())),
        ArrowUp: () => focusObject(Math.max(0, current - columns())), End: () => focusObject(listed.length - 1) });
    }
  }
  return actions[event.key];
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target.closest("input, select, textarea");
  if (typing) {
    if (event.key === "Escape" && !viewer.open) typing.blur();
    return;
  }
  if (field("help").open) return;
  const act = viewer.open ? inViewer(event) : inPage(event);
  if (!act) return;
  event.preventDefault();
  act();
});
field("help-open").addEventListener("click", () => field("help").showModal());

// --- begin -----------------------------------------------------------------------------------------------------------

root.classList.add("js");
setBehind("checker");
if (!hasScores) {
  for (const name of ["worst", "best"]) field("sort").querySelector(`[value="${name}"]`).disabled = true;
  field("sort").value = "label";
}
field("quality").hidden = !hasQualities;
const scored = inOrder("worst").filter((at) => objects[at].mad !== undefined);
const half = Math.min(12, Math.ceil(scored.length / 2));
field("extremes").hidden = !hasScores;
field("sample").hidden = hasScores || !objects.length;
if (hasScores) {
  fillStrip("worst", scored.slice(0, half));
  fillStrip("best", scored.slice(half).reverse().slice(0, 12));
} else fillStrip("some", inOrder("label").slice(0, 12));
showPart();
root.dataset.ready = "yes";
