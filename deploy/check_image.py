"""Build the image as the Dockerfile says, try what it promises, and write down what came of it.

    python deploy/check_image.py [--engine docker|podman] [--base debian] [--build-arg NAME=VALUE]... [--record FILE]

All steps of the Dockerfile are executed. Then containers of the image run as a user that nobody knows, with a read-only
root file system, 64 MB of /dev/shm, no network and no rights, on sample_data/.

Where no registry can be reached, `--base debian` makes the base from Debian's packages by debootstrap (as root); its
Python is that of Debian. `--certificate FILE` puts a site's own certificates into it.
"""

import argparse
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGE = "localhost/segkit:checked"
BASE = "localhost/segkit-base:bookworm"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
UID, GID = 12345, 54321
HARDENED = [
    *("--read-only", "--tmpfs", "/tmp:mode=1777,size=256m", "--shm-size", "64m", "--network", "none"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{UID}:{GID}"),
]
TINY = [
    *("--set", "model.base_channels=4", "--set", "model.depth=2", "--set", "patches.size_px=64"),
    *(
        "--set",
        "patches.batch=4",
        "--set",
        "steps_per_epoch=10",
        "--device",
        "cpu",
        "--set",
        "compute.precision=float32",
    ),
]
TRAIN = ["train", "--data", "/sample", *TINY]


@dataclass
class Place:
    """The engine, the folder that containers see as /data, and what was found."""

    engine: list[str]
    options: list[str]
    data: Path
    rows: list[tuple[str, str]] = field(default_factory=list)

    def command(self, *arguments: str, entrypoint: str | None = None, name: str | None = None) -> list[str]:
        """Return the command that runs a container of the image on the sample data."""
        return [
            *(*self.engine, "run", "--rm", *self.options, *HARDENED),
            # Podman would give the user a name.
            *(["--passwd=false"] if Path(self.engine[0]).name == "podman" else []),
            *("--volume", f"{REPOSITORY / 'sample_data'}:/sample:ro", "--volume", f"{self.data}:/data"),
            *([] if entrypoint is None else ["--entrypoint", entrypoint]),
            *([] if name is None else ["--name", name]),
            *(IMAGE, *arguments),
        ]

    def run(self, *arguments: str, entrypoint: str | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a container to its end, which has to be with this exit code."""
        ended = subprocess.run(
            self.command(*arguments, entrypoint=entrypoint), capture_output=True, text=True, check=False
        )
        if ended.returncode != code:
            said = (ended.stdout + ended.stderr)[-2000:]
            sys.exit(f"{shlex.join(arguments)}: exit code {ended.returncode}, not {code}: {said}")
        return ended

    def python(self, code: str) -> str:
        """Return what a few lines of Python print in a container."""
        return self.run("-c", code, entrypoint="python").stdout.strip()


def main() -> None:
    """Build, check, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="docker", help="docker or podman, with options of its own if need be")
    parser.add_argument("--base", choices=["dockerfile", "debian"], default="dockerfile")
    parser.add_argument("--certificate", type=Path, help="certificates to trust in the base that is made")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--build-option", action="append", default=[], metavar="OPTION")
    parser.add_argument("--run-option", action="append", default=[], metavar="OPTION")
    parser.add_argument("--title", default="CPU", help="of the variant, in the record")
    parser.add_argument("--no-build", action="store_true", help="try the image that was built the last time")
    parser.add_argument("--record", type=Path, help="file that gets a section on this variant, in Markdown")
    given = parser.parse_args()
    engine = shlex.split(given.engine)
    lines = [f"## {given.title}", "", f"{versions(engine)}. {lint()}", ""]
    if not given.no_build:
        arguments = list(given.build_arg)
        if given.base == "debian":
            make_base(engine, given.certificate)
            arguments.append(f"BASE={BASE}")
        lines += ["| step of the Dockerfile | s |", "|---|---|"]
        lines += [f"| `{step}` | {seconds:.0f} |" for step, seconds in build(engine, arguments, given.build_option)]
        named = ", ".join(sorted(f"`{one.partition('=')[0]}`" for one in arguments)) or "none"
        lines += ["", f"Build arguments that were given: {named}.", ""]
    with data_folder() as folder:
        place = Place(engine, given.run_option, folder)
        for check in CHECKS:
            began = time.monotonic()
            found = check(place)
            title = (check.__doc__ or "").partition("\n")[0].rstrip(".")
            place.rows.append((title, found))
            print(f"{title}: {found} ({time.monotonic() - began:.0f} s)", flush=True)
    lines += [
        "| what was tried | what was found |",
        "|---|---|",
        *(f"| {what} | {found} |" for what, found in place.rows),
    ]
    if given.record is not None:
        write_record(given.record, given.title, "\n".join(lines))


def lint() -> str:
    """Return what hadolint says, which has to be nothing."""
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        return "hadolint: not installed."
    ended = subprocess.run([tool, str(REPOSITORY / "Dockerfile")], capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stdout + ended.stderr)
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return f"hadolint {version}: clean."


def versions(engine: list[str]) -> str:
    """Return date, engine and processor in a line."""
    engine_version = subprocess.run([engine[0], "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{datetime.now(UTC).date()}, {engine_version}, {platform.system()} {platform.machine()}"


def make_base(engine: list[str], certificate: Path | None) -> None:
    """Make the base image from Debian's packages, with `python` as the official image has it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        packages = "--include=ca-certificates,python3,python3-venv,python3-pip"
        subprocess.run(["debootstrap", "--variant=minbase", packages, SUITE, str(root), MIRROR], check=True)
        (root / "usr/bin/python").symlink_to("python3")
        if certificate is not None:
            shutil.copyfile(certificate, root / "etc/ssl/certs/ca-certificates.crt")
        archive = Path(name) / "base.tar"
        subprocess.run(["tar", "-C", str(root), "--exclude=./proc/*", "-cf", str(archive), "."], check=True)
        subprocess.run([*engine, "import", str(archive), BASE], check=True)


def build(engine: list[str], arguments: list[str], options: list[str]) -> list[tuple[str, float]]:
    """Build the image and return each step of the Dockerfile with its seconds."""
    given = [word for argument in arguments for word in ("--build-arg", argument)]
    command = [*engine, "build", *options, *given, "--tag", IMAGE, str(REPOSITORY)]
    steps: list[tuple[str, float]] = []
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            found = re.match(r"(?:\[\d+/\d+\] )?step \d+/\d+ ?: (.*)", line, flags=re.IGNORECASE)
            if found:
                now = time.monotonic()
                if steps:
                    steps[-1] = (steps[-1][0], now - began)
                # Without build arguments, which the engine puts in: they may name a site's hosts.
                step = re.sub(r"\S+://\S+", "...", " ".join(found[1].replace("|", "/").split()))
                steps.append((step if len(step) <= 100 else f"{step[:97]}...", 0.0))
                began = now
    if process.returncode:
        sys.exit(f"the build failed with {process.returncode}")
    if steps:
        steps[-1] = (steps[-1][0], time.monotonic() - began)
    return steps


@contextmanager
def data_folder() -> Iterator[Path]:
    """Yield a folder in which the unknown user may write."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # its files are another user's
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def layers(place: Place) -> str:
    """The image's layers."""
    shown = subprocess.run(
        [*place.engine, "history", "--format", "{{.Size}}", IMAGE], capture_output=True, text=True, check=True
    )
    units = {"B": 1e-6, "kB": 1e-3, "KB": 1e-3, "MB": 1.0, "GB": 1e3}
    found = re.findall(r"^([0-9.]+) ?([kKMG]?B)$", shown.stdout, flags=re.MULTILINE)
    packages, program = [size for size in (float(number) * units[unit] for number, unit in found) if size][1::-1]
    return f"packages {packages:,.0f} MB, segkit itself {program:.1f} MB"


def metadata(place: Place) -> str:
    """User, entry point, signal and labels."""
    shown = subprocess.run([*place.engine, "inspect", IMAGE], capture_output=True, text=True, check=True)
    config = json.loads(shown.stdout)[0]["Config"]
    labels = sorted(config["Labels"])
    require(config["Entrypoint"] == ["segkit"] and config["User"] == "1000:1000", f"{config}")
    return f"{config['Entrypoint']} as {config['User']}, {config.get('StopSignal', 'SIGTERM')}; {len(labels)} labels"


def surroundings(place: Place) -> str:
    """Process 1, an unknown user, nothing to write to but /tmp and /data."""
    found = json.loads(
        place.python(
            "import getpass, json, os, pathlib, pwd, sys\n"
            "def writes(folder):\n"
            "    try: (pathlib.Path(folder) / 'probe').touch(); return True\n"
            "    except OSError: return False\n"
            "try: known = bool(pwd.getpwuid(os.getuid()))\n"
            "except KeyError: known = False\n"
            "shm = os.statvfs('/dev/shm')\n"
            "print(json.dumps(dict(pid=os.getpid(), uid=os.getuid(), known=known, user=getpass.getuser(),\n"
            "    home=str(pathlib.Path.home()), shm=shm.f_blocks * shm.f_frsize,\n"
            "    writes=[f for f in ('/', '/opt/segkit', '/opt/packages', '/tmp', '/data') if writes(f)])))"
        )
    )
    require(found["pid"] == 1 and found["uid"] == UID and not found["known"], f"{found}")
    require(found["writes"] == ["/tmp", "/data"], f"{found}")
    places = " and ".join(found["writes"])
    return f"uid {UID} without a name, home {found['home']}, {found['shm'] >> 20} MiB of /dev/shm, writes to {places}"


def caches(place: Place) -> str:
    """What builds leave behind."""
    found = place.python(
        "import importlib.util, os\n"
        "left = [path for path in ('/root/.cache', '/src', '/tmp/pip') if os.path.exists(path)]\n"
        "pip = importlib.util.find_spec('pip')\n"
        "print(*left, *(['pip'] if pip and '/opt/' in pip.origin else []))"
    )
    require(not found, found)
    return "no cache, no sources, no pip"


def help_text(place: Place) -> str:
    """`segkit --help` and `--version`, and what is inside."""
    require("Commands:" in place.run("--help").stdout, "no commands are listed")
    inside = place.python(
        "import platform, torch; print(platform.python_version(), torch.__version__, torch.version.cuda)"
    )
    python, torch, cuda = inside.split()
    return f"{place.run('--version').stdout.strip()}, Python {python}, torch {torch}, CUDA {cuda.lower()}"


def check_data(place: Place) -> str:
    """`segkit check` on the sample data."""
    return place.run("check", "/sample").stdout.strip().splitlines()[-1]


def train(place: Place) -> str:
    """`segkit train`, with two loader workers in 64 MB of /dev/shm."""
    ended = place.run(*TRAIN, "--epochs", "2", "--set", "workers=2", "--out", "run")
    files = list((place.data / "run").rglob("*"))
    require({path.stat().st_uid for path in files} == {UID}, "not all files are the user's")
    require("Traceback" not in ended.stderr, ended.stderr)
    return f"exit code 0, {len(files)} files, all of uid {UID}"


def predict(place: Place) -> str:
    """`segkit predict` with that model, `--log-json`."""
    ended = place.run(
        *("predict", "/sample/slide/tissue.tif", "--model", "run", "--out", "predictions", "--tile", "256"),
        *("--device", "cpu", "--log-json"),
    )
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    require("result" in events and not ended.stdout, ended.stdout)
    left = sorted(path.name for path in (place.data / "predictions/tissue").iterdir() if not path.name.startswith("."))
    return f"{', '.join(left)}; {len(events)} lines on standard error, all JSON"


def signals(place: Place) -> str:
    """SIGTERM to process 1 in a training; then the same command again."""
    command = [*TRAIN, "--epochs", "300", "--set", "workers=1", "--out", "stopped", "--resume", "stopped"]
    code, seconds = stopped(place, command, "stopped")
    require(code == 143, f"exit code {code}")
    epochs = len((place.data / "stopped/metrics.csv").read_text().splitlines()) - 1
    ended = place.run(*command, "--epochs", str(epochs + 1))
    require("resumed from" in ended.stderr, ended.stderr)
    return f"exit code {code} after {seconds:.1f} s; the command given again goes on and ends with 0"


def several_processes(place: Place) -> str:
    """SIGTERM to process 1 that has started two others (`--gpus 2`)."""
    code, seconds = stopped(place, [*TRAIN, "--epochs", "300", "--gpus", "2", "--out", "two"], "two")
    require(code == 143, f"exit code {code}")
    return f"exit code {code} after {seconds:.1f} s"


def lost_process(place: Place) -> str:
    """One of those two killed: nothing hangs, nothing stays."""
    kill = (
        "import os, signal\n"
        "ranks = [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) > 1\n"
        "    and b'RANK=1\\0' in open(f'/proc/{p}/environ', 'rb').read()]\n"
        "os.kill(min(ranks), signal.SIGKILL)"
    )
    code, seconds = stopped(place, [*TRAIN, "--epochs", "300", "--gpus", "2", "--out", "lost"], "lost", kill=kill)
    require(code not in (0, 143), f"exit code {code}")
    return f"exit code {code} after {seconds:.1f} s"


def torchrun(place: Place) -> str:
    """`torchrun -m segkit` as the entry point."""
    options = ["--standalone", "--nproc-per-node", "2", "-m", "segkit"]
    place.run(*options, *TRAIN, "--epochs", "1", "--out", "torchrun", entrypoint="torchrun")
    return "exit code 0, two processes"


def stopped(place: Place, command: list[str], run: str, kill: str | None = None) -> tuple[int, float]:
    """Start a training, stop it once it is under way, and return its exit code and the seconds that it took to end.

    `kill` is Python that does it inside of the container; without it process 1 gets SIGTERM.
    """
    name = f"segkit-check-{run}"
    with subprocess.Popen(
        place.command(*command, name=name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (place.data / run / "metrics.csv").exists():
            if process.poll() is not None:
                sys.exit(f"ended with {process.returncode}: {process.communicate()[1][-2000:]}")
            time.sleep(0.1)
        time.sleep(1)
        began = time.monotonic()
        order = ["kill", "--signal", "TERM", name] if kill is None else ["exec", name, "python", "-c", kill]
        ordered = subprocess.run([*place.engine, *order], check=False, capture_output=True, text=True)
        _, said = process.communicate(timeout=180)
    require(ordered.returncode == 0, f"{ordered.stderr} {process.returncode} {said[-2000:]}")
    require("Traceback" not in said, said[-2000:])
    return process.returncode, time.monotonic() - began


def require(is_so: bool, otherwise: str) -> None:
    """End the program with an explanation if something is not so."""
    if not is_so:
        sys.exit(f"not as promised: {otherwise}")


def write_record(path: Path, title: str, section: str) -> None:
    """Put a section into the record, in place of the former one with this title."""
    head = (
        "# The image, built and tried\n\nWritten by `python deploy/check_image.py`; nothing here is typed by hand. "
        f"Containers run as uid {UID} with\n`{' '.join(HARDENED)}`.\n"
    )
    former = path.read_text(encoding="utf-8") if path.exists() else ""
    sections = [one for one in re.split(r"^(?=## )", former, flags=re.MULTILINE) if one.startswith("## ")]
    kept = [one.strip() for one in sections if not one.startswith(f"## {title}\n")]
    path.write_text("\n\n".join([head.strip(), *kept, section.strip()]) + "\n", encoding="utf-8")


CHECKS: list[Callable[[Place], str]] = [
    *(layers, metadata, surroundings, caches, help_text, check_data, train, predict),
    *(signals, several_processes, lost_process, torchrun),
]

if __name__ == "__main__":
    main()
