"""A training run from its first line to its last: processes, folder, steps, log and checkpoints."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from configs.load import to_json
from vae.training.branch import Origin, in_words, origin_of, taken, told
from vae.training.checkpoints import (
    check_optimizer,
    checkpoints,
    finished_step,
    is_sharded,
    newest_sound,
    read_facts,
    step_of,
    tensors_of,
    wrong_with,
)
from vae.training.device import number, on_cpu, own_device
from vae.training.files import naming
from vae.training.folder import check_own, locked, open_run
from vae.training.log import Log, add_start, draw_curve, live_line, opening, read_log, resources, speeds
from vae.training.processes import PATIENCE, check_launched, end_with_launcher, gathered, on_main
from vae.training.saving import Saver
from vae.training.signals import Noted, Stopped
from vae.training.spikes import (
    MOST_BACK,
    Spikes,
    WentBack,
    Wrong,
    described,
    read_passed,
    spike_folder,
    write_passed,
    write_spike,
)
from vae.training.tracking import Trackers, check_trackers
from vae.training.weights import save_weights

READ_EVERY = 5.0  # seconds within which several processes look whether one of them is to stop
MOST_STEPS = 1000  # between two reads: so many steps' clips are known, should one of them end the run


class Session:
    """What every trainer stands on: `with Session(config, kind, weights) as run`. It knows no network.

    A trainer calls `open`, `restore`, `begin`, and loops over `steps`; there it calls `end_step`, then `save`
    and `log` where they are `due`. `config` has `out` (the folder), `train` (LoopConfig), `data.source`, and
    all that a run is made again from. Steps count from 1; `run.step` is the last that ended, `run.stopping`
    says that a signal ended the loop, and the session then ends in Stopped. What is marked "every process"
    waits for all of them.

    The host reads nothing of the device but where a line, a checkpoint or a picture is due; several processes
    read every few seconds too, to see a signal that another had.
    """

    def __init__(self, config, kind: str, weights: str):
        self.config, self.kind, self.loop = config, kind, config.train
        self.folder = Path(config.out)
        self.weights = self.folder / weights
        self.settings, self.facts = to_json(config), {}
        self.started = bool(checkpoints(self.folder))
        self.step, self.loss, self.smoothed, self.stopping = 0, None, None, False
        self.sources: list[str] = []  # of the clips of the newest step that a line was written of
        self.skipped: dict[str, str] = {}  # unreadable files that were said, and why
        self._unnamed: dict[str, str] = {}  # those that this process met since then
        self._log: Log | None = None
        self._batches: Iterator = iter(())
        self._held, self._signals = ExitStack(), ExitStack()
        self._origin: Origin | None = None
        self._entered, self._stepped = time.monotonic(), 0.0  # the start, and seconds in steps since then
        self._begun: dict[str, int] = {}  # optimizers that began anew, and after which step
        self._passed: set[int] = set()  # steps up to the checkpoint that made no update
        self._changed: dict[str, list] = {}  # settings, since the last start
        self._ordered: set[int] = set()  # steps that are to make none
        self._norm: float | None = None  # the gradient's, on the average
        if config.init and config.from_run and kind != "lora":  # whose base is always that of `init`
            raise ValueError("--init and --from-run both say where a run begins: give one of them")

    def __enter__(self) -> "Session":
        from accelerate import Accelerator, InitProcessGroupKwargs

        check_launched()
        check_trackers(self.loop.tracker)
        end_with_launcher()
        self.accelerator = Accelerator(
            cpu=on_cpu(own_device()),
            mixed_precision="bf16" if self.loop.precision == "bf16" else "no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.device, self.main = own_device(self.loop.tf32), self.accelerator.is_main_process
        self.rank, self.ranks = self.accelerator.process_index, self.accelerator.num_processes
        self._saver = Saver(self.device)
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._signals.close()
        if error:
            with suppress(Exception):  # the first error is the one to say
                self._saver.wait_written()
        if self._log:
            self._log.close()
        if isinstance(self._batches, Generator):  # its thread ends with it
            self._batches.close()
        try:
            if error is None:
                self.accelerator.wait_for_everyone()  # none leaves the group while another still works
                self.accelerator.end_training()
            elif self.step and isinstance(error, OSError | MemoryError | RuntimeError):
                kept = checkpoints(self.folder)
                error.add_note(f"{kept[-1].name} is kept, the same command goes on from it" if kept else "")
        finally:
            self._held.close()
        if error is None and self.stopping:  # what a shell is to see, and `&&` to stop at
            raise Stopped(self._signal.number or signal.SIGTERM, "")  # another process had the signal

    def open(self, data: str) -> bool:
        """Locks the folder and writes the settings, or checks them; says whether a step is left to do.

        `data` is the identity of the data. Every process. Raises ValueError naming what differs from the run.
        """

        def write() -> tuple[dict, dict, set[int]]:
            check_own(self.folder)
            self._held.enter_context(locked(self.folder))
            if bool(checkpoints(self.folder)) != self.started:
                raise ValueError(f"another run began {self.folder} meanwhile: give the same command again")
            known = open_run(self.folder, self.kind, self.config, data, came_from)
            return *known, read_passed(self.folder, self.settings, self.started)

        if self.config.from_run and not self.started:
            self._origin = origin_of(self.config, self.kind, data, self.main)
        came_from = self._origin.record if self._origin else None
        self._kept_facts, self._changed, self._ordered = on_main(self.main, write)
        if came_from:
            self.print_once(told(came_from))
        finished = finished_step(self.folder, self.weights, self.loop.steps)
        if finished is not None:
            self.print_once(
                f"{self.folder} is finished at step {finished}: nothing to do (--train.steps makes it longer)"
            )
        return finished is None

    def restore(self, starts: Mapping[str, int] = {}, **parts: Mapping[str, Tensor] | AdamW) -> None:
        """Gives named states the values of the newest checkpoint, where there is one. Every process.

        `starts` names optimizers that begin after a later step than the first. A run that begins from the
        checkpoint of another takes those values, and first writes one of its own. Raises ValueError where a
        fact of the run, such as a frozen network's hash, is not as it was there.
        """
        if self._origin:
            checkpoint = self._origin.checkpoint
            optimizers = [name for name, part in parts.items() if isinstance(part, AdamW)]
            names = taken(checkpoint, parts, optimizers, self.config.from_optimizer)
            if wrong := wrong_with(checkpoint, self.kind, names):
                raise ValueError(f"--from-run {self.config.from_run}: {wrong}")
            facts = read_facts(checkpoint, "model")
            begun = facts.get("begun", {}) | {n: facts["step"] for n in optimizers if n not in names}
        else:
            checkpoint = newest_sound(self.folder, self.kind, parts, self.loop.from_older)
            if checkpoint is None:
                return
            names, facts = list(parts), read_facts(checkpoint, "model")
            begun = facts.get("begun", {})
            for name, value in self.facts.items():
                if facts.get(name) != value:
                    raise ValueError(
                        f"{self.folder} began with other {name.replace('_', ' ')}: bring those back, or give "
                        f"another folder with --out"
                    )
        self.step, self.smoothed, self._begun = facts["step"], facts["smoothed"], begun
        self._norm, self._passed = facts["norm"], set(facts["passed"])
        tensors = tensors_of(parts)
        for name in names:
            self._saver.read(file := checkpoint / f"{name}.safetensors", tensors[name])
            if isinstance(parts[name], AdamW):
                with naming(file):
                    start = starts.get(name, 0)
                    passed = sum(step > max(start, begun.get(name, 0)) for step in self._passed)
                    check_optimizer(parts[name], max(0, self.updates(self.step, name, start)) - passed)
        if self._origin:
            self.save(self.step, **parts)

    def updates(self, step: int, optimizer: str = "optimizer", start: int = 0) -> int:
        """How many updates an optimizer has made with a step, if it begins after step `start`."""
        return step - max(start, self._begun.get(optimizer, 0))

    def begin(self, model: nn.Module, data, held_out, parts: Callable[[], dict], **start) -> None:
        """Opens the log, without the rows of steps after the checkpoint, and says what is about to run.

        `parts` gives the named states that a checkpoint has; `start` is what else `starts.jsonl` keeps of it,
        such as `matmul_peak`, this process's FLOP/s. Every process.
        """
        self._parts = parts
        self._peak = self.sum(start["matmul_peak"]).item() if "matmul_peak" in start else 0.0
        self._first, self._looped = self.step, time.monotonic()
        self._signal = self._signals.enter_context(Noted())
        self._spikes = Spikes(self.loop, self.device, (self.smoothed, self._norm), self._ordered)
        self._begin_window()
        on_main(self.main, self._open_log)
        start |= {"precision": self.loop.precision}
        self.print_once(
            opening(model, data, held_out, self.device, self.ranks, self.step, self.loop.steps, start)
        )
        if self._changed:
            start["changed"] = self._changed
            self.print_once(f"changed since the last start: {', '.join(in_words(self._changed))}")
        if self.main:
            add_start(self.folder, self.step, self.ranks, self.device, start)

    def _open_log(self) -> None:
        """Opens the log, and trackers beside it, which see what of it a checkpoint does not cover."""
        names, say = self.loop.tracker, self.print_once
        self._trackers = Trackers(names, self.folder, self.settings, self.step, say)
        self._held.callback(self._trackers.close)  # when all is written: they may wait for a network
        self._log = Log(self.folder, self.step, self.loop.steps, self._trackers.add)

    def _begin_window(self) -> None:
        """Begins to count anew for the next line of the log."""
        self._window = {"steps": 0, "seconds": 0.0, "waited": 0.0, "amounts": Counter()}

    def steps(
        self, batches: Iterator, clips: Callable = list, named: Callable | None = None
    ) -> Iterator[tuple[int, object]]:
        """Number and batch of every step that is left; ends after the last one, or when a signal asks.

        `clips` gives those of a batch, and `named` what is said of each where a step is wrong.
        """
        self._batches = batches
        self._next_read = self.step + 1
        self._sources: dict[int, list[str]] = {}  # of every step since the last that was read
        self._samples: dict[int, list[str]] = {}  # those in words
        while self.step < self.loop.steps and not self.stopping:
            self._began = time.monotonic()
            batch = next(batches)
            self._window["waited"] += time.monotonic() - self._began
            self._sources[self.step + 1] = [clip.source for clip in clips(batch)]
            self._samples[self.step + 1] = named(batch) if named else self._sources[self.step + 1]
            self._unnamed |= {path: why for clip in clips(batch) for path, why in clip.skipped.items()}
            yield self.step + 1, batch
        self._saver.wait_written()
        self._signals.close()  # signals are the process's own again
        if self._log:
            self._log.close()
        if self.stopping:
            self.print_once(f"stopped at step {self.step}; the same command goes on from there")

    def due(self, what: str, step: int) -> bool:
        """Whether a `log` line, a `save` or a `show` is due after a step."""
        every = {"log": self.loop.log_every, "save": self.loop.save_every, "show": self.loop.show_every}[what]
        if what == "log":
            return step == 1 or step % every == 0 or step == self.loop.steps
        if self.stopping:
            return what == "save"
        return step > 0 and (step % every == 0 or step == self.loop.steps)

    def end_step(self, step: int, amounts: dict[str, float], **terms: Tensor | float) -> bool:
        """Ends a step that was checked; says whether a line of the log was due. Every process.

        `amounts`, what the step took such as `{"tokens": 4096}`, are this process's shares of those of all;
        `terms` are the same in all. Raises ValueError naming the samples of the first step since the last
        line that was wrong, or WentBack, as `train.spike` says.
        """
        # One reduction, of what the processes have each its own of, and the host knows.
        self.step = step
        self._window["steps"] += 1
        self._window["amounts"].update(amounts)
        spent = self._window["seconds"] + time.monotonic() - self._began
        local = (float(self._signal.number > 0), spent, *(self._window["amounts"][name] for name in amounts))
        shares = self.accelerator.reduce(torch.stack([number(value, self.device) for value in local]))

        # One read, where something is due that the host must know.
        due = self.due("log", step)
        if not (due or self._reads(step)):
            self._window["seconds"] += time.monotonic() - self._began
            return False
        tensors = {name: value for name, value in terms.items() if isinstance(value, Tensor)}
        numbers = torch.stack([self._loss, *shares, *(v.double() for v in tensors.values())])
        read = torch.cat([numbers, self._spikes.to_read()]).tolist()
        self.loss, asked, spent, *values = read[: len(numbers)]
        counts, values = values[: len(amounts)], values[len(amounts) :]
        self.smoothed, self._norm, wrong = self._spikes.read(read[len(numbers) :])
        for which, why in wrong.items():
            self._answer(which, why)
        self.stopping = asked > 0 and step < self.loop.steps
        a_step = spent / self.ranks / self._window["steps"]
        self._next_read = step + max(1, int(READ_EVERY / max(a_step, 1e-6)))
        self._window["seconds"] += time.monotonic() - self._began
        if due or self.stopping:
            self._name_skipped()
            self.sources = gathered(self._sources[step])
        if due and self._log:
            seconds = self._window["seconds"]
            row = {"step": step, "loss": self.loss} | (
                {} if self.smoothed is None else {"smoothed": self.smoothed}
            )
            row |= terms | dict(zip(tensors, values, strict=True))
            row |= speeds(dict(zip(amounts, counts, strict=True)), seconds, self._peak)
            now, stepped = time.monotonic(), self._stepped + seconds
            row |= {"waited": self._window["waited"] / seconds, "goodput": stepped / (now - self._entered)}
            a_step = (now - self._looped) / (step - self._first)
            row |= {"seconds_left": a_step * (self.loop.steps - step)} | resources(self.device)
            self._log.add({k: v for k, v in row.items() if v == v})  # NaN says nothing
            self._log.show(step, live_line(row, self.skipped))
        self._sources.clear()
        self._samples.clear()
        if due:
            self._stepped += self._window["seconds"]
            self._begin_window()
        return due

    def _reads(self, step: int) -> bool:
        """Whether the host reads after a step in which no line is due, alike in all processes."""
        asked = self._signal.number > 0 if self.ranks == 1 else step >= self._next_read
        full = len(self._sources) == MOST_STEPS
        return asked or full or self.due("save", step) or self.due("show", step)

    def _name_skipped(self) -> None:
        """Says once of every unreadable file, of whichever process, that it is skipped."""
        for path, reason in dict(gathered(list(self._unnamed.items()))).items():
            if path not in self.skipped:
                self.print_once(f"skipped: {reason}")
            self.skipped[path] = reason
        self._unnamed.clear()

    def check_step(self, step: int, loss: Tensor, *norms: Tensor, signed: bool = False) -> Tensor:
        """Whether a step makes no update, on the device: its loss or gradient is a spike or not finite.

        `loss` is this process's share of that of all, the gradient's `norms` are equal in all. What follows
        from it the next line says. A `signed` loss may fall below 0, and is no spike.
        """
        self._loss = self.accelerator.reduce(loss.detach().double())
        return self._spikes.check(step, self._loss, *norms, signed=signed)

    def _answer(self, step: int, wrong: Wrong) -> None:
        """What follows from a wrong step: a row of the log, or the end of this attempt. Every process."""
        samples = list(dict.fromkeys(gathered(self._samples[step])))
        ordered = step in self._spikes.ordered
        if self.loop.spike == "skip" or ordered:
            row = {"step": step, "event": "went back" if ordered else "skipped", "samples": samples}
            if self._log:
                self._log.add(row | wrong.facts())
            self.print_once(f"{described(step, wrong, samples)}: no update was made")
            self._passed.add(step)
            return
        self._saver.wait_written()  # the newest checkpoint is to count
        kept = on_main(self.main, lambda: [step_of(checkpoint) for checkpoint in checkpoints(self.folder)])
        since = {s for s in self._spikes.ordered if not kept or s > kept[-1]}
        since |= {s for s in self._spikes.ordered if s >= step - MOST_BACK}  # however often it saves
        if self.loop.spike == "back" and len(since) < MOST_BACK:
            on_main(
                self.main, lambda: write_passed(self.folder, self._spikes.ordered | {step}, self.settings)
            )
            where = f"step {kept[-1]}" if kept else "its start"
            raise WentBack(
                f"{described(step, wrong, samples)}: the run goes back to {where}, to pass it over"
            )
        on_main(self.main, lambda: write_spike(self.folder, step, wrong, samples, self.ranks))
        facts = self._all_facts(step - 1)
        self._saver.save(
            spike_folder(self.folder, step), self.kind, tensors_of(self._parts()), self.settings, facts
        )
        self._saver.wait_written()
        again = f", after {len(since)} steps passed over of late" if self.loop.spike == "back" else ""
        advice = f"; dit train {self.folder} --replay {step} says which" if self.kind == "transformer" else ""
        raise ValueError(
            f"{described(step, wrong, samples)}{again}: --train.spike skip goes on without it{advice}"
        )

    def sum(self, value: float) -> Tensor:
        """The sum of a number of each process, on the device."""
        return self.accelerator.reduce(number(value, self.device))

    def save(self, step: int, **parts: Mapping[str, Tensor] | AdamW) -> None:
        """Begins a checkpoint of named states, which appears whole or not at all. Every process calls it.

        The states may change after `wait_copied`; what was wrong with writing, the next save or the end says.
        """
        facts = self._all_facts(step)
        kept = self.loop.save_every * self.loop.keep_every
        self._saver.save(self.folder, self.kind, tensors_of(parts), self.settings, facts, kept)

    def _all_facts(self, step: int) -> dict:
        """What a checkpoint after a step says beside its states."""
        facts = self.facts | self._kept_facts | {"step": step, "smoothed": self.smoothed}
        facts |= {"norm": self._norm, "passed": sorted(self._passed)}
        return facts | ({"begun": self._begun} if self._begun else {})

    def wait_copied(self) -> None:
        """Returns when what is being saved is copied, and may change. Before every update of the states."""
        self._saver.wait_copied()

    def finish(
        self,
        tensors: dict[str, Tensor],
        renamed: Callable[[dict], dict] = dict,
        others: Callable[[dict], dict] = lambda tensors: {},
    ) -> None:
        """Writes the weights that the run ends in, whole ones of sharded states. Every process calls it.

        They may be renamed for their file, whose header then has what `others` says of them.
        """
        whole = {name: x.full_tensor().cpu() if is_sharded(x) else x for name, x in tensors.items()}
        if self.main:
            whole = renamed(whole)
            came_from = {name: value for name, value in self._kept_facts.items() if name == "from"}
            facts = self.facts | came_from | {"step": self.step}
            save_weights(self.weights, whole, self.kind, self.settings, facts, others=others(whole))

    def log(self, row: dict, panels: dict[str, str]) -> None:
        """Appends a row, and draws the curve with a panel for each of the log's keys that it has."""
        if self._log:
            draw_curve(self._log.file, panels, self.folder / "curve.png", row)
            self._trackers.add_sheets(row["step"])
            self._log.add(row)  # the row says that this was done, so it comes last

    @property
    def newest(self) -> dict:
        """The newest row that this process wrote into the log; of the main one alone."""
        return self._log.newest if self._log else {}

    def rows(self) -> Iterator[dict]:
        """The log's rows, read from its file; of the main process alone."""
        return read_log(self._log.file) if self._log else iter(())

    def has_shown(self, key: str) -> bool:
        """Whether the log has a row with this key at the step that the run goes on from. Every process."""
        return on_main(self.main, lambda: any(r["step"] == self.step and key in r for r in self.rows()))

    def print_once(self, text: str) -> None:
        """Prints a line that stays, once for all processes."""
        if self._log:
            self._log.print_once(text)
        elif self.main:
            print(text, file=sys.stderr)
