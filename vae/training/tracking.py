"""A run's rows and sheets in TensorBoard, wandb or trackio, beside its own log, by accelerate's trackers."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from vae.training.files import read_json, write_json
from vae.training.folder import flat
from vae.training.log import PROJECT, is_number, read_log

KNOWN = "trackers.json"  # by what name each tracker knows the run
SPEED = {"model_flops", "mfu", "waited", "goodput", "seconds_left", "peak_memory"}


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError where the package of a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"--train.tracker {name} needs the package {name}: pip install -e '.[{name}]'")


class Trackers:
    """What a run's rows and pictures also go to; of the main process alone. `log.jsonl` stays the truth.

    TensorBoard forgets the rows of steps after the checkpoint; wandb takes no step twice, and trackio is not
    told one twice. One that is new to a run gets the rows so far. One that cannot begin raises ValueError
    where the run begins; from where it fails later on, the run says so and goes on without it.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, settings: dict, step: int, say: Callable[[str], None]
    ):
        self.folder, self.say, self.open = folder, say, {}
        self.had: dict[str, set] = {}  # the rows after the checkpoint that each was told before
        file, values = folder / KNOWN, flat(settings)
        known = read_json(file) if step and file.is_file() else {}
        for name in dict.fromkeys(names):
            key = known.get(name) or uuid4().hex[:8]
            try:
                tracker = TRACKERS[name](folder, key, values, step)
                tracker.start()
                DESCRIBED[name](tracker, values)
            except Exception as error:  # whatever another's package and network raise
                sentence = f"--train.tracker {name} cannot begin: {_one_line(error)}"
                if not step:
                    raise ValueError(sentence) from None
                say(f"{sentence}; the run goes on without it")
                continue
            self.open[name], self.had[name] = tracker, set()
            for row in read_log(folder / "log.jsonl"):
                if row["step"] <= step and name not in known:
                    self._tell(name, row)
                elif row["step"] > step and name in known and name == "trackio":
                    self.had[name].add(_which(row))
            write_json(file, known := known | {name: key})

    def add(self, row: dict) -> None:
        """Tells every tracker a row of the log."""
        for name in list(self.open):
            if _which(row) not in self.had[name]:
                self._tell(name, row)

    def add_sheets(self, step: int) -> None:
        """Shows the sheets of a step to those that have pictures."""
        for sheet in sorted(self.folder.glob(f"*-{step:06d}.png")):
            for name in self.open.keys() & SHOW.keys():
                self._call(name, lambda tracker, name=name, sheet=sheet: SHOW[name](tracker, sheet, step))

    def close(self) -> None:
        """Ends them, which may wait until all is sent."""
        for name in list(self.open):
            self._call(name, lambda tracker: tracker.finish())
        self.open.clear()

    def _tell(self, name: str, row: dict) -> None:
        """Tells one tracker a row."""
        self._call(name, lambda tracker: tracker.log(grouped(row), step=row["step"]))

    def _call(self, name: str, work: Callable) -> None:
        """Has a tracker do something, where it has not failed before."""
        if name not in self.open:
            return
        try:
            work(self.open[name])
        except Exception as error:  # whatever another's package and network raise
            del self.open[name]
            self.say(f"{name} fails, the run goes on without it: {_one_line(error)}")


def grouped(row: dict) -> dict[str, float | str]:
    """A row's figures and words by the names that trackers draw in groups, as `train/loss`."""
    rest = "event" if "event" in row else "train" if "loss" in row else "validation"
    result: dict[str, float | str] = {}
    for key, value in row.items():
        if key in ("step", "time"):
            continue
        group = "speed" if key in SPEED or key.endswith("_per_second") else rest
        if is_number(value) and value == value:
            result[f"{group}/{key}"] = value
        elif rest == "event":
            result[f"{group}/{key}"] = value if isinstance(value, str) else ", ".join(map(str, value))
    return result


def _which(row: dict) -> tuple:
    """What tells a row from others of its step."""
    return row["step"], "loss" in row, row.get("event")


def _one_line(error: Exception) -> str:
    """An error in a line."""
    return " ".join(str(error).split()) or repr(error)


def _tensorboard(folder: Path, key: str, values: dict, step: int):
    """In the run's folder, where what is of later steps is hidden."""
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", folder, purge_step=step + 1)


def _describe_tensorboard(tracker, values: dict) -> None:
    """Writes the settings into its file; accelerate's own way writes other runs beside it, at every start."""
    from torch.utils.tensorboard.summary import hparams

    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
    for part in hparams(plain, {}):
        tracker.tracker.file_writer.add_summary(part)


def _wandb(folder: Path, key: str, values: dict, step: int):
    """With the same id at every start; project and entity are those of WANDB_PROJECT and WANDB_ENTITY."""
    from accelerate.tracking import WandBTracker

    project, name = os.environ.get("WANDB_PROJECT", PROJECT), folder.resolve().name
    return WandBTracker(project, name=name, id=key, resume="allow", dir=str(folder))


def _trackio(folder: Path, key: str, values: dict, step: int):
    """With the same name at every start, which is all that trackio knows a run by."""
    from accelerate.tracking import TrackioTracker

    name = f"{folder.resolve().name}-{key}"
    return TrackioTracker(PROJECT, name=name, resume="allow", config=values)


def _pixels(sheet: Path):
    """A sheet's pixels, H W C."""
    import numpy
    from PIL import Image

    with Image.open(sheet, formats=["PNG"]) as image:
        return numpy.asarray(image.convert("RGB"))


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
DESCRIBED = {  # how each is told the settings
    "tensorboard": _describe_tensorboard,
    "wandb": lambda tracker, values: tracker.store_init_configuration(values),
    "trackio": lambda tracker, values: None,  # as it is opened
}
SHOW = {  # how each is shown a sheet, if it has pictures
    "tensorboard": lambda tracker, sheet, step: tracker.log_images(
        {sheet.stem.split("-")[0]: _pixels(sheet)[None]}, step, dataformats="NHWC"
    ),
    "wandb": lambda tracker, sheet, step: tracker.log_images(
        {sheet.stem.split("-")[0]: [_pixels(sheet)]}, step
    ),
}
