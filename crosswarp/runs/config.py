"""Reading and checking MONAI configs: the running parser, unknown ids, values that are only values."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate
from types import ModuleType
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow
from monai.bundle.utils import MERGE_KEY, merge_kv

from ..kept import check
from ..wording import printable
from .origin import check_origin
from .shared import with_shared

SCRIPTS = "scripts"  # what configs call the library
LIBRARY = __name__.partition(".")[0]
REFERENCE = re.compile(r"[@%]([A-Za-z_]\w*)")
# what MONAI evaluates or looks up (expressions, references, macros, ids relative to where they stand), and
# what it spells otherwise
INTERPRETED = re.compile(r"^[$@%]|[@%](#|::)")
CHANGED = re.compile(rf"#|{INTERPRETED.pattern}")
SIGNS = re.compile(r"[#$@%]")
ANY = "*"
MULTI_GPU = "multi_gpu_train.json"  # what several processes lay over a training config; MONAI's name


class UnknownIdError(ValueError):
    """A parameter was given that no config defines."""


def running_parser() -> ConfigParser:
    """The parser of the config that makes the caller, or whose expression calls it.

    A stage, the chain and an evaluation have to record their config and to refuse misspelt overrides, which
    MONAI adds silently. MONAI 1.6 gives neither components nor expressions a way to it: expressions see the
    imports and ``__local_refs``, what of the config is evaluated so far, and no hook of ``ConfigWorkflow`` is
    called with it. So it is taken from the calling frames, here alone; code that has a parser passes it on.

    Raises:
        RuntimeError: when not called from a config's expression.
    """
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back
    raise RuntimeError("Expected to be called from an expression of a MONAI config; none is being evaluated.")


class _Library(MetaPathFinder, Loader):
    """Finds ``scripts.x`` in this library's ``x``: the very module, not a second one of the same file."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """A specification for the modules that this library has."""
        package, _, name = fullname.partition(".")
        own = f"{LIBRARY}.{name}" if name else LIBRARY
        return ModuleSpec(fullname, self, origin=own) if package == SCRIPTS and find_spec(own) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The library's module."""
        module = import_module(str(spec.origin))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing but to give the module back the specification of its own, which the import has replaced."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


@contextmanager
def library_as_scripts() -> Iterator[None]:
    """Within, what configs call ``scripts``, as bundles do, is this library, by whatever name it is imported.

    It is there once: its classes are the same for configs and for who runs them.
    """
    if LIBRARY == SCRIPTS:
        yield
        return
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == SCRIPTS}
    finder = _Library()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == SCRIPTS]:
            del sys.modules[name]
        sys.modules.update(others)


def read_config(*files: str | Path) -> ConfigParser:
    """A parser of the given config files, later ones laid over earlier ones; nothing is evaluated.

    What they share with others is put in, see :func:`~.shared.with_shared`.

    Raises:
        ValueError: for a config that another version of the library wrote, see :func:`~.origin.check_origin`,
            and for one that a run recorded, and is damaged.
    """
    parser = ConfigParser()
    for file in files:
        check_origin(check(file))
        for key, value in with_shared(ConfigParser.load_config_file(file)).items():
            merge_kv(parser, key, value)
    return parser


def open_workflow(files: Sequence[str | Path], **values: Any) -> ConfigWorkflow:
    """MONAI's workflow of configs, from any folder; nothing is evaluated yet.

    Args:
        files: the config and what is laid over it.
        values: arguments of ``monai.bundle.ConfigWorkflow``; the others are ids to override.
    """
    own = values.keys() & inspect.signature(ConfigWorkflow).parameters.keys()
    workflow = ConfigWorkflow([str(file) for file in files[:1]], **{key: values[key] for key in own})
    meta = {ConfigParser.meta_key: workflow.parser.get(ConfigParser.meta_key)}
    workflow.parser.set(read_config(*files).get() | meta)
    workflow.parser.update({key: value for key, value in values.items() if key not in own})
    return workflow


