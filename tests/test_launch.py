"""Files that launch runs parse, and so does every command in them and in the docstrings of runs."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from torch.distributed.run import get_args_parser

from configs.load import FOLDER, names, parse, parse_run
from configs.train import TransformerRun
from dit.cli import VERBS
from dit.encode import EncodeSettings
from dit.runs.estimate import PlanSettings
from eval.benchmark import JOBS
from vae.data.msrvtt import MsrvttSettings
from vae.data.ucf101 import Ucf101Settings

LAUNCH = FOLDER.parent / "launch"
SHELLS = sorted(file for file in LAUNCH.iterdir() if file.suffix in (".sh", ".sbatch"))
SETTINGS = {"vae encode": EncodeSettings, "data ucf101": Ucf101Settings, "data msrvtt": MsrvttSettings}
RECIPES = sorted(
    file for file in FOLDER.glob("*.py") if file.stem.startswith(("ladder", "ucf", "msrvtt", "wan_"))
)
VALUES = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "first": "node"}


def launched(text: str) -> Iterator[list[str]]:
    """The words after `torchrun` of every command of a shell's text, with values for its variables."""
    text = re.sub(r"\s*\\\n\s*", " ", text)
    for line in text.splitlines():
        if found := re.match(r"^\s*(?:exec |srun )?torchrun (.*)", line):
            words = found[1].replace('"$@"', "").split("&&")[0]
            yield shlex.split(re.sub(r"\$(\w+)", lambda name: VALUES[name[1]], words))


def check_launch(words: list[str]) -> tuple:
    """Parses the words of a launch by PyTorch's parser and ours; returns its own and the run."""
    made = get_args_parser().parse_args(words)
    assert made.module and made.training_script in {module for module, _ in VERBS.values()}
    return made, check_train(made.training_script_args)


def check_train(words: list[str]) -> TransformerRun:
    """Parses what `dit train` is given, `--plan` and its settings too."""
    if "--plan" in words:
        at = words.index("--plan")
        parse(PlanSettings, words[at + 1 :], "plan")
        words = words[:at]
    return parse_run(TransformerRun, words, "dit train")


@pytest.mark.parametrize("file", SHELLS, ids=lambda file: file.name)
def test_a_script_parses_and_launches_a_run(file):
    subprocess.run(["bash", "-n", file], check=True)
    (words,) = launched(file.read_text())
    check_launch(words)


def test_slurm_starts_one_launcher_on_each_machine():
    text = (LAUNCH / "slurm.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    made, run = check_launch(next(launched(text)))
    assert asked["ntasks-per-node"] == "1" and asked["nodes"] == VALUES["SLURM_NNODES"] == made.nnodes
    assert made.rdzv_backend == "c10d" and made.rdzv_endpoint == "node:29500"
    assert run.parallel.shard == "hybrid"


def test_kubernetes_has_as_many_pods_as_the_launcher_waits_for():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    torchrun, *words = container["command"]
    made, run = check_launch(words)
    assert torchrun == "torchrun" and int(made.nnodes) == spec["completions"] == spec["parallelism"]
    name = job["metadata"]["name"]
    assert spec["completionMode"] == "Indexed", "which gives pods the names that the launcher meets at"
    assert made.rdzv_endpoint.split(":")[0] == f"{name}-0.{service['metadata']['name']}"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name} and service["spec"]["clusterIP"] == "None"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert run.parallel.shard == "hybrid"


def test_skypilot_launches_a_run():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert re.fullmatch(r"\w+:\d+", task["resources"]["accelerators"]) and task["num_nodes"] == 1
    (words,) = launched(task["run"])
    check_launch(words)


def test_every_file_of_the_folder_is_tested():
    assert {file.name for file in LAUNCH.iterdir()} == {
        *(file.name for file in SHELLS),
        *("kubernetes.yaml", "skypilot.yaml"),
    }


@pytest.mark.parametrize("file", [f for f in RECIPES if "coder" not in f.stem], ids=lambda file: file.stem)
def test_the_commands_of_a_recipe_parse(file):
    """Those of its docstring, by the settings of their verbs."""
    text = re.sub(r"\s*\\\n\s*", " ", ast.get_docstring(ast.parse(file.read_text())))
    commands = [line for line in text.splitlines() if re.match(r"(dit|torchrun) ", line)]
    assert commands
    for line in commands:
        words = shlex.split(line)
        if words[0] == "torchrun":
            check_launch(words[1:])
            continue
        verb = next(verb for verb in VERBS if f"{line} ".startswith(f"dit {verb} "))
        rest = words[1 + len(verb.split()) :]
        if verb == "train":
            check_train(rest)
        elif verb == "eval run":
            assert rest[0] in JOBS
        else:
            parse(SETTINGS[verb], rest, f"dit {verb}")


@pytest.mark.parametrize("file", [f for f in RECIPES if f.stem in ("msrvtt", "ucf101", "wan_1b", "wan_5b")])
def test_the_cache_of_a_recipe_is_the_one_that_it_trains_on(file):
    """`dit vae encode` of its docstring makes the clips that its settings ask for, where it reads them."""
    text = re.sub(r"\s*\\\n\s*", " ", ast.get_docstring(ast.parse(file.read_text())))
    (line,) = re.findall(r"^dit vae encode (.*)$", text, re.MULTILINE)
    made = parse(EncodeSettings, shlex.split(line), "dit vae encode")
    run = parse_run(TransformerRun, [file.stem], "dit train")
    assert made.out == run.data.source
    for name in ("frames", "size", "fps", "clips_per_file"):
        assert getattr(made.data, name) == getattr(run.data, name), name
    assert made.text.padded == run.text.padded
    if run.text.folder:
        assert made.text.max_tokens == run.text.max_tokens


def test_names_of_plans_are_no_names_of_runs():
    """`dit train NAME --plan --gpus 8`: each word is of one of them."""
    assert {name for name in names(PlanSettings)} & {*names(TransformerRun)} == {"help"}
