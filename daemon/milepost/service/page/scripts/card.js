// The card of a stream: its state, the progress of its sweep, what it waits for, and the actions on it.

const NEAR_DAYS = 14; // before a token expires
const URGENT_DAYS = 3;

function makeCard(stream) {
  const card = fromTemplate("a-card");
  card.dataset.stream = stream.stream;
  const title = card.querySelector("h3");
  title.id = `title-${stream.stream}`;
  for (const button of card.querySelectorAll("button")) button.setAttribute("aria-describedby", title.id);
  const path = `/api/streams/${encodeURIComponent(stream.stream)}`;
  const name = nameOf(stream);
  card.querySelector(".sync").onclick = ({ target }) => {
    act(target, `${path}/sync`, { full: false }, `${name}: sync requested`);
  };
  card.querySelector(".full").onclick = ({ target }) => {
    act(target, `${path}/sync`, { full: true }, `${name}: full sweep requested`);
  };
  card.querySelector(".hold").onclick = ({ target }) => {
    const isPaused = target.dataset.does === "resume";
    act(target, `${path}/${isPaused ? "resume" : "pause"}`, {}, `${name} ${isPaused ? "resumed" : "paused"}`);
  };
  return card;
}

function showCard(card, stream) {
  const state = stateOf(stream);
  setTone(card, state.tone);
  setText(card.querySelector(".name"), nameOf(stream));
  setText(card.querySelector(".platform"), platformOf(stream));
  card.querySelector("h3").title = stream.stream;
  setText(card.querySelector(".state"), state.words);
  setText(card.querySelector(".doing"), progressInWords(stream));
  showProgress(card.querySelector("progress"), stream);
  showFacts(card.querySelector("dl"), factsOf(stream));
  showIssues(card, stream);
  showButtons(card, stream);
}

function nameOf(stream) {
  return stream.page_name || stream.page_id;
}

function platformOf(stream) {
  return { messenger: "Messenger", instagram: "Instagram" }[stream.platform] ?? stream.platform;
}

// --- the sweep ------------------------------------------------------------------------------------------------------

function progressInWords({ sweep, state, run, ...stream }) {
  if (sweep === null) return lastRunInWords(run);
  const read = counted(sweep.conversations, "conversation");
  const expected = isMeasured(sweep) ? ` of about ${sweep.expected.toLocaleString("en")}` : "";
  const rate = state === "syncing" ? rateOf({ ...stream, sweep }) : null;
  return [
    `${capitalized(sweep.mode)} sweep${sweep.phase === "catch_up" ? ", catching up" : ""}: ${read}${expected}`,
    counted(sweep.batches, "batch", "batches"),
    ...(rate === null ? [] : [`${perSecond(rate)}/s`]),
  ].join(" · ");
}

function lastRunInWords(run) {
  if (run === null || run.mode === null || !run.status.startsWith("complete")) return "";
  const counts = [[run.inserted, "new"], [run.updated, "changed"], [run.dead_lettered, "dead-lettered"]];
  const changes = counts.filter(([count]) => count > 0).map(([count, what]) => `${count.toLocaleString("en")} ${what}`);
  return `${capitalized(run.mode)} sweep: ${changes.join(", ") || "nothing new"}`;
}

function isMeasured({ mode, phase, expected, conversations }) {
  return mode === "full" && phase === "walk" && expected !== null && expected >= conversations && expected > 0;
}

function showProgress(bar, { sweep, state }) {
  const isMeasurable = sweep !== null && isMeasured(sweep);
  bar.hidden = !isMeasurable && state !== "syncing";
  bar.setAttribute("aria-label", "Progress of the sweep");
  if (isMeasurable) bar.value = sweep.conversations / sweep.expected;
  else bar.removeAttribute("value");
}

// --- facts and issues -----------------------------------------------------------------------------------------------

function factsOf(stream) {
  const dated = (instant) => (instant === null ? "" : inFull(instant));
  const { last_success_at: success, next_run_at: next, open_dead_letters: deadLetters, message_backlog: backlog } = stream;
  const facts = [["Last success", ago(success), dated(success)]];
  if (stream.on_hold === null && next !== null) facts.push(["Next run", ahead(next), dated(next)]);
  if (deadLetters > 0) facts.push(["Dead letters", deadLetters.toLocaleString("en"), "", "warning"]);
  const history = stream.message_history ?? { left: 0, total: 0 };
  if (backlog > history.left) facts.push(["Older messages", `of ${counted(backlog - history.left, "conversation")}`]);
  if (history.left > 0) {
    const [left, total] = [history.left, history.total].map((count) => count.toLocaleString("en"));
    facts.push(["History", `${left} of ${total} to read`, `${left} of ${total} conversations still to read`]);
  }
  return [...facts, ...tokenFacts(stream)];
}

function tokenFacts({ token_is_valid: isValid, token_expires_at: expires }) {
  if (isValid === false) return [["Token", "invalid", "", "stopped"]];
  if (expires === null) return [];
  const days = (new Date(expires) - now()) / 86_400_000;
  if (days > NEAR_DAYS) return [];
  const words = days <= 0 ? "has expired" : `expires ${ahead(expires)}`;
  return [["Token", words, inFull(expires), days < URGENT_DAYS ? "stopped" : "warning"]];
}

function showIssues(card, stream) {
  const { problem, remark } = stream;
  const advice = stream.on_hold ? null : stream.advice; // there is a button for it
  const show = (name, text) => setText(card.querySelector(`.${name}`), text);
  show("waits", waiting(stream));
  show("problem", problem === null ? "" : `Reason: ${problem}`);
  setTextWithCode(card.querySelector(".advice"), advice === null ? "" : capitalized(advice));
  show("remark", remark === null ? "" : capitalized(remark));
}

function waiting({ on_hold: hold, waits_for: what, since, until }) {
  if (hold) return `Paused since ${clock(hold.since)} by ${hold.by}`;
  if (what === null) return "";
  const end = until === null ? "" : `, until ${clock(until, { seconds: true })} (${ahead(until)})`;
  const begin = since === null ? "" : `, since ${clock(since)}`;
  return `Waits for ${what}${begin}${end}`;
}

function showButtons(card, stream) {
  const isPaused = Boolean(stream.on_hold);
  const hold = card.querySelector(".hold");
  card.querySelector(".buttons").hidden = stream.is_configured === false;
  card.querySelector(".sync").hidden = card.querySelector(".full").hidden = isPaused;
  hold.dataset.does = isPaused ? "resume" : "pause";
  setText(hold, isPaused ? "Resume" : "Pause");
}

/** Have the daemon act, and show the outcome. */
async function act(button, path, body, done) {
  if (button.getAttribute("aria-disabled") === "true") return; // `disabled` would take the focus away
  button.setAttribute("aria-disabled", "true");
  try {
    const { outcome } = await request(path, body);
    toast("done", outcome === "accepted" ? `${done}, after the current batch` : done);
  } catch (error) {
    toast("stopped", `Action failed: ${error.message}`);
  } finally {
    button.removeAttribute("aria-disabled");
    refreshSoon();
  }
}
