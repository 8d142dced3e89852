// The document. What the daemon says is only ever set as text, so that none of it becomes markup.

function byId(id) {
  return document.getElementById(id);
}

/** Make an element from a template, which has one. */
function made(template) {
  return byId(template).content.firstElementChild.cloneNode(true);
}

/** Set a text where it differs: a text that is set again is read out again, and loses what is selected in it. */
function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** Set a text of ours whose commands stand in backticks, as they do on the command line. */
function sayWithCommands(place, text) {
  if (place.dataset.said === text) return;
  place.dataset.said = text;
  place.replaceChildren(...text.split("`").map((part, number) => (number % 2 === 1 ? element("code", part) : part)));
}

/** Make an element with a text in it. */
function element(name, text) {
  const created = document.createElement(name);
  created.textContent = text;
  return created;
}

/** Give an element its tone and its shape. Both say the same: some see no colours. */
function mark(marked, tone) {
  if (marked.dataset.tone === tone) return;
  marked.dataset.tone = tone;
  marked.querySelector("svg use").setAttribute("href", `#shape-${tone}`);
}

/** Put elements into a list in this order, moving none without need: what is moved loses the focus. */
function arrange(list, elements) {
  const focused = document.activeElement;
  elements.forEach((each, place) => {
    if (list.children[place] !== each) list.insertBefore(each, list.children[place] ?? null);
  });
  while (list.children.length > elements.length) list.lastElementChild.remove();
  if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
}

/** Show facts as a list of terms: each is a term, a text, and where they apply a title and a tone. */
function showFacts(list, facts) {
  const key = JSON.stringify(facts);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...facts.map(([term, text, title = "", tone = ""]) => {
    const fact = document.createElement("div");
    const told = element("dd", text);
    told.title = title;
    if (tone) fact.dataset.tone = tone;
    fact.append(element("dt", term), told);
    return fact;
  }));
}
