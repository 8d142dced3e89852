// Notices below the header: what affects the whole page, for as long as it lasts.

const notices = new Map();

/** Show a notice about something, or remove it if `words` is null. */
function showNotice(about, words) {
  if (words === null) notices.delete(about);
  else notices.set(about, words);
  const notice = byId("notice");
  notice.hidden = notices.size === 0;
  setTextWithCode(notice, [...notices.values()].join(" "));
}
