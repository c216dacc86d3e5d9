"""Proves the house rules: imports run one way, dependencies have one door, all is explained."""

import ast
import contextlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dit.cli import VERBS, run

ROOT = Path(__file__).parent.parent
BELOW = {  # folder -> what it may import of ours
    "configs": {"configs"},
    "samplers": {"samplers", "configs"},
    "vae": {"vae", "configs"},
    "dit": {"dit", "samplers", "vae", "configs"},
    "eval": {"eval", "dit", "samplers", "vae", "configs"},
}
ROOMS = {  # folder of vae -> what of vae it may import
    "vae.training": {"vae.training"},
    "vae.data": {"vae.data", "vae.training", "vae.compression"},
    "vae.curation": {"vae.curation", "vae.data", "vae.training"},
    "vae.quality": {"vae.quality", "vae.training"},
    "vae.cache": {
        "vae.cache",
        "vae.data",
        "vae.training",
        "vae.compression",
        "vae.interface",
        "vae.load",
        "vae.tiles",
    },
}
VIDEO, WRITE = "vae/data/video.py", "vae/data/write.py"
DOORS = {  # dependency -> the only files that may import it
    "decord": {VIDEO},
    "imageio": {WRITE},
    "imageio_ffmpeg": {WRITE},
    "av": {VIDEO},
    "torchcodec": {VIDEO},
    "xformers": {"dit/attention.py"},
    "torchao": {"vae/training/eight_bit.py", "dit/fp8.py"},
    "diffusers": {
        "dit/bench/transformer.py",
        "dit/bench/autoencoder.py",
        "dit/pipelines.py",
        "vae/diffusers_models.py",
    },
    "transformers": {"dit/describe.py", "dit/text.py", "eval/networks/clip.py", "eval/networks/encoder.py"},
    "accelerate": {"vae/training/session.py", "vae/training/tracking.py"},
    "huggingface_hub": {"dit/runs/card.py"},
    "tensorboard": set(),
    "wandb": set(),
    "trackio": set(),
    "scenedetect": {"vae/curation/scenedetect.py"},
    "cv2": set(),
    "tyro": {"configs/load.py"},
    "jinja2": {"dit/page.py"},
    "pydantic": {"configs/load.py"},
    "torchvision": set(),
}
META = {
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "constraints.txt",
}
LATE = {  # what no module imports before it is needed
    *(
        "diffusers",
        "transformers",
        "accelerate",
        "decord",
        "av",
        "imageio",
        "xformers",
        "torchao",
        "scenedetect",
        "matplotlib",
        "pyarrow",
    ),
    *("torchvision", "pandas", "scipy", "skimage", "pydantic", "rich", "jinja2"),
}
OURS = sorted(path for folder in BELOW for path in (ROOT / folder).rglob("*.py"))
READMES = sorted(readme for folder in (*BELOW, "tests") for readme in (ROOT / folder).rglob("README.md"))
TESTS = sorted((ROOT / "tests").glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=name_of)


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a syntax tree imports, at any depth, by statement or by a name given as a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and re.search(r"(import_module|__import__)$", ast.unparse(node.func)):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def top(module: str) -> str:
    return module.split(".")[0]


def without_main_guard(tree: ast.Module) -> ast.Module:
    """The module as others import it: without what runs under `if __name__ == "__main__"`."""
    guard = "__name__ == '__main__'"
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == guard)]
    return ast.Module(kept, [])


def test_an_import_is_seen_wherever_it_stands():
    source = """
import importlib
import os.path as p
def late():
    from eval.judge import judge
    return importlib.import_module("decord")
if __name__ == "__main__":
    from dit.cli import run_module
"""
    tree = ast.parse(source)
    found = {
        "importlib",
        "os.path",
        "eval.judge",
        "eval.judge.judge",
        "decord",
        "dit.cli",
        "dit.cli.run_module",
    }
    assert set(imports(tree)) == found
    assert set(imports(without_main_guard(tree))) == {m for m in found if not m.startswith("dit")}


@each(OURS)
def test_imports_run_one_way(path):
    tree = ast.parse(path.read_text())
    allowed = BELOW[top(name_of(path).replace("/", "."))]
    ours = {module for module in imports(without_main_guard(tree)) if top(module) in {*BELOW, "tests"}}
    assert {module for module in ours if top(module) not in allowed} == set()
    guarded = set(imports(tree)) - set(imports(without_main_guard(tree)))
    assert {m for m in guarded if top(m) in BELOW and top(m) not in allowed} <= {
        "dit.cli",
        "dit.cli.run_module",
    }


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def ours_imported_by(path: Path) -> set[str]:
    """The modules of ours that a file imports, wherever in it, but under its main guard."""
    known = {module_of(other) for other in OURS}
    found = set(imports(without_main_guard(ast.parse(path.read_text())))) & known
    return {module for module in found if not (ROOT / module.replace(".", "/")).is_dir()}


