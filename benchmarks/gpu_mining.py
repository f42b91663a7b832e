"""Mining hard negatives on a GPU at the size of COCO's training set, both directions, and its peers.

    python benchmarks/gpu_mining.py [--device cuda] [--seconds S] [--output DIR] [--scale 1.0]

Writes <date>-gpu-mining.json and .md. Targets come first, met or missed. With --device cpu and a small --scale the
whole can be tried anywhere; its figures then mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from gpu_targets import Target, Values, values_of
from gpu_timing import synchronize
from run import HERE, environment
from torch import Tensor

from aoq_ext.mining.keys import no_keys, unpack
from aoq_ext.mining.plain import ordered_dot
from aoq_ext.mining.side import Side
from aoq_ext.mining.tile import mine_tile

OURS, CHUNKED, PRODUCT = "aoq_ext", "chunked mm + topk", "bare product"
IMAGES, CAPTIONS_AN_IMAGE, WIDTH = 113_287, 5, 1024  # of COCO's training set
TEXTS_LISTED, IMAGES_LISTED = 2000, 400
CHUNK = 2048  # anchors whose scores the peers hold
CHECKED = 4  # lists of each direction that are compared with float64
DTYPES = ("bfloat16", "float32", "float16")
ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    dtype: str
    count: int  # images; five captions each
    width: int
    form: str


@dataclass(frozen=True)
class Task:
    """Images and their captions, and how many hard negatives each wants."""

    images: Side
    texts: Side
    texts_listed: int
    images_listed: int


def make_task(dtype: torch.dtype, images: int, device: torch.device) -> Task:
    """Captions that resemble their image, images that resemble each other in twos and threes."""
    texts = images * CAPTIONS_AN_IMAGE
    generator = torch.Generator(device).manual_seed(0)

    def noise(rows: int) -> Tensor:
        return torch.randn(rows, WIDTH, device=device, generator=generator, dtype=torch.float32)

    ids = torch.arange(images, device=device)
    scenes = noise(max(1, images // 3))
    pictures = scenes[ids * 7919 % len(scenes)] + noise(images)
    of_image = ids.repeat_interleave(CAPTIONS_AN_IMAGE)
    rows, captions = (torch.empty(n, WIDTH, device=device, dtype=dtype) for n in (images, texts))
    for start in range(0, texts, 1 << 16):  # in float32, the captions alone would be gigabytes
        part = slice(start, start + (1 << 16))
        written = pictures[of_image[part]]
        captions[part] = torch.nn.functional.normalize(written + noise(len(written)), dim=1).to(dtype)
    rows[:] = torch.nn.functional.normalize(pictures, dim=1).to(dtype)
    listed = min(TEXTS_LISTED, texts), min(IMAGES_LISTED, images)
    return Task(Side(rows, ids=ids), Side(captions, ids=of_image), *listed)


def ours(task: Task) -> tuple[Tensor, Tensor]:
    """Keys of both directions."""
    device = task.images.rows.device
    keys = no_keys(len(task.images), task.texts_listed, device), no_keys(len(task.texts), task.images_listed, device)
    found = mine_tile(task.images, task.texts, *keys)
    assert found[1] is not None
    return found[0], found[1]


def chunked(task: Task) -> list[Tensor]:
    """What one writes in PyTorch: a product and a topk for some anchors at a time, one direction after the other."""
    found = []
    for anchors, others, k in (
        (task.images, task.texts, task.texts_listed),
        (task.texts, task.images, task.images_listed),
    ):
        assert anchors.ids is not None and others.ids is not None
        for start in range(0, len(anchors), CHUNK):
            part = slice(start, start + CHUNK)
            scores = anchors.rows[part] @ others.rows.T
            scores.masked_fill_(anchors.ids[part, None] == others.ids[None], -torch.inf)
            found.append(scores.topk(k, dim=1).indices[:1])  # all of them would be gigabytes
    return found


def product(task: Task) -> None:
    """The scores alone, once: the floor of both directions."""
    room = torch.empty(CHUNK, len(task.texts), dtype=task.images.rows.dtype, device=task.images.rows.device)
    for start in range(0, len(task.images), CHUNK):
        rows = task.images.rows[start : start + CHUNK]
        torch.mm(rows, task.texts.rows.T, out=room[: len(rows)])


FORMS: dict[str, Callable[[Task], object]] = {PRODUCT: product, OURS: ours, CHUNKED: chunked}


def faster(images: int, form: str) -> Callable[[Values], float | None]:
    """How many times longer `form` takes."""

    def value(values: Values) -> float | None:
        theirs, mine = (values.get(("bfloat16", images, WIDTH, one, "seconds")) for one in (form, OURS))
        return None if theirs is None or not mine else theirs / mine

    return value


def targets(images: int) -> tuple[Target, ...]:
    size = f"bfloat16, {images} × {images * CAPTIONS_AN_IMAGE} × {WIDTH}, both directions"

    def seconds(values: Values) -> float | None:
        return values.get(("bfloat16", images, WIDTH, OURS, "seconds"))

    return (
        Target(f"{size}: seconds", 0.26, seconds, at_least=False),
        Target(f"{size}: times faster than {CHUNKED}", 6, faster(images, CHUNKED)),
        Target(f"{size}: fraction of the bare product's rate", 0.65, faster(images, PRODUCT)),
    )


def measure(form: str, task: Task, device: torch.device) -> dict[str, float]:
    """Seconds of a run, the median of a few, and bytes beyond what was there before."""
    run = FORMS[form]
    run(task)
    synchronize(device)
    values: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run(task)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    values["seconds"] = statistics.median(seconds)
    if device.type == "cuda":
        values["extra"] = float(torch.cuda.max_memory_allocated(device) - before)
    if form == OURS:
        values["wrong"] = float(wrong_lists(ours(task), task))
    return values


def wrong_lists(found: tuple[Tensor, Tensor], task: Task) -> int:
    """How many of some lists are not those of the scores in float64."""
    wrong = 0
    for lists, anchors, others in ((found[0], task.images, task.texts), (found[1], task.texts, task.images)):
        assert anchors.ids is not None and others.ids is not None
        for i in torch.linspace(0, len(anchors) - 1, CHECKED).long().tolist():
            indices, scores = unpack(lists[i : i + 1])
            allowed = torch.nonzero(others.ids != anchors.ids[i]).flatten()
            row = anchors.rows[i].double()
            exact = torch.cat([others.rows[some].double() @ row for some in allowed.split(1 << 16)])
            best = exact.topk(min(lists.shape[1], len(allowed))).values
            held = indices[0][: len(best)]
            own = ordered_dot(row.expand(len(held), -1), others.rows[held].double())
            ordered = torch.equal(own.float(), scores[0][: len(best)]) and (held >= 0).all()
            wrong += not (ordered and torch.allclose(own, best, rtol=0.0, atol=1e-7))
    return wrong


def run_all(device: torch.device, seconds: float, images: int, raw: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Every form of every type, until the time is up; the file is written anew after each."""
    deadline = time.monotonic() + seconds
    report: dict[str, Any] = {"environment": facts, "images": images, "records": []}
    for dtype in DTYPES:
        task: Task | None = None
        for form in FORMS:
            values: dict[str, float] = {}
            note = ""
            if time.monotonic() > deadline:
                note = "not measured: time was up"
            else:
                try:
                    task = task or make_task(getattr(torch, dtype), images, device)
                    values = measure(form, task, device)
                except torch.OutOfMemoryError:
                    note = "out of memory"
                except Exception as error:
                    note = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
            report["records"].append(asdict(Setting(dtype, images, WIDTH, form)) | {"values": values, "note": note})
            raw.write_text(json.dumps(report, indent=1) + "\n")
        del task
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return report


