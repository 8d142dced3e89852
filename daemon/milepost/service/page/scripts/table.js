// The table of streams, where there are many: a row each, sorted by any column.

const NEVER = -Infinity;
const COLUMNS = [
  { key: "page", words: "Page" },
  { key: "platform", words: "Platform", order: platformOf },
  { key: "state", words: "State", order: ({ state }) => IN_ORDER_OF_STATE.indexOf(state) },
  { key: "progress", words: "Progress", order: ({ sweep }) => sweep?.conversations ?? -1, isLargestFirst: true },
  { key: "delay", words: "Delay", order: delayOf, isLargestFirst: true, title: "How old the copy is" },
  { key: "success", words: "Last success", order: ({ last_success_at: at }) => instantOf(at), isLargestFirst: true },
  { key: "next", words: "Next", order: ({ next_run_at: at }) => instantOf(at, Infinity) },
  { key: "backlog", words: "Backlog", order: ({ message_backlog: count }) => count, isLargestFirst: true,
    title: "Conversations with older messages that are still to be read" },
  { key: "letters", words: "Dead letters", order: ({ open_dead_letters: count }) => count, isLargestFirst: true },
];

function instantOf(instant, otherwise = NEVER) {
  return instant === null ? otherwise : Date.parse(instant);
}

function makeTableHead() {
  const cells = COLUMNS.map((column) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = column.key;
    const button = element("button", column.words, "quiet");
    button.type = "button";
    if (column.title) button.title = column.title;
    button.onclick = () => sortBy(column);
    cell.append(button);
    return cell;
  });
  const actions = element("th", "", "actions");
  actions.scope = "col";
  actions.append(element("span", "Actions", "unseen"));
  byId("table").tHead.rows[0].replaceChildren(...cells, actions);
}

/** Say in the head by which column the rows are sorted. */
function showOrder({ column, isReversed }) {
  [...byId("table").tHead.rows[0].cells].forEach((cell, index) => {
    const isChosen = column !== null && COLUMNS[index]?.key === column.key;
    if (!isChosen) cell.removeAttribute("aria-sort");
    else cell.setAttribute("aria-sort", isReversed === Boolean(column.isLargestFirst) ? "ascending" : "descending");
  });
}

function makeRow(stream) {
  const row = fromTemplate("a-row");
  standFor(row, stream, row.querySelector(".opens"));
  row.onclick = ({ target }) => {
    if (target.closest(".buttons") === null && getSelection().isCollapsed) openDrawer(stream.stream);
  };
  return row;
}

function showRow(row, stream) {
  const { last_success_at: success, next_run_at: next } = stream;
  const [, platform, , , delay, last, ahead_, backlog, letters] = row.cells;
  showState(row, stream, progressInBrief(stream));
  setText(row.querySelector(".opens"), nameOf(stream));
  row.cells[0].title = stream.stream;
  setText(platform, platformOf(stream));
  setText(delay, success === null ? "–" : brief(delayOf(stream)));
  setText(last, success === null ? "never" : clock(success));
  last.title = titled(success);
  setText(ahead_, stream.on_hold !== null || next === null ? "–" : brief(-secondsSince(next)));
  ahead_.title = titled(next);
  setText(backlog, stream.message_backlog === 0 ? "" : NUMBER.format(stream.message_backlog));
  setText(letters, stream.open_dead_letters === 0 ? "" : NUMBER.format(stream.open_dead_letters));
  row.classList.toggle("open", drawerIsOf(stream.stream));
}