@each([path for path in OURS if name_of(path).startswith("vae/") and name_of(path).count("/") == 2])
def test_a_room_of_vae_imports_what_lies_below_it(path):
    room = ".".join(module_of(path).split(".")[:2])
    below = [module for module in ours_imported_by(path) if top(module) == "vae"]
    assert {m for m in below if not any(f"{m}.".startswith(f"{may}.") for may in ROOMS[room])} == set()


def test_imports_form_no_circle():
    waiting = {module_of(path): ours_imported_by(path) for path in OURS}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert waiting == {}


def test_the_command_line_names_its_verbs_only_by_strings():
    modules = set(imports(ast.parse((ROOT / "dit" / "cli.py").read_text())))
    ours = {module for module in modules if top(module) in BELOW}
    ours = {m for m in ours if not m.startswith("vae.training.signals")}  # of the standard library alone
    when_an_error_has_come = {"vae.training.files", "vae.training.processes"}
    assert ours <= {"dit", "dit.__version__"} | when_an_error_has_come


@each(OURS)
def test_a_heavy_dependency_has_one_door(path):
    used = {top(module) for module in imports(ast.parse(path.read_text()))}
    assert {module for module in used if name_of(path) not in DOORS.get(module, {name_of(path)})} == set()


ASKS = re.compile(  # what asks about a device, or how exact its products are
    r"(.*\bdevice\.type|.*\.(is_cuda|is_cpu|allow_tf32|fp32_precision)|torch\.(cuda|mps|xpu|accelerator)\b.*|"
    r"torch\.backends\.(cuda|cudnn|mps)\b.*|torch\.(autocast|get_device_module|set_float32_matmul_precision)|"
    r"torch\.amp\..*)"
)
DEVICE = "vae/training/device.py"


def asks_about_a_device(source: str) -> set[str]:
    """What of a file asks which device there is, what it can do, or how exact it is."""
    names = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return {name for name in names if ASKS.fullmatch(name)}


@pytest.mark.parametrize(
    "line",
    [
        "x.device.type == 'cpu'",
        "torch.cuda.is_available()",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.backends.fp32_precision = 'tf32'",
        "torch.autocast('cuda')",
        "x.is_cuda",
    ],
)
def test_a_question_about_the_device_is_seen(line):
    assert asks_about_a_device(line)
    assert not asks_about_a_device("x.to(y.device); torch.device('cpu'); model.type")


@each(OURS)
def test_the_device_has_one_door(path):
    if name_of(path) != DEVICE:
        assert asks_about_a_device(path.read_text()) == set()


