// Which streams are wanted, and in which order. It is kept in the URL, so that it can be sent to a colleague.

const IN_ORDER = new Intl.Collator("en", { numeric: true });
const ATTENTION = ["stopped", "failed", "interrupted", "retrying", "complete_with_errors"]; // are listed first

const wanted = { group: "", text: "", column: null, isReversed: false };

/** Take what is wanted from the URL. */
function readFilter() {
  const query = new URLSearchParams(location.search);
  wanted.group = query.get("state") in GROUPS ? query.get("state") : "";
  wanted.text = query.get("find") ?? "";
  const sort = query.get("sort") ?? "";
  wanted.column = COLUMNS.find(({ key }) => key === sort.replace(/^-/, "")) ?? null;
  wanted.isReversed = sort.startsWith("-");
  byId("find").value = wanted.text;
  return query.get("stream");
}

function writeFilter() {
  const query = new URLSearchParams();
  if (wanted.group) query.set("state", wanted.group);
  if (wanted.text) query.set("find", wanted.text);
  if (wanted.column) query.set("sort", `${wanted.isReversed ? "-" : ""}${wanted.column.key}`);
  if (drawerKey !== null) query.set("stream", drawerKey);
  const text = query.toString();
  history.replaceState(null, "", `${location.pathname}${text && `?${text}`}${location.hash}`);
}

function chooseGroup(group) {
  wanted.group = wanted.group === group ? "" : group;
  filterStreams();
}

function findStreams() {
  wanted.text = byId("find").value.trim();
  filterStreams();
}

/** Sort by a column; if it is sorted by already, the other way round, and then as at first. */
function sortBy(column) {
  const isSame = wanted.column === column;
  [wanted.column, wanted.isReversed] = isSame && wanted.isReversed ? [null, false] : [column, isSame];
  filterStreams();
}

function filterStreams() {
  maxShown = atOnce();
  writeFilter();
  showStreams();
}

function isChosen(stream) {
  const text = `${nameOf(stream)} ${stream.stream}`.toLowerCase();
  return text.includes(wanted.text.toLowerCase()) && (wanted.group === "" || groupOf(stream) === wanted.group);
}

/** Sort the streams: by the chosen column, or those with problems first; then by name: nothing jumps while they work. */
function inOrder(found) {
  const { column, isReversed } = wanted;
  const rank = (stream) => (ATTENTION.includes(stream.state) ? ATTENTION.indexOf(stream.state) : ATTENTION.length);
  const order = column === null ? rank : column.order ?? (() => 0);
  const ranked = found.map((stream) => ({ stream, rank: order(stream), name: nameByKey(stream.stream) }));
  const sign = isReversed === Boolean(column?.isLargestFirst) ? 1 : -1;
  const compared = (one, other) => (one < other ? -1 : Number(one > other));
  const byName = column !== null && column.order === undefined ? sign : 1;
  ranked.sort((one, other) => sign * compared(one.rank, other.rank) || byName * IN_ORDER.compare(one.name, other.name));
  return ranked.map(({ stream }) => stream);
}

/** Offer the groups of which there are any. */
function showGroups() {
  const counts = Map.groupBy(streams, groupOf);
  const offered = Object.entries(GROUPS).filter(([group]) => counts.has(group) || wanted.group === group);
  const chips = offered.map(([group, { words, tone }]) => [group, `${words} ${counts.get(group)?.length ?? 0}`, tone]);
  showChips(byId("groups"), [["", `All ${streams.length}`, "idle"], ...chips], wanted.group, chooseGroup);
}
