// The list of streams: which are shown, and in which order.

const STREAMS_AT_ONCE = 24;
const IN_ORDER = new Intl.Collator("en", { numeric: true });
const ATTENTION = ["stopped", "failed", "interrupted"]; // are listed first

const NONE_CHOSEN = "No stream matches. Try another name, or all states.";
const NONE = "There are no streams yet. Add your pages under `pages` in config.yaml: "
  + "they are picked up when the file is saved.";

const NONE_DISCOVERED = "There are no streams, because the pages cannot be discovered.";

const cards = new Map(); // by stream
let streams = [];
let namesByKey = new Map();
let maxShown = STREAMS_AT_ONCE;

function updateStreams(found) {
  streams = found;
  namesByKey = new Map(streams.map((stream) => [stream.stream, `${nameOf(stream)} · ${platformOf(stream)}`]));
  const at = now();
  for (const stream of streams) sample(stream, at);
  showStreams();
  showVerdict();
}

/** Return the name of a stream that an event or a dead letter refers to. */
function nameByKey(key) {
  return namesByKey.get(key) ?? key;
}

function showStreams() {
  const chosen = inOrder(streams.filter(isChosen));
  const shown = chosen.slice(0, maxShown);
  for (const key of cards.keys()) if (!shown.some((stream) => stream.stream === key)) cards.delete(key);
  for (const stream of shown) {
    if (!cards.has(stream.stream)) cards.set(stream.stream, makeCard(stream));
    showCard(cards.get(stream.stream), stream);
  }
  arrange(byId("cards"), shown.map((stream) => cards.get(stream.stream)));
  byId("cards").removeAttribute("aria-busy");
  showCounts(chosen.length, shown.length);
  showStates();
}

function isChosen(stream) {
  const wanted = byId("find").value.trim().toLowerCase();
  const state = byId("of-state").value;
  const text = `${nameOf(stream)} ${stream.stream}`.toLowerCase();
  return text.includes(wanted) && (state === "" || stream.state === state);
}

/** Sort the streams that need a person first, and the others by name: nothing jumps while they work. */
function inOrder(found) {
  const rank = ({ state }) => (ATTENTION.includes(state) ? ATTENTION.indexOf(state) : ATTENTION.length);
  const ranked = found.map((stream) => ({ stream, rank: rank(stream), name: nameByKey(stream.stream) }));
  ranked.sort((one, other) => one.rank - other.rank || IN_ORDER.compare(one.name, other.name));
  return ranked.map(({ stream }) => stream);
}

function showCounts(chosen, shown) {
  setText(byId("streams-count"), chosen === streams.length ? String(chosen || "") : `${chosen} of ${streams.length}`);
  byId("more-streams").hidden = shown === chosen;
  setText(byId("more-streams"), `Show more (${(chosen - shown).toLocaleString("en")} left)`);
  byId("streams-empty").hidden = chosen > 0;
  const none = issueOf("discovery_failed") === null ? NONE : NONE_DISCOVERED;
  setTextWithCode(byId("streams-empty"), streams.length > 0 ? NONE_CHOSEN : none);
}

/** Offer those states to filter by that some stream is in. */
function showStates() {
  const select = byId("of-state");
  const counts = Map.groupBy(streams, (stream) => stream.state);
  const offered = Object.keys(STATES).filter((state) => counts.has(state) || select.value === state);
  const options = offered.map((state) => [state, `${STATES[state].words} (${counts.get(state)?.length ?? 0})`]);
  const key = JSON.stringify(options);
  if (select.dataset.key === key) return;
  select.dataset.key = key;
  const chosen = select.value;
  select.replaceChildren(new Option("All states", ""), ...options.map(([state, words]) => new Option(words, state)));
  select.value = chosen;
}

function filterStreams() {
  maxShown = STREAMS_AT_ONCE;
  showStreams();
}

function showMoreStreams() {
  maxShown += STREAMS_AT_ONCE;
  showStreams();
}
