// What is under way without a trace in the journal: batches that bring nothing new are only told live.

const HEARD_MS = 30_000; // a batch takes less

const quietBatches = new Map(); // by stream: the latest event

function hearQuiet(event) {
  if (event.status === "progress") quietBatches.set(event.stream, event);
}

/** Give a stream as it is by what was told live since its last entry. */
function asHeard(stream) {
  const event = quietBatches.get(stream.stream);
  if (event === undefined) return stream;
  const heardAt = new Date(event.at);
  const isNewer = stream.updated_at === null || heardAt > new Date(stream.updated_at);
  if (isNewer && stream.sweep === null && now() - heardAt < HEARD_MS) {
    return { ...stream, state: "syncing", next_run_at: null, heard: event.message };
  }
  quietBatches.delete(stream.stream);
  return stream;
}
