"""Networks of baselines, trained beside a run with the bundles of the chain."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data import load_datalist
from ...errors import plain_input_errors
from ...files import file_digest
from ...kept import read_json
from ...runs.bundle import WEIGHTS
from ...runs.config import open_workflow, verbatim
from ...runs.stage import claim_run

logger = logging.getLogger(__name__)


class Training:
    """Trains one bundle in a run folder of its own, as far as it is not done.

    Schedule and networks are those of a stage of the run that it stands beside, so that neither had more.

    Args:
        bundle: folder of the bundle.
        overlays: configs that are laid over its `train.json`.
        run_dir: the folder to train in.
        datalist: the data.
        like: config `train.json` of the run's stage, as run, that schedule and network are taken from.
        ids: what is taken from there.
        renamed: ids that what is taken refers to, and what it is to refer to instead.
        overrides: ids of the config and their values, which are not evaluated.
    """

    def __init__(
        self,
        bundle: str,
        overlays: Sequence[str],
        run_dir: str,
        datalist: str,
        like: str,
        ids: Sequence[str] = (),
        renamed: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle, self.overlays, self.run_dir = Path(bundle), list(overlays), Path(run_dir)
        self.datalist, self.like, self.ids = datalist, Path(like), list(ids)
        self.renamed, self.overrides = dict(renamed or {}), dict(overrides or {})

    @property
    def folder(self) -> Path:
        """The trained bundle."""
        return self.run_dir / self.bundle.name

    @plain_input_errors()
    def run(self) -> str:
        """Train; returns the digest of the weights."""
        like = read_json(self.like)
        text = json.dumps({key: like[key] for key in self.ids})
        for there, here in self.renamed.items():
            text = text.replace(f"@{there}", f"@{here}")
        values = {"bundle_root": self.bundle, "run_dir": self.run_dir, "datalist": self.datalist}
        values = {key: str(path) for key, path in values.items()} | self.overrides
        workflow = open_workflow(
            [self.bundle / "configs" / "train.json", *self.overlays],
            meta_file=str(self.bundle / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            **json.loads(text) | verbatim(values),
        )
        workflow.parser.parse()
        stage = workflow.parser.get_parsed_content("stage")
        digest = claim_run(self.run_dir, load_datalist(self.datalist))
        if stage.state(stage.fingerprint(workflow.parser, digest)) != "done":
            logger.info(f"Training the baseline in {self.run_dir}.")
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        return file_digest(self.folder / WEIGHTS)
