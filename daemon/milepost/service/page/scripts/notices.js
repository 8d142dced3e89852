// What stands in the way of the page as a whole, told below its head, for as long as it lasts.

const notices = new Map();

/** Show what is the matter with something; null where nothing is any more. */
function showNotice(about, words) {
  if (words === null) notices.delete(about);
  else notices.set(about, words);
  const notice = byId("notice");
  notice.hidden = notices.size === 0;
  sayWithCommands(notice, [...notices.values()].join(" "));
}
