"""Build the bundled icons (aoq_ext/data/icons) again, byte for byte, from packages on npm.

    pip install pillow==13.0.0 resvg_py==0.5.0              # beside an installed aoq_ext
    npm ci --ignore-scripts --prefix tools/icons            # 120 MB; the lock file has every package's SHA-512
    python tools/icons/build.py --out /tmp/icons --compare aoq_ext/data/icons

The rules are told in aoq_ext/data/icons/README.md. The compressed bytes also depend on liblzma: --compare tells a
difference in content from one in compression alone. About three minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import lzma
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py  # type: ignore[import-not-found,unused-ignore]
from licences import LICENCES, overview
from PIL import Image
from sets import BRANDS, TRAINING_SETS, UNSEEN_SETS, IconSet

sys.path.insert(0, str(Path(__file__).parents[2]))
from aoq_ext._files import write_bytes_atomically
from aoq_ext.data.icon_set import CHECKSUMS, INDEX, LEVELS, PIXELS, SIDE, pack_pixels

TOOLS = {"pillow": "13.0.0", "resvg_py": "0.5.0"}
PACKAGES = Path(__file__).parent / "node_modules"
OVERVIEW = "LICENSES.md"
TEST, VAL, THINGS = 5000, 1000, 1000
LARGEST_HELD_OUT = 10  # pictures of a name, or of a group
LEAST_KNOWN = 20  # icons that have a word of a name held out
BEST_SIZE = 24  # of an icon drawn in several sizes
MOST_KEYWORDS = 8
_NUMBER = re.compile(r"0?[1-9]|one|two|three|four|five|six")
_SPACE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclass
class Icon:
    """One drawing, and what is said of it."""

    set: str
    name: str  # in its set
    shown: list[str]  # what it shows, by its name and its other names, without words for the style
    captions: list[str]  # the words of its name, then of its other names, then keywords
    svg: str
    pixels: np.ndarray = field(default_factory=lambda: np.empty(0))  # (32, 32) uint8, 0 (ink) to 3
    group: int = -1
    split: str = "train"


def rank(text: str) -> str:
    """A fixed pseudo-random order of strings."""
    return hashlib.sha256(text.encode()).hexdigest()


# ---- names


def words(of: IconSet, name: str) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """What an icon shows, how it is drawn, and its size (0: not said), from its name."""
    parts, style, size = name.split("-"), list[str](), 0
    styles, prefixes = of.styles.split(), of.prefixes.split()
    if len(parts) > 1 and parts[0] in prefixes:
        style.append(parts.pop(0))
    while len(parts) > 1 and (parts[-1] in styles or re.fullmatch(r"\d\dpx", parts[-1])):
        style.append(parts.pop())
    if of.sized and len(parts) > 1 and re.fullmatch(r"\d\d", parts[-1]):
        size = int(parts.pop())
        while len(parts) > 1 and parts[-1] in styles:
            style.append(parts.pop())
    return tuple(parts), tuple(sorted(style)), size


def without_number(shown: tuple[str, ...], known: set[tuple[str, ...]]) -> tuple[str, ...]:
    """``setup 02`` is another drawing of what ``setup`` or ``setup 01`` shows."""
    if len(shown) > 1 and _NUMBER.fullmatch(shown[-1]) and {shown[:-1], (*shown[:-1], "01")} & known:
        return shown[:-1]
    return shown


def is_brand(text: str) -> bool:
    return not BRANDS.isdisjoint(re.split("[- ]", text))


class Keywords:
    """What two of the sets say about their icons besides their names."""

    def __init__(self) -> None:
        tabler = json.loads((PACKAGES / "@tabler/icons/icons.json").read_text())
        self._by_set = {
            "tabler": {name: entry["tags"] for name, entry in tabler.items()},
            "lucide": json.loads((PACKAGES / "lucide-static/tags.json").read_text()),
        }

    def caption(self, of: str, name: str) -> str:
        """Up to eight keywords; empty where there are fewer than two."""
        found = [str(word).lower() for word in self._by_set.get(of, {}).get(name, [])]
        return " ".join(found[:MOST_KEYWORDS]) if len(found) > 1 else ""


def icons_of(of: IconSet, keywords: Keywords) -> Iterator[Icon]:
    """Those of one set, each in the size that is nearest to 24, with no trade marks."""
    icons = json.loads((PACKAGES / "@iconify-json" / of.name / "icons.json").read_text())
    size = {side: icons.get(side, 16) for side in ("width", "height")} | {"left": 0, "top": 0}
    other_names = defaultdict(list)
    for alias, entry in icons.get("aliases", {}).items():
        if entry.keys() == {"parent"} and not alias.endswith("2x"):  # and not turned, mirrored, or another size
            other_names[entry["parent"]].append(alias)
    known = {words(of, name)[0] for name in icons["icons"]}
    best: dict[Any, tuple[int, str]] = {}
    for name, entry in icons["icons"].items():
        shown, style, drawn_size = words(of, name)
        distance = abs(drawn_size - BEST_SIZE)
        if not entry.get("hidden") and not is_brand(name) and distance < best.get((shown, style), (1 << 30, ""))[0]:
            best[shown, style] = distance, name
    for (shown, _), (_, name) in best.items():
        names = [words(of, each) for each in (name, *(each for each in other_names[name] if not is_brand(each)))]
        plain = [without_number(what, known) for what, *_ in names]
        captions = [" ".join((*what, *style)) for what, (_, style, _) in zip(plain, names, strict=True)]
        captions.append(keywords.caption(of.name, name if of.name != "tabler" else "-".join(shown)))
        captions = [caption for caption in dict.fromkeys(captions) if caption and not is_brand(caption)]
        entry = size | icons["icons"][name]
        view = f"{entry['left']} {entry['top']} {entry['width']} {entry['height']}"
        svg = f'<svg {_SPACE} viewBox="{view}" width="{SIDE}" height="{SIDE}">{entry["body"]}</svg>'
        yield Icon(of.name, name, list(dict.fromkeys(map(" ".join, plain))), captions, svg)


# ---- pictures


def drawn(svg: str) -> np.ndarray:
    """(32, 32) uint8, ink 0 to paper 3"""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, background="white"))
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=np.uint16)
    return ((grey * (LEVELS - 1) + 127) // 255).astype(np.uint8)


def distinct(icons: Iterable[Icon]) -> list[Icon]:
    """Without empty pictures and exact repetitions; their names join the group of the first."""
    kept: dict[bytes, Icon] = {}
    groups = Groups()
    for icon in icons:
        icon.pixels = drawn(icon.svg)
        if icon.pixels.min() == icon.pixels.max():
            continue
        first = kept.setdefault(icon.pixels.tobytes(), icon)
        groups.join([*icon.shown, first.shown[0]])
    result = list(kept.values())
    numbers: dict[str, int] = {}
    for icon in result:
        icon.group = numbers.setdefault(groups.find(icon.shown[0]), len(numbers))
    return result


class Groups:
    """Names that mean the same: the same words in any order, names of one drawing, equal pictures."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        key = " ".join(sorted(set(name.split())))
        self._parent.setdefault(key, key)
        while (above := self._parent[key]) != key:
            self._parent[key] = self._parent[above]
            key = above
        return key

    def join(self, names: list[str]) -> None:
        for name in names[1:]:
            self._parent[self.find(name)] = self.find(names[0])


