"""MONAI Label behind the guard, for uvicorn: ``--uvicorn_app guard.server:app``."""

from __future__ import annotations

from monailabel.app import app as monailabel
from monailabel.config import settings

from .devices import known_devices
from .middleware import Guard
from .routes import routes
from .studies import Studies

app = Guard(
    monailabel,
    routes(Studies(settings.MONAI_LABEL_STUDIES), known_devices(), settings.MONAI_LABEL_TRACKING_URI),
    [name for name in settings.MONAI_LABEL_APP_CONF.get("allowed_hosts", "").split(",") if name],
)
