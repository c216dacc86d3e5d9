"""The door to models that write: a vision-language model of transformers, an address that speaks OpenAI's
protocol, or any function; each takes prompts with frames or without, and gives texts."""

import base64
import http.client
import importlib
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch

from vae.training.files import read_text

Writer = Callable[[Sequence[str], Sequence[numpy.ndarray | None]], list[str]]
TRIES, PATIENCE = 4, 120.0  # of a request, and seconds that one may take
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)  # answers after which it is asked again


def load_writer(name: str, model: str, key_file: str, tokens: int, device: str) -> tuple[Writer, str]:
    """What writes, and its name as an origin: `model NAME`.

    `name` is a folder of transformers, an address (http…/v1), or MODULE:FUNCTION, a function of two lists,
    prompts and frames T H W 3 of bytes or None, that returns as many texts. Raises ValueError for another.
    """
    if name.startswith(("http://", "https://")):
        if not model:
            raise ValueError(f"{name}: which of its models writes? --model NAME")
        key = read_text(Path(key_file)).strip() if key_file else ""
        return _address(name.rstrip("/"), model, key, tokens), f"model {model}"
    if Path(name).is_dir():
        return _pretrained(Path(name), tokens, device), f"model {model or Path(name).resolve().name}"
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"{name}: give a folder of transformers, an address, or MODULE:FUNCTION")
    try:
        return getattr(importlib.import_module(module), function), f"model {model or name}"
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{name}: there is no such function ({error})") from None


def _pretrained(folder: Path, tokens: int, device: str) -> Writer:
    """A vision-language model of transformers from a folder: safetensors, and no code of the folder's own."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{folder} holds no vision-language model of transformers: {error}") from None
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"{folder}: its processor has no chat template, by which a model is asked")
    processor.tokenizer.padding_side = "left"
    network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def write(prompts: Sequence[str], videos: Sequence[numpy.ndarray | None]) -> list[str]:
        talks = [
            [{"role": "user", "content": [*_images(frames), {"type": "text", "text": prompt}]}]
            for prompt, frames in zip(prompts, videos, strict=True)
        ]
        inputs = processor.apply_chat_template(
            talks,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(device)
        ids = network.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return write


def _images(frames: numpy.ndarray | None) -> list[dict]:
    """The frames as the parts of a message that transformers takes."""
    from PIL import Image

    return [
        {"type": "image", "image": Image.fromarray(frame)} for frame in ([] if frames is None else frames)
    ]


def _address(address: str, model: str, key: str, tokens: int) -> Writer:
    """A model behind an address that has OpenAI's `chat/completions`; the prompts of a call are asked at
    once."""

    def ask(prompt: str, frames: numpy.ndarray | None) -> str:
        images = [
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + _jpeg(frame)}}
            for frame in ([] if frames is None else frames)
        ]
        body = {"model": model, "max_tokens": tokens, "temperature": 0.0}
        body["messages"] = [{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}]
        return _post(f"{address}/chat/completions", body, key)

    def write(prompts: Sequence[str], videos: Sequence[numpy.ndarray | None]) -> list[str]:
        with ThreadPoolExecutor(max(1, len(prompts))) as pool:
            return list(pool.map(ask, prompts, videos))

    return write


def _post(address: str, body: dict, key: str) -> str:
    """What a model answers; raises ValueError where it does not, after some tries."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")  # for this host alone
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return _words(address, answer.read())
        except urllib.error.HTTPError as error:
            why, passing = (
                f"status {error.code}: {error.read(300).decode(errors='replace')}",
                error.code in PASSING,
            )
        except http.client.InvalidURL as error:
            why, passing = str(error), False
        except (OSError, http.client.HTTPException) as error:
            why, passing = str(getattr(error, "reason", error)) or type(error).__name__, True
        if not passing:
            break
        if attempt + 1 < TRIES:
            time.sleep(0.5 * 2**attempt)
    raise ValueError(f"{address} does not answer: {why}")


def _words(address: str, answer: bytes) -> str:
    """The text in an answer; raises ValueError for another answer."""
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ValueError(f"{address} does not answer as OpenAI's chat/completions: {answer[:200]!r}")
    return text


def _jpeg(frame: numpy.ndarray) -> str:
    """A frame as JPEG in base 64."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode()