# ---- splits


def assign_splits(icons: list[Icon]) -> None:
    """Things that are never shown in training, then names that are not, then unseen sets; the rest trains.

    Held out are things and names of up to ten pictures, in hash order, with one picture each. A thing that is held out
    has a name of two words or more that other names have too: what is new is how they are put together. A name that is
    held out ("account outline") leaves other pictures of its group in training, by other names or in other styles.
    """
    unseen = {each.name for each in UNSEEN_SETS}
    seen_sets = [icon for icon in icons if icon.set not in unseen]
    known = Counter(word for icon in seen_sets for word in set(icon.shown[0].split()))
    things = _by(seen_sets, lambda icon: icon.group)
    room = iter(["test_things"] * THINGS)
    for key in sorted(things, key=lambda key: rank(f"split:{things[key][0].shown[0]}")):
        members = things[key]
        composed = all(_is_composed(icon.shown[0], known) for icon in members)
        if len(members) <= LARGEST_HELD_OUT and composed and (split := next(room, None)):
            _show_one(members, split)
    training = [icon for icon in seen_sets if icon.split == "train"]
    left = Counter(icon.group for icon in training)
    names = _by(training, lambda icon: " ".join(sorted(icon.captions[0].split())))
    room, used = iter(["test"] * TEST + ["val"] * VAL), set[int]()
    for key in sorted(names, key=lambda key: rank(f"split:{key}")):
        members = names[key]
        (group, *others), count = {icon.group for icon in members}, len(members)
        fits = not others and group not in used and count <= LARGEST_HELD_OUT and count < left[group]
        if fits and (split := next(room, None)):
            used.add(group)
            _show_one(members, split)
    for name in unseen:
        for members in _by((icon for icon in icons if icon.set == name), lambda icon: icon.group).values():
            _show_one(members, f"test_{name}")
    drop_repeated_captions(icons)


def _by(icons: Iterable[Icon], key: Callable[[Icon], Any]) -> dict[Any, list[Icon]]:
    groups: dict[Any, list[Icon]] = defaultdict(list)
    for icon in icons:
        groups[key(icon)].append(icon)
    return groups