def opens_any_format(source: str) -> bool:
    """Whether Pillow may take any of its formats somewhere: EPS, whatever its name, starts ghostscript."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    opens = [call for call in calls if re.search(r"\bImage\.open$", ast.unparse(call.func))]
    listed = all("formats" in {keyword.arg for keyword in call.keywords} for call in opens)
    return "PIL.Image.open" in imports(tree) or not listed


def test_every_image_is_opened_with_its_formats_listed():
    assert opens_any_format("PIL.Image.open(file)") and opens_any_format("from PIL.Image import open")
    assert not opens_any_format("Image.open(file, formats=['PNG'])")
    files = [ROOT / name for name in committed() if name.endswith(".py")]
    assert [name_of(path) for path in files if opens_any_format(path.read_text())] == []


WRITES = re.compile(  # what writes pictures and videos, whichever library's
    r".*\b(savefig|imsave|imwrite|mimwrite|mimsave|get_writer|write_video|write_png|write_jpeg|add_stream)|"
    r"(?i:.*(image|picture|sheet|frame|canvas|photo).*\.save)"
)
WRITERS = {  # file -> why it may do what only the one door to labelled files does
    WRITE: "the door, which labels all",
    "dit/describe.py": "frames of the user's own, in memory, to the model that describes them",
    "vae/curation/pictures.py": "footage, which no model of ours made, beside curves of numbers",
    "eval/preprocess.py": "JPEG's loss, in memory, in what a score reads",
    "eval/every.py": "curves of numbers",
    "dit/runs/scaling_picture.py": "curves of numbers",
    "vae/training/log.py": "curves of numbers",
}


def writes_pictures(source: str) -> set[str]:
    """The calls of a file by which a picture or video could be written past the door."""
    tree = ast.parse(source)
    door = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "vae.data.write"
        for alias in node.names
    }
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    codecs = {
        word.value
        for word in ast.walk(tree)
        if isinstance(word, ast.Constant) and word.value in ("libx264", "libx265")
    }
    return {call for call in calls if WRITES.fullmatch(call) and call not in door} | codecs


@pytest.mark.parametrize(
    "line",
    [
        "Image.fromarray(x).save(path)",
        "picture.save(out, 'JPEG')",
        "figure.savefig(path)",
        "imageio.v3.imwrite(path, x)",
        "container.add_stream('h264')",
        "torchvision.io.write_video(path, x)",
        "command(['-c:v', 'libx264'])",
    ],
)
def test_a_writer_of_pictures_is_seen(line):
    assert writes_pictures(line)
    ours = "from vae.data.write import save_picture, write_video\n"
    assert not writes_pictures(ours + "write_video(a, b, 8, {}); save_picture(a, b); run.save(step)")


def test_every_picture_and_video_goes_through_the_door_that_labels_it():
    assert {name_of(path) for path in OURS if writes_pictures(path.read_text())} == WRITERS.keys()


@each(TESTS)
def test_torchvision_is_nowhere(path):
    assert "torchvision" not in {top(module) for module in imports(ast.parse(path.read_text()))}


def test_only_the_verbs_have_a_main():
    mains = {
        name_of(path)
        for path in OURS
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text()).body
        )
    }
    verbs = {module.replace(".", "/") + ".py" for module, _ in VERBS.values()}
    assert mains == verbs | {"dit/cli.py"}


@cache
def committed() -> list[str]:
    """The files of the checkout that git knows, by their paths."""
    try:
        output = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout: what else lies here may be a user's own")
    return [name for name in output.stdout.splitlines() if (ROOT / name).exists()]


def test_the_top_level_holds_the_folders_and_meta_files():
    found = {name for line in committed() if not (name := line.split("/")[0]).startswith(".")}
    assert {*BELOW, "tests"} <= found
    assert found - {*BELOW, "tests"} <= META


def listed(readme: Path) -> set[Path]:
    """The files that a README lists, each at the start of a line; a folder stands for all in it."""
    section = readme.read_text().split("## Files\n")[-1].split("\n## ")[0]
    names = re.findall(r"^(?:- `([^`]+)`: \S|\| `([^`]+)` \|)", section, re.MULTILINE)
    places = {readme.parent / (entry or row) for entry, row in names}
    folders = {place for place in places if place.is_dir()}
    inside = {ROOT / name for name in committed() if folders & {*(ROOT / name).parents}}
    return places - folders | inside


@each(READMES)
def test_a_readme_lists_the_files_of_its_folder(path):
    files = {ROOT / name for name in committed() if not name.endswith("__init__.py")}
    nearest = {file: next((p for p in file.parents if p / "README.md" in READMES), None) for file in files}
    assert listed(path) == {file for file in files - {path} if nearest[file] == path.parent}


def test_every_folder_has_a_readme_or_stands_in_its_parents():
    assert {readme.parent.relative_to(ROOT).as_posix() for readme in READMES} >= {*BELOW, "tests"}
    linked = set(re.findall(r"\]\(([\w/]+/README\.md)\)", (ROOT / "README.md").read_text()))
    assert linked == {name_of(readme) for readme in READMES}


def commands(readme: Path) -> Iterator[tuple[str, list[str]]]:
    """The verb and the flags of every `dit` command in a README, of its blocks and of its sentences."""
    text = readme.read_text().replace("\\\n", " ")
    blocks = [
        line.split("  #")[0]
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    for words in blocks + re.findall(r"`(dit [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        verb = next((verb for verb in VERBS if words.startswith(f"dit {verb} ")), None)
        if verb:
            yield verb, re.findall(r"(?<= )--[\w.-]+", words)


def test_the_flags_in_readmes_are_those_of_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    known: dict[str, str] = {}
    for readme in [ROOT / "README.md", ROOT / "tests" / "bench" / "RESULTS.md", *READMES]:
        for verb, flags in commands(readme):
            if verb not in known:
                with contextlib.suppress(SystemExit):
                    run([*verb.split(), "--help"])
                known[verb] = capsys.readouterr().out
            missing = [flag for flag in flags if not re.search(rf"{flag}(?![\w.-])", known[verb])]
            assert missing == [], f"{name_of(readme)}: dit {verb} has no {missing}"
    assert len(known) > 12


@each(READMES)
def test_a_readme_names_what_the_code_has(path):
    code = "\n".join(file.read_text() for file in OURS + TESTS)
    names = set(re.findall(r"`([A-Za-z]\w*)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)))
    names -= {file.name for file in path.parent.iterdir()}
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()


def is_one_sentence(text: str | None) -> bool:
    """Whether a docstring's first paragraph ends as a sentence does."""
    return bool(text) and text.strip().split("\n\n")[0].rstrip().endswith((".", ":", '"'))


