"""A score as one HTML page that opens offline: stamps, card, plots, classes, pictures, a line for a paper."""

import base64
import io
import tempfile
from pathlib import Path

from configs.protocol import published
from eval.clips import Clip, read_clip
from eval.networks.certify import SMOKE
from eval.scoring import is_seeded
from vae.data.sheets import contact_sheet
from vae.data.video import UnreadableVideo, to_video

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 60em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em }
h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse }
td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top }
td, th, h1, h2, p { overflow-wrap: anywhere }
td:first-child { min-width: 8em }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
code { font-size: .9em }
img { max-width: 100% }
.stamp { background: #b00020; color: #fff; padding: .4em .8em; font-weight: 600; margin: .3em 0 }
</style>
</head>
<body>
{% macro table(rows, head=()) %}
<table>
{% if head %}<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>{% endif %}
{% for row in rows %}
<tr><td>{{ row[0] }}</td>{% for cell in row[1:] %}<td><code>{{ cell | plain }}</code></td>{% endfor %}</tr>
{% endfor %}
</table>
{% endmacro %}
<h1>{{ title }}</h1>
{% for stamp in result.stamps %}
<p class="stamp">{{ stamp }}</p>
{% endfor %}
{{ table(facts) }}
<h2>For a paper</h2>
<pre>{{ paper }}</pre>
{% for heading, image in images %}
<h2>{{ heading }}</h2>
<img src="{{ image }}" alt="{{ heading }}">
{% endfor %}
{% if classes %}
<h2>By class, the farthest first</h2>
{{ table(classes, ("class", "distance", "clips")) }}
{% endif %}
{% for side in ("real", "fake") %}
<h2>The {{ side }} side</h2>
{{ table(result[side].items() | rejectattr(0, "equalto", "passed_over")) }}
{% if result[side].get("passed_over") %}
<h2>Passed over on the {{ side }} side</h2>
{{ table(result[side].passed_over.items()) }}
{% endif %}
{% endfor %}
<h2>The protocol</h2>
{{ table(result.protocol.items()) }}
</body>
</html>
"""


def markdown(result: dict) -> str:
    """The score as a Markdown table, with the published values of the same protocol, each with its source."""
    about = result["protocol"]
    ends = result["interval"]
    spread = f" ({ends['low']:.2f} to {ends['high']:.2f})" if ends else ""
    stamps = f" [{'; '.join(result['stamps'])}]" if result["stamps"] else ""
    lines = [
        f"| model | {result['metric'].upper()}, {about['name']} {result['protocol_sha256'][:12]} | source |",
        "|---|---|---|",
        f"| this | {result['value']:.2f}{spread}{stamps} | {result['real']['clips']} real, "
        f"{result['fake']['clips']} generated clips |",
    ]
    rows = published(about["name"], about["metric"])
    return "\n".join(lines + [f"| {model} | {value:g} | {source} |" for model, value, source in rows])


def page(result: dict, pictures: dict[str, bytes]) -> str:
    """The page, all of it inside; `pictures` are JPEGs by their titles."""
    from jinja2 import Environment, StrictUndefined

    value, ends, near = result["value"], result["interval"], result["nearest"]
    spread = f", 95 % interval {ends['low']:.2f} to {ends['high']:.2f}" if ends else ""
    name = f"{SMOKE}: distance" if is_seeded(result["stamps"]) else result["metric"].upper()
    facts = [("protocol", result["protocol"]["name"]), ("its SHA-256", result["protocol_sha256"])]
    facts += [("weights", result["weights"]), ("device", result["device"]), ("torch", result["torch"])]
    endless = f"{result['infinity']['value']:.2f}" if result["infinity"] else "too few clips to say"
    facts.append(("with infinitely many clips", endless))
    if result["panel"]:
        chance = result["panel"]["floor"]
        facts.append(
            ("real against other real clips", f"{chance['value']:.2f}, of {plain(chance['clips'])} clips")
        )
    if result["motion"]:
        of = f"of {result['motion']['clips']} clips a side"
        for part, values in result["motion"]["apart"].items():
            facts.append((f"{part}, {of}", f"{values['frechet']:.2f}, KVD {values['kernel']:.3f}"))
        for how, value in result["motion"]["itself"].items():
            facts.append((f"real against itself, {how}, {of}", f"{value:.2f}"))
    facts.append(("generated nearer to a real clip than 99 % of real ones are", f"{near['closer']:.1%}"))
    facts.append(("generated with the features of a real clip", near["same"]))
    facts.append(("median distance to the nearest real clip", f"{near['median']:.3f}"))
    facts.append(("of real clips to each other", f"{near['median_among_real']:.3f}"))
    images = [
        (heading, f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
        for kind, drawn in {"png": plots(result), "jpeg": pictures}.items()
        for heading, data in drawn.items()
    ]
    farthest = sorted(result["classes"].items(), key=lambda item: -item[1]["value"])
    classes = [(kind, f"{row['value']:.2f}", row["clips"]) for kind, row in farthest]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    about = {"title": f"{name} {value:.2f}{spread}", "paper": markdown(result), "result": result}
    return environment.from_string(PAGE).render(about, facts=facts, images=images, classes=classes)


def plain(value) -> str:
    """A list or a dict in words; anything else as it is."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {count}" for key, count in value.items()) or "-"
    return (", ".join(map(str, value)) or "-") if isinstance(value, list | tuple) else str(value)


def plots(result: dict) -> dict[str, bytes]:
    """PNGs of what can be drawn: the line to infinitely many clips, and the panel beside the score."""
    from matplotlib.figure import Figure

    drawn = {}
    if result["infinity"]:
        line = result["infinity"]
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        inverse = [1 / size for size in line["sizes"]]
        axes.plot(inverse, line["values"], "o")
        ends = [0, max(inverse)]
        axes.plot(ends, [line["value"] + line["slope"] * end for end in ends])
        axes.set_xlabel("1 / number of clips")
        axes.set_ylabel("score")
        drawn["Over the number of clips"] = _as_png(figure)
    if result["motion"]:
        bars = {name: values["frechet"] for name, values in result["motion"]["apart"].items()}
        bars |= {f"real, {how}": value for how, value in result["motion"]["itself"].items()}
        figure = Figure(figsize=(6, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.barh(list(bars), list(bars.values()))
        axes.invert_yaxis()
        axes.set_xlabel(f"distance of {result['motion']['clips']} clips a side")
        drawn["Content and motion"] = _as_png(figure)
    return drawn


def _as_png(figure) -> bytes:
    """A figure's PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def pair_sheet(pairs: list[dict], fake: dict[str, Clip], real: dict[str, Clip]) -> bytes:
    """A JPEG of generated clips, each above the real one nearest to it; empty where none can be read."""
    from PIL import Image

    videos, captions = [], []
    for pair in pairs:
        try:
            both = [
                to_video(read_clip(side[pair[which]])) for which, side in (("fake", fake), ("real", real))
            ]
        except (UnreadableVideo, KeyError):
            continue
        videos += both
        captions += [
            f"generated {pair['fake']}",
            f"nearest real {pair['real']}, distance {pair['distance']:.3f}",
        ]
    if not videos:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sheet.png"
        contact_sheet(videos, captions, file, side=96)
        buffer = io.BytesIO()
        Image.open(file, formats=["PNG"]).convert("RGB").save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
