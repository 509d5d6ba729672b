"""Working through slides: planning, resuming, sharing, joining; what `predict` and `sliding-window` have in common."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from numpy.typing import NDArray

from segkit import files
from segkit.data.listing import name_of
from segkit.errors import InputError, SegkitError, UsageError
from segkit.inference.parts import PARTS, PartStore
from segkit.inference.pipeline import SlideJob, run_jobs
from segkit.inference.plan import Plan
from segkit.inference.seams import largest_seam_difference, seam_places
from segkit.inference.sources import SlideLevel, with_channels
from segkit.memory import give_back_freed_memory
from segkit.report.tissue import draw_tissue
from segkit.slides import Slide, open_slide
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size
from segkit.slides.tissue import Tissue
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.engine import Engine, Order, ResultT
from segkit.workflows.inputs import finished_record, key_of_slide

log = logging.getLogger(__name__)

TISSUE = "tissue.png"
PICTURE_PX = 1500
PARTS_BETWEEN_GIVING_BACK = 32

# What a result does not depend on, or what the plan says in its place.
_NOT_IN_KEY = {"compute", "batch", "tile", "max_memory", "method", "verify_seams", "tissue"}


def run_slides(
    paths: Sequence[Path], engine: Engine[ResultT], order: Order, on_progress: OnProgress, on_note: OnNote
) -> list[ResultT]:
    """Work through slides, each into the folder `out/NAME`; return what became of each, in order.

    A slide that cannot be used does not stop the others. Full disks and the like would fail them, too: they do, and
    finished parts are kept.
    """
    run = _Run(paths, engine, order, on_progress, on_note)
    with run.open_slides:
        run_jobs(run.jobs(), engine.network)
    return [run.results[path] for path in paths]


class _Run(Generic[ResultT]):
    """A pass through all slides."""

    def __init__(
        self, paths: Sequence[Path], engine: Engine[ResultT], order: Order, on_progress: OnProgress, on_note: OnNote
    ) -> None:
        self._paths, self.engine, self.order = paths, engine, order
        self._on_progress, self._on_note = on_progress, on_note
        self.results: dict[Path, ResultT] = {}
        self.open_slides = contextlib.ExitStack()

    def jobs(self) -> Iterator[SlideJob]:
        """Yield the slides that there is something to do for; the others get their result."""
        before, total = self._weights()
        for number, path in enumerate(self._paths, start=1):
            stage = path.name if len(self._paths) == 1 else f"{path.name} ({number}/{len(self._paths)})"
            with self._failing(path):
                work = self._begin(path, stage, before.get(path, 0), total)
                if work is not None:
                    yield work.job()

    def _begin(self, path: Path, stage: str, before: int, total: int) -> "_SlideWork[ResultT] | None":
        engine, order = self.engine, self.order
        folder = order.out / name_of(path)
        if folder.resolve() == path.resolve().parent:
            raise UsageError(f"{path}: lies in the folder that its results would be written to. Choose another --out.")
        with contextlib.ExitStack() as stack:
            slide = stack.enter_context(open_slide(path))
            tissue = engine.planner.tissue(slide)
            plan = engine.planner.plan(slide, tissue)
            key = self._key(path, plan)
            if self._is_finished(path, folder, key):
                return None
            self._on_note(f"{path.name}: {plan.describe()}, {engine.describe}")
            if order.dry_run:
                self.results[path] = engine.result(input=path, folder=folder, status="planned", seconds=plan.seconds)
                return None
            shared = order.share.count > 1
            files.prepare_folder(folder)
            stack.enter_context(files.folder_lock(folder, shared=shared))
            store = PartStore(folder, key, plan.layout)
            if not shared:
                if order.overwrite:
                    files.remove(folder / runs.RECORD)
                files.remove_leftovers(folder)
                self._remove_other_parts(path, store)
            map_px = plan.layout.height * plan.layout.width
            files.require_free_bytes(folder, map_px // 8, "the result")
            work = _SlideWork(
                self, path, folder, stage, slide, tissue, plan, store, self._on_note, self._on_progress, before, total
            )
            work.stack = stack.pop_all()
        self.open_slides.callback(work.stack.close)
        return work

    def _weights(self) -> tuple[dict[Path, int], int]:
        """Return the work in all slides before each one, and in all of them, where workers divide it."""
        before: dict[Path, int] = {}
        total = 0
        if self.order.share.count == 1:
            return before, total
        for number, path in enumerate(self._paths, start=1):
            self._on_progress("weigh slides", number, len(self._paths), {})
            before[path] = total
            with contextlib.suppress(InputError, UsageError), open_slide(path) as slide:  # met again in its turn
                total += sum(self.engine.planner.weights(slide))
        return before, total

    def _key(self, path: Path, plan: Plan) -> dict[str, Any]:
        """Return what a result depends on: the slide's content, the models, the settings."""
        engine = self.engine
        key = {
            "command": engine.command,
            "slide": key_of_slide(path),
            **engine.key,
            "settings": engine.config.model_dump(mode="json", exclude=_NOT_IN_KEY),
            "tissue": engine.planner.tissue_key(),
            # Pictures are smoothed in floats, whose last bit may differ between processors: workers that find other
            # cells must not share parts.
            "cells": plan.layout.wanted_digest,
            "part_px": plan.layout.part_px,
        }
        plain: dict[str, Any] = json.loads(json.dumps(key))
        return plain

    def _is_finished(self, path: Path, folder: Path, key: Mapping[str, Any]) -> bool:
        record = finished_record(folder, key, overwrite=self.order.overwrite)
        if record is None:
            return False
        if self.order.share.count == 1:
            files.remove(folder / PARTS)  # what a run that was killed at its very end has left
        self._on_note(f"{path.name}: finished before with the same model and settings, skipped")
        self.results[path] = self.result_of(path, folder, "skipped", record)
        return True

    def result_of(self, path: Path, folder: Path, status: Any, record: Mapping[str, Any]) -> ResultT:
        """Return what became of an input, as its record says it."""
        own = {one.name for one in dataclasses.fields(self.engine.result)} & record.keys()
        facts = {name: record[name] for name in own - {"input", "folder", "status"}}
        return self.engine.result(input=path, folder=folder, status=status, **facts)

    def _remove_other_parts(self, path: Path, store: PartStore) -> None:
        for key in store.remove_others():
            changed = [name for name in store.key if key.get(name) != store.key[name]]
            what = "the slide has changed" if changed == ["slide"] else f"other {', '.join(changed)}"
            self._on_note(f"{path.name}: parts of an earlier run are of no use ({what}): it starts again")

    @contextlib.contextmanager
    def _failing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (InputError, UsageError) as error:
            self.fail(path, error)

    def fail(self, path: Path, error: SegkitError) -> None:
        """Note that an input failed."""
        log.info("%s failed", path, exc_info=error)
        self._on_note(f"failed: {error}")
        self.results[path] = self.engine.result(
            input=path,
            folder=self.order.out / name_of(path),
            status="failed",
            cause=str(error),
            exit_code=error.exit_code,
        )


