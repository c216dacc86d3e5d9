"""Damage of a video file: what a decoder says of it beside its status, and what only the container knows."""

import re
import zlib
from pathlib import Path
from typing import BinaryIO

from vae.data.write import complaint

# What decoders call an error that is none: sound, which is not read, and frames that refer to others before
# the start of a file cut from a longer one.
HARMLESS = re.compile(
    r"^\[(aac|mp[1-3]|e?ac3|opus|vorbis|flac|alac|dca|wma|amr|pcm)|co located POCs|mmco: unref short failure"
)
# Of Matroska: all, some frames, four bytes of CRC-32.
SEGMENT, CLUSTER, SUM = 0x18538067, 0x1F43B675, b"\xbf\x84"


def damage_in_log(log: str) -> str:
    """The first line of a log with levels in which a decoder says that it met damage; empty where none."""
    for line in log.split("\n"):
        wrong = re.match(r"(?:\[[^]]*\] )*\[(error|fatal|panic)\] ", line) or "EOI missing" in line
        if wrong and not HARMLESS.search(line):
            return complaint(line)
    return ""


def damage_in_container(path: Path) -> str:
    """What an AVI or Matroska file says of itself that is not so, of which ffmpeg is silent; else empty."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        said = int.from_bytes(head[4:], "little")
        if head[:4] == b"RIFF" and size < said + 7 and said + 1 < 1 << 32:  # all ones: written to a pipe
            return f"it is cut: of {said + 8} bytes {size} are there"
        if head[4:] == b"ftyp" and (end := _end_of_boxes(file, size)) > size:
            return f"it is cut: of {end} bytes {size} are there"
        file.seek(0)
        while (element := _number(file, 4, False)) is not None and (
            length := _number(file, 8, True)
        ) is not None:
            start = file.tell()
            if head[:4] != b"\x1a\x45\xdf\xa3" or (start + length > size and element != SEGMENT):
                return ""  # no Matroska; or cut, or of unknown length, of which ffmpeg speaks
            if element == CLUSTER and file.read(2) == SUM:
                right, left, found = int.from_bytes(file.read(4), "little"), start + length - file.tell(), 0
                while left > 0:
                    part = file.read(min(left, 1 << 20))
                    found, left = zlib.crc32(part, found), left - len(part)
                if found != right:
                    return f"the checksum of its bytes {start} to {start + length} is wrong"
            file.seek(start if element == SEGMENT else start + length)
    return ""


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the boxes of an mp4 end, one after the other, or what follows them that is none."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        length, kind = int.from_bytes(file.read(4)), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8))
        if length < 8 or not kind.isalnum():  # up to the end of the file, or no box
            break
        end += length
    return end


def _number(file: BinaryIO, longest: int, bare: bool) -> int | None:
    """The next number of Matroska, which begins with as many zeros as bytes follow; None at the end."""
    first = file.read(1)
    count = 9 - first[0].bit_length() if first else longest + 1
    rest = file.read(count - 1) if count <= longest else b""
    if count > longest or len(rest) < count - 1:
        return None
    return int.from_bytes(bytes([first[0] & (0xFF >> count) if bare else first[0]]) + rest)
