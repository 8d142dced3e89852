"""Other processes that write to the streams of a simulated one, whether they may or not."""

from datetime import timedelta

from kit.builders import CODEC
from kit.invariants import RIVAL, Reading, is_refused
from kit.simulation_setting import Setting, settled
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.commands import PauseStream, ResumeStream, StreamCommand, SyncNow, decide_command
from milepost.core.errors import VersionConflict
from milepost.core.model import Known, Stream
from milepost.core.plan import Fetch, RunBudget, open_sweep, plan, with_head_first
from milepost.core.ports import Committed, Fetched
from milepost.core.records import Context, Record, prepare, recover


class Rivals:
    """Writes to a stream behind the back of the process that works it."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._remembered: dict[Stream, Checkpoint] = {}

    def write(self, stream: Stream) -> int | None:
        """Write something; return the stream's new version, or None if nothing was written."""
        checkpoint = self._setting.snapshot(stream)
        remembered = self._remembered.setdefault(stream, checkpoint)
        match self._setting.random.randrange(3):
            case 0 if remembered.version != checkpoint.version:
                del self._remembered[stream]
                return self._work(stream, remembered)
            case 1:
                return self._command(stream, checkpoint)
            case 2 if checkpoint.run is not None and checkpoint.run.ended_at is None:
                return self._take_over(stream, checkpoint)
            case _:
                return None

    def _command(self, stream: Stream, checkpoint: Checkpoint) -> int | None:
        """Record a command that an operator gave to another process."""
        budget = self._budget()
        command: StreamCommand = SyncNow(RIVAL)
        if self._setting.random.random() < 0.5:
            is_paused = checkpoint.operator_pause is not None
            command = ResumeStream(RIVAL) if is_paused else PauseStream(RIVAL)
        record = decide_command(checkpoint, command, budget)
        self._setting.invariants.disturbed(stream, "another process wrote of the stream")
        return None if record is None else self._commit(stream, checkpoint, record, budget.run_id)

    def _take_over(self, stream: Stream, checkpoint: Checkpoint) -> int | None:
        """Take the process that works the stream for dead: close its run, and read the next batch in a new run."""
        record = recover(checkpoint)
        assert record is not None
        assert checkpoint.run is not None
        version = self._commit(stream, checkpoint, record, checkpoint.run.run_id)
        self._setting.invariants.disturbed(stream, "another process took the stream over")
        return self._work(stream, self._setting.snapshot(stream)) or version

    def _work(self, stream: Stream, checkpoint: Checkpoint) -> int | None:
        """Read a batch and commit it, as a process would that takes `checkpoint` for the stream's latest."""
        setting, budget = self._setting, self._budget()
        action = plan(checkpoint, setting.now, budget, setting.scenario.policy)
        if not isinstance(action, Fetch):
            return None
        sent_at, asked_at = setting.world.now, setting.now
        outcome = setting.dated(setting.world.inboxes[stream].answer(action.request), asked_at)
        context = Context(setting.now, setting.random.random(), budget, setting.scenario.policy)
        pending = setting.decides(checkpoint, outcome, context)
        decision = pending.record(Known() if pending.keys is None else settled(setting.store.known(pending.keys)))
        if isinstance(decision, BatchUnchanged):
            return None
        sweep = open_sweep(with_head_first(checkpoint, budget), budget)
        is_read = isinstance(outcome, Fetched) and not is_refused(decision)
        if isinstance(outcome, Fetched) and is_read and checkpoint.version == setting.snapshot(stream).version:
            setting.invariants.batch_fetched(Reading(stream, sweep, outcome, sent_at, budget))
        return self._commit(stream, checkpoint, decision, budget.run_id)

    def _commit(self, stream: Stream, checkpoint: Checkpoint, record: Record, run_id: str) -> int | None:
        commit = prepare(checkpoint, record, run_id, self._setting.now, CODEC)
        try:
            answer = settled(self._setting.commit(stream, commit))
        except VersionConflict:
            self._setting.invariants.seen["a second writer was refused"] += 1
            return None
        return commit.checkpoint.version if isinstance(answer, Committed) else None

    def _budget(self) -> RunBudget:
        now, draw = self._setting.now, self._setting.random.random()
        return RunBudget(f"{RIVAL} {draw}", now, now + timedelta(hours=1), max_batches=10)
