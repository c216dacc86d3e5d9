"""What every picture and video says of itself: that a model made it, in words and by GB 45438-2025."""

import html
import json
import re
from collections.abc import Mapping

AIGC = "AIGC"  # the name of the object, as a key of metadata and in XMP
GENERATED, POSSIBLY = "1", "2"  # values of `Label`
WORDS = {GENERATED: "AI-generated", POSSIBLY: "possibly AI-generated"}
PRODUCER = "dit"  # who is named where nobody is
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/"{source}>
<TC260:AIGC>{aigc}</TC260:AIGC></rdf:Description></rdf:RDF></x:xmpmeta>"""
# IPTC's word for what a model made, which search engines and cameras' programs read.
SOURCE = (
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"'
)


def make_aigc(
    identity: str, integrity: str = "", producer: str = PRODUCER, kind: str = GENERATED
) -> dict[str, str]:
    """The object of GB 45438-2025, appendix E: who made what, under which number, and what proves it whole.

    Nobody has spread it yet: the parts of whoever does are empty. `ReservedCode1` is for the producer's own
    protection of the content.
    """
    return {
        "Label": kind,
        "ContentProducer": producer,
        "ProduceID": identity,
        "ReservedCode1": integrity,
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }


def labelled(record: Mapping, digest: str, kind: str = GENERATED) -> dict:
    """A record that says what it is of: its own label, or where it has none, one by the pixels' digest."""
    return {"label": WORDS[kind], AIGC: make_aigc(digest[:32], digest, kind=kind), **record}


def to_xmp(said: dict) -> str:
    """A label as the XMP that pictures hold it in."""
    text = html.escape(json.dumps(said[AIGC], ensure_ascii=False))
    return XMP.format(aigc=text, source=SOURCE if said[AIGC]["Label"] == GENERATED else "")


def from_xmp(xmp: str) -> str | None:
    """The text of the object in XMP, of anyone's, or None."""
    found = re.search(r"<TC260:AIGC>(.*?)</TC260:AIGC>|\bTC260:AIGC=(\"[^\"]*\"|'[^']*')", xmp, re.DOTALL)
    return html.unescape(found[2][1:-1] if found[1] is None else found[1]) if found else None


def to_comment(said: dict) -> str:
    """A label as the comment of a GIF or JPEG, which know no keys."""
    return json.dumps({"label": said["label"], AIGC: said[AIGC]}, ensure_ascii=False)
