"""The faults: each injects one into a run, gives the same command again, and says how it ended."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .chain import Chain, kept_files
from .process import TRACEBACK, Command, Ended, run

OUTCOMES = ("ended right", "refused clearly", "wrong", "lost")
RUNNING = ("registration_augmentation", "source_segmentation", "domain_adaptation", "multimodal_registration")
COMMANDS = {"train": 3, "evaluate": 6, "register": 6, "package": 1}  # how often on a finished run
ATTEMPTS = 12  # kills of a chain before it is left in peace


@dataclass
class Table:
    """What was tried and how it ended.

    Attributes:
        counts: by kind and outcome.
        notes: on what went wrong.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str, note: str = "") -> None:
        """Count a trial."""
        self.counts.setdefault(kind, Counter())[outcome] += 1
        if outcome in ("wrong", "lost"):
            self.notes.append(f"{kind}, {outcome}: {note}")
            print(self.notes[-1], flush=True)

    def text(self) -> str:
        """As a table of Markdown."""
        lines = [" | ".join(("kind", "tried", *OUTCOMES)), " | ".join(["---"] + ["---:"] * 5)]
        total: Counter[str] = Counter()
        for kind, counts in self.counts.items():
            lines.append(" | ".join([kind, *map(str, [counts.total(), *(counts[o] for o in OUTCOMES)])]))
            total += counts
        lines.append(" | ".join(["all", *map(str, [total.total(), *(total[o] for o in OUTCOMES)])]))
        return "\n".join(f"| {line} |" for line in lines)

    @property
    def good(self) -> bool:
        """Whether nothing was wrong or lost."""
        return not self.notes


class Trials:
    """Faults on a miniature chain.

    Args:
        chain: with its snapshots.
        table: of outcomes.
        generator: of all that is random.
        commands: what may be tried, of `COMMANDS`.
    """

    def __init__(
        self, chain: Chain, table: Table, generator: random.Random, commands: Sequence[str] = tuple(COMMANDS)
    ) -> None:
        self.chain, self.table, self.random = chain, table, generator
        self.commands = {name: often for name, often in COMMANDS.items() if name in commands}

    def again(self, kind: str, command: str, run_dir: Path, what: str) -> None:
        """Give the same command once more, which has to end right, and count."""
        ended = run(self.chain.words(command, run_dir), self.chain.log)
        self.table.add(kind, self.outcome(ended, command, run_dir), f"{what}: {last_lines(ended)}")

    def outcome(self, ended: Ended, command: str, run_dir: Path) -> str:
        """What a command that has to end right has come to."""
        if ended.code == 0:
            return "ended right" if self.chain.right(command, run_dir) else "wrong"
        return "refused clearly" if ended.clear else "lost"

    def kills(self, count: int, numbers: tuple[int, ...] = (signal.SIGKILL,), kind: str = "kills") -> None:
        """Kill the training, the evaluation and the packaging at random moments, and give them again."""
        done = 0
        while done < count:
            command, snapshot = self.random.choice(
                [("train", each) for each in ("nothing", *RUNNING)]
                + [(each, "trained") for each in ("evaluate", "package") if each in self.commands]
            )
            run_dir = self.chain.copy(snapshot)
            name, killed = f"{kind}: {command}", 0
            longest = {"train": 4.0, "evaluate": 1.0, "package": 3.0}[command]
            for _ in range(ATTEMPTS):
                process = Command(self.chain.words(command, run_dir), self.chain.log)
                ended = process.wait(self.random.uniform(0.05, longest))
                if ended is not None:
                    break
                ended = process.end(self.random.choice(numbers))
                killed += ended.code != 0
                if numbers != (signal.SIGKILL,) and not (ended.code == 0 or ended.stopped and ended.clear):
                    note = f"signal, code {ended.code}: {last_lines(ended)}"
                    self.table.add(name, "lost", note)
            before = len(self.table.notes)
            self.again(name, command, run_dir, f"from {snapshot} after {killed} kills")
            outcome = "ended right" if len(self.table.notes) == before else "lost"
            for _ in range(killed - 1):  # all of them together ended so
                self.table.add(name, outcome, "see above")
            done += max(killed, 1)

    def damage(self, count: int, kinds: tuple[str, ...]) -> None:
        """Flip bits of files, cut them, empty them or take them away; then the command that may read them."""
        for _ in range(count):
            kind = self.random.choice(kinds)
            finished = self.random.random() < 0.75
            snapshot = "finished" if finished else self.random.choice(RUNNING)
            command = (
                self.random.choices(*zip(*self.commands.items(), strict=True))[0] if finished else "train"
            )
            run_dir = self.chain.copy(snapshot)
            path = self.random.choice(kept_files(run_dir))
            injure(path, kind, self.random)
            what = f"{path.relative_to(run_dir)} of {snapshot}, then {command}"
            ended = run(self.chain.words(command, run_dir), self.chain.log)
            outcome = self.outcome(ended, command, run_dir)
            if outcome == "wrong" and f"{path} is not as it was written" in ended.output.replace("\n", " "):
                outcome = "refused clearly"  # what a user may have edited is used, and said to be changed
            if outcome == "refused clearly" and command != "train" and ended.code:
                self.heal(run_dir, command, what)
            self.table.add(
                f"{kind}: {'finished' if finished else 'running'}", outcome, f"{what}: {last_lines(ended)}"
            )

    def heal(self, run_dir: Path, command: str, what: str) -> None:
        """What a command refuses, training makes again, or says what to do: there is no dead end."""
        ended = run(self.chain.words("train", run_dir), self.chain.log)
        if ended.code == 0:
            ended = run(self.chain.words(command, run_dir), self.chain.log)
            if command == "package" and ended.code and "evaluat" in ended.output:
                run(self.chain.words("evaluate", run_dir), self.chain.log)
                ended = run(self.chain.words(command, run_dir), self.chain.log)
        if self.outcome(ended, command, run_dir) not in ("ended right", "refused clearly"):
            self.table.add("made again after a refusal", "lost", f"{what}: {last_lines(ended)}")
        else:
            self.table.add("made again after a refusal", self.outcome(ended, command, run_dir))

    def full(self, count: int) -> None:
        """Fill a disk at any point of a command; with room again, the same command has to end right."""
        for _ in range(count):
            command = self.random.choice(["train", *self.commands])
            snapshot = self.random.choice(["nothing", *RUNNING]) if command == "train" else "trained"
            for kind, disk in (("full disk", filled), ("file-size limit", limited)):
                with disk(self.chain, self.random) as (place, prepare, relieve):
                    run_dir = self.chain.copy(snapshot, place=place)
                    ended = run(self.chain.words(command, run_dir), self.chain.log, prepare(run_dir))
                    what = f"{command} from {snapshot}: {last_lines(ended)}"
                    if ended.code == 0:
                        self.table.add(kind, self.outcome(ended, command, run_dir), what)
                        continue
                    if not (ended.clear and "Cannot write " in ended.output):
                        self.table.add(kind, "lost", what)
                    else:
                        self.table.add(kind, "refused clearly")
                    relieve()
                    self.again(f"{kind}, then room", command, run_dir, what)

    def clocks(self, count: int) -> None:
        """Set the times of all files far off; nothing may be taken for other than it is."""
        for _ in range(count):
            finished = self.random.random() < 0.5
            snapshot = "finished" if finished else self.random.choice(RUNNING)
            command = self.random.choice(list(self.commands)) if finished else "train"
            run_dir = self.chain.copy(snapshot)
            for path in kept_files(run_dir):
                moment = time.time() + self.random.uniform(-1, 1) * 10**9
                os.utime(path, (moment, moment))
            self.again("clock jumps", command, run_dir, snapshot)

    def two(self, count: int) -> None:
        """Give a command twice at once: one does it, the other is told who does, or finds it done."""
        for _ in range(count):
            command, snapshot = self.random.choice(
                [("train", "nothing"), ("train", RUNNING[1]), ("evaluate", "trained")]
            )
            run_dir = self.chain.copy(snapshot)
            words = self.chain.words(command, run_dir)
            logs = [self.chain.log, self.chain.log.with_name("other.txt")]
            both = []
            for log in logs:
                both.append(Command(words, log))
                time.sleep(self.random.uniform(0, 1.5))
            ended = [process.wait() or process.end() for process in both]
            refused = [each for each in ended if each.code]
            clear = all(each.clear and "is being written to by" in each.output for each in refused)
            outcome = "ended right" if self.chain.right(command, run_dir) else "wrong"
            if len(refused) == 2 or not clear:
                outcome = "lost"
            self.table.add("two processes", outcome, " / ".join(map(last_lines, ended)))


