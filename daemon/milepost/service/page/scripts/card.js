// The card of a stream: all that matters of it, where there are few.

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
