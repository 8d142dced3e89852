// DOM helpers. Whatever the daemon sends is only ever set as text, so that none of it becomes markup.

const SVG = "http://www.w3.org/2000/svg";

function byId(id) {
  return document.getElementById(id);
}

/** Create an element from a template that holds one. */
function fromTemplate(template) {
  return byId(template).content.firstElementChild.cloneNode(true);
}

/** Set a text if it differs: a text that is set again is read out again, and loses its selection. */
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Set a text whose parts in backticks become code elements. */
function setTextWithCode(target, text) {
  if (target.dataset.text === text) return;
  target.dataset.text = text;
  target.replaceChildren(...text.split("`").map((part, number) => (number % 2 === 1 ? element("code", part) : part)));
}

/** Create an element with a text in it. */
function element(name, text, className = "") {
  const created = document.createElement(name);
  created.textContent = text;
  if (className !== "") created.className = className;
  return created;
}

/** Have a title describe elements: the words on a button do not say what it acts on. */
function describe(elements, title, id) {
  title.id = id;
  for (const each of elements) each.setAttribute("aria-describedby", id);
}

/** Create a text that is shown on demand. */
function onDemand(summary, text) {
  const details = document.createElement("details");
  const words = document.createElement("p");
  setTextWithCode(words, text);
  details.append(element("summary", summary), words);
  return details;
}

/** Create a shape of a chart. */
function shape(name, attributes, text = "") {
  const created = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) created.setAttribute(attribute, value);
  if (text !== "") created.textContent = text;
  return created;
}

/** Set the tone and the shape of an element. Both say the same: some people see no colours. */
function setTone(target, tone) {
  if (target.dataset.tone === tone) return;
  target.dataset.tone = tone;
  target.querySelector("svg use").setAttribute("href", `#shape-${tone}`);
}

/** Put elements into a list in this order, moving none without need: a moved element loses the focus. */
function arrange(list, elements) {
  const focused = document.activeElement;
  elements.forEach((each, index) => {
    if (list.children[index] !== each) list.insertBefore(each, list.children[index] ?? null);
  });
  while (list.children.length > elements.length) list.lastElementChild.remove();
  if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
}

/** Note what a target shows; return whether it showed anything else so far. */
function isNews(target, shown) {
  const key = JSON.stringify(shown);
  if (target.dataset.key === key) return false;
  target.dataset.key = key;
  return true;
}

/** Show facts in a description list: each is a term, a text, and optionally a title and a tone. */
function showFacts(list, facts) {
  if (!isNews(list, facts)) return;
  list.replaceChildren(...facts.map(([term, text, title = "", tone = ""]) => {
    const fact = document.createElement("div");
    const value = element("dd", text);
    value.title = title;
    if (tone) fact.dataset.tone = tone;
    fact.append(element("dt", term), value);
    return fact;
  }));
}

/** Set the options of a row of chips: `[value, words, tone]` each, one of them chosen. */
function showChips(row, options, chosen, onChoice) {
  if (!isNews(row, [options, chosen])) return;
  const focused = row.contains(document.activeElement) ? document.activeElement.value : null;
  row.replaceChildren(...options.map(([value, words, tone]) => {
    const chip = fromTemplate("a-chip");
    chip.value = value;
    chip.setAttribute("aria-pressed", String(value === chosen));
    setTone(chip, tone);
    setText(chip.querySelector("span"), words);
    chip.onclick = () => onChoice(value);
    return chip;
  }));
  if (focused !== null) [...row.children].find((chip) => chip.value === focused)?.focus({ preventScroll: true });
}
