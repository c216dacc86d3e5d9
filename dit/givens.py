"""What a video is given beside its prompt: files read, fitted to its size and encoded, each at its place.

A latent frame stands for four frames of the video, the first one for one. So a still image within a video is
given as a latent frame all of whose frames show it, and videos as whole latent frames. What does not begin
the video is encoded after a still of its own first frame, as a causal autoencoder knows latents of four
frames only with something before them; the still's own latent is left out.
"""

from dataclasses import fields

import torch
from torch import Tensor

from configs.data import DataConfig
from configs.sampling import GivenSettings
from dit.condition import Given
from vae.compression import Compression
from vae.data.clips import clip_of
from vae.data.video import how_fitted, probe, read_frames, resize_and_crop, to_video
from vae.interface import VideoAutoencoder
from vae.training.progress import say

FILES = frozenset({"image", "last", "keyframe", "extend", "join", "video", "mask"})  # settings that name them
WHOLE = ("extend", "join", "video")  # videos, of which one alone says how long the video is
LONGEST = 10**5  # frames that a video may have


def check_given(one: GivenSettings, frames: int | None) -> None:
    """Raises ValueError, in one sentence, for what cannot be given together, and for frames of a length that
    what is given says itself."""
    whole = [name for name in WHOLE if getattr(one, name)]
    stills = [name for name in ("image", "last", "keyframe") if getattr(one, name)]
    if len(whole) > 1:
        raise ValueError(f"--{whole[0]} and --{whole[1]} each say which video is given: leave one")
    if whole and stills and not (whole == ["extend"] and stills == ["last"] and not one.before):
        raise ValueError(f"--{stills[0]} has no part beside --{whole[0]}, whose video is given there")
    if whole and frames is not None:
        raise ValueError(f"--{whole[0]} says how long the video is: leave out --frames")
    if frames is not None and one.seconds is not None:
        raise ValueError("--seconds and --frames each say how long the video is: leave one")
    for name, needed in {"before": "extend", "outside": "mask", "mask": "video"}.items():
        if getattr(one, name) and not getattr(one, needed):
            raise ValueError(f"--{name} goes with --{needed}, which is not given")
    if one.strength < 1 and not one.video:
        raise ValueError("--strength goes with --video, which is not given")
    if one.video and not one.mask and one.strength == 1:
        raise ValueError(
            "--video takes --mask, for a part that is made anew, or a --strength below 1, for all of it"
        )
    if one.video and one.seconds is not None:
        raise ValueError("--video says how long the video is: leave out --seconds")
    if whole and whole != ["video"] and one.seconds is None:
        raise ValueError(f"--{whole[0]} takes --seconds, of what is made")
    if one.loop and (one.last or one.before or not (one.image or one.extend)):
        raise ValueError("--loop goes with --image or --extend, whose first frame is the last one too")
    if one.join and len(one.join) != 2:
        raise ValueError(f"--join takes two videos, and {len(one.join)} are given")
    for text in one.keyframe:
        _place_of(text)
    if frames == 1 and stills:
        raise ValueError(f"--frames 1 with --{stills[0]} leaves nothing to sample: the image is the frame")


def _place_of(text: str) -> tuple[str, int]:
    """File and frame of a keyframe, FILE@FRAME; raises ValueError for another text."""
    file, at, frame = text.rpartition("@")
    if not (at and file and frame.isascii() and frame.isdigit()):
        raise ValueError(f"--keyframe {text}: it is FILE@FRAME, as in middle.png@8")
    return file, int(frame)


def frames_given(one: GivenSettings, fps: float, compression: Compression) -> int | None:
    """How many frames a video has by what is given; None where that says nothing."""
    step = compression.step
    made = step * max(1, round((one.seconds or 0) * fps / step))
    if one.extend:
        kept = len(_indices(one.extend, fps, compression, late=not one.before))
        return kept - kept % step + made + 1
    if one.join:
        before, after = (len(_indices(file, fps, compression)) for file in one.join)
        return before + made + after - 1
    if one.video:
        return len(_indices(one.video, fps, compression))
    return None if one.seconds is None else compression.nearest_frames(round(one.seconds * fps))