@dataclass(eq=False)
class _SlideWork(Generic[ResultT]):
    """One slide: its parts, and what is made of them."""

    run: _Run[ResultT]
    path: Path
    folder: Path
    stage: str
    slide: Slide
    tissue: Tissue
    plan: Plan
    store: PartStore
    on_note: OnNote
    on_progress: OnProgress
    before: int
    total: int
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    started: float = field(default_factory=time.perf_counter)
    parts_here: int = 0

    def job(self) -> SlideJob:
        """Return the slide as the pipeline takes it."""
        scale = self.plan.scale
        self.source = SlideLevel(
            self.slide, scale.level, self.run.engine.channels, scale=scale.scale, size=(scale.height, scale.width)
        )
        self.outputs = self.run.engine.outputs(self.source, self.folder, self.plan)
        finished = self.store.finished(self._say_damaged)
        layout = self.plan.layout
        if finished:
            self.on_note(f"{self.path.name}: {len(finished)} of {layout.num_parts} parts were finished before")
        weights = layout.weights()
        done_before = sum(len(layout.tiles(index)) for index in finished)
        drawn = self.run.order.share.parts(str(self.path), weights, self.before, self.total)
        self._job = SlideJob(
            source=self.source,
            layout=layout,
            parts=(index for index in drawn if index not in finished),
            work_up=self.outputs.work_up,
            write_part=self._write_part,
            finish=self._finish,
            fail=self._fail,
            batch=self.plan.batch,
            on_tiles=lambda done: self.on_progress(self.stage, done_before + done, layout.num_tiles, {}),
        )
        return self._job

    def _write_part(self, index: int, blocks: list[dict[str, NDArray[Any]] | None]) -> None:
        self.store.write(index, blocks)
        self.parts_here += 1
        if self.parts_here % PARTS_BETWEEN_GIVING_BACK == 0:
            give_back_freed_memory()

    def _say_damaged(self, path: Path) -> None:
        self.on_note(f"{path}: is damaged, this part is done again")

    def _fail(self, error: SegkitError) -> None:
        self.run.fail(self.path, error)
        self.stack.close()

    def _finish(self, check: Callable[[], None]) -> None:
        """Join the parts, if all are there and nobody else does; called in a thread of its own."""
        with self.stack:
            is_shared = self.run.order.share.count > 1
            if is_shared and len(self.store.present()) < self.plan.layout.num_parts:
                self._leave_to_others()
                return
            with files.first_to_hold(self.store.folder) as first:
                # Another worker may have joined, and removed the parts, since they were seen to be complete.
                joined = finished_record(self.folder, self.store.key, overwrite=False) is not None
                if first and not joined and self._all_whole():
                    self._join(check)
                    return
                if joined:
                    self.store.remove()
            self._leave_to_others()

    def _leave_to_others(self) -> None:
        record = finished_record(self.folder, self.store.key, overwrite=False)
        status = "done" if record is not None else "shared"
        self.run.results[self.path] = self.run.result_of(self.path, self.folder, status, record or {})
        if record is None:
            self.on_note(f"{self.path.name}: its other parts are with other workers, the last of whom joins them")

    def _all_whole(self) -> bool:
        whole = self.store.finished(self._say_damaged)
        if len(whole) == self.plan.layout.num_parts:
            return True
        if self.run.order.share.count == 1:
            raise InputError(f"{self.store.folder}: a part was damaged or removed. Run the same command again.")
        return False

    def _join(self, check: Callable[[], None]) -> None:
        for name in (runs.RECORD, *self.outputs.files, TISSUE):
            files.remove(self.folder / name)

        def on_row(done: int, total: int) -> None:
            check()
            self.on_progress(f"{self.stage}: joining", done, total, {})

        give_back_freed_memory()
        started = time.perf_counter()
        self.outputs.join(self.store.row, on_row)
        self.outputs.draw(self.slide)
        if self.plan.tissue_share < 1:
            self._draw_tissue()
        seams = self._verify_seams()
        timings, seconds = self._job.timings, time.perf_counter() - self.started
        record = {
            "command": self.run.engine.command,
            "input": str(self.slide.path.resolve()),
            "slide": {
                "height": self.slide.height,
                "width": self.slide.width,
                "mpp": self.slide.mpp,
                "properties": self.slide.properties,
            },
            **self.run.engine.record,
            "plan": self.plan.as_record(),
            "parts": {"all": self.plan.layout.num_parts, "done_by_this_process": self.parts_here},
            "worker": self.run.order.share.describe(),
            "timings_s": {
                "total": round(seconds, 3),
                "waiting_for_pixels": round(timings.read, 3),
                "network": round(timings.network, 3),
                "waiting_for_writer": round(timings.write, 3),
                "joining": round(time.perf_counter() - started, 3),
            },
            "peak_memory_bytes": runs.peak_memory_bytes(),
            **self.outputs.facts(),
            "largest_seam_difference": seams,
            "files": [name for name in self.outputs.files if (self.folder / name).exists()],
            "seconds": seconds,
            "versions": runs.versions(),
            "finished": runs.now(),
            "key": self.store.key,
            "complete": True,
        }
        files.write_json(self.folder / runs.RECORD, record)
        self.store.remove()
        self.run.results[self.path] = self.run.result_of(self.path, self.folder, "done", record)

    def _draw_tissue(self) -> None:
        height, width = thumbnail_size(self.slide.height, self.slide.width, PICTURE_PX)
        mpp = self.plan.level_0_mpp
        draw_tissue(
            with_channels(read_thumbnail(self.slide, height, width), 3),
            self.tissue.mask,
            self.folder / TISSUE,
            title=self.path.name,
            um_per_px=mpp and mpp * max(self.slide.height, self.slide.width) / max(height, width),
        )

    def _verify_seams(self) -> float | None:
        asked = self.run.engine.config.verify_seams
        if asked == 0:
            return None
        number = len(seam_places(self.plan.layout, asked))
        if number == 0:
            self.on_note(f"{self.path.name}: no tile borders, or none with room around them: no seams to look for")
            return None
        difference = largest_seam_difference(
            self.source,
            self.run.engine.network,
            self.plan.layout,
            number,
            None if self.run.engine.config.format == "ome-zarr" else self.outputs.written_difference,
        )
        self.on_note(
            f"{self.path.name}: {number} places on tile borders, computed again in one piece: the largest difference "
            f"is {difference:.2g}"
        )
        return difference
