// Toasts: one of a kind at a time, and few at once. The feed has every event.

const MAX_TOASTS = 3;
const CALM_MS = 6_000;
const URGENT_MS = 15_000;

const toasts = new Map(); // by kind

/** Show a toast; it replaces one of the same kind. */
function toast(tone, words, kind = words) {
  const isUrgent = tone === "stopped";
  const box = toasts.get(kind)?.box ?? fromTemplate("a-toast");
  setTone(box, tone);
  setText(box.querySelector("p"), words);
  box.title = words; // which may not fit
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

/** Dismiss a toast, unless it is hovered or focused. */
function fade(kind) {
  const shown = toasts.get(kind);
  if (shown.box.matches(":hover, :focus-within")) shown.timer = setTimeout(() => fade(kind), CALM_MS);
  else dismiss(kind);
}
