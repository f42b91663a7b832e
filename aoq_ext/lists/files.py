"""Mining from files into files: exact, larger than memory, restartable, shared by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .._arrays import is_intact
from .._files import expanded, locked, remove_temporaries
from .._scalars import as_int
from .._sources import check_sources, embeddings_file, open_embeddings
from ..mining.devices import checked_device, device_of
from ..mining.engine import TileDone, mine_rows
from ..mining.plan import MiningPlan, make_plan
from ..mining.progress import MiningProgress
from ..mining.rules import MiningRules
from ..mining.shards import REVERSE_BUFFER, Shards, choose_shard_rows, reverse_buffer, reverse_bytes
from ..mining.task import GivenSide, Labels, MiningTask, make_task
from ..parallel import Processes, advising, joined
from .folder import check_out_of_files
from .manifest import Manifest, describe_problem, fingerprint
from .mined_lists import MinedLists
from .writer import ListRows, begin_lists, write_lists

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._sources import EmbeddingsLike

DEFAULT_MEMORY = 4 << 30

_LOCK = ".lock"


@torch.no_grad()
def mine_to_files(
    anchors: EmbeddingsLike,  # (N, D)
    candidates: EmbeddingsLike,  # (M, D)
    out: str | Path,
    k: int,
    anchor_ids: Tensor | NDArray[Any] | None = None,  # (N,)
    candidate_ids: Tensor | NDArray[Any] | None = None,  # (M,)
    *,
    direction: Literal["anchors", "both"] = "anchors",
    k_reverse: int | None = None,
    anchor_labels: Labels | None = None,
    candidate_labels: Labels | None = None,
    skip: int = 0,
    margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    memory_limit: int | None = None,
    device: torch.device | str | None = None,
    shard_rows: int | None = None,
    texts: Literal["anchors", "candidates"] = "candidates",
    on_progress: Callable[[MiningProgress], None] | None = None,
) -> MinedLists:
    """The lists of `mine_hard_negatives`, to the bit, in a folder.

    A process that was stopped, however, is continued by the same call: finished shards are kept, and the files become
    those of an undisturbed run. Ranks of the default process group share the work; they need ``out`` in common.

    Args:
        anchors: what `open_embeddings` takes.
        candidates: likewise.
        out: the folder. One that was begun with other embeddings, ids, labels, k or rules is refused; so is that of a
            training run, and one that holds files of others under the names of the lists.
        memory_limit: bytes that mining may use in each process; None: 4 GiB, or half of what is free where that is
            less. Candidates' lists that would take more than a quarter of it are kept in a file while they grow.
        device: where scores are computed; that of tensors, else the CPU.
        shard_rows: anchors in a restartable part, chosen from the sizes without. A folder keeps its first choice.
        texts: which side is the texts of an image-text pair; kept with the lists, for who draws from them.
        on_progress: called after every tile and every shard of this process.

    See `mine_hard_negatives` for the other arguments.
    """
    inputs = {
        "anchors": anchors, "candidates": candidates, "anchor_ids": anchor_ids, "candidate_ids": candidate_ids,
    }  # fmt: skip
    processes = joined()

    def check() -> tuple[_Job, MiningRules]:
        rules = MiningRules.given(
            direction, k, k_reverse, skip=skip, margin=margin, relative_margin=relative_margin, max_score=max_score
        )
        if texts not in ("anchors", "candidates"):
            raise ValueError(f'texts must be "anchors" or "candidates", got {texts!r}')
        rows = None if shard_rows is None else as_int("shard_rows", shard_rows)
        if rows is not None and rows < 1:
            raise ValueError(f"shard_rows must be an int of at least 1, got {shard_rows}")
        limit = None if memory_limit is None else as_int("memory_limit", memory_limit)
        return _Job(expanded(Path(out)), processes, limit, rows, on_progress), rules

    def prepare() -> dict[str, Any]:  # writes nothing
        job.read_manifest()
        sources = open_embeddings(anchors, "anchors"), open_embeddings(candidates, "candidates")
        check_sources(*sources)
        job.task = make_task(
            GivenSide(sources[0], anchor_ids, anchor_labels),
            GivenSide(sources[1], candidate_ids, candidate_labels),
            rules,
        )
        job.device = checked_device(device) if device is not None else device_of(sources[0])
        job.plan = make_plan(job.task, job.plan_limit(), job.device)
        prints = [
            fingerprint(source, embeddings_file(given), job.known)
            for source, given in zip(sources, (anchors, candidates))
        ]
        problem, mined_from = describe_problem(job.task, (prints[0], prints[1]), texts)
        job.manifest = Manifest(problem, mined_from, fingerprints=job.known)
        return problem

    with ExitStack() as held:
        held.enter_context(advising("the same command continues the work"))
        job, rules = processes.together("checking the arguments", check)
        processes.by_leader("looking at the folder", lambda: check_out_of_files(out, inputs))
        problems = processes.meet("reading the embeddings", prepare)
        processes.meet("taking the folder", lambda: job.take(held))
        job.run(problems)
    return MinedLists.load(job.folder, checksums=False)


@dataclass
class _Job:
    """One call of `mine_to_files` on one rank."""

    folder: Path
    processes: Processes
    memory_limit: int | None
    shard_rows: int | None
    on_progress: Callable[[MiningProgress], None] | None
    known: dict[str, Any] = field(default_factory=dict)  # fingerprints
    manifest: Manifest = field(init=False)
    task: MiningTask = field(init=False)
    device: torch.device = field(init=False)
    plan: MiningPlan = field(init=False)
    shards: Shards = field(init=False)

    @property
    def limit(self) -> int:
        """Bytes by which the work is cut, whatever is free now."""
        return DEFAULT_MEMORY if self.memory_limit is None else self.memory_limit

    def read_manifest(self) -> None:
        """Learn which embeddings the folder knows."""
        manifest = Manifest.load(self.folder, "out")
        if manifest is not None:
            self.known = manifest.fingerprints

    def take(self, held: ExitStack) -> None:
        """Keep other jobs out of the folder."""
        if self.processes.leads:
            busy = RuntimeError(f"out: another process is mining into {self.folder}")
            held.enter_context(locked(self.folder / _LOCK, busy))

    def run(self, problems: list[dict[str, Any]]) -> None:
        for rank, other in enumerate(problems):
            for name in other:
                if other[name] != problems[0][name]:
                    raise ValueError(
                        f"{name} must be the same on every rank, but differs between rank 0 and rank {rank}"
                    )
        begun = self.processes.meet("reading the manifest", self._begin)[0]
        if begun is None:
            return
        self.shards = Shards(self.folder, self.task, begun, self.processes.rank)
        done = self._verified()
        self._mine([number for number in range(self.shards.count) if number not in done], done)
        self.processes.meet("writing the lists", self._assemble)

    def _begin(self) -> int | None:
        """Rows of a shard, None if everything is there already; rank 0 puts the folder in order first."""
        if not self.processes.leads:
            return None
        manifest = Manifest.load(self.folder, "out")
        rows = self.shard_rows or choose_shard_rows(self.task, self.limit)
        if manifest is not None:
            manifest.check_same(self.manifest.problem, self.folder)
            rows = manifest.shard_rows or rows
            if manifest.complete and all(is_intact(self.folder, entry) for entry in manifest.files.values()):
                Shards(self.folder, self.task, rows, 0).clear()
                return None
        shards = Shards(self.folder, self.task, rows, 0)
        remove_temporaries(self.folder, REVERSE_BUFFER)
        if manifest is None:
            shards.clear()  # of a folder whose manifest was taken away
        shards.remove_stale()
        self.manifest = replace(self.manifest, shard_rows=rows)
        begin_lists(self.folder, self.manifest)
        return rows

    def _verified(self) -> set[int]:
        """Shards that need not be mined; each rank looks at some."""
        some = range(self.processes.rank, self.shards.count, self.processes.world)
        everyone = self.processes.meet("verifying shards", lambda: self.shards.verify(some))
        return {number for numbers in everyone for number in numbers}

    def _mine(self, missing: list[int], done: set[int]) -> None:
        """Mine shards in rounds, one for each rank."""
        buffer = reverse_buffer(self.task, self.folder, self.limit)
        for start in range(0, len(missing), self.processes.world):
            rounds = missing[start : start + self.processes.world]

            def mine(rounds: list[int] = rounds) -> None:
                self._report(done, 0)
                if self.processes.rank >= len(rounds):
                    return
                scored = 0

                def on_tile(tile: TileDone) -> None:
                    nonlocal scored
                    scored += tile.scores
                    self._report(done, scored)

                number = rounds[self.processes.rank]
                if buffer is not None:
                    buffer.fill_(torch.iinfo(torch.int64).min)
                found = mine_rows(self.task, *self.shards.bounds(number), self.plan, self.device, buffer, on_tile)
                self.shards.write(number, found.cpu(), buffer)

            self.processes.meet(f"mining shards {', '.join(map(str, rounds))}", mine)
            done.update(rounds)

    def plan_limit(self) -> int | None:
        """For a plan, which counts the candidates' lists: also where they are in a file."""
        amount = reverse_bytes(self.task)
        return self.limit + amount if amount > self.limit // 4 else self.memory_limit

    def _rows(self, number: int) -> int:
        start, stop = self.shards.bounds(number)
        return stop - start

    def _report(self, done: set[int], scored: int) -> None:
        if self.on_progress is not None:
            width = len(self.task.candidates)
            scores = sum(map(self._rows, done)) * width + scored
            total = len(self.task.anchors) * width
            self.on_progress(MiningProgress(scores, total, len(done), self.shards.count))

    def _assemble(self) -> None:
        """Write the lists from the shards, and only then let the shards go."""
        self._report(set(range(self.shards.count)), 0)
        if not self.processes.leads:
            return
        block, rules = self.limit // 16, self.task.rules
        rows, columns = len(self.task.anchors), len(self.task.candidates)
        forward = ListRows((rows, rules.k), columns, self._unpacked(self.shards.read_found(block), rules.k))
        reverse = None
        if (k := rules.k_reverse) is not None:
            reverse = ListRows((columns, k), rows, self._unpacked(self.shards.read_reverse(block), k))
        write_lists(self.folder, self.manifest, forward, reverse)
        self.shards.clear()

    def _unpacked(self, found: Iterator[Tensor], k: int) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.task.lists(block, k) for block in found)
