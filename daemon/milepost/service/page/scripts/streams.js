// The streams: what is known of them, and the list, as cards where they are few and as a table where they are many.

const MANY = 8;
const CARDS_AT_ONCE = 24;
const ROWS_AT_ONCE = 100;

const NONE_CHOSEN = "No stream matches. Try another name, or all states.";
const NONE = "There are no streams yet. Add your pages under `pages` in config.yaml: "
  + "they are picked up when the file is saved.";

const NONE_DISCOVERED = "There are no streams, because the pages cannot be discovered.";

const known = new Map(); // by key, as the daemon has sent them
const shownByKey = new Map(); // cards or rows
let streams = [];
let namesByKey = new Map();
let tag = null; // of what is known
let maxShown = CARDS_AT_ONCE;
let isTable = false;

/** Take in all streams, or what has changed of them. */
function updateStreams(changes) {
  if (changes.since === null) known.clear();
  for (const [key, fields] of Object.entries(changes.streams)) known.set(key, merged(known.get(key), fields));
  for (const key of changes.removed) known.delete(key);
  aheadMs = new Date(changes.at) - Date.now();
  const before = streams;
  ({ tag } = changes);
  streams = [...known.values()];
  namesByKey = new Map(streams.map((stream) => [stream.stream, `${nameOf(stream)} · ${platformOf(stream)}`]));
  if (streams.length > MANY !== isTable || before.length === 0) chooseForm();
  if (before.length > 0) announceNeeds(before, streams);
  if (before.length !== streams.length) nameEvents();
  showAll();
}

/** Merge changed fields, in nested objects likewise. */
function merged(before, fields) {
  if (typeof before !== "object" || before === null) return fields;
  const after = { ...before };
  for (const [name, value] of Object.entries(fields)) {
    const isNested = typeof value === "object" && value !== null && !Array.isArray(value);
    after[name] = isNested ? merged(before[name], value) : value;
  }
  return after;
}

function showAll() {
  findCauses(streams);
  showCauses();
  showStreams();
  showVerdict();
  showDrawer();
}

function streamByKey(key) {
  return known.get(key);
}

/** Return the name of a stream that an event or a dead letter refers to. */
function nameByKey(key) {
  return namesByKey.get(key) ?? key;
}

function atOnce() {
  return isTable ? ROWS_AT_ONCE : CARDS_AT_ONCE;
}

function chooseForm() {
  isTable = streams.length > MANY;
  shownByKey.clear();
  maxShown = atOnce();
  document.body.classList.toggle("many", isTable);
  byId("cards").hidden = isTable;
  byId("table").hidden = !isTable;
  byId("cards").replaceChildren();
  byId("table").tBodies[0].replaceChildren();
}

function showStreams() {
  const chosen = inOrder(streams.filter(isChosen));
  const shown = chosen.slice(0, maxShown);
  const keys = new Set(shown.map(({ stream }) => stream));
  const [list, make, show] = isTable ? [byId("table").tBodies[0], makeRow, showRow] : [byId("cards"), makeCard, showCard];
  for (const key of shownByKey.keys()) if (!keys.has(key)) shownByKey.delete(key);
  for (const stream of shown) {
    if (!shownByKey.has(stream.stream)) shownByKey.set(stream.stream, make(stream));
    show(shownByKey.get(stream.stream), stream);
  }
  arrange(list, shown.map((stream) => shownByKey.get(stream.stream)));
  if (isTable) showOrder(wanted);
  byId("cards").removeAttribute("aria-busy");
  showCounts(chosen.length, shown.length);
  showGroups();
}

function showCounts(chosen, shown) {
  setText(byId("streams-count"), chosen === streams.length ? String(chosen || "") : `${chosen} of ${streams.length}`);
  byId("more-streams").hidden = shown === chosen;
  setText(byId("more-streams"), `Show more (${NUMBER.format(chosen - shown)} left)`);
  byId("streams-empty").hidden = chosen > 0;
  byId("table").hidden = !isTable || chosen === 0;
  byId("groups").hidden = streams.length < 2;
  const none = issueOf("discovery_failed") === null ? NONE : NONE_DISCOVERED;
  setTextWithCode(byId("streams-empty"), streams.length > 0 ? NONE_CHOSEN : none);
}

function showMoreStreams() {
  maxShown += atOnce();
  showStreams();
}