def read_given(
    autoencoder: VideoAutoencoder, one: GivenSettings, frames: int, height: int, width: int, fps: float
) -> tuple[Given, ...]:
    """What is given in a video of a size and rate; a line says how each file was fitted."""
    compression, givens = autoencoder.compression, []
    keyframes = list(map(_place_of, one.keyframe))
    for file, frame in keyframes:
        if frame >= frames:
            raise ValueError(f"--keyframe {file}@{frame}: the video has frames 0 to {frames - 1}")
    stills = (
        [0] * bool(one.image) + [frame for _, frame in keyframes] + [frames - 1] * bool(one.last or one.loop)
    )
    latent = [-(-frame // compression.step) for frame in stills]  # in which each of them lies
    if keyframes and len({*latent}) < len(latent):
        raise ValueError(
            f"two of the images lie within the same {compression.step} frames, which are one latent frame: "
            f"give frames further apart"
        )

    def still(file: str, frame: int, index: int = 0) -> Given:
        pixels_THWC = _fitted(file, [index], height, width)
        return _span(autoencoder, pixels_THWC if frame == 0 else _held(pixels_THWC, compression), frame)

    def whole(file: str, first: int | None = 0, late: bool = False) -> Given:
        indices = _indices(file, fps, compression, late)
        if first == 0:
            return _span(autoencoder, _fitted(file, indices, height, width), 0)
        indices = indices[:-1]  # as many as whole latent frames hold
        return _span(autoencoder, _fitted(file, indices, height, width), frames - len(indices))

    if one.extend:
        givens.append(whole(one.extend, None) if one.before else whole(one.extend, late=True))
    if one.join:
        givens += [whole(one.join[0], late=True), whole(one.join[1], None)]
    if one.video:
        given = whole(one.video)
        givens += [Given(given.latents_CTHW, strength=one.strength)] * (one.strength < 1)
        if one.mask:
            mask_THW = _tokens_made(one, fps, (frames, height, width), compression)
            givens.append(Given(given.latents_CTHW, mask_THW=~mask_THW))
    if one.image:
        givens.append(still(one.image, 0))
    givens += [still(file, frame) for file, frame in keyframes]
    if last := one.last or (one.image if one.loop else ""):
        givens.append(still(last, frames - 1))
    elif one.loop:
        givens.append(still(one.extend, frames - 1, _indices(one.extend, fps, compression, late=True)[0]))
    return tuple(givens)


def first_image(one: GivenSettings, height: int, width: int) -> Tensor | None:
    """The pixels 1 H W C of the image that is the first frame, to compare the video's with; None for none."""
    return resize_and_crop(read_frames(one.image, [0]), height, width) if one.image else None


def _indices(file: str, fps: float, compression: Compression, late: bool = False) -> list[int]:
    """The frames of a video file at a rate: 1 + 4k, from its first one or, `late`, up to its last one.

    Raises ValueError for a file that is too short.
    """
    entry = probe(file)
    indices, *_ = clip_of(entry, float(late), DataConfig(frames=LONGEST, fps=fps), compression)
    if len(indices) == 1:
        raise ValueError(f"{file} is shorter than {1 + compression.step} frames at {fps:g} frames a second")
    return indices


def _fitted(file: str, indices: list[int], height: int, width: int) -> Tensor:
    """Frames T H W C of a file, fitted to the size, as a line says."""
    frames_THWC = read_frames(file, indices)
    say(f"{file}: {how_fitted(*frames_THWC.shape[1:3], height, width)}")
    return resize_and_crop(frames_THWC, height, width)


def _held(frame_THWC: Tensor, compression: Compression) -> Tensor:
    """A frame for as long as the latent frames of one step last."""
    return frame_THWC.expand(compression.step, -1, -1, -1)


def _span(autoencoder: VideoAutoencoder, frames_THWC: Tensor, frame: int) -> Given:
    """Frames of a video as they are given in it from a frame on, or in the latent frames that has it."""
    compression = autoencoder.compression
    if frame:
        frames_THWC = torch.cat([frames_THWC[:1], frames_THWC])
    video_BCTHW = to_video(frames_THWC)[None].to(autoencoder.latent_mean.device)
    latents_CTHW = autoencoder.encode(video_BCTHW)[0].cpu()
    if not frame:
        return Given(latents_CTHW)
    place = 1 + compression.latent_group * ((frame - 1) // compression.step)
    return Given(latents_CTHW[:, 1:].contiguous(), place)


def _tokens_made(
    one: GivenSettings, fps: float, size: tuple[int, int, int], compression: Compression
) -> Tensor:
    """Which tokens T H W of a video a mask has made anew: those with any pixel of it that is to be.

    Raises ValueError for a mask of none or of all, or one that ends before the video does.
    """
    frames, height, width = size
    indices = [0] * frames
    if probe(one.mask).frames > 1:
        indices = _indices(one.mask, fps, compression)[:frames]
        if len(indices) < frames:
            raise ValueError(f"{one.mask} has {len(indices)} frames, and the video {frames}")
    light_THW = _fitted(one.mask, indices, height, width).float().mean(-1)
    made_THW = ((light_THW > 127.5) ^ one.outside).float()
    first, rest = made_THW[:1], made_THW[1:].unflatten(0, (-1, compression.temporal)).amax(1)
    side = compression.token_side
    made_THW = torch.nn.functional.max_pool2d(torch.cat([first, rest]), side).bool()
    if not made_THW.any() or made_THW.all():
        which = "all" if made_THW.all() else "none"
        raise ValueError(
            f"{one.mask} has {which} of the video made anew: white is what is made, or --outside"
        )
    return made_THW


def given_fields() -> list[str]:
    """The names of the settings of what is given."""
    return [field.name for field in fields(GivenSettings)]
