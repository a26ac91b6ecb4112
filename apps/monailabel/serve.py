"""Serve packaged bundles with MONAI Label: unpack the zips into an app's folder and start the server.

    python apps/monailabel/serve.py --zips dist --studies IMAGES --folder runs/demo/label

Runs in the environment of `requirements-label.txt`. `--app monaibundle` (the default) is MONAI Label's own
app, `--app crosswarp` ours; the guard stands before either. The server asks for no password and answers only
this machine, unless `--host 0.0.0.0` lets it serve others. Whatever else is given goes to
`monailabel start_server`, such as `--port 8001`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from crosswarp.files import file_digest
from crosswarp.release.verify import unpack

APPS = {
    "monaibundle": Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle",
    "crosswarp": Path(__file__).parent,
}
SEGMENTATION = ("source_segmentation", "domain_adaptation")
LOOPBACK = "127.0.0.1"
SERVED = (*SEGMENTATION, "crosswarp")


def newest(folder: Path, name: str) -> list[Path]:
    """The zip of a bundle in a folder, of several versions the highest: 0.10.0 is above 0.9.0."""

    def numbers(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.stem.rpartition("_v")[2])]

    return sorted(folder.glob(f"{name}_v*.zip"), key=numbers)[-1:]


def install(app: Path, zips: Iterable[Path], folder: Path) -> Path:
    """Copy an app and the guard to a folder, and verify and unpack bundles into it, if they are not there.

    MONAI Label trains with a bundle's ``train.json``. That of a packaged stage is what trained it, which
    needs the other stages and their data; so ``monai_label.json``, which trains on labelled images alone,
    takes its place. Only our own app trains the chain.

    Args:
        app: the app's own folder.
        zips: of the bundles to serve.
        folder: where to put the app.

    Returns:
        the folder.

    Raises:
        BundleError: for a zip that is not what was packaged.
        DiskError: where the disk is full or may not be written to.
    """
    ignored = shutil.ignore_patterns("__pycache__", "model", "logs")
    shutil.copytree(app, folder, dirs_exist_ok=True, ignore=ignored)
    shutil.copytree(APPS["crosswarp"] / "guard", folder / "guard", dirs_exist_ok=True, ignore=ignored)
    shutil.copy(APPS["crosswarp"] / "start.py", folder)
    for path in zips:
        name = path.name.rpartition("_v")[0]
        origin = folder / f"{name}.zip.sha256"
        if (folder / "model" / name).exists():
            if not origin.is_file() or origin.read_text() != file_digest(path):
                print(
                    f"warning: {folder / 'model' / name} is served, and not {path}, from which it was not "
                    "unpacked. It may have been trained further since: move it away to serve the zip.",
                    file=sys.stderr,
                )
            continue
        with TemporaryDirectory(prefix=f".{name}_", dir=folder) as partial:
            bundle = unpack(path, partial)
            configs = bundle / "configs"
            if name in SEGMENTATION:
                (configs / "monai_label.json").replace(configs / "train.json")
            elif app != APPS["crosswarp"]:
                (configs / "train.json").unlink()
            (folder / "model").mkdir(exist_ok=True)
            origin.write_text(file_digest(path))
            bundle.rename(folder / "model" / bundle.name)  # what is there is whole
    return folder


def start_command(app: Path, studies: Path, models: Iterable[str] = SERVED, *arguments: str) -> list[str]:
    """The command that starts MONAI Label on an installed app, guarded, without reaching for the internet."""
    conf = {"models": ",".join(models), "zoo_source": "ngc", "sam2": "false"}
    conf |= {"epistemic_model": SEGMENTATION[1]}
    pairs = [word for key, value in conf.items() for word in ("--conf", key, value)]
    start = [sys.executable, str(app / "start.py"), "start_server"]
    guarded = ["--uvicorn_app", "guard.server:app"]  # of two, the last one counts
    return [*start, "--app", str(app), "--studies", str(studies), *pairs, *arguments, *guarded]


def main() -> None:
    """Install and start; the server takes this process's place."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zips", type=Path, default=Path("dist"), help="folder of the packaged bundles")
    parser.add_argument("--studies", type=Path, required=True, help="folder of the images to label")
    parser.add_argument("--folder", type=Path, required=True, help="where the app and its bundles are put")
    parser.add_argument("--app", choices=APPS, default="monaibundle")
    parser.add_argument("--host", default=LOOPBACK, help="the address to listen at; 0.0.0.0 for every one")
    parser.add_argument(
        "--allow_host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that others know this machine by",
    )
    options, arguments = parser.parse_known_args()
    zips = [path for name in SERVED for path in newest(options.zips, name)]
    if len(zips) < len(SERVED):
        parser.error(
            f"expected {', '.join(f'{name}_v*.zip' for name in SERVED)} in {options.zips}, got {zips}"
        )
    app = install(APPS[options.app], zips, options.folder / options.app)
    if options.host != LOOPBACK:
        options.allow_host += [socket.gethostname(), socket.getfqdn()]
    hosts = ["--conf", "allowed_hosts", ",".join(options.allow_host)]
    arguments = ["--host", options.host, *hosts, *arguments]
    if options.app == "monaibundle":  # its scoring in the background may fail: see `SerialScoring` of our app
        os.environ.setdefault("MONAI_LABEL_AUTO_UPDATE_SCORING", "false")
    command = start_command(app, options.studies, SERVED, *arguments)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
