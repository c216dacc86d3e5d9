"""The command `dit`: one table of verbs, each imported when it is called, and one way to report an error."""

import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

from vae.training.signals import SIGNALS, Noted, Stopped, raising

VERBS = {  # words -> (module, what it does)
    "sample": ("dit.sample", "PROMPT…   videos from text, or from text and an image"),
    "label": ("dit.label", "FILE…   what a picture or video says of itself: that a model made it"),
    "export": ("dit.export", "MODEL --out FOLDER   a model as a folder that diffusers loads"),
    "train": ("dit.train", "CONFIG   train a transformer"),
    "dashboard": ("dit.runs.dashboard", "RUN…   runs on one HTML page: curves, cost, settings, samples"),
    "card": ("dit.runs.card", "RUN   a model card of what the run's own files say"),
    "scaling": (
        "dit.runs.scaling",
        "RUN…   a law of loss in size, data and compute, and a forecast kept before the run",
    ),
    "vae train": ("vae.train", "CONFIG   train an autoencoder"),
    "vae encode": ("dit.encode", "MANIFEST --out CACHE   encode clips and captions once, to train on"),
    "vae compare": ("eval.autoencoders", "A B … --data PATH   autoencoders on the same clips, side by side"),
    "vae stats": ("vae.stats", "AUTOENCODER --data MANIFEST   measure mean and std of its latents"),
    "data index": ("vae.data.index", "FOLDER   a manifest of a folder's videos, images and captions"),
    "data ucf101": ("vae.data.ucf101", "ROOT --lists LISTS   a manifest of UCF-101 by its official lists"),
    "data msrvtt": ("vae.data.msrvtt", "ROOT   a manifest of MSR-VTT by its official annotations"),
    "data cut": ("vae.curation.cut", "MANIFEST   files into shots and spans, without encoding anything"),
    "data filter": ("vae.curation.filter", "MANIFEST --rules FILE   measure clips, and reject some by rules"),
    "data dedup": (
        "vae.curation.dedup",
        "MANIFEST --against OTHER…   reject copies, and leaks of held-out videos",
    ),
    "data caption": ("dit.caption", "MANIFEST --by MODEL   captions by a vision-language model"),
    "data audit": ("dit.audit", "MANIFEST   a page to judge captions on, and a data card"),
    "data check": ("vae.cache.check", "CACHE   verify every shard of a latent cache"),
    "eval shapes": ("eval.shapes", "score a model on the drawn world with the exact judge"),
    "eval fvd": ("eval.fvd", "--real PATH --fake PATH --protocol NAME   Frechet video distance"),
    "eval mmd": ("eval.mmd", "--real PATH --fake PATH --protocol NAME   kernel distances: KVD, JEDi, CMMD"),
    "eval clipsim": ("eval.clipsim", "--videos FOLDER --prompts FILE   how well videos show their prompts"),
    "eval is": ("eval.inception", "--videos FOLDER   Inception score of videos of UCF-101's classes"),
    "eval dimensions": (
        "eval.dimensions",
        "--videos FOLDER   flicker, motion and more, as VBench names them",
    ),
    "eval reconstruction": ("eval.reconstruction", "--real PATH --fake PATH   PSNR, SSIM and LPIPS of pairs"),
    "eval run": ("eval.benchmark", "JOB --model FOLDER   sample UCF-101's or MSR-VTT's prompts, then score"),
    "eval arena": ("eval.arena", "A B …   a page on which people judge models' videos; --count VOTES"),
    "eval compare": ("eval.compare", "A.json B.json …   scores of one protocol in a table"),
    "eval report": (
        "eval.report.several",
        "A.json B.json … --out PAGE.html   scores side by side, with videos",
    ),
    "eval protocols": ("eval.protocols", "[NAME]   what a score means"),
    "eval weights": ("eval.weights", "which networks scores need, and whether yours are the right ones"),
    "bench vae": ("dit.bench.autoencoder", "time and memory of encoding and decoding, beside diffusers"),
    "bench eval": ("eval.bench", "time scoring, beside bare networks and plain distances"),
    "bench": ("dit.bench.transformer", "time training and sampling, beside diffusers"),
    "doctor": ("dit.doctor", "what is installed, what works here, and what is missing"),
}
ELSEWHERE = {  # what other projects call a verb
    "sample": "generate gen infer inference predict demo",
    "label": "identify metadata info watermark c2pa",
    "export": "convert",
    "train": "fit finetune fine-tune pretrain",
    "vae encode": "precompute preprocess cache",
    "data index": "prepare dataset manifest",
    "eval run": "score evaluate benchmark test",
    "eval arena": "elo vote human preference",
    "eval dimensions": "vbench",
    "doctor": "env info",
}
OUTPUT = "standard output"
LONGEST_WORD, LONGEST_SENTENCE = 300, 1500  # characters of an error that are shown
OURS = ("configs", "samplers", "vae", "dit", "eval")  # a module of ours that is missing, no user can mend
USAGE = """dit: train, sample and score video diffusion transformers

{verbs}

dit VERB --help lists every setting of a verb; --debug with any verb shows the traceback of an error.
To start: dit sample "a red circle moves left\""""


def _usage(verbs: Iterable[str] = ()) -> str:
    """The verbs, a line each; or some of them."""
    width = max(map(len, VERBS)) + 2
    shown = {verb: VERBS[verb] for verb in verbs or VERBS}
    return USAGE.format(verbs="\n".join(f"  dit {verb:{width}}{text}" for verb, (_, text) in shown.items()))


