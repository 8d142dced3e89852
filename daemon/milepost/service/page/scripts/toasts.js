// What is told in passing. One of a kind at a time, and few at once: the feed has them all.

const MAX_TOASTS = 3;
const CALM_MS = 6_000;
const URGENT_MS = 15_000;

const toasts = new Map(); // by kind

/** Tell something; what is told under the same kind before makes way. */
function toast(tone, words, kind = words) {
  const isUrgent = tone === "stopped";
  const box = toasts.get(kind)?.box ?? made("a-toast");
  mark(box, tone);
  say(box.querySelector("p"), words);
  box.title = words; // of which little may fit
  box.querySelector("button").onclick = () => dismiss(kind);
  if (!toasts.has(kind)) byId(isUrgent ? "toasts-urgent" : "toasts-calm").append(box);
  clearTimeout(toasts.get(kind)?.timer);
  toasts.delete(kind);
  toasts.set(kind, { box, timer: setTimeout(() => fade(kind), isUrgent ? URGENT_MS : CALM_MS) });
  for (const [oldest] of toasts) if (toasts.size > MAX_TOASTS) dismiss(oldest);
}

function dismiss(kind) {
  clearTimeout(toasts.get(kind)?.timer);
  toasts.get(kind)?.box.remove();
  toasts.delete(kind);
}

/** Let a toast go, unless somebody is at it. */
function fade(kind) {
  const told = toasts.get(kind);
  if (told.box.matches(":hover, :focus-within")) told.timer = setTimeout(() => fade(kind), CALM_MS);
  else dismiss(kind);
}
