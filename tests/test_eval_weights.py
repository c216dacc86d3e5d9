"""Proves that weights are certified tensor by tensor, in any file, by what they are, and nothing is run."""

import hashlib
import json
import pickle
import zipfile

import numpy
import pytest
import torch
from safetensors.torch import save_file

import eval.networks.certify
import vae.quality.networks
from dit.cli import run
from eval.networks.c3d import read_c3d
from eval.networks.certify import certified, crc32c, load_i3d, read_tensors
from eval.networks.i3d import seeded_tensors, table
from vae.quality.networks import certify_hash, find_weights


@pytest.fixture(scope="module")
def seeded() -> dict[str, torch.Tensor]:
    return seeded_tensors()


@pytest.fixture
def trusted(seeded, monkeypatch) -> dict[str, torch.Tensor]:
    """The seeded tensors, which the table of checksums says are the right ones."""
    rows = {name: row | {"crc32c": crc32c(seeded[name].numpy())} for name, row in table().items()}
    monkeypatch.setattr(eval.networks.certify, "table", lambda: rows)
    return seeded


def as_pytorch(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Under pytorch-i3d's names and layouts, with the batch norms' ones and counts that it also has."""
    state = {}
    for name, tensor in tensors.items():
        other = table()[name]["pytorch_i3d"]
        state[other] = tensor.permute(4, 3, 0, 1, 2).contiguous() if tensor.dim() == 5 else tensor
        if other.endswith("bn.bias"):
            state[other.replace("bias", "weight")] = torch.ones_like(tensor)
            state[other.replace("bias", "num_batches_tracked")] = torch.tensor(7)
    return state


class Holder(torch.nn.Module):
    """Holds tensors under any name, as a scripted module does."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        for k, tensor in enumerate(tensors.values()):
            self.register_buffer(f"b{k}", tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write(kind: str, tensors: dict[str, torch.Tensor], folder):
    """A weights file of one kind."""
    file = folder / {"safetensors": "i3d.safetensors", "TensorFlow": "variables.data"}.get(kind, "i3d.pt")
    if kind == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    elif kind == "TensorFlow":
        file.write_bytes(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors)))
    elif kind == "TorchScript":
        torch.jit.script(Holder(as_pytorch(tensors))).save(str(file))
    elif kind == "old":
        torch.save(as_pytorch(tensors), file, _use_new_zipfile_serialization=False)
    else:
        torch.save({"epoch": 3, "state_dict": as_pytorch(tensors)}, file)
    return file


@pytest.mark.parametrize("kind", ["safetensors", "TensorFlow", "TorchScript", "state", "old"])
def test_any_file_that_holds_the_tensors_is_certified(kind, trusted, tmp_path, monkeypatch):
    file = write(kind, trusted, tmp_path)
    monkeypatch.setattr(torch.jit, "load", None)  # nothing may run it
    found = certified(read_tensors(file), file)
    assert found.keys() == trusted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in trusted.items())


@pytest.mark.parametrize("kind", ["safetensors", "TensorFlow", "TorchScript", "state"])
def test_the_first_tensor_that_differs_is_named(kind, trusted, tmp_path):
    name = "RGB/inception_i3d/Mixed_4c/Branch_1/Conv3d_0b_3x3/conv_3d/w"
    other = trusted | {name: trusted[name].clone()}
    other[name][0, 1, 2, 3, 4] += 1e-6 * other[name].abs().max()
    file = write(kind, other, tmp_path)
    with pytest.raises(ValueError, match=r"Mixed_4c/Branch_1/Conv3d_0b_3x3/conv_3d/w .*229 of 230") as caught:
        certified(read_tensors(file), file)
    assert ("has other values" in str(caught.value)) == (kind != "TorchScript")  # there, no tensor has a name


