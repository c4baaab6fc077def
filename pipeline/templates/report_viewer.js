// One object, large: one view or several side by side, with the same zoom in all of them.

const viewer = document.getElementById("viewer");
const stage = document.getElementById("stage");
const large = { at: 0, view: "side", zoom: 1, x: 0, y: 0, from: null };

function fact(name, value) {
  if (value === undefined || value === null || value === "") return null;
  const row = element("div");
  const words = element("dd");
  words.append(element("bdi", "", String(value)));
  row.append(element("dt", "", name), words);
  return row;
}

function factsOf(one) {
  const score = one.mad === undefined ? undefined : `${one.foreign ? "≈ " : ""}${one.mad}`;
  const [x, y, width, height] = one.crop || [];
  const image = one.image && `${one.image[0]} × ${one.image[1]} px`;
  const part = one.crop && one.image && (width < one.image[0] || height < one.image[1]);
  return [
    fact("predicted_mad", score),
    fact("quality", one.quality),
    ...Object.entries(one.features || {}).map(([name, value]) => fact(name, value)),
    fact("object", one.area && `${one.area.toLocaleString("en")} px`),
    fact("image", image),
    fact("shown", part ? `${width} × ${height} px at ${x}, ${y}` : image && "all of it"),
    fact("prompt", one.kind),
    fact("prompt id", one.prompt),
    fact("notes", (one.notes || []).join(", ")),
    fact("here because it is", why[one.why]),
    fact("record_id", one.id),
    fact("shard", one.shard),
    fact("image_uri", one.uri),
  ].filter(Boolean);
}

function panel(one, view) {
  const made = element("figure", "panel");
  made.dataset.view = view;
  made.append(element("figcaption", "", view));
  const holder = element("div", "holder");
  const ratio = one.pic[3] / one.pic[4];
  holder.style.width = `min(100cqw, ${100 * ratio}cqh)`;
  holder.style.aspectRatio = `${ratio}`;
  holder.append(picture(one));
  made.append(holder);
  return made;
}

function zoomTo(zoom, atX, atY) {
  zoom = Math.min(16, Math.max(1, zoom));
  // The point under the pointer stays where it is.
  const pointX = (atX - large.x) / large.zoom;
  const pointY = (atY - large.y) / large.zoom;
  moveTo(zoom, atX - pointX * zoom, atY - pointY * zoom);
}

function moveTo(zoom, x, y) {
  large.zoom = zoom;
  large.x = Math.min(0, Math.max(1 - zoom, x));
  large.y = Math.min(0, Math.max(1 - zoom, y));
  stage.style.setProperty("--zoom", large.zoom);
  stage.style.setProperty("--x", large.x);
  stage.style.setProperty("--y", large.y);
}

function drawViewer() {
  const one = objects[large.at];
  const views = VIEWS.filter((view) => canShow(one, view));
  const seen =
    large.view === "side" ? views.filter((view) => view !== "photo" || views.length === 1)
    : views.includes(large.view) ? [large.view] : views.slice(0, 1);
  stage.replaceChildren(...seen.map((view) => panel(one, view)));
  for (const key of document.querySelectorAll("#viewer-views button")) {
    key.setAttribute("aria-pressed", String(key.dataset.view === large.view));
    key.disabled = key.dataset.view !== "side" && !views.includes(key.dataset.view);
  }
  document.getElementById("viewer-label").replaceChildren(element("bdi", "", one.label || "no label"));
  document.getElementById("viewer-key").replaceChildren(element("bdi", "", one.key || ""));
  document.getElementById("viewer-facts").replaceChildren(...factsOf(one));
  const fault = document.getElementById("viewer-fault");
  fault.textContent = [one.code && `${one.code}: ${one.message || ""}`, one.fault && `No photograph: ${one.fault}`]
    .filter(Boolean).join(" · ");
  fault.hidden = !fault.textContent;
  const place = large.among.indexOf(large.at);
  document.getElementById("viewer-place").textContent = `${place + 1} of ${large.among.length.toLocaleString("en")}`;
  document.getElementById("viewer-previous").disabled = place <= 0;
  document.getElementById("viewer-next").disabled = place >= large.among.length - 1;
  viewer.setAttribute("aria-label", spoken(one));
}

function openViewer(at, tile) {
  large.at = at;
  large.from = tile;
  large.among = tile && tile.closest(".strip") ? [...tile.parentNode.children].map((one) => Number(one.dataset.at)) : listed;
  moveTo(1, 0, 0);
  drawViewer();
  viewer.showModal();
  stage.focus();
}

function turnPage(step) {
  const next = large.among[large.among.indexOf(large.at) + step];
  if (next === undefined) return;
  large.at = next;
  moveTo(1, 0, 0);
  drawViewer();
}

function setLargeView(view) {
  large.view = view;
  drawViewer();
}

viewer.addEventListener("close", () => {
  const tile = large.from;
  large.from = null;
  if (tile && tile.closest(".strip")) tile.querySelector(".open").focus();
  else focusObject(listed.indexOf(large.at));
});
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
stage.addEventListener("wheel", (event) => {
  const holder = event.target.closest(".holder");
  if (!holder) return;
  event.preventDefault();
  const box = holder.getBoundingClientRect();
  const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002));
  zoomTo(large.zoom * factor, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}, { passive: false });
stage.addEventListener("pointerdown", (event) => {
  const holder = event.target.closest(".holder");
  if (!holder || event.button) return;
  event.preventDefault();
  const box = holder.getBoundingClientRect();
  const begin = { x: event.clientX, y: event.clientY, left: large.x, top: large.y };
  holder.setPointerCapture(event.pointerId);
  const drag = (move) =>
    moveTo(large.zoom, begin.left + (move.clientX - begin.x) / box.width, begin.top + (move.clientY - begin.y) / box.height);
  holder.addEventListener("pointermove", drag);
  for (const end of ["pointerup", "pointercancel"]) {
    holder.addEventListener(end, () => holder.removeEventListener("pointermove", drag), { once: true });
  }
});
stage.addEventListener("dblclick", () => moveTo(large.zoom > 1 ? 1 : 3, -1, -1));
document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
document.getElementById("viewer-previous").addEventListener("click", () => turnPage(-1));
document.getElementById("viewer-next").addEventListener("click", () => turnPage(1));
for (const key of document.querySelectorAll("#viewer-views button")) {
  key.addEventListener("click", () => setLargeView(key.dataset.view));
}
