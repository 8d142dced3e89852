// The list of dead letters: the open ones by their reason, as one cause makes many of them; the others one by one.

const DEAD_LETTERS_AT_ONCE = 10;
const FEW_DEAD_LETTERS = 5; // that need no asking for
const MAX_DEAD_LETTERS = 1000; // in one list: the API's limit
const MORE = 5; // times as many are shown when more are asked for

const groupRows = new Map(); // by group
const deadLetterRows = new Map(); // by id
const shownOfGroup = new Map(); // how many members of a group were asked for; 0: none
let maxDeadLetters = DEAD_LETTERS_AT_ONCE;

async function refreshDeadLetters() {
  const which = byId("of-dead-letters").value;
  const rows = which === "open" ? await openDeadLetters() : await deadLettersIn(which);
  keepFocusNear(() => arrange(byId("dead-letters-list"), rows));
  byId("dead-letters-list").removeAttribute("aria-busy");
  byId("dead-letters-empty").hidden = rows.length > 0;
  const none = which === "open" ? "None open: everything was read and written." : "There are none.";
  setText(byId("dead-letters-empty"), none);
}

/** Offer to show more; or say where the others are, once there are as many as a list can show. */
function offerMore(box, isMore, shown, words = `The oldest ${NUMBER.format(shown)} are shown`) {
  const isFull = shown >= MAX_DEAD_LETTERS;
  box.hidden = !isMore;
  box.querySelector("button").hidden = isFull;
  box.querySelector("span").hidden = !isFull;
  setTextWithCode(box.querySelector("span"), `${words}: \`milepost dead-letters list\` has all.`);
}

/** Return a row for each group of open dead letters. */
async function openDeadLetters() {
  const { groups, is_complete: isComplete } = await request("/api/dead-letters/groups");
  const count = groups.reduce((sum, group) => sum + group.count, 0);
  const found = new Set(groups.map(({ group }) => group));
  for (const group of groupRows.keys()) if (!found.has(group)) groupRows.delete(group);
  deadLetterRows.clear();
  offerMore(byId("more-dead-letters"), !isComplete, MAX_DEAD_LETTERS, `The ${groups.length} commonest reasons are shown`);
  await Promise.all(groups.map(async (group) => {
    const row = groupRows.get(group.group) ?? makeGroup(group);
    groupRows.set(group.group, row);
    const shown = shownOfGroup.get(group.group) ?? (count <= FEW_DEAD_LETTERS ? FEW_DEAD_LETTERS : 0);
    showGroup(row, group, shown);
    await showMembers(row, group, shown);
  }));
  return groups.map(({ group }) => groupRows.get(group));
}

/** Return a row for each dead letter in a state. */
async function deadLettersIn(state) {
  const { dead_letters: found, next } = await request(`/api/dead-letters?state=${state}&limit=${maxDeadLetters}`);
  groupRows.clear();
  offerMore(byId("more-dead-letters"), next !== null, maxDeadLetters);
  return rowsOf(deadLetterRows, found, { isInGroup: false });
}

function rowsOf(rows, deadLetters, how) {
  const ids = new Set(deadLetters.map((deadLetter) => deadLetter.dead_letter_id));
  for (const id of rows.keys()) if (!ids.has(id)) rows.delete(id);
  return deadLetters.map((deadLetter) => {
    const id = deadLetter.dead_letter_id;
    if (!rows.has(id)) rows.set(id, makeDeadLetter(deadLetter));
    showDeadLetter(rows.get(id), deadLetter, how);
    return rows.get(id);
  });
}

/** If the focused dead letter disappears, move the focus to the section, so that keys continue from there. */
function keepFocusNear(change) {
  const hasFocus = () => byId("dead-letters-list").contains(document.activeElement);
  const hadFocus = hasFocus();
  change();
  if (hadFocus && !hasFocus()) byId("dead-letters").focus({ preventScroll: true });
}

// --- a group --------------------------------------------------------------------------------------------------------

function makeGroup({ group }) {
  const row = fromTemplate("a-group");
  row.members = new Map();
  const title = row.querySelector("h3");
  describe(row.querySelectorAll(".buttons button"), title, `group-${group}`);
  row.querySelector(".redrive").onclick = ({ currentTarget }) => {
    actOnGroup(currentTarget, group, "redrive", {});
  };
  row.querySelector(".discard").onclick = () => askForReason("Discard dead letters", title.textContent, (button, reason, onError) => {
    return actOnGroup(button, group, "discard", { reason }, onError);
  });
  row.querySelector(".members").onclick = () => {
    const isShown = row.querySelector(".members").getAttribute("aria-expanded") === "true";
    shownOfGroup.set(group, isShown ? 0 : DEAD_LETTERS_AT_ONCE);
    refreshSoon({ deadLetters: true, isUrgent: true });
  };
  row.querySelector(".more button").onclick = () => {
    shownOfGroup.set(group, Math.min(MAX_DEAD_LETTERS, MORE * row.members.size));
    refreshSoon({ deadLetters: true, isUrgent: true });
  };
  return row;
}

function showGroup(row, group, shown) {
  const { count, streams: ofStreams_, opened_at: opened, latest_at: latest, redrive_at: next } = group;
  const isOne = count === 1;
  for (const each of row.querySelectorAll(":scope > .head, :scope > .reason, :scope > .facts, :scope > .buttons")) {
    each.hidden = isOne;
  }
  setTone(row, "warning");
  setText(row.querySelector("h3"), `${counted(count, "conversation")} ${meaningOfMany(group.stage)}`);
  showReason(row.querySelector(".reason"), group.reason);
  const span = `opened ${ago(opened)} to ${ago(latest)}`;
  setText(row.querySelector(".facts"), [counted(ofStreams_, "stream"), span, nextRetry(next)].join(" · "));
  const isShown = shown > 0;
  setText(row.querySelector(".members"), isShown ? "Hide them" : "Show them");
  row.querySelector(".members").setAttribute("aria-expanded", String(isShown));
}

function meaningOfMany(stage) {
  return { fetch: "could not be read", store: "were refused by the database", events: "have messages that the database refused" }[stage]
    ?? "failed";
}

async function showMembers(row, { group, count }, shown) {
  const limit = count === 1 ? 1 : shown;
  const list = row.querySelector("ul");
  offerMore(row.querySelector(".more"), limit > 0 && limit < count, limit);
  if (limit === 0) {
    row.members.clear();
    list.replaceChildren();
    return;
  }
  const { dead_letters: found } = await request(`/api/dead-letters?group=${group}&limit=${limit}`);
  arrange(list, rowsOf(row.members, found, { isInGroup: count > 1 }));
}

function actOnGroup(button, group, action, body, onError) {
  const onDone = (result) => toast(...groupOutcome(result), `group ${group}`);
  return act(button, `/api/dead-letters/groups/${group}/${action}`, body, { onDone, onError, deadLetters: true });
}

function groupOutcome({ count, closed, failed, held, is_over: isOver }) {
  if (!isOver) return ["working", `${counted(count, "dead letter")}: this takes longer and continues in the background`];
  const parts = [[closed, "closed"], [failed, "failed again"], [held, "were not tried, because of a rate limit or a stop"]];
  const words = parts.filter(([number]) => number > 0).map(([number, what]) => `${NUMBER.format(number)} ${what}`);
  return [failed + held > 0 ? "warning" : "done", `${counted(count, "dead letter")}: ${words.join(", ")}`];
}

function showMoreDeadLetters() {
  maxDeadLetters = Math.min(MAX_DEAD_LETTERS, MORE * maxDeadLetters);
  refreshSoon({ deadLetters: true, isUrgent: true });
}
