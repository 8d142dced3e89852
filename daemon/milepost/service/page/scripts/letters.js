// Dead letters: what could not be read or written, and what a person can do about it.

const LETTERS_AT_ONCE = 10;
const MAX_SUBJECT = 44;
const MEANINGS = {
  fetch: "could not be read",
  store: "was refused by the database",
  events: "has messages that the database refused",
};
const ENDS = {
  redriven: "Mended by a redrive",
  recovered: "Mended by a sweep",
  discarded: "Discarded",
  forgotten: "Erased with its person",
};

const letterRows = new Map(); // by id
let mostLetters = LETTERS_AT_ONCE;

async function refreshLetters() {
  const which = byId("of-letters").value;
  const { dead_letters: letters, next } = await ask(`/api/dead-letters?state=${which}&limit=${mostLetters}`);
  const ids = new Set(letters.map((letter) => letter.dead_letter_id));
  for (const id of letterRows.keys()) if (!ids.has(id)) letterRows.delete(id);
  for (const letter of letters) {
    const id = letter.dead_letter_id;
    if (!letterRows.has(id)) letterRows.set(id, makeLetter(letter));
    showLetter(letterRows.get(id), letter);
  }
  keepFocusNear(() => arrange(byId("letters-list"), letters.map((letter) => letterRows.get(letter.dead_letter_id))));
  byId("letters-list").removeAttribute("aria-busy");
  byId("more-letters").hidden = next === null;
  byId("letters-empty").hidden = letters.length > 0;
  const none = which === "open" ? "None is open: everything could be read and written." : "There are none.";
  say(byId("letters-empty"), none);
}

/** Where the letter goes that has the focus, let the section have it: keys go on from there. */
function keepFocusNear(change) {
  const had = byId("letters-list").contains(document.activeElement);
  change();
  if (had && !byId("letters-list").contains(document.activeElement)) byId("letters").focus({ preventScroll: true });
}

function makeLetter(letter) {
  const row = made("a-letter");
  const id = letter.dead_letter_id;
  row.dataset.letter = id;
  const title = row.querySelector("h3");
  title.id = `letter-${id}`;
  for (const button of row.querySelectorAll("button, summary")) button.setAttribute("aria-describedby", title.id);
  row.querySelector("details").ontoggle = (toggled) => toggled.target.open && showPayload(row, id);
  row.querySelector(".redrive").onclick = ({ target }) => {
    actOnLetter(target, letter, "redrive", {}, (words) => toast("stopped", words));
  };
  row.querySelector(".discard").onclick = () => askForReason(letter);
  return row;
}

function showLetter(row, letter) {
  const isOpen = letter.closed_at === null;
  mark(row, isOpen ? "warning" : "done");
  row.querySelector("h3").title = letter.subject;
  say(row.querySelector("h3"), `${shortened(letter.subject, MAX_SUBJECT)} ${MEANINGS[letter.stage] ?? ""}`);
  say(row.querySelector(".state"), isOpen ? "" : ENDS[letter.resolution] ?? letter.resolution);
  say(row.querySelector(".reason"), letter.reason);
  say(row.querySelector(".facts"), letterFacts(letter).join(" · "));
  row.querySelector(".buttons").hidden = row.querySelector("details").hidden = !isOpen;
}

function letterFacts({ stream, opened_at: opened, attempts, redrive_at: next, closed_at: closed, note }) {
  const tries = attempts === 0 ? "not tried again yet" : `${counted(attempts, "try", "tries")} in vain`;
  const end = closed !== null ? `closed ${ago(closed)}${note ? `: ${note}` : ""}`
    : next === null ? "not tried again by itself" : `tried again ${ahead(next)}`;
  return [nameByKey(stream), `opened ${ago(opened)}`, tries, end];
}

async function showPayload(row, id) {
  const shown = row.querySelector("pre");
  say(shown, "Loading …");
  try {
    const { payload } = await ask(`/api/dead-letters/${id}`);
    say(shown, payload === null ? "There is none." : JSON.stringify(payload, null, 2));
  } catch (error) {
    say(shown, `It could not be loaded: ${error.message}`);
  }
}

// --- acting ----------------------------------------------------------------------------------------------------------

const OUTCOMES = {
  closed: (subject) => ["done", `${subject} is done with, and closed`],
  failed: (subject, { reason, redrive_at: next }) => {
    const then = next === null ? "It is not tried again by itself" : `It is tried again ${ahead(next)}`;
    return ["warning", `${subject} was tried in vain: ${reason}. ${then}`];
  },
  held: (subject, { reason }) => ["waiting", `${subject} was not tried: ${reason}`],
  accepted: (subject) => ["working", `${subject} takes longer, and goes on`],
};

/** Do something about a letter; gives whether the daemon took it. */
async function actOnLetter(button, { dead_letter_id: id, subject }, action, body, refused) {
  if (button.getAttribute("aria-disabled") === "true") return false;
  button.setAttribute("aria-disabled", "true");
  try {
    const answer = await ask(`/api/dead-letters/${id}/${action}`, body);
    const [tone, words] = OUTCOMES[answer.outcome](shortened(subject, MAX_SUBJECT), answer);
    toast(tone, words, `letter ${id}`);
    return true;
  } catch (error) {
    refused(`That was not done: ${error.message}`);
    return false;
  } finally {
    button.removeAttribute("aria-disabled");
    refreshSoon();
  }
}

function askForReason(letter) {
  const dialog = byId("discard");
  say(byId("discard-subject"), letter.subject);
  say(byId("discard-error"), "");
  dialog.querySelector("form").reset();
  dialog.querySelector("form").onsubmit = async (submitted) => {
    submitted.preventDefault();
    const reason = byId("discard-reason").value;
    const refused = (words) => say(byId("discard-error"), words);
    if (await actOnLetter(submitted.submitter, letter, "discard", { reason }, refused)) dialog.close();
  };
  dialog.showModal();
}

function showMoreLetters() {
  mostLetters = Math.min(1000, mostLetters + LETTERS_AT_ONCE);
  refreshSoon();
}
