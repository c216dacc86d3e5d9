"""How fast random clips of a latent cache are read, beside decoding the same clips of their video files.

python -m tests.bench.cache [FOLDER] [--size SIDE]

FOLDER is a folder of videos; without one, 24 are drawn that are as large and long as UCF-101's: 320 x 240,
160 frames, 25 a second. Clips have 17 frames at 8 a second; the autoencoder has Wan's latents (4x8x8, 16
channels) and random weights of small width, as reading does not depend on them. The sides take the same draws
of the same training data in turn, in one process on one thread, from files that the system has in memory.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from configs.data import DataConfig
from configs.load import to_json
from configs.model import AutoencoderConfig
from dit.encode import EncodeSettings, encode
from vae.cache.clips import SAMPLING, open_cached
from vae.cache.index import load_cache
from vae.data.clips import VideoFiles, clip_of, open_data
from vae.data.drawn_world import draw, random_scene
from vae.data.index import IndexSettings, index
from vae.data.video import read_frames
from vae.data.write import write_video
from vae.load import load_autoencoder
from vae.model import Autoencoder
from vae.training.seeds import generator
from vae.training.weights import save_weights

DRAWS, FILES = 200, 24
SMALL = AutoencoderConfig(
    base_width=4, decoder_base_width=4, width_multipliers=(1, 1, 1, 1), residual_blocks=1
)


def seconds(work: Callable) -> tuple[float, float]:
    """Wall-clock and CPU seconds of some work, those of ffmpeg's processes included."""
    before, spent = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - before, sum(os.times()[:4]) - spent


def draw_videos(folder: Path) -> Path:
    """Writes scenes of the drawn world with grain, so that they are no easier to decode than real ones."""
    for k in range(FILES):
        video = draw(random_scene(0, k, "train"), 160, 240, 320)
        grain = torch.randn(video.shape, generator=generator(0, "grain", k))
        write_video(folder / f"{k}.mp4", (video + 0.03 * grain).clamp(-1, 1), 25, {})
    return folder


class Decoded(VideoFiles):
    """The same draws, whose frames are decoded and left as they are."""

    def content(self, entry, start: float) -> tuple[None, tuple]:
        """Nothing: the frames are dropped."""
        read_frames(entry.path, clip_of(entry, start, self.config, self.compression)[0], entry)
        return None, ()


def times_in_turn(sides: dict[str, VideoFiles]) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each draw on every side, in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(DRAWS):
        for name, data in sides.items():
            times[name].append(seconds(partial(data.__getitem__, number)))
    return times


def main() -> None:
    """Encodes, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", default="")
    parser.add_argument("--size", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        home = Path(name)
        folder = Path(given.folder) if given.folder else draw_videos(home / "videos")
        manifest = index(IndexSettings(str(folder), str(home / "manifest.parquet")))
        weights = home / "autoencoder.safetensors"
        save_weights(weights, Autoencoder(SMALL).state_dict(), "autoencoder", {"model": to_json(SMALL)})
        config = DataConfig(source=str(manifest), size=given.size, clips_per_file=4)
        out = encode(EncodeSettings(str(manifest), str(home / "cache"), str(weights), config))
        model, cache = load_autoencoder(weights), load_cache(out)
        files, _ = open_data(config, 0, 1, model.compression)
        cached, _ = open_cached(cache, replace(config, source=str(out)), 0, 1, model, sample=False)
        decoded = Decoded(config, 0, files.entries, model.compression)
        times = times_in_turn({"decode": decoded, "decode and resize": files, "read": cached})
        clips = {place for file in cache.files for place in file.clips}
        disk = sum(file.stat().st_size for file in out.iterdir()) / len(clips) / 1024
        videos = sum(file.path.stat().st_size for file in cache.files if not file.reason) / len(clips) / 1024
    wall = {name: median(w for w, _ in rows) for name, rows in times.items()}
    total = {name: sum(c for _, c in rows) / DRAWS for name, rows in times.items()}
    made_with = {name: cache.provenance["data"][name] for name in SAMPLING}
    print(f"{len(cache.files)} files, {len(clips)} clips, {made_with}")
    for name in times:
        print(
            f"{name:18} median {1e3 * wall[name]:8.3f} ms ({wall[name] / wall['read']:6.1f} x), "
            f"mean CPU {1e3 * total[name]:8.3f} ms ({total[name] / total['read']:6.1f} x)"
        )
    print(f"on disk {disk:.0f} KiB a clip with the index; the videos {videos:.0f} KiB a clip")


if __name__ == "__main__":
    main()