def _show_one(members: list[Icon], split: str) -> None:
    """One picture in the split, the others nowhere."""
    for icon in members:
        icon.split = ""
    min(members, key=lambda icon: rank(f"shown:{icon.set}:{icon.name}")).split = split


def _is_composed(name: str, known: Counter[str]) -> bool:
    return " " in name and all(known[word] >= LEAST_KNOWN for word in name.split())


def drop_repeated_captions(icons: list[Icon]) -> None:
    """In an evaluation split no caption occurs twice, so that each has one right picture."""
    used: dict[str, set[str]] = defaultdict(set)
    for icon in icons:
        if icon.split in ("train", ""):
            continue
        icon.captions = [caption for caption in icon.captions if caption not in used[icon.split]]
        used[icon.split].update(icon.captions)
        if not icon.captions:
            icon.split = ""


# ---- output


def shipped(icons: list[Icon]) -> list[Icon]:
    """Evaluation splits in hash order, so that any part of one is a random part; training icons set by set."""
    evaluated = [icon for icon in icons if icon.split not in ("train", "")]
    evaluated.sort(key=lambda icon: (icon.split, rank(f"order:{icon.set}:{icon.name}")))
    training = sorted((icon for icon in icons if icon.split == "train"), key=lambda icon: (icon.set, icon.name))
    return [*training, *evaluated]


def index_of(icons: list[Icon]) -> dict[str, Any]:
    """What the loader reads, one column each."""
    infos = {each.name: json.loads((PACKAGES / "@iconify-json" / each.name / "info.json").read_text()) for each in _ALL}
    versions = {
        each.name: json.loads((PACKAGES / "@iconify-json" / each.name / "package.json").read_text())["version"]
        for each in _ALL
    }
    for name, info in infos.items():
        if info["license"]["spdx"] not in LICENCES:
            raise SystemExit(f"{name}: its licence, {info['license']['spdx']}, is not among {', '.join(LICENCES)}")
    names = [each.name for each in _ALL]
    return {
        "sets": [
            {
                "name": name,
                "title": infos[name]["name"],
                "version": versions[name],
                "author": infos[name]["author"]["name"],
                "source": infos[name]["author"].get("url", ""),
                "licence": infos[name]["license"]["spdx"],
            }
            for name in names
        ],
        "splits": (splits := sorted({icon.split for icon in icons})),
        "split": [splits.index(icon.split) for icon in icons],
        "set": [names.index(icon.set) for icon in icons],
        "group": [icon.group for icon in icons],
        "name": [icon.name for icon in icons],
        "captions": [icon.captions for icon in icons],
    }


_ALL = (*TRAINING_SETS, *UNSEEN_SETS)


def compressed(content: bytes, alignment: int) -> bytes:
    """alignment: the power of two of the bytes that belong together"""
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}
    if alignment:
        lzma2 |= {"lc": 0, "lp": alignment, "pb": alignment}
    return lzma.compress(content, lzma.FORMAT_XZ, filters=[lzma2])


def compare(out: Path, other: Path) -> None:
    """Exit with a message unless both folders hold the same data."""
    for name in (PIXELS, INDEX, OVERVIEW):
        ours, theirs = ((folder / name).read_bytes() for folder in (out, other))
        if ours != theirs:
            same = name != OVERVIEW and lzma.decompress(ours) == lzma.decompress(theirs)
            sys.exit(f"{name} differs from {other / name}: {'the same, compressed otherwise' if same else 'content'}")
    print(f"identical to {other}, byte for byte")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and its checksums")
    parser.add_argument("--compare", type=Path, help="a folder that must then hold the same")
    arguments = parser.parse_args()
    for tool, version in TOOLS.items():
        if (found := importlib.metadata.version(tool)) != version:
            sys.exit(f"expected {tool} {version}, got {found}")
    keywords = Keywords()
    icons = distinct(icon for each in _ALL for icon in icons_of(each, keywords))
    assign_splits(icons)
    icons = shipped(icons)
    counts = {split: sum(icon.split == split for icon in icons) for split in sorted({icon.split for icon in icons})}
    print(counts, f"{sum(len(icon.captions) for icon in icons)} captions, {len({icon.group for icon in icons})} groups")
    pixels = pack_pixels(np.stack([icon.pixels for icon in icons])).tobytes()
    index = index_of(icons)
    content = json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode()
    files = {PIXELS: compressed(pixels, 3), INDEX: compressed(content, 0)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    for name, content in {**files, CHECKSUMS: sums.encode(), OVERVIEW: overview(index["sets"]).encode()}.items():
        write_bytes_atomically(arguments.out / name, content)
        print(f"{arguments.out / name}: {len(content):,} bytes")
    if arguments.compare is not None:
        compare(arguments.out, arguments.compare)


if __name__ == "__main__":
    main()
