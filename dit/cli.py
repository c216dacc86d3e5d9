"""The command `dit`: one table of verbs, each imported when it is called, and one way to report an error."""

import importlib
import os
import sys
from collections.abc import Iterable

VERBS = {  # words -> (module, what it does)
    "sample": ("dit.sample", "PROMPT…   videos from text, or from text and an image"),
    "export": ("dit.export", "MODEL --out FOLDER   a model as a folder that diffusers loads"),
    "train": ("dit.train", "CONFIG   train a transformer"),
    "vae train": ("vae.train", "CONFIG   train an autoencoder"),
    "vae encode": ("dit.encode", "MANIFEST --out CACHE   encode clips and captions once, to train on"),
    "vae compare": ("eval.autoencoders", "A B … --data PATH   autoencoders on the same clips, side by side"),
    "vae stats": ("vae.stats", "AUTOENCODER --data MANIFEST   measure mean and std of its latents"),
    "data index": ("vae.data.index", "FOLDER   a manifest of a folder's videos, images and captions"),
    "data ucf101": ("vae.data.ucf101", "ROOT --lists LISTS   a manifest of UCF-101 by its official lists"),
    "data msrvtt": ("vae.data.msrvtt", "ROOT   a manifest of MSR-VTT by its official annotations"),
    "data check": ("vae.cache.check", "CACHE   verify every shard of a latent cache"),
    "eval shapes": ("eval.shapes", "score a model on the drawn world with the exact judge"),
    "eval fvd": ("eval.fvd", "--real PATH --fake PATH --protocol NAME   Frechet video distance"),
    "eval clipsim": ("eval.clipsim", "--videos FOLDER --prompts FILE   how well videos show their prompts"),
    "eval is": ("eval.inception", "--videos FOLDER   Inception score of videos of UCF-101's classes"),
    "eval reconstruction": ("eval.reconstruction", "--real PATH --fake PATH   PSNR, SSIM and LPIPS of pairs"),
    "eval run": ("eval.benchmark", "JOB --model FOLDER   sample UCF-101's or MSR-VTT's prompts, then score"),
    "eval compare": ("eval.compare", "A.json B.json …   scores of one protocol in a table"),
    "eval protocols": ("eval.protocols", "[NAME]   what a score means"),
    "eval weights": ("eval.weights", "which networks scores need, and whether yours are the right ones"),
    "bench vae": ("dit.bench.autoencoder", "time and memory of encoding and decoding, beside diffusers"),
    "bench eval": ("eval.bench", "time scoring, beside its bare network and scipy's square root"),
    "bench": ("dit.bench.transformer", "time training and sampling, beside diffusers"),
    "doctor": ("dit.doctor", "what is installed, what works here, and what is missing"),
}
ELSEWHERE = {  # what other projects call a verb
    "sample": "generate gen infer inference predict demo",
    "export": "convert",
    "train": "fit finetune fine-tune pretrain",
    "vae encode": "precompute preprocess cache",
    "data index": "prepare dataset manifest",
    "eval run": "score evaluate benchmark test",
    "doctor": "env info",
}
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
    """Runs a verb and returns the exit status: 0, 1 after an error told in one line, 2 for wrong usage."""
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
        print(f"dit: no verb {words[0]!r}; {hint}", file=sys.stderr)
    return 2


def guarded(module: str, verb: str, arguments: list[str], debug: bool) -> int:
    """Runs a verb's `main`; what the user did wrong becomes one sentence on stderr."""
    try:
        importlib.import_module(module).main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if debug or (isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in OURS):
            raise
        print(f"dit {verb}: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndit {verb}: stopped", file=sys.stderr)
        return 130
    return 0


def sentence(error: Exception) -> str:
    """What an error says, in one line of which each word and all have an end, as what is foreign may not."""
    words = [_shortened(word, LONGEST_WORD) for word in printable(_text_of(error)).split()]
    return _shortened(" ".join(words), LONGEST_SENTENCE)


def printable(text: str) -> str:
    """A text with what steers a terminal, turns its direction or is no UTF-8 as escapes; newlines stay."""
    return "".join(c if c.isprintable() or c in " \n" else c.encode("unicode_escape").decode() for c in text)


def _shortened(text: str, most: int) -> str:
    """A text, or its beginning and end with how long it is."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}… ({len(text):,} characters) …{text[-most // 4 :]}"


def _text_of(error: Exception) -> str:
    """What an error says."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"this needs the package {error.name}, which is not installed (dit doctor says what is missing)"
        )
    return str(error)


def run_module(verb: str) -> None:
    """What `python -m` of a verb's module runs."""
    sys.exit(run([*verb.split(), *sys.argv[1:]]))


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
