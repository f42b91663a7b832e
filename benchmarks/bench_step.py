"""Where the time of a training step goes: data, encoders, loss, optimizer; with the fused loss and the eager one.

    python benchmarks/bench_step.py [--recipe configs/coco/vsepp-aoq.yaml ...] [--batch 128 1024] [--output FILE.md]
    python benchmarks/bench_step.py --reading [--output FILE.md]

A step is what `aoq train` does under the recipe's configuration, objective and sizes, taken apart: rows are drawn and
read, encoded, the loss is computed and differentiated, its gradient goes back through the encoders, and Adam steps. A
recipe for data that is not bundled gets random features, in a memory-mapped file, and random captions; offline
negatives are random for all. Both losses take turns on the same batches and weights; medians are reported. The whole
step of `aoq train` is timed too, so that the sum of the parts can be checked.

With --reading: how long a step waits for its images where these come slowly, read ahead by so many processes or not at
all, beside the same step with images that are there. Rows either take a set time each, or are read from a memory-mapped
file that is put out of the page cache after every batch, as a file larger than the memory would be.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpuinfo import get_cpu_info  # type: ignore[import-untyped]
from lightning_fabric import Fabric
from numpy.typing import NDArray
from run import environment

from aoq_ext import reference
from aoq_ext.data import ImageTextData, Vocabulary, read_rows
from aoq_ext.data.image_rows import LazyRows
from aoq_ext.encoders import Features
from aoq_ext.lists.sampler import OfflineNegativeSampler
from aoq_ext.parallel import ALONE
from aoq_ext.training import TrainConfig, load_config
from aoq_ext.training.batches import Batch, PairBatches
from aoq_ext.training.feed import Feed
from aoq_ext.training.gradient import Place
from aoq_ext.training.model import build_model
from aoq_ext.training.objective import TrainingObjective
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.step import Step, StepFeatures, StepRows, rows_of
from aoq_ext.training.update import Update

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = ("icons/aoq.yaml", "coco/vsepp-aoq.yaml")
REGIONS, WIDTH = 36, 2048  # bottom-up attention features
WORDS = 10_000
CAPTIONS = 5
DELAYS = (1e-4, 5e-4)  # seconds a row
WARM_STEPS = 4
# How many processes read; None: the images are there.
FORMS = {"images that are there": None, "not read ahead": 0, "ahead, 1 process": 1, "ahead, 2 processes": 2}
PARTS = ("data", "encoders, forward", "loss, forward", "loss, backward", "encoders, backward", "clip and Adam")


def random_data(images: int, folder: Path) -> ImageTextData:
    """Features in a file, as SCAN's layout has them, and captions of 8 to 16 words."""
    generator = np.random.default_rng(0)
    features = np.lib.format.open_memmap(folder / "ims.npy", "w+", np.float32, (images, REGIONS, WIDTH))
    for image in range(images):
        features[image] = generator.standard_normal((REGIONS, WIDTH), dtype=np.float32).clip(0)
    features.flush()
    lengths = generator.integers(8, 17, images * CAPTIONS)
    captions = [" ".join(f"word{word}" for word in generator.integers(0, WORDS, length)) for length in lengths]
    return ImageTextData(
        images=np.load(folder / "ims.npy", mmap_mode="r"),
        captions=captions,
        caption_image=np.repeat(np.arange(images), CAPTIONS),
        group_ids=np.arange(images),
        image_names=[str(image) for image in range(images)],
        name="random",
    )


def random_lists(data: ImageTextData, top_texts: int, top_images: int) -> OfflineNegativeSampler:
    """Lists of other images' texts and of other images, as long as the recipe draws from."""
    images, texts = len(data.images), len(data.captions)
    generator = np.random.default_rng(1)
    shift_text = generator.integers(CAPTIONS, texts - CAPTIONS, (images, top_texts))
    shift_image = generator.integers(1, images, (texts, top_images))
    return OfflineNegativeSampler(
        torch.from_numpy((np.arange(images)[:, None] * CAPTIONS + shift_text) % texts),
        torch.from_numpy((data.caption_image[:, None] + shift_image) % images),
        torch.from_numpy(data.caption_image),
        top_texts=top_texts,
        top_images=top_images,
    )


class Delayed(LazyRows):
    """Rows in memory that take a set time each, as those of a slow disk or a network would."""

    def __init__(self, images: NDArray[Any], seconds: float) -> None:
        super().__init__(images.shape, images.dtype)
        self.images = images
        self.seconds = seconds

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        time.sleep(self.seconds * len(rows))
        read: NDArray[Any] = self.images[rows]
        return read


class Uncached(LazyRows):
    """Rows of a .npy file, from the disk every time."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        super().__init__(mapped.shape, mapped.dtype)
        self.path = path

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        read = read_rows(np.load(self.path, mmap_mode="r"), rows)
        with self.path.open("rb") as file:  # which nobody maps any more
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return read


class Laps:
    """Seconds of each part of a step, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)

    def median(self, name: str) -> float:
        """Milliseconds."""
        return 1e3 * statistics.median(self.seconds[name])


