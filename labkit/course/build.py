"""Builds a course: a folder for learners, and its zip file. Nothing is written if the course would contain an answer."""

from __future__ import annotations

import itertools
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import labkit
from labkit.course.contents import PACKAGES, copy_contents, readme
from labkit.course.leaks.forbidden import forbidden_in
from labkit.course.leaks.leak_check import Leak, find_leaks
from labkit.course.make_sheet import MadeSheet, make_sheet
from labkit.course.package_up import is_course_folder, write_manifest, zip_folder
from labkit.course.wheel import build_wheel, need_builder
from labkit.errors import InvalidRequest, LabkitError
from labkit.exercises.core_path import FULL, need_track, on_track
from labkit.exercises.titles import LAB_TITLES
from labkit.grading.find_answer import need_answers
from labkit.grading.release import Lab, choose_labs, stale
from labkit.plurals import counted

NAME = "labkit-course"
"""The name of the learner's folder, and of the zip file."""
MOST_LEAKS = 5
"""The largest number of leaks that an error message lists for one file."""

Say = Callable[[str], object]


@dataclass(frozen=True)
class Course:
    """A course that was built into the folder `out`."""

    out: Path
    labs: tuple[str, ...]
    track: str
    wheel: str
    has_kernels: bool
    sheet: MadeSheet | None

    @property
    def folder(self) -> Path:
        """The learner's folder."""
        return self.out / NAME

    @property
    def archive(self) -> Path:
        """The zip file of the learner's folder."""
        return self.out / f"{NAME}.zip"


class LeakFound(LabkitError):
    """Learners would get an answer. The message says where each answer was found, for at most `MOST_LEAKS` places per file."""


def build_course(
    root: Path,
    out: Path,
    checks: str,
    *,
    labs: Sequence[str] = (),
    track: str = FULL,
    with_sheet: bool = True,
    force: bool = False,
    say: Say = lambda words: None,
) -> Course:
    """Build the course from the folder `root` into the new folder `out`. `labs` are the labs' numbers, such as "01"; an
    empty `labs` means all labs. On the track "core", the notebooks do not contain the extra exercises.

    `checks` is the version of the course's checks. The folder `out` appears only if everything has succeeded. With `force`, a
    course that was built before is replaced. Raises `LeakFound` if the course contains a reference, a known mistake or a
    solution; `InvalidRequest` if there is no such track, if `out` exists, or if `root` is not the folder from which labkit
    runs; `NotAvailable` if this copy of labkit has no answers, or if no wheel can be built here.
    """
    need_answers("release a course")
    _need_own_labkit(root)
    need_builder()
    need_track(track)
    _need_place(out, force)
    chosen = choose_labs(root, labs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        work, made = Path(place), Path(place) / "made"
        course = _build(root, work, made, chosen, track, checks, with_sheet, say)
        say("searching for answers in the course")
        _refuse_leaks(root, course, chosen)
        _put(made, out, work / "old")
    return replace(course, out=out)


def _build(
    root: Path, work: Path, made: Path, labs: Sequence[Lab], track: str, checks: str, with_sheet: bool, say: Say
) -> Course:
    folder, sheet = made / NAME, None
    copy_contents(root, folder, labs, track)
    if with_sheet:
        exercises = [exercise for lab in labs if lab.number in LAB_TITLES for exercise in on_track(lab.number, track)]
        sheet = make_sheet(exercises, work / "sheet", checks, lambda one: say(f"answer sheet: {one.number} {one.title}"))
    say("building the wheel, with the CPU kernels (a minute)")
    platform = sysconfig.get_platform().replace("-", "_")
    about = readme(root, labs, sheet, platform)
    (folder / "README.md").write_text(about, "utf-8")
    (folder / PACKAGES).mkdir()
    wheel = build_wheel(root, folder / PACKAGES, work / "sources", readme=about, sheet=work / "sheet" if sheet else None)
    numbers = tuple(lab.number for lab in labs)
    write_manifest(
        folder,
        {
            "labkit": labkit.__version__,
            "checks": checks,
            "labs": list(numbers),
            "track": track,
            "platform": platform,
            "answer_sheet": {"exercises": sheet.exercises, "bytes": sheet.size, "left_out": sheet.left_out} if sheet else None,
        },
    )
    zip_folder(folder, made / f"{NAME}.zip")
    has_kernels = (work / "sources" / "labkit" / "native" / "_native.so").exists()
    return Course(made, numbers, track, wheel.name, has_kernels, sheet)


def _need_own_labkit(root: Path) -> None:
    here, there = Path(labkit.__file__).resolve().parent, (root / "labkit").resolve()
    if here != there:
        raise InvalidRequest(
            f"the labkit that runs is in {here}, but the course is in {root.resolve()}; "
            f"run {root.resolve()}/.venv/bin/labkit, or name the folder of this labkit with --folder"
        )


def _need_place(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise InvalidRequest(f"{out} exists; name another folder with --out, or replace it with --force")
    if not is_course_folder(out / NAME):
        raise InvalidRequest(
            f"{out} is not a course that labkit has built, so --force does not replace it; name another folder"
        )


def _refuse_leaks(root: Path, course: Course, labs: Sequence[Lab]) -> None:
    if leaks := find_leaks(course.archive, forbidden_in(root)):
        words = f"nothing was released, because learners would get answers ({counted(len(leaks), 'place')}):"
        raise LeakFound("\n".join([words, *_in_words(leaks)]))
    if old := [str(lab.student) for lab in labs if lab.student in stale(lab)]:
        raise InvalidRequest(f"nothing was released, because {', '.join(old)} differ from solutions/*.py; run `labkit release`")


def _in_words(leaks: Sequence[Leak]) -> Iterator[str]:
    """Yield one line for each leak, but at most `MOST_LEAKS` lines for each file and a line that counts its other leaks."""
    for file, of_file in itertools.groupby(leaks, lambda leak: leak.file):
        found = list(of_file)
        yield from (f"  {leak}" for leak in found[:MOST_LEAKS])
        if len(found) > MOST_LEAKS:
            yield f"  {file}: {counted(len(found) - MOST_LEAKS, 'more place')}"


def _put(made: Path, out: Path, old: Path) -> None:
    """Move the new course from `made` to `out`.

    An earlier course in `out` is moved to `old` first, and is moved back if anything fails.
    """
    had_one = out.exists()
    if had_one:
        out.rename(old)
    try:
        made.rename(out)
    except BaseException:
        if had_one:
            old.rename(out)
        raise
