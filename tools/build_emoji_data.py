"""Build the bundled emoji data (aoq_ext/data/emoji) again, byte for byte, from packages on npm.

    pip install pillow==13.0.0 resvg_py==0.5.0        # beside an installed aoq_ext
    python tools/build_emoji_data.py --out /tmp/emoji-data --compare aoq_ext/data/emoji

Needs npm; fetches about 280 MB into --cache once and checks every package against the SHA-512 below. The rules are told
in aoq_ext/data/emoji/README.md. The compressed bytes also depend on zlib: --compare tells a difference in content from
one in compression alone.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py  # type: ignore[import-not-found,unused-ignore]
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from aoq_ext._files import write_bytes_atomically
from aoq_ext.data.emoji_set import (
    ARCHIVE,
    CHECKSUMS,
    TEST_STYLES,
    TRAINING_STYLES,
    UNSEEN_STYLE,
    encode_pixels,
)
from aoq_ext.data.vocabulary import tokenize

TOOLS = {"pillow": "13.0.0", "resvg_py": "0.5.0"}
PACKAGES = {  # npm name@version -> SHA-512 of the tarball
    "emoji-datasource-google@16.0.0": (
        "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="
    ),
    "emoji-datasource-twitter@16.0.0": (
        "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ=="
    ),
    "@iconify-json/fluent-emoji@1.2.7": (
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA=="
    ),
    "@iconify-json/fluent-emoji-flat@1.2.6": (
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw=="
    ),
    "emojione@2.2.7": "Gbf8qysc34+TFUS5HPwOUY62v8gjLuPmfVTWUR/zirULSYUe/D3MrvYo0W5Y2gScF1YI7EBe5t81IbD8q144Ag==",
    "openmoji@17.0.0": "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
    "cldr-annotations-full@48.2.0": (
        "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ=="
    ),
    "cldr-annotations-derived-full@48.2.0": (
        "log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw=="
    ),
    "emojilib@4.0.3": "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    "emojibase-data@17.0.0": "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "asturur-noto-emoji@3.0.3": (
        "Dx2Ua2sd/s1sGl4gPJve3QeZXf7MmnMp/xbw+TT3nC3xC6K+62G0GmvdSSVqARCHpb0QtFbZcerwMOGduPI3Gg=="
    ),
    "twemoji@14.0.2": "BzOoXIe1QVdmsUmZ54xbEH+8AgtOKUiG53zO5vVP2iUu6h5u9lN15NcuS6te4OY96qx0H7JK9vjjl9WQbkTRuA==",
}
STYLES = (*TRAINING_STYLES, UNSEEN_STYLE)
EVALUATED_STYLES = (*TEST_STYLES, UNSEEN_STYLE)
CAPTIONS = 5
TEST_CONCEPTS, VAL_CONCEPTS, STYLE_TEST_CONCEPTS = 320, 160, 400
LARGEST_HELD_OUT_FAMILY = 10
SIDE, RENDER_SIDE = 32, 64

PEOPLE = {"1F468", "1F469", "1F9D1", "1F466", "1F467", "1F9D2"}  # man, woman, person, boy, girl, child
CONNECTORS = {"200D", "FE0F", "2640", "2642", "27A1"}  # joiner, variation, female, male, facing right
CLOCKS = {f"{code:X}" for code in range(0x1F550, 0x1F568)}


@dataclass
class Concept:
    """One emoji: its code points, names and keywords, pictures by style, and in the end its captions and split."""

    code: str
    name: str
    family: str
    captions: list[str] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # style -> (32, 32, 3) uint8
    split: str = "train"
    style: str = ""  # the one picture of it that `val` or `test` shows


class Packages:
    """The pinned packages: fetched with npm once, checked, read from their tarballs in memory."""

    def __init__(self, cache: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self._members = {name: self._read(name, digest, cache) for name, digest in PACKAGES.items()}

    def content(self, package: str, path: str) -> bytes | None:
        """A file of the package whose name starts with ``package``@; None when there is no such file."""
        return next(files for name, files in self._members.items() if name.startswith(package + "@")).get(path)

    def json(self, package: str, path: str) -> Any:
        return json.loads(self.content(package, path) or b"null")

    @staticmethod
    def _read(name: str, digest: str, cache: Path) -> dict[str, bytes]:
        stem = name.removeprefix("@").replace("/", "-")
        tarball = cache / f"{'-'.join(stem.rsplit('@', 1))}.tgz"
        if not tarball.exists():
            subprocess.run(["npm", "pack", "--silent", name], cwd=cache, check=True, stdout=subprocess.DEVNULL)
        content = tarball.read_bytes()
        actual = base64.b64encode(hashlib.sha512(content).digest()).decode()
        if actual != digest:
            raise SystemExit(f"{tarball}: expected SHA-512 {digest}, got {actual}")
        wanted = re.compile(r"package/(?!black/|src/|png/|svg/|lib/|assets/(?!png/)|.*/sheets)")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {m.name: m for m in archive if m.isfile() and wanted.match(m.name)}
            return {path.removeprefix("package/"): _content(archive, member) for path, member in files.items()}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def rank(text: str) -> str:
    """A fixed pseudo-random order of strings."""
    return hashlib.sha256(text.encode()).hexdigest()


# ---- pictures


def picture(source: bytes) -> np.ndarray:
    """A PNG on a white ground, scaled to (32, 32, 3) uint8."""
    image = Image.open(io.BytesIO(source)).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return np.asarray(ground.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def rendered(svg: str) -> bytes:
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_SIDE, height=RENDER_SIDE, skip_system_fonts=True))


class Artwork:
    """Finds the drawing of an emoji in each style."""

    def __init__(self, packages: Packages) -> None:
        self._packages = packages
        icons = packages.json("@iconify-json/fluent-emoji", "icons.json")
        parents = {name: alias["parent"] for name, alias in icons.get("aliases", {}).items()}
        bodies = {name: icon["body"] for name, icon in icons["icons"].items()}
        self._fluent = {
            code: bodies[parents.get(name, name)]
            for code, name in packages.json("@iconify-json/fluent-emoji-flat", "chars.json").items()
            if parents.get(name, name) in bodies
        }

    def find(self, entry: dict[str, Any], style: str) -> bytes | None:
        """The PNG of one emoji-data entry in ``style``, or None."""
        code = entry["unified"]
        variants = (code, code.replace("-FE0F", ""))
        if style in ("noto", "twemoji"):
            source = {"noto": "google", "twemoji": "twitter"}[style]
            if not entry[f"has_img_{source}"]:
                return None
            return self._packages.content(f"emoji-datasource-{source}", f"img/{source}/64/{entry['image']}")
        if style == "emojione":
            return self._packages.content("emojione", f"assets/png/{re.sub('-(200D|FE0F)', '', code).lower()}.png")
        if style == "openmoji":
            found = (self._packages.content("openmoji", f"color/svg/{variant}.svg") for variant in variants)
            svg = next((svg.decode() for svg in found if svg), None)
        else:
            body = next((self._fluent[v.lower()] for v in variants if v.lower() in self._fluent), None)
            space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            svg = body and f'<svg {space} viewBox="0 0 32 32">{body}</svg>'
        return rendered(svg) if svg else None


# ---- captions


class Words:
    """Names and keywords of an emoji from the four text sources."""

    def __init__(self, packages: Packages) -> None:
        derived = packages.json("cldr-annotations-derived-full", "annotationsDerived/en/annotations.json")
        plain = packages.json("cldr-annotations-full", "annotations/en/annotations.json")
        self._cldr = derived["annotationsDerived"]["annotations"] | plain["annotations"]["annotations"]
        self._emojilib = packages.json("emojilib", "dist/emoji-en-US.json")
        self._codes = [
            packages.json("emojibase-data", f"en/shortcodes/{name}.json") for name in ("emojibase", "github")
        ]

    def name(self, entry: dict[str, Any]) -> str | None:
        found = self._annotation(entry)
        return found["tts"][0] if found else None

    def captions(self, entry: dict[str, Any]) -> Iterator[str]:
        """Candidates in order of preference; later ones fill in where an earlier one says nothing new."""
        name = self.name(entry) or ""
        cldr = self._annotation(entry)["default"]
        text = characters(entry["unified"])
        lib = self._emojilib.get(text) or self._emojilib.get(text.replace("\ufe0f", "")) or []
        lib = [word.replace("_", " ") for word in lib[1:] if re.search("[a-z]", word) and ":" not in word]
        others = list(self._other_names(entry))
        yield name
        yield with_keywords(name, cldr)
        yield from others[:1]
        yield keyword_list(cldr)
        yield keyword_list(lib)
        yield from others[1:]
        yield with_keywords(name, lib)
        yield f"{name}, {entry['subcategory'].replace('-', ' ')}"
        yield f"{name}, {entry['category'].lower()}"

    def _annotation(self, entry: dict[str, Any]) -> dict[str, Any]:
        text = characters(entry["unified"])
        return self._cldr.get(text) or self._cldr.get(text.replace("\ufe0f", "")) or {}

    def _other_names(self, entry: dict[str, Any]) -> Iterator[str]:
        yield entry["name"].lower()
        codes = list(entry["short_names"])
        for table in self._codes:
            found = table.get(entry["unified"]) or table.get(entry["unified"].replace("-FE0F", "")) or []
            codes += [found] if isinstance(found, str) else found
        yield from (re.sub("[_-]", " ", code) for code in codes if re.search("[a-z]{3}", code))


def characters(code: str) -> str:
    return "".join(chr(int(part, 16)) for part in code.split("-"))


def with_keywords(name: str, keywords: list[str]) -> str:
    """The name and the first three keywords that add a word to it; empty when none does."""
    known = set(tokenize(name))
    new = [keyword for keyword in keywords if not set(tokenize(keyword)) <= known]
    return ", ".join([name, *new[:3]]) if new else ""


def keyword_list(keywords: list[str]) -> str:
    """Up to eight keywords; empty when there are fewer than two."""
    return ", ".join(keywords[:8]) if len(keywords) > 1 else ""


def write_captions(concepts: list[Concept], candidates: dict[str, list[str]]) -> None:
    """Five captions each; no two captions of the whole data set have the same words in the same order."""
    used: set[tuple[str, ...]] = {tuple(tokenize(concept.name)) for concept in concepts}
    for concept in concepts:
        concept.captions = [concept.name]
        for caption in candidates[concept.code]:
            caption = " ".join(caption.split())
            words = tuple(tokenize(caption))
            if len(concept.captions) < CAPTIONS and words and words not in used:
                used.add(words)
                concept.captions.append(caption)


# ---- concepts and splits


def family(code: str, subcategory: str) -> str:
    """Emoji that differ only in who is shown, or belong to one long series, share a family, and so a split."""
    parts = code.split("-")
    rest = [part for part in parts if part not in PEOPLE | CONNECTORS]
    if subcategory in ("country-flag", "subdivision-flag"):
        return "flags"
    if "20E3" in parts:
        return "keycaps"
    if parts[0] in CLOCKS:
        return "clocks"
    if parts[0] not in PEOPLE:
        return "-".join(rest) or code
    return "people:" + "-".join(rest) if len(parts) > 1 else code


def collect(packages: Packages) -> list[Concept]:
    """Every emoji with five captions and pictures of its own; says how many were left out, and why."""
    words, artwork = Words(packages), Artwork(packages)
    entries = packages.json("emoji-datasource-google", "emoji.json")
    entries = sorted((e for e in entries if e["category"] != "Component"), key=lambda e: e["sort_order"])
    left_out: Counter[str] = Counter()
    concepts, names, candidates = [], set(), {}
    for entry in entries:
        name = words.name(entry)
        if name is None or tuple(tokenize(name)) in names:
            left_out["no name, or the name of another emoji"] += 1
            continue
        names.add(tuple(tokenize(name)))
        concept = Concept(entry["unified"], name, family(entry["unified"], entry["subcategory"]))
        candidates[concept.code] = list(words.captions(entry))
        sources = {style: artwork.find(entry, style) for style in STYLES}
        concept.pictures = {style: picture(source) for style, source in sources.items() if source}
        concepts.append(concept)
    write_captions(concepts, candidates)
    kept: list[Concept] = []
    seen: set[tuple[str, bytes]] = set()
    for concept in concepts:
        pictures = {(s, image.tobytes()) for s, image in concept.pictures.items() if s in EVALUATED_STYLES}
        if len(concept.captions) < CAPTIONS:
            left_out["fewer than five captions"] += 1
        elif pictures & seen:
            left_out["picture equal to an earlier one"] += 1
        else:
            kept.append(concept)
            seen |= pictures
    print(f"{len(kept)} concepts of {len(entries)}; left out: {dict(left_out)}")
    return kept


def assign_splits(concepts: list[Concept]) -> None:
    """Whole families to test, then to val, in hash order; long series and incomplete families stay in train."""
    families: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        families[concept.family].append(concept)
    room = {"test": TEST_CONCEPTS, "val": VAL_CONCEPTS}
    for key in sorted(families, key=lambda key: rank("split:" + key)):
        members = families[key]
        complete = all(set(EVALUATED_STYLES) <= set(member.pictures) for member in members)
        split = next((s for s in room if room[s] >= len(members)), "train")
        if not complete or len(members) > LARGEST_HELD_OUT_FAMILY or split == "train":
            continue
        room[split] -= len(members)
        for member in members:
            member.split = split
            member.style = TEST_STYLES[int(rank("style:" + member.code), 16) % len(TEST_STYLES)]


def shipped_pictures(concepts: list[Concept]) -> list[tuple[int, str]]:
    """(concept index, style) of every picture that some split shows, style by style."""
    unseen = [c for c in concepts if c.split == "train" and UNSEEN_STYLE in c.pictures]
    style_test = {c.code for c in sorted(unseen, key=lambda c: rank("test_style:" + c.code))[:STYLE_TEST_CONCEPTS]}

    def shown(concept: Concept, style: str) -> bool:
        if concept.split == "train":
            return style in TRAINING_STYLES or concept.code in style_test
        return style in EVALUATED_STYLES if concept.split == "test" else style == concept.style

    return [(i, s) for s in STYLES for i, c in enumerate(concepts) if s in c.pictures and shown(c, s)]


# ---- output


def archive_bytes(concepts: list[Concept]) -> bytes:
    """The zip archive with index.json and pixels.npy."""
    rows = shipped_pictures(concepts)
    index = {
        "styles": list(STYLES),
        "concepts": [
            {
                "code": c.code,
                "name": c.name,
                "family": c.family,
                "split": c.split,
                **({"style": c.style} if c.style else {}),
                "captions": c.captions,
            }
            for c in concepts
        ],
        "images": [[concept, STYLES.index(style)] for concept, style in rows],
    }
    pixels = io.BytesIO()
    images = np.stack([concepts[concept].pictures[style] for concept, style in rows]).transpose(0, 3, 1, 2)
    np.lib.format.write_array(pixels, np.ascontiguousarray(encode_pixels(images)), version=(1, 0))
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode()
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for name, content in (("index.json", text), ("pixels.npy", pixels.getvalue())):
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o644 << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return output.getvalue()


def licence_texts(packages: Packages) -> dict[str, bytes]:
    """Licence texts as the packages carry them; Microsoft's is the MIT text under its own copyright line."""
    mit = (packages.content("emojilib", "LICENSE") or b"").decode()
    found = {
        "Apache-2.0.txt": packages.content("asturur-noto-emoji", "LICENSE"),
        "region-flags.txt": packages.content("asturur-noto-emoji", "third_party/region-flags/LICENSE"),
        "CC-BY-4.0.txt": packages.content("twemoji", "LICENSE-GRAPHICS"),
        "CC-BY-SA-4.0.txt": packages.content("openmoji", "LICENSE.txt"),
        "Unicode-3.0.txt": packages.content("cldr-annotations-full", "LICENSE"),
        "MIT-emojilib.txt": packages.content("emojilib", "LICENSE"),
        "MIT-emojibase.txt": packages.content("emojibase-data", "LICENSE"),
        "MIT-emoji-data.txt": packages.content("emoji-datasource-google", "LICENSE"),
        "MIT-fluent-emoji.txt": re.sub(r"Copyright \(c\).*", "Copyright (c) Microsoft Corporation.", mit).encode(),
    }
    missing = [name for name, text in found.items() if not text]
    if missing:
        sys.exit(f"licence texts missing from the packages: {', '.join(missing)}")
    return {name: text for name, text in found.items() if text}


