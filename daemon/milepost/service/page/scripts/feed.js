// The feed of events, newest first, and the toasts that some of them make.

const MAX_EVENTS = 200;
const FRESH_MS = 10_000; // older events are from before an outage, and announce nothing

const kinds = new Map(); // by status: the streams that its toast is about
let pendingRows = [];

function addEvent(event, id) {
  const row = eventRow(event, id);
  if (pendingRows.length === 0) requestAnimationFrame(showEvents);
  pendingRows.push(row);
  if (pendingRows.length > MAX_EVENTS) pendingRows.shift();
  if (now() - new Date(event.at) < FRESH_MS) announce(event);
}

function eventRow(event, id) {
  const status = statusOf(event);
  const row = fromTemplate("an-event");
  if (id !== null) row.dataset.seq = id;
  row.dataset.status = event.status;
  if (status.isProblem) row.dataset.problem = "";
  setTone(row, status.tone);
  setText(row.querySelector(".what"), event.message);
  setText(row.querySelector(".which"), nameByKey(event.stream));
  const time = row.querySelector("time");
  time.dateTime = event.at;
  time.title = inFull(event.at);
  setText(time, clock(event.at, { seconds: true }));
  return row;
}

/** Show the events since the last frame: a thousand streams send more than can be shown one by one. */
function showEvents() {
  const feed = byId("feed");
  feed.prepend(...pendingRows.reverse());
  pendingRows = [];
  while (feed.children.length > MAX_EVENTS) feed.lastElementChild.remove();
  showWhichEvents();
}

function showWhichEvents() {
  const onlyProblems = document.querySelector("[name=which]:checked").value === "problems";
  const feed = byId("feed");
  feed.classList.toggle("problems", onlyProblems);
  byId("feed-empty").hidden = feed.querySelector(onlyProblems ? "[data-problem]" : "li") !== null;
  setText(byId("feed-empty"), onlyProblems ? "No problems among the latest events." : "No events yet.");
}

/** Announce an event in a toast, and many of a kind in one. */
function announce(event) {
  const { tone, toast: title } = statusOf(event);
  if (title === undefined || event.type === "redrive_failed") return; // whoever requested it gets a toast anyway
  const about = toasts.has(event.status) ? kinds.get(event.status) : new Set();
  kinds.set(event.status, about.add(event.stream));
  const one = `${nameByKey(event.stream)}: ${event.message}`;
  toast(tone, about.size > 1 ? `${title}: ${counted(about.size, "stream")}` : one, event.status);
}