def test_the_table_is_that_of_the_published_network():
    """Its 230 rows are those that were read from DeepMind's checkpoint, by their SHA-256."""
    rows = {name: [row["shape"], row["crc32c"], row["pytorch_i3d"]] for name, row in table().items()}
    canonical = json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()
    assert len(rows) == 230
    assert hashlib.sha256(canonical).hexdigest() == (
        "be6aef88e9cfdbd56f2e16087086de2ee0c8c8d4215671acbb0de314a0388941"
    )


def test_seeded_weights_are_never_certified(seeded):
    with pytest.raises(ValueError, match="0 of 230 are right"):
        certified({name: tensor.numpy() for name, tensor in seeded.items()}, "seeded")


def test_the_checksum_is_castagnoli_s():
    assert crc32c(numpy.frombuffer(b"12345678", "<f4")) == 0x6087809A


def test_objects_in_a_file_are_never_built(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise AssertionError('it was run')",))

    torch.save({"a": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match=r"trap\.pt cannot be read as weights"):
        read_tensors(tmp_path / "trap.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"a": Trap()}, protocol=2))
    with pytest.raises(ValueError, match=r"bare\.pt cannot be read as weights"):
        read_tensors(tmp_path / "bare.pt")
    with zipfile.ZipFile(tmp_path / "empty.pt", "w") as archive:
        archive.writestr("archive/code/__torch__.py", "raise AssertionError")
    assert read_tensors(tmp_path / "empty.pt") == {}


def test_weights_are_looked_for_in_order(trusted, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("DIT_I3D", raising=False)
    with pytest.raises(
        ValueError,
        match="FVD needs the weights of i3d, and there are none: name the file on the command line",
    ):
        find_weights("i3d")
    (tmp_path / "cache" / "dit-lab").mkdir(parents=True)
    usual = write("safetensors", trusted, tmp_path / "cache" / "dit-lab")
    assert find_weights("i3d") == usual
    (tmp_path / "own").mkdir()
    own = write("TensorFlow", trusted, tmp_path / "own")
    monkeypatch.setenv("DIT_I3D", str(own))
    assert find_weights("i3d") == own and find_weights("i3d", str(usual)) == usual
    assert load_i3d(1e-3)[1] == load_i3d(1e-3, str(usual))[1]  # the hash is the tensors', not the file's
    assert run(["eval", "weights"]) == 0
    assert f"found: {own}\n  certified: all 230 tensors" in capsys.readouterr().out
    monkeypatch.setenv("DIT_I3D", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="nowhere: no such file"):
        find_weights("i3d")


def test_an_error_names_the_metric_that_asks(tmp_path, monkeypatch, capsys):
    for name in ("DIT_I3D", "DIT_CLIP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(vae.quality.networks, "folders", lambda: [tmp_path / "nowhere"])
    both = ["--real", str(tmp_path), "--fake", str(tmp_path)]
    assert run(["eval", "mmd", *both, "--protocol", "kvd-tats"]) == 1
    assert capsys.readouterr().err.startswith("dit eval mmd: KVD needs the weights of i3d")
    assert run(["eval", "fvd", *both, "--protocol", "fvd-google"]) == 1
    assert capsys.readouterr().err.startswith("dit eval fvd: FVD needs the weights of i3d")
    with pytest.raises(ValueError, match=r"^CLIPSIM or background consistency needs the weights of clip"):
        find_weights("clip")


def test_of_the_hub_s_snapshots_the_one_of_its_main_branch_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DIT_CLIP", raising=False)
    folder = tmp_path / "hub" / "models--openai--clip-vit-base-patch32"
    for name in ("aaa", "bbb"):
        (folder / "snapshots" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"clip is there 2 times, \S+aaa, \S+bbb: set DIT_CLIP"):
        find_weights("clip")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("aaa\n")
    assert find_weights("clip") == folder / "snapshots" / "aaa"


def test_a_pointer_in_place_of_a_network_is_told(tmp_path):
    file = tmp_path / "x.npz"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for read in (
        read_tensors,
        lambda file: read_c3d(file, file),
        lambda file: certify_hash("lpips-alex-heads", file),
    ):
        with pytest.raises(ValueError, match=r"is a pointer of Git LFS, not the weights"):
            read(file)