def compare(out: Path, other: Path) -> None:
    """Exit with a message unless both folders hold the same data."""
    ours, theirs = ((folder / ARCHIVE).read_bytes() for folder in (out, other))
    if ours == theirs:
        print(f"identical to {other / ARCHIVE}, byte for byte")
        return
    with zipfile.ZipFile(io.BytesIO(ours)) as a, zipfile.ZipFile(io.BytesIO(theirs)) as b:
        differing = [name for name in a.namelist() if a.read(name) != b.read(name)]
    sys.exit(f"differs from {other / ARCHIVE}: " + (", ".join(differing) or "the same content, compressed otherwise"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the archive, its checksum and the licences")
    parser.add_argument(
        "--cache", type=Path, default=Path("/tmp/emoji-packages"), help="folder for the fetched packages"
    )
    parser.add_argument("--compare", type=Path, help="folder with an earlier build that must be the same")
    options = parser.parse_args()
    for tool, version in TOOLS.items():
        if importlib.metadata.version(tool) != version:
            sys.exit(f"{tool}: expected version {version}, got {importlib.metadata.version(tool)}")

    packages = Packages(options.cache)
    concepts = collect(packages)
    assign_splits(concepts)
    content = archive_bytes(concepts)
    write_bytes_atomically(options.out / ARCHIVE, content)
    checksum = f"{hashlib.sha256(content).hexdigest()}  {ARCHIVE}\n"
    write_bytes_atomically(options.out / CHECKSUMS, checksum.encode())
    for name, text in licence_texts(packages).items():
        write_bytes_atomically(options.out / f"LICENSE-{name}", text)
    print(f"{len(content)} bytes, zlib {zlib.ZLIB_RUNTIME_VERSION}; {checksum}", end="")
    if options.compare:
        compare(options.out, options.compare)


if __name__ == "__main__":
    main()
