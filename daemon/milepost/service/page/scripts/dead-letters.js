// Dead letters: what could not be read or written, and the actions on them.

const DEAD_LETTERS_AT_ONCE = 10;
const MAX_SUBJECT = 44;
const MEANINGS = {
  fetch: "could not be read",
  store: "was refused by the database",
  events: "has messages that the database refused",
};
const RESOLUTIONS = {
  redriven: "Resolved by a redrive",
  recovered: "Resolved by a sweep",
  discarded: "Discarded",
  forgotten: "Erased with its contact",
};

const deadLetterRows = new Map(); // by id
let maxDeadLetters = DEAD_LETTERS_AT_ONCE;

async function refreshDeadLetters() {
  const which = byId("of-dead-letters").value;
  const { dead_letters: deadLetters, next } = await request(`/api/dead-letters?state=${which}&limit=${maxDeadLetters}`);
  const ids = new Set(deadLetters.map((deadLetter) => deadLetter.dead_letter_id));
  for (const id of deadLetterRows.keys()) if (!ids.has(id)) deadLetterRows.delete(id);
  for (const deadLetter of deadLetters) {
    const id = deadLetter.dead_letter_id;
    if (!deadLetterRows.has(id)) deadLetterRows.set(id, makeDeadLetter(deadLetter));
    showDeadLetter(deadLetterRows.get(id), deadLetter);
  }
  const rows = deadLetters.map((deadLetter) => deadLetterRows.get(deadLetter.dead_letter_id));
  keepFocusNear(() => arrange(byId("dead-letters-list"), rows));
  byId("dead-letters-list").removeAttribute("aria-busy");
  byId("more-dead-letters").hidden = next === null;
  byId("dead-letters-empty").hidden = deadLetters.length > 0;
  const none = which === "open" ? "None open: everything was read and written." : "There are none.";
  setText(byId("dead-letters-empty"), none);
}

/** If the focused dead letter disappears, move the focus to the section, so that keys continue from there. */
function keepFocusNear(change) {
  const hasFocus = () => byId("dead-letters-list").contains(document.activeElement);
  const hadFocus = hasFocus();
  change();
  if (hadFocus && !hasFocus()) byId("dead-letters").focus({ preventScroll: true });
}

function makeDeadLetter(deadLetter) {
  const row = fromTemplate("a-dead-letter");
  const id = deadLetter.dead_letter_id;
  row.dataset.deadLetter = id;
  const title = row.querySelector("h3");
  title.id = `dead-letter-${id}`;
  for (const button of row.querySelectorAll("button, summary")) button.setAttribute("aria-describedby", title.id);
  row.querySelector("details").ontoggle = (toggled) => toggled.target.open && showPayload(row, id);
  row.querySelector(".redrive").onclick = ({ target }) => {
    actOnDeadLetter(target, deadLetter, "redrive", {}, (words) => toast("stopped", words));
  };
  row.querySelector(".discard").onclick = () => askForReason(deadLetter);
  return row;
}

function showDeadLetter(row, deadLetter) {
  const isOpen = deadLetter.closed_at === null;
  setTone(row, isOpen ? "warning" : "done");
  row.querySelector("h3").title = deadLetter.subject;
  setText(row.querySelector("h3"), `${shortened(deadLetter.subject, MAX_SUBJECT)} ${MEANINGS[deadLetter.stage] ?? ""}`);
  setText(row.querySelector(".state"), isOpen ? "" : RESOLUTIONS[deadLetter.resolution] ?? deadLetter.resolution);
  setText(row.querySelector(".reason"), deadLetter.reason);
  setText(row.querySelector(".facts"), deadLetterFacts(deadLetter).join(" · "));
  row.querySelector(".buttons").hidden = row.querySelector("details").hidden = !isOpen;
}

function deadLetterFacts({ stream, opened_at: opened, attempts, redrive_at: next, closed_at: closed, note }) {
  const retries = attempts === 0 ? "not retried yet" : counted(attempts, "failed retry", "failed retries");
  const end = closed !== null ? `closed ${ago(closed)}${note ? `: ${note}` : ""}`
    : next === null ? "no automatic retry" : `next retry ${ahead(next)}`;
  return [nameByKey(stream), `opened ${ago(opened)}`, retries, end];
}

async function showPayload(row, id) {
  const shown = row.querySelector("pre");
  setText(shown, "Loading …");
  try {
    const { payload } = await request(`/api/dead-letters/${id}`);
    setText(shown, payload === null ? "No payload." : JSON.stringify(payload, null, 2));
  } catch (error) {
    setText(shown, `Loading failed: ${error.message}`);
  }
}

// --- actions --------------------------------------------------------------------------------------------------------

const OUTCOMES = {
  closed: (subject) => ["done", `${subject} is resolved and closed`],
  failed: (subject, { reason, redrive_at: next }) => {
    const then = next === null ? "No automatic retry" : `Next retry ${ahead(next)}`;
    return ["warning", `${subject} failed again: ${reason}. ${then}`];
  },
  held: (subject, { reason }) => ["waiting", `${subject} was not retried: ${reason}`],
  accepted: (subject) => ["working", `${subject} takes longer and continues in the background`],
};

/** Act on a dead letter; return whether the daemon accepted it. */
async function actOnDeadLetter(button, { dead_letter_id: id, subject }, action, body, onError) {
  if (button.getAttribute("aria-disabled") === "true") return false;
  button.setAttribute("aria-disabled", "true");
  try {
    const result = await request(`/api/dead-letters/${id}/${action}`, body);
    const [tone, words] = OUTCOMES[result.outcome](shortened(subject, MAX_SUBJECT), result);
    toast(tone, words, `dead letter ${id}`);
    return true;
  } catch (error) {
    onError(`Action failed: ${error.message}`);
    return false;
  } finally {
    button.removeAttribute("aria-disabled");
    refreshSoon();
  }
}

function askForReason(deadLetter) {
  const dialog = byId("discard");
  setText(byId("discard-subject"), deadLetter.subject);
  setText(byId("discard-error"), "");
  dialog.querySelector("form").reset();
  dialog.querySelector("form").onsubmit = async (submitted) => {
    submitted.preventDefault();
    const reason = byId("discard-reason").value;
    const onError = (words) => setText(byId("discard-error"), words);
    if (await actOnDeadLetter(submitted.submitter, deadLetter, "discard", { reason }, onError)) dialog.close();
  };
  dialog.showModal();
}

function showMoreDeadLetters() {
  maxDeadLetters = Math.min(1000, maxDeadLetters + DEAD_LETTERS_AT_ONCE);
  refreshSoon();
}
