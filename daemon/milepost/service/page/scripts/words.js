// Numbers, durations and instants in words. Instants come as ISO 8601 in UTC, and are shown in the reader's zone.

const UNITS = [[2 * 86400, 86400, "day", "d"], [100 * 60, 3600, "hour", "h"], [100, 60, "minute", "min"], [0, 1, "second", "s"]];

// Made once: making a format takes longer than a hundred uses of it.
const NUMBER = new Intl.NumberFormat("en");
const SMALL = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const HOURS = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const CLOCK = new Intl.DateTimeFormat("en", HOURS);
const CLOCK_IN_SECONDS = new Intl.DateTimeFormat("en", { ...HOURS, second: "2-digit" });
const DATED = new Intl.DateTimeFormat("en", { ...HOURS, month: "short", day: "numeric" });
const DATED_IN_SECONDS = new Intl.DateTimeFormat("en", { ...HOURS, second: "2-digit", month: "short", day: "numeric" });
const DAY = new Intl.DateTimeFormat("en", { month: "long", day: "numeric" });
const DAY_AND_YEAR = new Intl.DateTimeFormat("en", { month: "long", day: "numeric", year: "numeric" });
const IN_FULL = new Intl.DateTimeFormat("en", { dateStyle: "full", timeStyle: "long", hourCycle: "h23" });

function counted(number, noun, plural = `${noun}s`) {
  return `${NUMBER.format(number)} ${number === 1 ? noun : plural}`;
}

function unitOf(seconds) {
  return UNITS.find(([least]) => seconds >= least) ?? UNITS.at(-1);
}

function lasting(seconds) {
  const [, size, noun] = unitOf(seconds);
  return counted(Math.max(0, Math.floor(seconds / size)), noun);
}

/** Return a duration as short as a cell of a table: `45 s`, `12 min`, `5 h`, `3 d`. */
function brief(seconds) {
  const [, size, , unit] = unitOf(seconds);
  return `${NUMBER.format(Math.max(0, Math.floor(seconds / size)))} ${unit}`;
}

function secondsSince(instant) {
  return (now() - new Date(instant)) / 1000;
}

function ago(instant) {
  if (instant === null) return "never";
  const seconds = secondsSince(instant);
  return seconds >= 1 ? `${lasting(seconds)} ago` : "just now";
}

function ahead(instant) {
  const seconds = -secondsSince(instant);
  return seconds >= 1 ? `in ${lasting(seconds)}` : "now";
}

/** Return an instant as a time of day, with the date if it is not today. */
function clock(instant, { seconds = false } = {}) {
  const then = new Date(instant);
  const isToday = then.toDateString() === now().toDateString();
  if (isToday) return (seconds ? CLOCK_IN_SECONDS : CLOCK).format(then);
  return (seconds ? DATED_IN_SECONDS : DATED).format(then);
}

/** Return the day of an instant, with the year if it is not this one. */
function day(instant) {
  const then = new Date(instant);
  return (then.getFullYear() === now().getFullYear() ? DAY : DAY_AND_YEAR).format(then);
}

function inFull(instant) {
  return IN_FULL.format(new Date(instant));
}

const UTC = /(?:(\d{4}-\d{2}-\d{2}) )?(\d{2}:\d{2})(:\d{2})? UTC/g;

/** Return a sentence of the daemon's with its times in the reader's zone; those without a date are of the day of `at`. */
function localized(text, at = now()) {
  return text.replace(UTC, (_, date, time, seconds) => {
    const onDay = date ?? new Date(at).toISOString().slice(0, 10);
    return clock(`${onDay}T${time}${seconds ?? ":00"}Z`, { seconds: seconds !== undefined });
  });
}

/** Return a rate per second: a whole number, or with one more digit if it is small. */
function perSecond(rate) {
  return (rate < 10 ? SMALL : WHOLE).format(rate);
}

function capitalized(words) {
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Shorten a long text in its middle: ids differ at their ends. */
function shortened(text, length) {
  const head = Math.floor((length - 1) / 2);
  return text.length <= length ? text : `${text.slice(0, head)}…${text.slice(head + 1 - length)}`;
}

function inWords(tag) {
  return tag.replaceAll("_", " ");
}

function zoneInWords() {
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  const parts = new Intl.DateTimeFormat("en", { timeZoneName: "shortOffset" }).formatToParts();
  return `Times are in ${timeZone} (${parts.find((part) => part.type === "timeZoneName").value}).`;
}