def verbatim(value: Any, unsafe: re.Pattern[str] = CHANGED) -> Any:
    r"""A value as it has to stand in a config to be that value, letter by letter, once MONAI has parsed it.

    MONAI runs text that begins with ``$`` as Python, takes ``@`` and ``%`` for references and files, and
    makes ``::`` of every ``#``. Paths and names are none of that, whatever letters they have: they go into
    configs, parsers and overrides through this function. Text that MONAI leaves alone stays as it is; other
    text becomes an expression, its string literal without any of these signs.

    Args:
        value: text or a path, or lists and mappings that hold some; anything else is returned as it is.
        unsafe: found in text that has to be changed; ``INTERPRETED`` for what people read in the file, where
            ``#`` may stay.

    Example:
        >>> verbatim("knee.nii.gz"), verbatim("knee #1.nii.gz")
        ('knee.nii.gz', "$'knee \\x231.nii.gz'")
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        escaped = SIGNS.sub(lambda sign: f"\\x{ord(sign[0]):x}", ascii(value))
        return f"${escaped}" if unsafe.search(value) else value
    if isinstance(value, Mapping):
        return {key: verbatim(item, unsafe) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [verbatim(item, unsafe) for item in value]
    return value


def check_ids(ids: Iterable[str], parser: ConfigParser, where: str) -> None:
    """Refuse ids that a config does not define; a component may be given more of its class's arguments.

    Args:
        ids: as in overrides, ``a#b#c``.
        parser: the config.
        where: names the config in the message.

    Raises:
        UnknownIdError: naming every unknown id, with the nearest known ones.
    """
    known = sorted(_all_ids(parser.get()))
    faults = []
    for identifier in map(str, ids):
        parent, _, name = identifier.rpartition("#")
        arguments = _arguments(parser.get(parent)) if parent else []
        if identifier and (identifier in parser or name in arguments or ANY in arguments):
            continue
        candidates = dict.fromkeys([*known, *(f"{parent}#{a}" for a in arguments)])
        near = difflib.get_close_matches(identifier[:200], candidates, n=3)
        suggestion = f" (did you mean {' or '.join(near)}?)" if near else ""
        faults.append(f"'{printable(identifier)}'{suggestion}")
    if faults:
        raise UnknownIdError(f"{where} has no parameter {', '.join(faults)}.")


def check_overrides(parser: ConfigParser, config_file: str | Path) -> None:
    """Refuse top-level ids that stand neither in a bundle's config file nor in any reference.

    A misspelt ``--max_epoch 5`` is such an id; an id that an overlay brings along and uses is not.

    Args:
        parser: the running config.
        config_file: the bundle's own file.

    Raises:
        UnknownIdError: naming every unknown id, with the nearest known ones.
    """
    config = parser.get()
    own = read_config(config_file)
    used = set(REFERENCE.findall(json.dumps(config, default=str)))
    check_ids(sorted(set(config) - set(own.get()) - used - {"_meta_"}), own, str(config_file))


def in_one_process(config: Mapping[str, Any], bundle_root: Path) -> dict[str, Any]:
    """A training config without what several processes have laid over it: that changes how, not what is made.

    Args:
        config: what runs.
        bundle_root: of the bundle whose config it is.
    """
    overlay = bundle_root / "configs" / MULTI_GPU
    if not overlay.is_file():
        return dict(config)
    plain, found = read_config(overlay.with_name("train.json")), ConfigParser(deepcopy(dict(config)))
    for key, value in ConfigParser.load_config_file(overlay).items():
        identifier = key.removeprefix(MERGE_KEY)
        if key != identifier:
            found[identifier] = [each for each in found.get(identifier, []) if each not in value]
        elif identifier not in plain:
            parent, _, name = identifier.rpartition("#")
            found.get(parent, {}).pop(name, None)
        elif found.get(identifier) == value:
            found[identifier] = plain[identifier]
    return found.get()


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested overrides as ``{"a#b#c": value}``; ``.`` may stand for ``#``, and a component stays whole."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        identifier = f"{prefix}{str(key).replace('.', '#').replace('::', '#')}"
        if isinstance(value, Mapping) and value and "_target_" not in value:
            flat |= flatten(value, f"{identifier}#")
        else:
            flat[identifier] = value
    return flat


def _arguments(component: Any) -> list[str]:
    """The arguments that the class of a component takes; ``ANY`` where there is no telling."""
    if not (isinstance(component, Mapping) and "_target_" in component):
        return []
    target = locate(str(ConfigComponent(dict(component)).resolve_module_name()))
    if not callable(target):
        return [ANY]
    parameters = inspect.signature(target).parameters.values()
    return [*ConfigComponent.non_arg_keys, *(ANY if p.kind is p.VAR_KEYWORD else p.name for p in parameters)]


def _all_ids(config: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from _all_ids(value, f"{prefix}{key}#")
