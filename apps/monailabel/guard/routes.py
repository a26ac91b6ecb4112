"""The requests that are let through: their paths, and which fields of which kind they may have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from .studies import IMAGE_SUFFIXES, LABEL_SUFFIXES, Studies, suffix_of
from .values import (
    NAME,
    Check,
    Refused,
    device,
    flag,
    in_query,
    json_data,
    json_object,
    matching,
    number,
    one_of,
    plain_name,
    secret,
    text,
    whole,
)

PARTS = {
    "name": NAME,
    "session": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "file": r"(?:[A-Za-z0-9][A-Za-z0-9_.\-]*/)*[A-Za-z0-9][A-Za-z0-9_.\-]*",
}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "debug", "info", "warning", "error")
PIXEL_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
NOTED_BY_ITSELF = ("name", "path", "ts", "strategy", "epistemic_entropy", "epistemic_ts")
MODALITIES = ("source", "target")

name = matching(NAME, "a name of letters, digits, '_', '.' and '-'")
model_file = matching(f"{NAME}\\.pt", "the name of a .pt file")
gpus = matching(r"all|\d{1,2}(,\d{1,2})*", "'all' or numbers with commas between them")
session_id = matching(f"(?:{PARTS['session']})?", "the id of a session")


@dataclass
class Upload:
    """A file of a request: its field, what the client calls it, and its content."""

    field: str
    filename: str
    content: BinaryIO


@dataclass
class Understood:
    """What is passed on of a request."""

    path: str
    query: dict[str, Any]
    body: dict[str, Any] = field(default_factory=dict)
    files: list[Upload] = field(default_factory=list)


@dataclass(frozen=True)
class Route:
    """A kind of request that is let through.

    Args:
        method: of HTTP.
        path: with ``{name}``, ``{session}`` or ``{file}`` for its parts.
        query: the fields of the address; of None, whatever is there is left out.
        body: the fields of a body in JSON.
        form: the texts of a form instead.
        files: the suffixes that the files of a form may have, by their fields.
        several: whether a file's field may stand more than once.
        also: a check of several fields together.
    """

    method: str
    path: str
    query: Mapping[str, Check] | None = field(default_factory=dict)
    body: Mapping[str, Check] | None = None
    form: Mapping[str, Check] | None = None
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    several: bool = False
    also: Callable[[Understood], None] | None = None

    def understand(self, path: str) -> str | None:
        """The path as it is passed on, or None if it is another one's."""
        pattern = re.escape(self.path).replace("\\{", "{").replace("\\}", "}")
        for part, expression in PARTS.items():
            pattern = pattern.replace(f"{{{part}}}", f"(?:{expression})")
        pattern = pattern.removesuffix("/") + "/?" if len(self.path) > 1 else pattern
        if not re.fullmatch(pattern, path, re.ASCII):
            return None
        return path.rstrip("/") + "/" * self.path.endswith("/")


def train_fields(devices: Collection[str], tracking_uri: str = "") -> dict[str, Check]:
    """What a request may say of a training: what 3D Slicer sends."""
    return {
        "device": device(devices),
        "pretrained": flag,
        "max_epochs": whole(1, 10_000),
        "val_split": number(-1, 1),
        "multi_gpu": flag,
        "gpus": gpus,
        "tracking": one_of("", "None", "mlflow"),
        "tracking_uri": one_of(*{"", tracking_uri}),
        "tracking_experiment_name": matching(f"(?:{NAME})?", "a name of letters, digits, '_', '.' and '-'"),
        "run_id": one_of("", "run"),
        "model_filename": model_file,
        "client_id": text,
    }


def infer_fields(devices: Collection[str], studies: Studies) -> dict[str, Check]:
    """What a request may say of an inference: what 3D Slicer sends, and a moving image."""
    return {
        "device": device(devices),
        "model_filename": model_file,
        "moving": studies.image_or_path,
        "moving_label": studies.path,
        "result_extension": one_of(*LABEL_SUFFIXES),
        "result_dtype": one_of(*PIXEL_TYPES),
        "result_compress": flag,
        "restore_label_idx": flag,
        "save_label": flag,
        "label_tag": plain_name,
        "logging": one_of(*LEVELS),
        "client_id": text,
    }


