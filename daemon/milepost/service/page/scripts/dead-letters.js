// Dead letters: what could not be read or written, and the actions on one of them.

const MAX_SUBJECT = 28;
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
const MAX_REASON = 140; // characters; the rest is shown on demand

let isSimulated = false; // or else a link to Meta would lead nowhere

function deadLetterTitle(deadLetter) {
  return `${subjectInWords(deadLetter)} ${MEANINGS[deadLetter.stage] ?? ""}`;
}

function subjectInWords({ contact_name: name, subject }) {
  return name === null ? shortened(subject, MAX_SUBJECT) : `The conversation with ${name}`;
}

function makeDeadLetter(deadLetter) {
  const row = fromTemplate("a-dead-letter");
  const id = deadLetter.dead_letter_id;
  row.dataset.deadLetter = id;
  describe(row.querySelectorAll("button, summary, a"), row.querySelector("h4"), `dead-letter-${id}`);
  row.querySelector("details").ontoggle = (toggled) => toggled.target.open && showPayload(row, id);
  row.querySelector(".redrive").onclick = ({ currentTarget }) => {
    actOnDeadLetter(currentTarget, deadLetter, "redrive", {});
  };
  const words = subjectInWords(deadLetter);
  row.querySelector(".discard").onclick = () => askForReason("Discard a dead letter", words, (button, reason, onError) => {
    return actOnDeadLetter(button, deadLetter, "discard", { reason }, onError);
  });
  return row;
}

function showDeadLetter(row, deadLetter, { isInGroup }) {
  const isOpen = deadLetter.closed_at === null;
  setTone(row, isOpen ? "warning" : "done");
  row.querySelector("h4").title = deadLetter.subject;
  setText(row.querySelector("h4"), deadLetterTitle(deadLetter));
  setText(row.querySelector(".state"), isOpen ? "" : RESOLUTIONS[deadLetter.resolution] ?? deadLetter.resolution);
  showReason(row.querySelector(".reason"), isInGroup ? "" : deadLetter.reason);
  setText(row.querySelector(".facts"), deadLetterFacts(deadLetter).join(" · "));
  row.querySelector(".buttons").hidden = row.querySelector("details").hidden = !isOpen;
  const link = row.querySelector("a");
  link.hidden = deadLetter.link === null || isSimulated;
  if (!link.hidden) link.href = deadLetter.link;
}

/** Show a reason, of a long one the beginning and the whole as a title. */
function showReason(target, reason) {
  const text = localized(reason);
  setText(target, text.length > MAX_REASON ? `${text.slice(0, MAX_REASON)} …` : text);
  target.title = text.length > MAX_REASON ? text : "";
}

function deadLetterFacts({ stream, opened_at: opened, attempts, redrive_at: next, closed_at: closed, note }) {
  const retries = attempts === 0 ? "not retried yet" : counted(attempts, "failed retry", "failed retries");
  const end = closed !== null ? `closed ${ago(closed)}${note ? `: ${note}` : ""}` : nextRetry(next);
  return [nameByKey(stream), `opened ${ago(opened)}`, retries, end];
}

function nextRetry(next) {
  return next === null ? "no automatic retry" : `next retry ${ahead(next)}`;
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
    return ["warning", `${subject} failed again: ${localized(reason)}. ${then}`];
  },
  held: (subject, { reason }) => ["waiting", `${subject} was not tried: ${localized(reason)}`],
  accepted: (subject) => ["working", `${subject} takes longer and continues in the background`],
};

/** Act on a dead letter; return whether the daemon accepted it. */
function actOnDeadLetter(button, deadLetter, action, body, onError) {
  const id = deadLetter.dead_letter_id;
  const onDone = (result) => {
    const [tone, words] = OUTCOMES[result.outcome](subjectInWords(deadLetter), result);
    toast(tone, words, `dead letter ${id}`);
  };
  return act(button, `/api/dead-letters/${id}/${action}`, body, { onDone, onError, deadLetters: true });
}

/** Ask why something is discarded, and have `discard` do it. */
function askForReason(title, subject, discard) {
  const dialog = byId("discard");
  setText(byId("discard-title"), title);
  setText(byId("discard-subject"), subject);
  setText(byId("discard-error"), "");
  const form = dialog.querySelector("form");
  form.reset();
  switchOff(form.querySelector(".acts"), false); // an earlier action may still run
  const onSubmit = async (submitted) => {
    submitted.preventDefault();
    const isAsking = () => dialog.open && form.onsubmit === onSubmit;
    const onError = (words) => (isAsking() ? setText(byId("discard-error"), words) : toast("stopped", words));
    if (await discard(submitted.submitter, byId("discard-reason").value, onError) && isAsking()) dialog.close();
  };
  form.onsubmit = onSubmit;
  dialog.showModal();
}
