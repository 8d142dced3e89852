// The start of the page: what is wired to what.

function heard(event, id) {
  takeEvent(event, id);
  if (id === null) hearQuiet(event);
  refreshSoon({ letters: ABOUT_LETTERS.includes(event.type) });
}

/** After a break anything may have changed, even the page itself. */
function connected() {
  reached("events");
  refreshSoon();
  lookForNewPage();
}

let etag = null;

async function lookForNewPage() {
  try {
    const response = await fetch("/", { method: "HEAD" });
    const found = response.headers.get("ETag");
    byId("renewed").hidden = etag === null || found === etag;
    etag ??= found;
  } catch { /* the next break of the connection asks again */ }
}

async function signOut() {
  try {
    await ask("/logout", {});
    location.reload();
  } catch (error) {
    toast("stopped", `That was not done: ${error.message}`);
  }
}

/** Let what is told relative to now grow older. */
function tick() {
  if (document.hidden) return;
  showConnection();
  if (streams.length > 0) showStreams();
  if (streams.length > 0 || goneSince() !== null) showVerdict();
}

function wire() {
  byId("theme").onclick = chooseNextTheme;
  byId("sign-out").onclick = signOut;
  byId("reload").onclick = () => location.reload();
  byId("streams-filter").onsubmit = (submitted) => submitted.preventDefault();
  byId("find").oninput = byId("of-state").onchange = filterStreams;
  byId("more-streams").onclick = showMoreStreams;
  byId("of-letters").onchange = () => { mostLetters = LETTERS_AT_ONCE; refreshSoon(); };
  byId("more-letters").onclick = showMoreLetters;
  byId("discard-cancel").onclick = () => byId("discard").close();
  for (const choice of document.querySelectorAll("[name=which]")) choice.onchange = showWhichEvents;
  byId("chart").onpointermove = pointAt;
  byId("chart").onpointerleave = () => say(byId("chart-point"), "");
  new ResizeObserver(drawChart).observe(byId("chart"));
  document.onvisibilitychange = () => refreshSoon();
  setInterval(tick, 1000);
}

showTheme(chosenTheme());
say(byId("zone"), zoneInWords());
wire();
await refresh();
listen({ heard, connected, broken: () => lost("events") });
await keepFresh();