def tables(report: dict[str, Any]) -> str:
    """Markdown: the targets, then every measurement."""
    images = report["images"]
    texts, values = images * CAPTIONS_AN_IMAGE, values_of(report["records"])
    lines = [
        "# Mining on a GPU",
        "",
        ", ".join(f"{name} {value}" for name, value in report["environment"].items()) + ".",
        f"{images} images and {texts} captions, D = {WIDTH}; up to {TEXTS_LISTED} captions an image and "
        f"{IMAGES_LISTED} images a caption, its own left out. Wall clock of whole calls, medians. TFLOP/s counts one "
        "product. The peers' lists are of rounded scores, ties in no particular order; ours are exact.",
        "",
        "| target | bound | measured | |",
        "|---|---|---|---|",
    ]
    for target in targets(images):
        value, verdict = target.judge(values)
        shown = "" if value is None else f"{value:.3g}"
        lines.append(f"| {target.name} | {'≥' if target.at_least else '≤'} {target.bound:g} | {shown} | {verdict} |")
    lines += ["", "| dtype, form | seconds | TFLOP/s | extra MiB | wrong lists | |", "|---|---|---|---|---|---|"]
    for record in report["records"]:
        found = record["values"]
        cells = [f"{record['dtype']}, {record['form']}", "", "", "", "", record["note"]]
        if "seconds" in found:
            cells[1] = f"{found['seconds']:.4g}"
            cells[2] = f"{2 * images * texts * WIDTH / found['seconds'] / 1e12:.4g}"
            cells[3] = f"{found['extra'] / 2**20:.0f}" if "extra" in found else ""
            cells[4] = f"{found['wrong']:.0f} of {2 * CHECKED}" if "wrong" in found else ""
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the result files")
    parser.add_argument("--seconds", type=float, default=300, help="no form is begun later (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="part of COCO's images (default: all)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    torch.backends.cuda.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    raw = options.output / f"{date.today()}-gpu-mining.json"
    images = max(1, round(IMAGES * options.scale))
    report = run_all(device, options.seconds, images, raw, environment(name))
    raw.with_suffix(".md").write_text(tables(report))
    print(tables(report))
    if any(record["values"].get("wrong") for record in report["records"]):
        raise SystemExit("gpu_mining: some lists are wrong")


if __name__ == "__main__":
    main()
