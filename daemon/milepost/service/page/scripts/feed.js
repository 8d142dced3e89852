// The feed of events, newest first. Events of the same kind become one row that counts them.

const MAX_EVENTS = 200;
const FOLD_MS = 60_000; // since the last one of its kind

const latestRows = new Map(); // by kind
let pendingEvents = [];

function addEvent(event, id) {
  if (pendingEvents.length === 0) requestAnimationFrame(showEvents);
  pendingEvents.push([event, id]);
}

/** Show the events since the last frame. */
function showEvents() {
  const feed = byId("feed");
  for (const [event, id] of pendingEvents) feed.prepend(foldedRow(event, id));
  pendingEvents = [];
  while (feed.children.length > MAX_EVENTS) feed.lastElementChild.remove();
  showWhichEvents();
}

/** Return the row of an event: a recent one of its kind, which now counts this one, too, or a new one. */
function foldedRow(event, id) {
  const kind = [event.status, event.type, event.streams > 1 ? "" : event.stream].join(" ");
  const before = latestRows.get(kind);
  const isRecent = before?.isConnected && Date.parse(event.at) - Date.parse(before.dataset.at) < FOLD_MS;
  const row = isRecent ? before : eventRow(event, id);
  if (isRecent) showEvent(row, event, id);
  latestRows.delete(kind); // and so the oldest comes first
  latestRows.set(kind, row);
  if (latestRows.size > MAX_EVENTS) latestRows.delete(latestRows.keys().next().value);
  return row;
}

function eventRow(event, id) {
  const row = fromTemplate("an-event");
  const status = statusOf(event);
  row.dataset.status = event.status;
  row.dataset.times = 0;
  if (status.isProblem) row.dataset.problem = "";
  setTone(row, status.tone);
  showEvent(row, event, id);
  return row;
}

function showEvent(row, event, id) {
  if (id !== null) row.dataset.seq = id;
  row.dataset.at = event.at;
  const times = Number(row.dataset.times) + (event.times ?? 1);
  row.dataset.times = times;
  const words = localized(event.message, event.at);
  setText(row.querySelector(".what"), words.split(" What to do: ")[0]); // which the stream says
  row.title = words;
  setText(row.querySelector(".times"), times > 1 ? `×${NUMBER.format(times)}` : "");
  row.dataset.stream = event.streams > 1 ? "" : event.stream;
  const which = event.streams > 1 ? counted(event.streams, "stream") : nameByKey(event.stream);
  setText(row.querySelector(".which"), which);
  const time = row.querySelector("time");
  time.dateTime = event.at;
  time.title = inFull(event.at);
  setText(time, clock(event.at, { seconds: true }));
}

/** Name the streams of events that came before the names. */
function nameEvents() {
  for (const row of byId("feed").querySelectorAll("li")) {
    if (row.dataset.stream !== "") setText(row.querySelector(".which"), nameByKey(row.dataset.stream));
  }
}

function showWhichEvents() {
  const onlyProblems = document.querySelector("[name=which]:checked").value === "problems";
  const feed = byId("feed");
  feed.classList.toggle("problems", onlyProblems);
  byId("feed-empty").hidden = feed.querySelector(onlyProblems ? "[data-problem]" : "li") !== null;
  setText(byId("feed-empty"), onlyProblems ? "No problems among the latest events." : "No events yet.");
}