def last_lines(ended: Ended) -> str:
    """The end of what a command printed, in one line."""
    lines = ended.output.strip().splitlines()
    place = next((i for i, line in enumerate(lines) if TRACEBACK in line), None)
    shown = lines[-2:] if place is None else [*lines[place + 1 : place + 3], *lines[-2:]]
    return f"[{ended.code}] " + " / ".join(line.strip()[:300] for line in shown)


def injure(path: Path, kind: str, generator: random.Random) -> None:
    """Damage a file."""
    content = bytearray(path.read_bytes())
    if kind == "vanished files":
        path.unlink()
        return
    if kind == "cuts":
        content = content[: generator.choice([0, generator.randrange(len(content) + 1), len(content) - 1])]
    elif content:
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


Disk = tuple[Path, Callable[[Path], Callable[[], None] | None], Callable[[], None]]


def used(folder: Path) -> int:
    """Bytes that a folder takes on a disk."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*")) + 2**16


@contextmanager
def filled(chain: Chain, generator: random.Random) -> Iterator[Disk]:
    """A disk that gets full: a tmpfs where it can be mounted, else writes that fail from some point on."""
    place = chain.folder / "disk"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0

    def sized(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True, capture_output=True)

    def prepare(run_dir: Path) -> Callable[[], None] | None:
        more = int(generator.uniform(0.0, 1.0) ** 2 * used(chain.snapshots["finished"]))
        if mounted:
            sized(str(used(place) + more))
            return None
        return lambda: failing_writes(generator.randrange(200))

    try:
        yield place, prepare, lambda: sized("64m") if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def failing_writes(number: int) -> None:
    """Have this process find the disk full from its n-th written file on."""
    import crosswarp.files as files

    flush, left = files.flush_to_disk, [number]

    def failing(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        flush(path)

    files.flush_to_disk = failing


@contextmanager
def limited(chain: Chain, generator: random.Random) -> Iterator[Disk]:
    """A process whose files may have some size, as by ``ulimit -f``."""

    def prepare(run_dir: Path) -> Callable[[], None]:
        limit = int(2 ** generator.uniform(9, 18))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    shutil.rmtree(chain.folder / "trial", ignore_errors=True)
    yield chain.folder / "trial", prepare, lambda: None
