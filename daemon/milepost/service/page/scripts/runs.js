// The last runs of a stream as bars: as high as they took long, in the tone of how they ended.

const RUNS_SHOWN = 20;
const RUN_HEIGHT = 64;
const RUN_TONES = {
  running: "working", complete: "done", complete_with_errors: "warning", paused: "waiting", failed: "warning",
  stopped: "stopped", interrupted: "warning",
};

function secondsOf(run) {
  const end = run.ended_at === null ? now() : new Date(run.ended_at);
  return Math.max(0, (end - new Date(run.started_at)) / 1000);
}

function runInWords(run) {
  const read = run.inserted + run.updated + run.unchanged;
  const took = run.ended_at === null && run.status !== "running" ? "" : `, ${brief(secondsOf(run))}`;
  const failed = run.failed_batches > 0 ? `, ${run.failed_batches} failed` : "";
  return `${clock(run.started_at)}: ${inWords(run.status)}${took}, ${counted(read, "conversation")}, ${run.inserted} new${failed}`;
}

/** Draw runs, given newest first. */
function showRuns(figure, runs) {
  if (!isNews(figure, runs.map((run) => [run.run_id, run.status, run.batches]))) return;
  const most = Math.max(1, ...runs.map(secondsOf));
  const oldestFirst = [...runs].reverse();
  const bars = oldestFirst.map((run, index) => {
    const height = Math.max(4, (secondsOf(run) / most) * (RUN_HEIGHT - 4));
    const x = (RUNS_SHOWN - runs.length + index) * 15;
    const size = { x, y: RUN_HEIGHT - height, width: 12, height, rx: 1.5, "data-tone": RUN_TONES[run.status] ?? "idle" };
    const bar = shape("rect", size);
    bar.append(shape("title", {}, runInWords(run)));
    return bar;
  });
  const svg = figure.querySelector("svg");
  svg.toggleAttribute("hidden", runs.length === 0);
  figure.querySelector("details").hidden = runs.length === 0;
  svg.setAttribute("viewBox", `0 0 ${RUNS_SHOWN * 15} ${RUN_HEIGHT}`);
  svg.replaceChildren(...bars);
  const failed = runs.filter((run) => ["failed", "stopped", "interrupted"].includes(run.status)).length;
  const summary = `${counted(runs.length, "run")}, ${failed} of them failed; the longest took ${brief(most)}`;
  svg.setAttribute("aria-label", summary);
  setText(figure.querySelector("figcaption"), runs.length === 0 ? "No runs yet." : `${summary}.`);
  figure.querySelector("ol").replaceChildren(...runs.map((run) => element("li", runInWords(run))));
}
