// Notices below the header: what affects the whole page, for as long as it lasts.

const notices = new Map(); // by what they are about: {words, more}

/** Show a notice about something, with `more` on demand; remove it if `words` is null. */
function showNotice(about, words, more = "") {
  if (words === null) notices.delete(about);
  else notices.set(about, { words, more });
  const box = byId("notice");
  box.hidden = notices.size === 0;
  if (!isNews(box, [...notices.values()])) return;
  box.replaceChildren(...[...notices.values()].map(noticeRow));
}

function noticeRow({ words, more }) {
  const row = document.createElement("div");
  const sentence = document.createElement("p");
  setTextWithCode(sentence, words);
  row.append(sentence);
  if (more !== "") row.append(onDemand("Details", more));
  return row;
}