@each([path for path in OURS + TESTS if path.read_text().strip()])
def test_every_file_opens_with_a_sentence(path):
    assert is_one_sentence(ast.get_docstring(ast.parse(path.read_text())))


@each(OURS)
def test_every_public_name_is_explained(path):
    def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_") or node.name == "forward":
                continue  # `forward` is what its class says it is
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{node.name}.")

    found = public(ast.parse(path.read_text()).body)
    assert [name for name, node in found if not ast.get_docstring(node)] == []


@each(OURS + TESTS)
def test_no_absolute_path_and_nothing_left_to_do(path):
    folders = "home|root|tmp|mnt|opt|usr|work|workspace|Users|data|scratch"
    text = path.read_text()
    assert re.findall(rf"[\"'`=( ]/(?:{folders})/\S*", text) == []
    assert re.findall(r"\b(?:" + "TO" + "DO|FIX" + r"ME|X" + r"XX)\b", text) == []


def loaded_by(module: str) -> set[str]:
    """Top-level modules outside the standard library that importing a module loads in a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {top(name) for name in output.stdout.split()} - sys.stdlib_module_names


def test_the_command_line_imports_nothing_but_python():
    assert loaded_by("dit.cli") == {"dit", "vae"}  # of which the latter's folder alone


def test_sampling_with_the_built_in_model_imports_neither_diffusers_nor_transformers(tmp_path):
    code = (
        "import sys; from dit.cli import run; assert run(sys.argv[1:-1]) == 0; "
        "open(sys.argv[-1], 'w').write(' '.join(sys.modules))"
    )
    arguments = ["sample", "a red circle moves left", "--steps", "1", "--out", str(tmp_path / "x.mp4")]
    loaded = tmp_path / "modules.txt"
    subprocess.run([sys.executable, "-c", code, *arguments, str(loaded)], cwd=ROOT, check=True)
    assert not {"diffusers", "transformers", "accelerate"} & set(loaded.read_text().split())
    assert (tmp_path / "x.mp4").is_file()


def test_sampling_imports_nothing_before_it_is_needed():
    loaded = loaded_by("dit.sample")
    assert {"torch", "dit", "samplers", "vae", "configs"} <= loaded
    assert loaded & LATE == set()


@each(OURS)
def test_heavy_imports_wait_until_they_are_needed(path):
    early = {
        top(module)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in imports(node)
    }
    assert early & LATE == set()


@cache
def declared() -> tuple[set[str], set[str]]:
    """The modules of what pyproject.toml asks for: always, and with its extras, which tests may pass over."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distributions = importlib.metadata.packages_distributions()

    def modules(requirements: list[str]) -> set[str]:
        names = {re.match(r"[\w.-]+", line)[0].lower() for line in requirements}
        return {m for m, owners in distributions.items() if names & {owner.lower() for owner in owners}}

    always = modules(project["dependencies"]) | {
        "decord",
        "torchao",
        "scenedetect",
        "xformers",
    }  # not for every machine, behind doors
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    named = {
        re.match(r"[\w-]+", line)[0].replace("-", "_") for line in extras
    }  # also where none is installed
    return always, always | modules(extras) | named


@each(OURS + TESTS)
def test_what_a_file_imports_is_declared(path):
    used = {top(module) for module in imports(ast.parse(path.read_text()))}
    used -= {*sys.stdlib_module_names, *BELOW, "tests"}
    always, for_tests = declared()
    compares = name_of(path) == "eval/bench.py"  # beside what tests compare with
    assert used - (for_tests if compares or path in TESTS else always) == set()


def settings_classes() -> list[ast.ClassDef]:
    """Every dataclass of settings: those of `configs/` but protocols' checks, and of the verbs."""
    found = [
        node for path in OURS for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    ]
    return [node for node in found if node.name.endswith(("Settings", "Config", "Run"))]


def test_every_setting_is_documented_by_the_line_below_it():
    classes = settings_classes()
    assert len(classes) > 25
    for settings in classes:
        (decorator,) = map(ast.unparse, settings.decorator_list)
        assert decorator in ("dataclass(frozen=True)", "dataclass(frozen=True, kw_only=True)")
        fields = [k for k, node in enumerate(settings.body) if isinstance(node, ast.AnnAssign)]
        assert fields, settings.name
        for k in fields:
            field, after = settings.body[k], settings.body[k + 1] if k + 1 < len(settings.body) else None
            where = f"{settings.name}.{field.target.id}"
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), where
            assert isinstance(after.value.value, str) and is_one_sentence(after.value.value), where
            assert "\n" not in after.value.value and after.lineno == field.end_lineno + 1, where