class Steps:
    """Steps of one recipe, on random data."""

    def __init__(self, config: TrainConfig, data: ImageTextData) -> None:
        self.config = config
        self.pairs = EncodedPairs(data, Vocabulary.build(data.captions))
        vocabulary = Vocabulary.build(data.captions)
        self.fabric = Fabric(accelerator="cpu", devices=1)
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, len(vocabulary))
        self.update = Update(config, self.fabric, ALONE, self.model)
        self.sampler = random_lists(data, config.offline.top_texts, config.offline.top_images)
        self.batches = PairBatches(self.pairs.captions, config.batch_size, config.seed, 1)
        self.losses = {"fused": self._objective(), "eager": self._objective()}
        eager = self.losses["eager"]
        assert self.model.embeds
        options = config.loss
        eager.function = partial(  # type: ignore[assignment]
            reference.adaptive_quintuplet_loss,
            margin_online=options.margin_online,
            margin_offline=options.margin_offline,
            alpha=options.alpha,
            beta=options.beta,
            objective=options.objective,
            detach_weight=options.detach_weight,
            clamp_weight=options.clamp_weight,
        )

    def _objective(self) -> TrainingObjective:
        return TrainingObjective(self.model, self.config.loss, self.config.loss.objective, "hardest", ALONE)

    def batch(self, number: int) -> Batch:
        epoch, step = divmod(number, self.batches.steps_per_epoch)
        return next(iter(self.batches.epoch(epoch, first_step=step)))

    def read(self, batch: Batch) -> StepRows:
        return self.pairs.rows(rows_of(batch, self.sampler, self.config.loss.objective))

    def whole(self, batch: Batch, loss: str, laps: Laps) -> None:
        """As `aoq train` takes it."""
        with laps.lap("whole"):
            step = Step(batch.step, len(batch), [self.read(batch)])
            self.update(step, self.losses[loss], self.config.optimizer.lr, measured=False)

    def in_parts(self, batch: Batch, loss: str, laps: Laps) -> None:
        """The same step, with the graph cut between the encoders and the loss."""
        device, model, optimizer = self.fabric.device, self.model, self.update.optimizer
        optimizer.zero_grad()
        Place(self.config.seed, batch.step).seed_torch()
        with laps.lap("data"):
            rows = self.read(batch)
            whole = rows.chunks(None)[0]
            images, (tokens, lengths) = rows.images_at(whole, device), rows.texts_at(whole, device)
        with laps.lap("encoders, forward"):
            image, text, auxiliary = model(images, tokens, lengths, rows.pairs)
        cut = [Features(side.values.detach().requires_grad_(), side.lengths) for side in (image, text)]
        with laps.lap("loss, forward"):
            value = self.losses[loss].loss(StepFeatures.of(cut[0], cut[1], rows, rows.group_ids))
        with laps.lap("loss, backward"):
            value.backward()  # type: ignore[no-untyped-call]
        with laps.lap("encoders, backward"):
            outputs: list[Any] = [image.values, text.values]
            gradients: list[Any] = [side.values.grad for side in cut]
            if auxiliary is not None:
                outputs.append(auxiliary * self.config.model.auxiliary_weight)
                gradients.append(None)
            torch.autograd.backward(outputs, gradients)
        with laps.lap("clip and Adam"):
            self.fabric.clip_gradients(model, optimizer, max_norm=self.config.optimizer.clip_norm)
            optimizer.step()


def measure(config: TrainConfig, data: ImageTextData, repeats: int) -> dict[str, Laps]:
    """By loss; each batch is done by both, in turn."""
    steps = Steps(config, data)
    laps = {loss: Laps() for loss in steps.losses}
    warm = {loss: Laps() for loss in steps.losses}
    for number in range(repeats + 1):
        batch = steps.batch(number)
        for loss in sorted(steps.losses, reverse=bool(number % 2)):  # whoever comes second finds the rows in the cache
            into = (laps if number else warm)[loss]
            steps.in_parts(batch, loss, into)
            steps.whole(batch, loss, into)
    return laps


def time_feed(steps: Steps, workers: int | None, count: int) -> Laps:
    """Waiting and computing of ``count`` steps in a row; workers: None: of one step again and again, read before."""
    config, laps = steps.config, Laps()
    config = replace(config, data=replace(config.data, workers=workers or 0))
    objective = steps.losses["fused"]
    with closing(Feed(config, steps.pairs, steps.batches, ALONE)) as feed:
        reading = feed.epoch(0, 0, objective.objective, steps.sampler)
        if workers is None:
            reading = repeat(next(reading))
        for number in range(WARM_STEPS + count):
            into = laps if number >= WARM_STEPS else Laps()
            with into.lap("step"):
                with into.lap("wait"):
                    coming = next(reading)
                step = coming  # only now is the step before given back, which is no waiting
                steps.update(step, objective, config.optimizer.lr, measured=False)
    return laps


