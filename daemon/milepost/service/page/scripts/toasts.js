// Toasts: what came of this person's own actions, and what newly needs a person. The feed has everything else.

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

/** Announce the streams that need a person now and did not before. */
function announceNeeds(before, after) {
  const states = new Map(before.map((stream) => [stream.stream, stream.state]));
  const needy = after.filter(({ stream, state }) => {
    return state === "stopped" && states.has(stream) && states.get(stream) !== "stopped";
  });
  if (needy.length === 0) return;
  const names = needy.slice(0, 3).map((stream) => nameByKey(stream.stream)).join(", ");
  const words = needy.length > 3 ? `${counted(needy.length, "stream")} need you` : `${names} ${needy.length > 1 ? "need" : "needs"} you`;
  toast("stopped", words, "needs");
}
