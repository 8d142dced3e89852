// A stream in words: its name, the progress of its sweep, its facts, what it waits for, and the actions on it.

const NEAR_DAYS = 14; // before a token expires
const URGENT_DAYS = 3;
const RECENT_MISS_DAYS = 7;

function nameOf(stream) {
  return stream.page_name || stream.page_id;
}

function platformOf(stream) {
  return { messenger: "Messenger", instagram: "Instagram" }[stream.platform] ?? stream.platform;
}

// --- what cards, rows and the drawer share --------------------------------------------------------------------------

/** Have a card or a row stand for a stream, with its buttons. */
function standFor(box, { stream: key }, title) {
  box.dataset.stream = key;
  describe(box.querySelectorAll(".buttons button"), title, `title-${key}`);
  wireButtons(box, () => streamByKey(key));
}

/** Show the state of a stream, its progress in these words and as a bar, and its buttons. */
function showState(box, stream, progress) {
  const state = stateOf(stream);
  setTone(box, state.tone);
  setText(box.querySelector(".state"), state.words);
  setText(box.querySelector(".doing"), progress);
  showProgress(box.querySelector("progress"), stream);
  showButtons(box, stream);
}

// --- the sweep ------------------------------------------------------------------------------------------------------

function progressInWords({ sweep, run }) {
  if (sweep === null) return lastRunInWords(run);
  const read = counted(sweep.conversations, "conversation");
  const mode = `${capitalized(sweep.mode)} sweep${sweep.phase === "catch_up" ? ", catching up" : ""}`;
  if (isMeasured(sweep)) return `${mode}: ${read} of about ${NUMBER.format(sweep.expected)} · ${batches(sweep)}`;
  const isLong = sweep.mode === "full" && sweep.phase === "walk" && sweep.reached_at !== null;
  return isLong ? `${mode}: ${read}, back to ${day(sweep.reached_at)}` : `${mode}: ${read} · ${batches(sweep)}`;
}

function batches(sweep) {
  return counted(sweep.batches, "batch", "batches");
}

/** Return the progress as short as a cell of a table. */
function progressInBrief({ sweep, run }) {
  if (sweep === null) return changesOf(run);
  if (isMeasured(sweep)) return `${Math.floor((100 * sweep.conversations) / sweep.expected)}%`;
  return counted(sweep.conversations, "conversation");
}

function lastRunInWords(run) {
  const changes = changesOf(run);
  return changes === "" ? "" : `${capitalized(run.mode)} sweep: ${changes}`;
}

function changesOf(run) {
  if (run === null || run.mode === null || !run.status.startsWith("complete")) return "";
  const counts = [[run.inserted, "new"], [run.updated, "changed"], [run.dead_lettered, "dead-lettered"]];
  const changes = counts.filter(([count]) => count > 0).map(([count, what]) => `${NUMBER.format(count)} ${what}`);
  return changes.join(", ") || "nothing new";
}

function isMeasured({ mode, phase, expected, conversations }) {
  return mode === "full" && phase === "walk" && expected !== null && expected >= conversations && expected > 0;
}

function showProgress(bar, { sweep, state }) {
  const isMeasurable = sweep !== null && isMeasured(sweep);
  bar.hidden = !isMeasurable && state !== "syncing";
  if (isMeasurable) bar.value = sweep.conversations / sweep.expected;
  else bar.removeAttribute("value");
}

// --- facts and issues -----------------------------------------------------------------------------------------------

/** Return how old the copy is, in seconds: a message that came since may be missing. */
function delayOf({ last_success_at: success }) {
  return success === null ? Infinity : Math.max(0, secondsSince(success));
}

function titled(instant) {
  return instant === null ? "" : inFull(instant);
}

function factsOf(stream) {
  const { last_success_at: success, next_run_at: next, open_dead_letters: deadLetters, message_backlog: backlog } = stream;
  const facts = [["Last success", ago(success), titled(success)]];
  if (stream.on_hold === null && next !== null) facts.push(["Next run", ahead(next), titled(next)]);
  if (deadLetters > 0) facts.push(["Dead letters", NUMBER.format(deadLetters), "", "warning"]);
  const history = stream.message_history ?? { left: 0, total: 0 };
  if (backlog > history.left) facts.push(["Older messages", `of ${counted(backlog - history.left, "conversation")}`]);
  if (history.left > 0) {
    const [left, total] = [history.left, history.total].map((count) => NUMBER.format(count));
    facts.push(["History", `${left} of ${total} to read`, `${left} of ${total} conversations still to read`]);
  }
  if (stream.messages_missed > 0) facts.push(missedFact(stream));
  return [...facts, ...nearExpiry(stream)];
}

