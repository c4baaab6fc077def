// What the page shows, in which order: parsed once, then sorted and filtered by number.

const { sheets, objects, why } = JSON.parse(document.getElementById("data").textContent);
const VIEWS = ["photo", "prompt", "alpha", "composite"];
const hasScores = objects.some((one) => one.mad !== undefined);
const hasQualities = objects.some((one) => one.quality !== undefined);

for (const one of objects) {
  one.status = one.code ? "error" : "ok";
  one.words = [one.key, one.label, one.code, one.message, one.id, ...(one.notes || [])].join("\n").toLowerCase();
}

/** Ranks by a text, as a dictionary would: computed once, since comparing texts is what takes time. */
function ranks(name) {
  const texts = [...new Set(objects.map((one) => one[name] || ""))];
  texts.sort(new Intl.Collator(undefined, { numeric: true }).compare);
  const places = new Map(texts.map((text, at) => [text, at]));
  return objects.map((one) => (one[name] ? places.get(one[name]) : Infinity));
}

/** Numbers to sort by; what has none comes last, errors after all others. */
function numbers(name, sign) {
  return objects.map((one) => (one[name] === undefined ? (one.code ? Infinity : 1e300) : sign * one[name]));
}

const ORDERS = {
  worst: () => numbers("mad", -1),
  best: () => numbers("mad", 1),
  label: () => ranks("label"),
  key: () => ranks("key"),
  large: () => numbers("area", -1),
  small: () => numbers("area", 1),
};
const sorted = {};

/** Numbers of all objects, in the order of that name; equal ones stay as they are in the data. */
function inOrder(name) {
  if (!sorted[name]) {
    const keys = ORDERS[name]();
    sorted[name] = objects.map((_, at) => at).sort((a, b) => (keys[a] === keys[b] ? a - b : keys[a] < keys[b] ? -1 : 1));
  }
  return sorted[name];
}

/** Numbers of the objects that meet all conditions; empty conditions are met by every object. */
function chosen(order, wanted) {
  const parts = wanted.search.toLowerCase().split(/\s+/).filter(Boolean);
  const rated = wanted.low !== null || wanted.high !== null;
  return inOrder(order).filter((at) => {
    const one = objects[at];
    return (
      (!wanted.status || one.status === wanted.status) &&
      (!wanted.code || one.code === wanted.code) &&
      (wanted.label === null || (one.label || "") === wanted.label) &&
      (!wanted.kind || one.kind === wanted.kind) &&
      (!rated || (one.quality !== undefined && one.quality >= (wanted.low ?? 0) && one.quality <= (wanted.high ?? 1))) &&
      parts.every((part) => one.words.includes(part))
    );
  });
}