def many_fields(devices: Collection[str]) -> dict[str, Check]:
    """What a request may say of work on all images."""
    return {
        "device": device(devices),
        "multi_gpu": flag,
        "gpus": gpus,
        "max_workers": whole(0, 64),
        "client_id": text,
    }


def image_info(value: str) -> str:
    """What is noted of an image, beside what MONAI Label notes itself; its modality is one of two."""
    noted = json_data(value)
    read = json.loads(noted)
    if taken := sorted(set(read) & set(NOTED_BY_ITSELF)):
        raise Refused(f"expected none of {', '.join(NOTED_BY_ITSELF)}, got {', '.join(taken)}")
    one_of(*MODALITIES)(read.get("modality", MODALITIES[0]))
    return noted


def check_inference(studies: Studies, request: Understood) -> None:
    """An inference has one image, which no file of the working folder is taken for."""
    image, session = request.query.get("image"), request.query.get("session_id")
    if session or request.files:
        request.query.pop("image", None)
    elif not image:
        raise Refused("expected image, session_id or a file to infer from, got none of them")
    else:
        studies.check_working_folder(studies.image(image))


def check_training(request: Understood) -> None:
    """A training waits for the one before it, which writes into the same folder."""
    if request.query.get("run_sync") and request.query.get("enqueue"):
        raise Refused("expected run_sync or enqueue, got both: it would train beside the one that is running")


def check_new_image(studies: Studies, request: Understood) -> None:
    """An image has a name, its file's if no other is said, and is written into the studies' folder."""
    (upload,) = request.files
    suffix = suffix_of(upload.filename, IMAGE_SUFFIXES)
    stem = PurePosixPath(upload.filename).name[: -len(suffix)]
    image = request.query["image"] = request.query.get("image") or plain_name(stem)
    studies.check_new(image, suffix)


def check_label(studies: Studies, key: str, request: Understood) -> None:
    """A label is read and written in the studies' folder."""
    if key not in request.query:
        raise Refused(f"expected {key}, the name of an image, got none")
    studies.check_labels(request.query[key], request.query.get("tag") or "final")


def check_all_images(studies: Studies, request: Understood) -> None:
    """The archive of all images holds no file from elsewhere."""
    studies.check_all()


def routes(studies: Studies, devices: Collection[str], tracking_uri: str = "") -> list[Route]:
    """Every request that is let through to MONAI Label.

    Args:
        studies: the images.
        devices: what this machine has, as MONAI Label calls them.
        tracking_uri: where MONAI Label is told to log trainings to, which 3D Slicer sends back.
    """
    return [*pages(), *tasks(studies, devices, tracking_uri), *store(studies), *sessions()]


def pages() -> list[Route]:
    """What says something of the server."""
    logs = {
        "lines": in_query(whole(1, 100_000)),
        "html": in_query(flag),
        "text": in_query(flag),
        "refresh": in_query(whole(0, 3600)),
    }
    login = {"username": secret, "password": secret, "grant_type": one_of("password"), "scope": secret}
    return [
        *(Route("GET", path) for path in ("/", "/docs", "/openapi.json", "/favicon.ico", "/info/")),
        *(Route("GET", path, query=None) for path in ("/static/{file}", "/ohif/", "/ohif/{file}")),
        Route("GET", "/logs/", logs),
        Route("GET", "/logs/gpu"),
        Route("GET", "/auth/"),
        Route("GET", "/auth/token/valid"),
        Route("POST", "/auth/token", form=login),
    ]


