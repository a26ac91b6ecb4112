"""Requests that would run code or leave the studies, as whoever reaches a label server may send them."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from tests.label.server import Client

REFUSALS = (400, 403, 404, 405, 413, 415, 422)


def answers(client: Client, marker: Path, secret: Path) -> dict[str, tuple[int, str]]:
    """What a server answers to each: status and message.

    Args:
        client: of the server.
        marker: a file that expressions would make, and uploads overwrite.
        secret: an image outside of the studies.
    """
    code = f"$__import__('pathlib').Path('{marker}').touch() or 1"
    page = {"Origin": "https://pages.example.org"}
    up = f"../{marker.name.removesuffix('.nii.gz')}"

    def form(**params: object) -> dict:
        return {"data": {"params": json.dumps(params)}}

    asked = {
        "epochs": ("POST", "train/{}?run_sync=true", {"json": {"max_epochs": code}}),
        "device": ("POST", "train/{}?run_sync=true", {"json": {"max_epochs": 1, "device": code}}),
        "in the background": ("POST", "train/{}", {"json": {"max_epochs": code}}),
        "tracking": ("POST", "train/{}?run_sync=true", {"json": {"tracking": code}}),
        "handlers": ("POST", "train/{}?run_sync=true", {"json": {"train#handlers": [code]}}),
        "path of modules": ("POST", "scoring/{}", {"json": {"bundle_path": str(marker.parent)}}),
        "device of inference": ("POST", "infer/{}?image=coldtest1", form(device=code)),
        "any image": ("POST", "infer/{}", {"params": {"image": str(secret)}}),
        "any image in params": ("POST", "infer/{}?image=coldtest1", form(image=str(secret))),
        "any moving image": ("POST", "infer/crosswarp?image=coldtest1", form(moving=str(secret))),
        "images of a batch": ("POST", "batch/infer/{}?run_sync=true", {"json": {"images": [str(secret)]}}),
        "new image elsewhere": ("PUT", f"datastore/?image={up}", {"files": {"file": ("a.nii.gz", b"x")}}),
        "label elsewhere": (
            "PUT",
            "datastore/label?image=coldtest1&tag=../..",
            {"files": {"label": ("a.png", b"")}},
        ),
        "pickle": ("POST", "infer/{}", {"files": {"file": ("a.npy", b"")}}),
        "weights": ("PUT", "model/{}", {"files": {"file": ("a.pt", b"")}}),
        "proxy": ("GET", "proxy/dicom/wado/x", {}),
        "reload": ("POST", "reload", {}),
        "session": ("DELETE", "session/%2e%2e", {}),
        "page": ("POST", "train/{}", {"json": {"max_epochs": 1}, "headers": page}),
        "preflight": ("OPTIONS", "train/{}", {"headers": page | {"Access-Control-Request-Method": "POST"}}),
        "rebound": ("GET", "info/", {"headers": {"Host": "pages.example.org"}}),
    }
    result = {}
    for name, (method, path, arguments) in asked.items():
        url = f"{client.url}/{path.format('domain_adaptation')}"
        answer = requests.request(method, url, timeout=60, **arguments)
        assert not [header for header in answer.headers if header.lower().startswith("access-control-")], name
        result[name] = answer.status_code, answer.json().get("detail", "")
    return result
