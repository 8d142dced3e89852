// The card of a stream: all that matters of it, where there are few.

function makeCard(stream) {
  const card = fromTemplate("a-card");
  card.dataset.stream = stream.stream;
  const title = card.querySelector("h3");
  title.id = `title-${stream.stream}`;
  for (const button of card.querySelectorAll(".buttons button")) button.setAttribute("aria-describedby", title.id);
  card.querySelector(".opens").onclick = () => openDrawer(stream.stream);
  wireButtons(card, () => streamByKey(stream.stream));
  return card;
}

function showCard(card, stream) {
  const state = stateOf(stream);
  setTone(card, state.tone);
  setText(card.querySelector(".name"), nameOf(stream));
  setText(card.querySelector(".platform"), platformOf(stream));
  setText(card.querySelector(".state"), state.words);
  setText(card.querySelector(".doing"), progressInWords(stream));
  showProgress(card.querySelector("progress"), stream);
  showFacts(card.querySelector("dl"), factsOf(stream));
  showIssues(card.querySelector(".issues"), stream, causeOf(stream));
  showButtons(card, stream);
}