def tasks(studies: Studies, devices: Collection[str], tracking_uri: str) -> list[Route]:
    """Inference, training, scoring, and which image comes next."""
    status = {"all": in_query(flag), "check_if_running": in_query(flag)}
    synchronous = {"run_sync": in_query(flag)}
    infer = infer_fields(devices, studies)
    many = many_fields(devices)
    batch = {key: infer[key] for key in ("moving", "save_label", "label_tag", "logging")}
    return [
        Route(
            "POST",
            "/infer/{name}",
            {"image": text, "session_id": session_id, "output": one_of("image", "json", "all")},
            form={"params": json_object(infer), "client_id": text},
            files={"file": IMAGE_SUFFIXES},
            also=partial(check_inference, studies),
        ),
        Route(
            "POST",
            "/batch/infer/{name}",
            {"images": one_of("all", "labeled", "unlabeled"), **synchronous},
            body=many | batch | {"max_batch_size": whole(0, 1_000_000)},
        ),
        Route(
            "POST",
            "/train/{name}",
            {"enqueue": in_query(flag), **synchronous},
            body=train_fields(devices, tracking_uri),
            also=check_training,
        ),
        Route(
            "POST",
            "/scoring/{name}",
            synchronous,
            body=many | {"max_samples": whole(0, 1_000_000), "simulation_size": whole(2, 100)},
        ),
        Route("POST", "/activelearning/{name}", body={"client_id": text, "label_tag": plain_name}),
        *(Route("GET", path, status) for path in ("/batch/infer", "/train/", "/scoring/")),
        *(Route("DELETE", path) for path in ("/batch/infer", "/train/", "/scoring/")),
    ]


def store(studies: Studies) -> list[Route]:
    """Images, labels, and what is noted of them."""
    image, tag = studies.image, {"tag": plain_name}
    is_label, is_of_image, is_of_id = (partial(check_label, studies, key) for key in ("label", "image", "id"))
    new = {
        "query": {"image": plain_name},
        "form": {"params": image_info},
        "files": {"file": IMAGE_SUFFIXES},
        "also": partial(check_new_image, studies),
    }
    digest = matching(r"(?:(?:SHA256|SHA512|MD5):)*[0-9a-f]{32,128}", "a digest")
    return [
        Route("GET", "/datastore/", {"output": one_of("train", "stats", "all")}),
        *(Route("PUT", path, **new) for path in ("/datastore/", "/datastore/image")),
        *(Route("DELETE", path, {"id": image}) for path in ("/datastore/", "/datastore/image")),
        Route("GET", "/datastore/image", {"image": image}),
        Route("HEAD", "/datastore/image", {"image": image, "check_sum": digest}),
        Route("GET", "/datastore/image/info", {"image": image}),
        Route("PUT", "/datastore/image/info", {"image": image}, form={"info": image_info}),
        Route("GET", "/datastore/label", {"label": image, **tag}, also=is_label),
        Route("HEAD", "/datastore/label", {"image": image, **tag}, also=is_of_image),
        Route(
            "PUT",
            "/datastore/label",
            {"image": image, **tag},
            form={"params": json_data},
            files={"label": LABEL_SUFFIXES},
            also=is_of_image,
        ),
        Route("DELETE", "/datastore/label", {"id": image, **tag}, also=is_of_id),
        Route("GET", "/datastore/label/info", {"label": image, **tag}, also=is_label),
        Route(
            "PUT", "/datastore/label/info", {"label": image, **tag}, form={"info": json_data}, also=is_label
        ),
        Route(
            "GET",
            "/datastore/dataset",
            {"limit_cases": in_query(whole(1, 1_000_000))},
            also=partial(check_all_images, studies),
        ),
    ]


def sessions() -> list[Route]:
    """Images that are sent for a while, outside of the studies."""
    known = {"update_ts": in_query(flag), "image": in_query(flag)}
    return [
        Route("GET", "/session/{session}", known),
        Route("DELETE", "/session/{session}"),
        Route(
            "PUT",
            "/session/",
            {"expiry": in_query(whole(0, 86_400)), "uncompress": one_of("false")},
            form={"client_id": text},
            files={"files": (*IMAGE_SUFFIXES, ".dcm")},
            several=True,
        ),
    ]
