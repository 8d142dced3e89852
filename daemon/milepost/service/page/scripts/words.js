// Numbers, durations and instants in words. Instants come as ISO 8601 in UTC, and are shown in the reader's zone.

const UNITS = [[2 * 86400, 86400, "day"], [100 * 60, 3600, "hour"], [100, 60, "minute"], [0, 1, "second"]];

function counted(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
}

function lasting(seconds) {
  const [, size, noun] = UNITS.find(([least]) => seconds >= least) ?? UNITS.at(-1);
  return counted(Math.max(0, Math.floor(seconds / size)), noun);
}

function ago(instant) {
  if (instant === null) return "never";
  const seconds = (now() - new Date(instant)) / 1000;
  return seconds >= 1 ? `${lasting(seconds)} ago` : "just now";
}

function ahead(instant) {
  const seconds = (new Date(instant) - now()) / 1000;
  return seconds >= 1 ? `in ${lasting(seconds)}` : "now";
}

/** Return an instant as a time of day, with the date if it is not today. */
function clock(instant, { seconds = false } = {}) {
  const then = new Date(instant);
  const time = { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined, hourCycle: "h23" };
  const isToday = then.toDateString() === now().toDateString();
  const day = { month: "short", day: "numeric" };
  return isToday ? then.toLocaleTimeString("en", time) : then.toLocaleString("en", { ...time, ...day });
}

function inFull(instant) {
  return new Date(instant).toLocaleString("en", { dateStyle: "full", timeStyle: "long", hourCycle: "h23" });
}

/** Return a rate per second: a whole number, or with one more digit if it is small. */
function perSecond(rate) {
  return rate.toLocaleString("en", { maximumFractionDigits: rate < 10 ? 1 : 0 });
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