def reading_table(title: str, steps: Steps, count: int, rounds: int) -> list[str]:
    """The forms take turns, so that a slow minute of the machine is everyone's."""
    laps = {form: Laps() for form in FORMS}
    for _ in range(rounds):
        for form, workers in FORMS.items():
            for name, seconds in time_feed(steps, workers, count).seconds.items():
                laps[form].seconds.setdefault(name, []).extend(seconds)
    lines = [
        f"### {title}",
        "",
        "| ms | step, median | step, least | wait, median | wait, longest |",
        "|---|---|---|---|---|",
    ]
    for form, of in laps.items():
        least, longest = 1e3 * min(of.seconds["step"]), 1e3 * max(of.seconds["wait"])
        lines.append(f"| {form} | {of.median('step'):.1f} | {least:.1f} | {of.median('wait'):.1f} | {longest:.1f} |")
    return [*lines, ""]


def reading(images: int, rounds: int, folder: Path) -> list[str]:
    icons = load_config(CONFIGS / "icons/aoq.yaml")
    data = load_split(icons.data, "train")
    lines = ["## icons/aoq", ""]
    for seconds in DELAYS:
        steps = Steps(icons, replace(data, images=Delayed(data.images, seconds)))  # type: ignore[arg-type]
        lines += reading_table(f"{1e3 * seconds:g} ms a row, 384 rows a step", steps, 12, rounds)
        print("\n".join(lines[-9:]), flush=True)
    coco = load_config(CONFIGS / "coco/vsepp-aoq.yaml")
    data = random_data(images, folder)
    steps = Steps(coco, replace(data, images=Uncached(folder / "ims.npy")))  # type: ignore[arg-type]
    lines += ["## coco/vsepp-aoq", ""]
    lines += reading_table("113 MB of features a step, none of it in the page cache", steps, 6, rounds)
    print("\n".join(lines[-9:]), flush=True)
    return lines


def table(config: TrainConfig, laps: dict[str, Laps]) -> list[str]:
    total = {loss: sum(laps[loss].median(part) for part in PARTS) for loss in laps}
    alone = {loss: sum(laps[loss].median(part) for part in PARTS if part.startswith("loss")) for loss in laps}
    whole = {loss: laps[loss].median("whole") for loss in laps}
    lines = [
        f"### B = {config.batch_size}, {config.loss.objective}",
        "",
        "| ms | fused loss | share | eager loss | share |",
        "|---|---|---|---|---|",
    ]
    for part in PARTS:
        times = {loss: laps[loss].median(part) for loss in laps}
        lines.append(f"| {part} | " + " | ".join(f"{times[x]:.2f} | {times[x] / total[x]:.1%}" for x in laps) + " |")
    for name, times in (("sum of the parts", total), ("the whole step, timed on its own", whole)):
        lines.append(f"| {name} | " + " | ".join(f"{times[loss]:.1f} | " for loss in laps) + "|")
    return [
        *lines,
        "",
        f"Fused, the loss alone is {alone['eager'] / alone['fused']:.1f} times as fast as eager. It is "
        f"{alone['eager'] / total['eager']:.1%} of the eager step: no faster loss can save more of it.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipe", type=Path, nargs="+", default=[CONFIGS / name for name in RECIPES])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 1024], help="pairs (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="steps with each loss (%(default)s)")
    parser.add_argument("--images", type=int, default=4096, help="in a random data set (%(default)s)")
    parser.add_argument("--reading", action="store_true", help="time waiting for images instead")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    if arguments.reading:
        machine = environment(get_cpu_info()["brand_raw"])
        with tempfile.TemporaryDirectory() as folder:
            lines = reading(arguments.images, arguments.repeats, Path(folder))
        machine["load average of fifteen minutes"] = f"{os.getloadavg()[2]:.1f}"  # other people's work included
        facts = ", ".join(f"{key} {value}" for key, value in machine.items())
        lines = ["# Steps whose images come slowly", "", f"{facts}. B = 128, adaptive_quintuplet.", "", *lines]
        if arguments.output is not None:
            arguments.output.write_text("\n".join(lines), encoding="utf-8")
        return
    lines = [
        "# Where the time of a training step goes",
        "",
        f"{date.today()}, {get_cpu_info()['brand_raw']}, {torch.get_num_threads()} threads, torch {torch.__version__}. "
        f"COCO: random data, {arguments.images:,} images of {REGIONS} × {WIDTH} features in a memory-mapped file, "
        f"captions of 8 to 16 words. Medians of {arguments.repeats} steps (`python benchmarks/bench_step.py`).",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for recipe in arguments.recipe:
            lines += [f"## {recipe.parent.name}/{recipe.stem}", ""]
            config = load_config(recipe)
            bundled = config.data.root is None
            data = load_split(config.data, "train") if bundled else random_data(arguments.images, Path(folder))
            for batch_size in arguments.batch:
                config = replace(config, batch_size=batch_size)
                lines += table(config, measure(config, data, arguments.repeats))
                print("\n".join(lines[-12:]), flush=True)
    if arguments.output is not None:
        arguments.output.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
