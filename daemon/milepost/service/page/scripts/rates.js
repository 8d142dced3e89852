// How fast a stream is read: the difference between recent samples of its sweep.

const WINDOW_MS = 15_000;

const samples = new Map(); // by stream: {at, sweep, conversations}, the oldest first

function sample(stream, at) {
  const { sweep } = stream;
  if (sweep === null) {
    samples.delete(stream.stream);
    return;
  }
  const taken = samples.get(stream.stream) ?? [];
  const same = taken.filter((each) => each.sweep === sweep.walk_started_at);
  const recent = same.filter((each, index) => index === same.length - 1 || at - each.at <= WINDOW_MS);
  samples.set(stream.stream, [...recent, { at, sweep: sweep.walk_started_at, conversations: sweep.conversations }]);
}

/** Return the conversations per second; null if there are too few samples. */
function rateOf(stream) {
  const taken = samples.get(stream.stream);
  if (taken === undefined || taken.length < 2) return null;
  const [first, last] = [taken[0], taken.at(-1)];
  return last.at > first.at ? (1000 * (last.conversations - first.conversations)) / (last.at - first.at) : null;
}
