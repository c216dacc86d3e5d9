"""Clips as videos that play inside a page: few, short, small, and together no more than a page may hold."""

import base64
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from configs.load import from_json
from configs.protocol import ClipChoice, Protocol, load_protocols, protocol_names
from eval.clips import Clip, Source, choose_clips, open_sources, read_clip, video_of
from vae.data.label import POSSIBLY
from vae.data.video import UnreadableVideo, to_video
from vae.data.write import write_video

SIDE = 192  # pixels of the longer side
MOST_FRAMES = 48
MOST_BYTES = 10 << 20  # of all videos of a page, as text of base64
RATE = 8.0  # frames a second of what is pictures, which have no rate


@dataclass(frozen=True)
class Shown:
    """A clip that a page is to show: what is said of it, its folder, its name there, which side it is of.

    A clip of a copy is at the place of its original's, in the folder of `copies_of`.
    """

    label: str
    folder: str
    name: str
    side: str = "fake"
    copies_of: str = ""


@dataclass
class Shelf:
    """What a page has room for: the bytes that are left, and the videos of the folders it has looked into."""

    left: int = MOST_BYTES
    without: int = 0
    folders: dict[tuple[str, ...], dict[str, Source]] = field(default_factory=dict)

    def names(self, folder: str) -> list[str]:
        """The names of a folder's videos, sorted; none of saved features, or of no folder."""
        return list(self._sources(folder, None, ""))

    def _sources(self, folder: str, protocol: Protocol | None, copies_of: str) -> dict[str, Source]:
        """A folder's videos by their names, with keys as the protocol's list or their originals give them."""
        if not folder or folder.endswith(".safetensors"):
            return {}
        key = folder, copies_of, getattr(protocol, "list_sha256", "")
        if key not in self.folders:
            opened = open_sources(folder, protocol, copies_of)
            self.folders[key] = {source.name: source for source in opened}
        return self.folders[key]

    def video(self, shown: Shown, choice: ClipChoice) -> str:
        """A protocol's clip, an mp4 as a `data:` address; empty where there is none, or no room."""
        source = self._sources(shown.folder, choice, shown.copies_of).get(video_of(shown.name, choice))
        if not source:
            return ""
        try:
            stride = getattr(choice, f"{shown.side}_stride", choice.fake_stride)
            clip, rate = _clip_of(source, choice.of_side(shown.side), stride, shown.name)
            data = _encoded(_fitted(to_video(read_clip(clip))), rate)
        except UnreadableVideo:
            return ""
        address = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
        if len(address) > self.left:
            self.without += 1
            return ""
        self.left -= len(address)
        return address


@dataclass(frozen=True, kw_only=True)
class _Choice(ClipChoice):
    """What a protocol that is none of ours says of both sides' clips."""

    real_stride: int = 1


def choice_of(protocol: dict, where: str) -> ClipChoice:
    """The protocol that a score names, if it has all these fields so, else what they say of clips alone.

    Raises ValueError, which begins with `where`, for fields that no protocol has so.
    """
    known = None
    if protocol.get("name") in protocol_names():
        known = load_protocols(protocol["name"]).get(protocol.get("metric", ""))
    if isinstance(known, ClipChoice) and asdict(known) == protocol:
        return known
    said = {name: protocol[name] for name in _Choice.__dataclass_fields__ if name in protocol}
    # What has no protocol, as reconstructions have none, is compared frame by frame.
    return from_json(_Choice, said or {"frames": 0, "start": "first"}, where)


def _clip_of(source: Source, choice: ClipChoice, stride: int, name: str) -> tuple[Clip, float]:
    """The beginning of the clip of this name of a video, and its rate; raises UnreadableVideo."""
    clips, passed = choose_clips([source], choice, 0, stride)
    named = [clip for clip in clips if clip.source.name == name]
    if not named:
        raise UnreadableVideo(passed.get(source.name, f"{source.path} has no clip {name}"))
    known = named[0].source.known
    return replace(named[0], frames=named[0].frames[:MOST_FRAMES]), known.fps / stride if known else RATE


def _fitted(video_CTHW: Tensor) -> Tensor:
    """A video whose longer side is at most SIDE; a small one grows by a whole factor, pixel by pixel."""
    longer = max(video_CTHW.shape[2:])
    if longer <= SIDE:
        factor = SIDE // longer
        return video_CTHW.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    size = [max(2, round(side * SIDE / longer)) for side in video_CTHW.shape[2:]]
    frames = torch.nn.functional.interpolate(
        video_CTHW.transpose(0, 1), size, mode="bilinear", antialias=True
    )
    return frames.transpose(0, 1)


def _encoded(video_CTHW: Tensor, rate: float) -> bytes:
    """A video as an mp4's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        write_video(file, video_CTHW, rate, {}, POSSIBLY)
        return file.read_bytes()
