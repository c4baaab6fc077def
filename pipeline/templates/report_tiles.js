// Drawing: one object as layers over each other. Text from the data goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, label, act) {
  const made = element("button", "", text);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

/**
 * A layer shows its part of a sheet, at whatever size it is drawn. Images, not backgrounds: they load as they come into
 * view, and are decoded beside the drawing of the page, which does not wait for them.
 */
function layer(name, file, sheet, [, x, y, width, height]) {
  const made = element("span", `layer ${name}`);
  const image = element("img");
  image.alt = "";
  image.loading = "lazy";
  image.decoding = "async";
  image.draggable = false;
  image.style.width = `${(100 * sheet.size[0]) / width}%`;
  image.style.height = `${(100 * sheet.size[1]) / height}%`;
  image.style.left = `${(-100 * x) / width}%`;
  image.style.top = `${(-100 * y) / height}%`;
  image.src = file;
  made.append(image);
  return made;
}

function shape(path, kind, dot) {
  return ["seam", `line ${kind}`].map((className) => {
    const made = document.createElementNS(SVG, "path");
    made.setAttribute("class", dot ? `${className} dot` : className);
    made.setAttribute("d", path);
    if (kind === "mask") made.setAttribute("fill-rule", "evenodd");
    return made;
  });
}

function promptLines(one) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("class", "prompt-lines");
  made.setAttribute("viewBox", `0 0 ${one.pic[3]} ${one.pic[4]}`);
  made.setAttribute("preserveAspectRatio", "none");
  made.setAttribute("aria-hidden", "true");
  if (one.mask) {
    const outlines = one.mask.map((flat) => `M${flat.join(" ")}Z`);
    made.append(...shape(outlines.join(""), "mask", false));
  }
  if (one.box) {
    const [x0, y0, x1, y1] = one.box;
    made.append(...shape(`M${x0} ${y0}H${x1}V${y1}H${x0}Z`, "box", false));
  }
  if (one.points) made.append(...shape(one.points.map(([x, y]) => `M${x} ${y}h.01`).join(""), "points", true));
  return made;
}

function canShow(one, view) {
  if (view === "alpha" || view === "composite") return Boolean(one.alpha);
  return !one.fault || (view === "prompt" && Boolean(one.mask || one.box || one.points));
}

/** The picture of an object with all its layers; which of them are seen depends on `data-view` of a node around it. */
function picture(one) {
  const sheet = sheets[one.pic[0]];
  const made = element("span", "pic");
  made.style.aspectRatio = `${one.pic[3]} / ${one.pic[4]}`;
  if (!one.fault && sheet.photo) made.append(layer("photo", sheet.photo, sheet, one.pic));
  if (one.alpha && sheet.cut) made.append(layer("cut", sheet.cut, sheet, one.pic));
  if (one.mask || one.box || one.points) made.append(promptLines(one));
  return made;
}

function scoreOf(one) {
  if (one.code) return element("span", "score failed", one.code);
  if (one.mad === undefined) return null;
  const quality = one.quality ?? 2 ** (-one.mad / 0.02);
  const made = element("span", `score ${quality >= 0.7 ? "high" : quality >= 0.4 ? "middle" : "low"}`);
  made.textContent = `${one.foreign ? "≈ " : ""}${one.mad.toFixed(4)}`;
  made.title = `predicted_mad${one.foreign ? " by a calibration for another model" : ""}; quality ${quality.toFixed(2)}`;
  return made;
}

function spoken(one) {
  const score = one.code ? `error ${one.code}` : one.mad === undefined ? "no score" : `predicted error ${one.mad.toFixed(4)}`;
  return [one.label || "no label", one.kind, score, one.key].filter(Boolean).join(", ");
}

/** Set what a tile shows; where the view isn't to be had, the next best. */
function show(tile, one, view) {
  const views = [view, view === "alpha" || view === "composite" ? "prompt" : "composite", "photo"];
  tile.dataset.view = views.find((name) => canShow(one, name)) || "none";
}

function tileOf(at) {
  const one = objects[at];
  const tile = element("li", "tile");
  tile.dataset.at = at;
  const open = button(undefined, spoken(one), () => openViewer(at, tile));
  open.className = "open";
  const frame = element("span", "frame");
  if (one.fault && !one.alpha) {
    frame.append(element("span", "said", one.fault));
  } else {
    const drawn = picture(one);
    drawn.style.width = `${Math.min(100, (100 * one.pic[3]) / one.pic[4])}%`;
    frame.append(drawn);
  }
  const caption = element("span", "caption");
  const first = element("span");
  first.append(element("bdi", "name", (one.label || one.kind || "object").slice(0, 200)));
  const score = scoreOf(one);
  if (score) first.append(score);
  const second = element("span");
  second.append(element("bdi", "key", (one.key || "").slice(0, 200)), element("span", "kind", one.kind || ""));
  caption.append(first, second);
  open.append(frame, caption);
  if (one.message) open.title = one.message.slice(0, 500);
  tile.append(open);
  return tile;
}