function missedFact({ messages_missed: missed, messages_missed_at: at }) {
  const isNew = secondsSince(at) < RECENT_MISS_DAYS * 86_400;
  return ["Withheld by the API", `${counted(missed, "message")}, last found ${ago(at)}`, inFull(at), isNew ? "warning" : ""];
}

/** Return what only the drawer shows. */
function furtherFactsOf(stream) {
  const { written, last_full_sweep_at: full, token_expires_at: expires, token_is_valid: isValid } = stream;
  const facts = [
    ["Last full sweep", ago(full), titled(full)],
    ["New conversations", NUMBER.format(written.conversations_inserted)],
    ["Changed conversations", NUMBER.format(written.conversations_updated)],
    ["Contacts written", NUMBER.format(written.contacts)],
    ["Messages written", NUMBER.format(written.interaction_events)],
  ];
  if (isValid === true && nearExpiry(stream).length === 0) {
    facts.push(["Token", expires === null ? "valid, never expires" : `valid until ${day(expires)}`, titled(expires)]);
  }
  return [...facts, ["Key", stream.stream]];
}

function nearExpiry({ token_is_valid: isValid, token_expires_at: expires }) {
  if (isValid === false) return [["Token", "invalid", "", "stopped"]];
  if (expires === null) return [];
  const days = -secondsSince(expires) / 86_400;
  if (days > NEAR_DAYS) return [];
  const words = days <= 0 ? "has expired" : `expires ${ahead(expires)}`;
  return [["Token", words, inFull(expires), days < URGENT_DAYS ? "stopped" : "warning"]];
}

/** Show what a stream waits for and what to do about it, and on demand why; in short if a cause above says it. */
function showIssues(box, stream, cause = null) {
  const advice = stream.on_hold || cause ? null : stream.advice; // there is a button for it, or it is said above
  const show = (name, text) => setTextWithCode(box.querySelector(`.${name}`), localized(text));
  show("waits", cause ? `Waits for ${cause.what}: see above` : waiting(stream));
  show("advice", advice === null ? "" : capitalized(advice));
  show("problem", stream.problem === null || cause ? "" : `Reason: ${stream.problem}`);
  show("remark", stream.remark === null ? "" : capitalized(stream.remark));
  box.querySelector("details").hidden = (stream.problem === null || Boolean(cause)) && stream.remark === null;
}

function waiting({ on_hold: hold, waits_for: what, since, until }) {
  if (hold) return `Paused since ${clock(hold.since)} by ${hold.by}`;
  if (what === null) return "";
  const end = until === null ? "" : `, until ${clock(until, { seconds: true })} (${ahead(until)})`;
  const begin = since === null ? "" : `, since ${clock(since)}`;
  return `Waits for ${what}${begin}${end}`;
}

// --- actions --------------------------------------------------------------------------------------------------------

/** Have the buttons in a box act on the stream that `current` returns. */
function wireButtons(box, current) {
  const on = (name, does) => {
    const button = box.querySelector(`.${name}`);
    if (button !== null) button.onclick = ({ currentTarget }) => does(currentTarget, current());
  };
  on("sync", (button, stream) => actOnStream(button, stream, "sync", { full: false }, "sync requested"));
  on("full", (button, stream) => actOnStream(button, stream, "sync", { full: true }, "full sweep requested"));
  on("hold", (button, stream) => {
    const action = button.dataset.does;
    actOnStream(button, stream, action, {}, `${action}d`);
  });
}

function showButtons(box, stream) {
  const isPaused = Boolean(stream.on_hold);
  const hold = box.querySelector(".hold");
  box.querySelector(".buttons").hidden = stream.is_configured === false;
  for (const each of box.querySelectorAll(".sync, .full")) each.hidden = isPaused;
  hold.dataset.does = isPaused ? "resume" : "pause";
  setText(hold, isPaused ? "Resume" : "Pause");
}

function actOnStream(button, stream, action, body, done) {
  const path = `/api/streams/${encodeURIComponent(stream.stream)}/${action}`;
  const words = `${nameOf(stream)}: ${done}`;
  return act(button, path, body, {
    onDone: ({ outcome }) => toast("done", outcome === "accepted" ? `${words}, after the current batch` : words),
  });
}

// --- the card: all that matters of a stream, where there are few ----------------------------------------------------

function makeCard(stream) {
  const card = fromTemplate("a-card");
  standFor(card, stream, card.querySelector("h3"));
  card.querySelector(".opens").onclick = () => openDrawer(stream.stream);
  return card;
}

function showCard(card, stream) {
  showState(card, stream, progressInWords(stream));
  setText(card.querySelector(".name"), nameOf(stream));
  setText(card.querySelector(".platform"), platformOf(stream));
  showFacts(card.querySelector("dl"), factsOf(stream));
  showIssues(card.querySelector(".issues"), stream, causeOf(stream));
}