def run(words: list[str]) -> int:
    """Runs a verb and returns the exit status: 0, 1 after an error told in one line, 2 for wrong usage.

    Of work that a signal stopped it is 128 and the signal's number, 130, 143 or 129 for Ctrl-C, SIGTERM and
    SIGHUP: the same command goes on.
    """
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        from dit import __version__

        print(f"dit {__version__}")
        return 0
    for verb, (module, _) in VERBS.items():
        count = len(verb.split())
        if words[:count] == verb.split():
            return guarded(module, verb, words[count:], debug)
    groups = [verb for verb in VERBS if verb.startswith(words[0] + " ")]
    if groups and words[1:] in (["-h"], ["--help"], ["help"]):
        print(_usage(groups))
        return 0
    if groups:
        print(f"dit {words[0]}: which? " + ", ".join(f"dit {verb}" for verb in groups), file=sys.stderr)
    else:
        import difflib

        meant = [v for v in VERBS if words[0] in (v.split()[-1], *ELSEWHERE.get(v, "").split())]
        close = difflib.get_close_matches(words[0], [verb.split()[0] for verb in VERBS], n=1)
        near = " or ".join(f"dit {verb}" for verb in meant or close)
        hint = f"did you mean {near}?" if near else "dit --help lists the verbs"
        print(f"dit: no verb {_shortened(repr(words[0]), LONGEST_WORD)}; {hint}", file=sys.stderr)
    return 2


def guarded(module: str, verb: str, arguments: list[str], debug: bool) -> int:
    """Runs a verb's `main`; what the user did wrong becomes one sentence on stderr."""
    try:
        with Noted() as signals:  # one that is raised within the imports of others may be lost there
            main = importlib.import_module(module).main
        if signals.number:
            raise Stopped(signals.number)
        with raising():
            main(arguments)
            _flush()
    except (ValueError, OSError, ModuleNotFoundError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and error.filename in (None, OUTPUT):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1  # whoever read it, as `head` does, has seen enough
        ours = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in OURS
        of_memory = importlib.import_module("vae.training.files").out_of_memory
        alone = isinstance(error, RuntimeError) and "Connection closed by peer" in str(error)
        if debug or ours or (isinstance(error, RuntimeError) and not of_memory(error) and not alone):
            raise
        _say(f"dit {verb}: {sentence(error)}")
        return 1
    except KeyboardInterrupt as stopped:
        if said := "; ".join(
            filter(None, [*(stopped.args or ["stopped"]), *getattr(stopped, "__notes__", [])])
        ):
            _say(f"\ndit {verb}: {said}")
        return getattr(stopped, "status", 128 + signal.SIGINT)
    return 0


def _say(text: str) -> None:
    """Says why work ended on stderr: once, where a launcher's processes all say the same."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or importlib.import_module("vae.training.processes").first_to_say(text):
        print(text, file=sys.stderr)


def _flush() -> None:
    """Has all that was printed out; an error names standard output, which then takes nothing more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OSError(error.errno, error.strerror, OUTPUT) from None


def sentence(error: Exception) -> str:
    """What an error says and what its notes say is kept, in one line.

    Each word and all have an end, as what is foreign may not.
    """
    text = "; ".join(filter(None, [_said(error), *getattr(error, "__notes__", [])]))
    words = [_shortened(word, LONGEST_WORD) for word in printable(text).split()]
    return _shortened(" ".join(words), LONGEST_SENTENCE)


def printable(text: str) -> str:
    """A text with what steers a terminal, turns its direction or is no UTF-8 as escapes; newlines stay."""
    return "".join(c if c.isprintable() or c in " \n" else c.encode("unicode_escape").decode() for c in text)


def _shortened(text: str, most: int) -> str:
    """A text, or its beginning and end with how long it is."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}… ({len(text):,} characters) …{text[-most // 4 :]}"


def _said(error: Exception) -> str:
    """What an error says."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if "Connection closed by peer" in str(error):
        return "another process of this run ended, and what it said stands above"
    if isinstance(error, MemoryError | RuntimeError):
        return f"too little memory ({str(error).strip().split(chr(10))[0][:200] or 'of this machine'})"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"this needs the package {error.name}, which is not installed (dit doctor says what is missing)"
        )
    return str(error)


def run_module(verb: str) -> None:
    """What `python -m` of a verb's module runs."""
    _exit([*verb.split(), *sys.argv[1:]])


def main() -> None:
    """The console script."""
    _exit(sys.argv[1:])


def _exit(words: list[str]) -> None:
    """Runs a verb as the whole of this process, and ends it."""
    _open_streams()
    status = run(words)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # nothing is left to do: a signal now ends it without a word
    sys.exit(status)


def _open_streams() -> None:
    """Gives streams that the shell closed to /dev/null, and lets work go on whose words nobody reads.

    Without it the next file that is opened takes a closed stream's number, and what is printed goes there.
    """
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdin, sys.stdout = sys.stdin or os.fdopen(0), sys.stdout or os.fdopen(1, "w")
    stderr = io.BufferedWriter(_Heedless(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(stderr, "utf-8", "backslashreplace", line_buffering=True)


class _Heedless(io.FileIO):
    """A stream whose reader may go, as a terminal does at a hang-up: what is then written is dropped."""

    def write(self, data) -> int:
        """Writes, or does as if."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


if __name__ == "__main__":
    main()
