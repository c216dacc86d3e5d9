"""The drawn world's sentences: a grammar that names colour, shape and motion."""

from vae.data.drawn_world import MOTIONS, NEW_MOTIONS, Scene, pick
from vae.training.seeds import generator

GOES = (
    ("moves", "moving"),
    ("slides", "sliding"),
    ("drifts", "drifting"),
    ("glides", "gliding"),
    ("travels", "travelling"),
    ("goes", "going"),
    ("flies", "flying"),
    ("floats", "floating"),
    ("shifts", "shifting"),
)
WHERE = {
    "left": ("left", "to the left", "leftwards", "towards the left"),
    "right": ("right", "to the right", "rightwards", "towards the right"),
    "up": ("up", "upwards", "to the top", "towards the top"),
    "down": ("down", "downwards", "to the bottom", "towards the bottom"),
}
ITSELF = {
    "left": (),
    "right": (),
    "up": (("rises", "rising"), ("climbs", "climbing"), ("rises up", "rising up"), ("ascends", "ascending")),
    "down": (
        ("falls", "falling"),
        ("sinks", "sinking"),
        ("falls down", "falling down"),
        ("drops", "dropping"),
    ),
    "grows": (
        ("grows", "growing"),
        ("gets bigger", "getting bigger"),
        ("expands", "expanding"),
        ("becomes larger", "becoming larger"),
        ("gets larger", "getting larger"),
        ("becomes bigger", "becoming bigger"),
        ("grows in size", "growing in size"),
    ),
    "stays": (
        ("stays still", "staying still"),
        ("does not move", "not moving"),
        ("stands still", "standing still"),
        ("rests", "resting"),
        ("stays in place", "staying in place"),
        ("remains still", "remaining still"),
        ("stays where it is", "staying where it is"),
    ),
    "shrinks": (
        ("shrinks", "shrinking"),
        ("gets smaller", "getting smaller"),
        ("contracts", "contracting"),
        ("becomes smaller", "becoming smaller"),
        ("shrinks in size", "shrinking in size"),
    ),
}
# What a shape does, and is doing: first the plainest way to say it.
VERBS = {
    motion: tuple(
        (f"{does} {where}", f"{doing} {where}") for where in WHERE.get(motion, ()) for does, doing in GOES
    )
    + 3 * ITSELF[motion]
    for motion in (*MOTIONS, *NEW_MOTIONS)
}
ARTICLES = ("a", "a", "a", "the", "one")
ADJECTIVES = ("", "", "", "", "bright ", "plain ", "flat ", "single ")
PLAIN = "{thing} {does}"
TEMPLATES = {
    "train": (
        PLAIN,
        "{thing} {does} {on}",
        "{on}, {thing} {does}",
        "{thing} {doing}",
        "{thing} {doing} {on}",
        "{thing} {on} {does}",
        "{thing} that {does}",
        "{thing} which {does} {on}",
        "{thing} is {doing}",
        "{thing} is {doing} {on}",
        "{colour} {shape} {does}",
        "{colour} {shape}, {doing}",
        "{colour} {shape}, {background} background, {doing}",
        "{shape}, {colour}, {doing}",
        "the {shape} is {colour} and {does}",
        "the {shape} that {does} is {colour}",
        "a video of {thing} {doing}",
        "a video in which {thing} {does} {on}",
        "an animation in which {thing} {does}",
        "an animation of {thing} that is {doing}",
        "a clip of {thing} that {does}",
        "a clip where {thing} is {doing} {on}",
        "there is {thing} that {does}",
        "here {thing} {does}",
        "we see {thing} {doing}",
        "we see how {thing} {does} {on}",
        "{background} background, {thing} {does}",
        "a {background} frame where {thing} {does}",
        "the background is {background} and {thing} {does}",
        "{thing} {does} while the background is {background}",
    ),
    "test": (
        "a clip in which {thing} is {doing}",
        "an animation of {thing} {doing} {on}",
        "there is a video of {thing} that {does}",
        "here is {thing} {doing}",
        "{on} we see {thing} that {does}",
        "the {shape} {does} and is {colour}",
        "{thing} {does}, and the background is {background}",
        "we see a video where {thing} {does}",
        "{doing}, {colour} {shape} {on}",
    ),
}
PLAIN_SHARE = 0.15
LONGEST_CAPTION = 80


def plain_caption(scene: Scene) -> str:
    """The shortest full description, such as `a red circle moves left`; one of the training captions."""
    return f"{_with_article('a', scene.colour)} {scene.shape} {VERBS[scene.motion][0][0]}"


def caption(scene: Scene, seed: int, index: int, phrasing: str) -> str:
    """A sentence of at most 80 ASCII bytes that names colour, shape and motion, sometimes the background.

    The templates of the phrasings `train` and `test` differ, their words do not; ValueError for another.
    """
    if phrasing not in TEMPLATES:
        raise ValueError(f"phrasing {phrasing!r} is none of {', '.join(TEMPLATES)}")
    random = generator(seed, "caption", phrasing, index)
    if phrasing == "train" and random.random() < PLAIN_SHARE:
        return plain_caption(scene)
    while True:
        sentence = _phrase(scene, TEMPLATES[phrasing], random.random(6).tolist())
        if len(sentence) <= LONGEST_CAPTION:
            return sentence


def _phrase(scene: Scene, templates: tuple[str, ...], choices: list[float]) -> str:
    """One sentence of a grammar, chosen by six numbers in [0, 1)."""
    template, verb, article, adjective, capital, stop = choices
    does, doing = pick(VERBS[scene.motion], verb)
    description = f"{pick(ADJECTIVES, adjective)}{scene.colour} {scene.shape}"
    sentence = pick(templates, template).format(
        thing=_with_article(pick(ARTICLES, article), description),
        does=does,
        doing=doing,
        on=f"on a {scene.background} background",
        colour=scene.colour,
        shape=scene.shape,
        background=scene.background,
    )
    return (
        (sentence[0].upper() if capital < 0.3 else sentence[0]) + sentence[1:] + ("." if stop < 0.3 else "")
    )


def _with_article(article: str, words: str) -> str:
    """The words after their article, `an` before a vowel."""
    return f"{'an' if article == 'a' and words[0] in 'aeiou' else article} {words}"
