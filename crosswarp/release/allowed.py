"""What the configs of a packaged bundle may name: a list of what is allowed, by where it is defined.

A name is resolved exactly as MONAI does it, and what counts is the object that it leads to: a public class of
the packages below, or a function that is listed. What is left out resolves names or fetches, executes or
unpickles what its arguments say.
"""

from __future__ import annotations

import builtins
import enum
import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from pydoc import locate
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.bundle import ComponentLocator
from monai.data import ImageReader, ImageWriter
from monai.engines import PrepareBatch
from monai.inferers import Inferer, Merger, Splitter
from monai.transforms import Transform
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, Sampler

LIBRARY = __name__.partition(".")[0]  # "crosswarp", or "scripts" within a bundle
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*")

# packages whose public classes may be components, and what these must be
COMPONENTS: dict[str, tuple[type, ...]] = {
    "monai.transforms": (Transform,),
    "monai.networks": (nn.Module,),
    "monai.losses": (nn.Module,),
    "monai.inferers": (Inferer, Splitter, Merger),
    "monai.data": (Dataset, DataLoader, Sampler, ImageReader, ImageWriter),
    "monai.engines": (Engine, PrepareBatch),
    "monai.handlers": (object,),
    "monai.metrics": (object,),
    "monai.optimizers": (optim.Optimizer, optim.lr_scheduler.LRScheduler),
    "ignite.engine": (Engine,),
    "ignite.handlers": (object,),
    "ignite.metrics": (object,),
    "torch.nn.modules": (nn.Module,),
    "torch.optim": (optim.Optimizer, optim.lr_scheduler.LRScheduler, nn.Module),
    **{
        f"scripts.{package}": (object,)
        for package in ("data", "evaluation.baselines", "losses", "metrics", "networks", "training")
    },
    **{
        f"scripts.inference.{module}": (object,)
        for module in ("pose", "save_quality", "serving", "transforms")
    },
    "scripts.runs.chain.Chain": (object,),
    "scripts.evaluation.evaluation.Evaluation": (object,),
    "scripts.evaluation.images.EvaluatedImages": (object,),
    "scripts.evaluation.measure.Measure": (object,),
    "scripts.evaluation.methods.TrainedRun": (object,),
    "scripts.runs.stage.Stage": (object,),
}

# of these packages, what calls by name or with any arguments, talks to a server, or waits
EXCLUDED = re.compile(
    r"(Rand)?(TorchVision|TorchIO|CuCIM)d?|TorchVisionFCModel|MILModel|SimulateDelayd?|DatasetFunc|MetricsLambda"
    r"|.*(ClearML|MLFlow|MLflow|Neptune|Polyaxon|Visdom|WandB|Trains).*|InceptionScore|FID"
)
# arguments that tell of classes which fetch, unpickle, or write files that are read later
UNSAFE_ARGUMENTS = {
    *("pretrained_url", "pretrained_path", "path_or_repo_id", "checkpoint", "backend", "npzfile"),
    *("pickle_module", "cache_dir", "db_name", "kwargs_read_csv", "video_source", "mapping_file_path"),
    *("plan_path", "base_path", "store"),
}

# functions and classes that expressions may call, and components may be, by where they are defined
FUNCTIONS = {
    *("glob.glob", "torch.cuda.is_available", "torch.device", "torch.random.manual_seed"),
    *("monai.data.decathlon_datalist.load_decathlon_datalist", "monai.data.utils.list_data_collate"),
    *("monai.data.utils.pad_list_data_collate", "monai.handlers.utils.from_engine"),
    "monai.utils.misc.set_determinism",
    *("scripts.training.augmented.AugmentedSamples.load", "scripts.data.datalist.load_datalist"),
    *("scripts.training.label_pools.label_pool", "scripts.inference.pairs.image_records"),
    *("scripts.inference.pairs.pair_records", "scripts.inference.results.named_result"),
    *("scripts.training.handlers.save_atomically", "scripts.training.adaptation.together"),
    "scripts.training.determinism.use_deterministic",
    "scripts.metrics.validation.image_meta",
    *("scripts.processes.is_first", "scripts.processes.join", "scripts.processes.own_device"),
    *("scripts.runs.bundle.check_data_fit", "scripts.runs.bundle.load_network"),
    *("scripts.runs.bundle.start_from", "scripts.runs.config.read_config"),
    *("scripts.runs.chain.data_of_run", "scripts.evaluation.images.evaluated_records"),
}
# which of their arguments are places of what is run or written, by position
PATHS: dict[str, tuple[int, ...]] = {
    "glob.glob": (0,),
    "scripts.training.augmented.AugmentedSamples.load": (0,),
    "scripts.training.handlers.save_atomically": (1,),
    "scripts.runs.bundle.check_data_fit": (0,),
    "scripts.runs.bundle.load_network": (0,),
    "scripts.runs.config.read_config": (0,),
    "scripts.runs.chain.data_of_run": (0,),
}
# the only packages that are looked into, so that a name imports nothing else
PACKAGES = {".".join(path.split(".")[:2]) for path in (*COMPONENTS, *FUNCTIONS)}
BUILTINS = {
    *("abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "len", "list", "max", "min"),
    *("range", "round", "set", "sorted", "str", "sum", "tuple", "zip"),
}
# what an expression finds without an import, as MONAI gives it, and what it may import
MODULES = {"monai": "monai", "numpy": "numpy", "np": "numpy", "torch": "torch"}

READERS = {
    *("ITKReader", "NibabelReader", "NrrdReader", "NumpyReader", "PILReader", "PydicomReader"),
    *("itkreader", "nibabelreader", "nrrdreader", "numpyreader", "pilreader", "pydicomreader"),
    *("scripts.data.AnyFormatReader", "scripts.data.readers.AnyFormatReader"),
}
WRITERS = {"ITKWriter", "NibabelWriter", "PILWriter"}
# what the arguments of these names may be, wherever they stand: MONAI resolves them by name, or they unpickle
# or fetch
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "reader": (None, *READERS, *(f"monai.data.{name}" for name in READERS if name[0].isupper())),
    "writer": (None, *WRITERS, *(f"monai.data.{name}" for name in WRITERS)),
    "merger_cls": ("AvgMerger",),
    "output_name_formatter": (None,),
    "data_root_dir": (None, ""),
    "pretrained": (False,),
    "allow_pickle": (False,),
    "weights_only": (True,),
    "_mode_": ("default", "callable"),
    "_debug_": (False,),
}


@lru_cache(maxsize=1)
def _locator() -> ComponentLocator:
    return ComponentLocator()


def resolve(name: str) -> list[Any]:
    """What MONAI finds under a name: several objects where it leaves to chance which.

    Args:
        name: of a component, plain (``UNet``) or dotted; ``scripts`` is this library.

    Raises:
        ValueError: for what is not found, or not in a package that may be looked into.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"expected the name of a class or function, got {name!r}")
    modules = _locator().get_component_module_name(name) or []
    modules = [modules] if isinstance(modules, str) else modules
    found = []
    for path in [f"{module}.{name}" for module in modules] or [name]:
        if ".".join(path.split(".")[:2]) not in PACKAGES:
            shown = name if path == name else f"{name}, which is {path}"
            raise ValueError(f"{shown}; expected what is of {', '.join(sorted(PACKAGES))}")
        found.append(locate(re.sub(r"^scripts(?=\.)", LIBRARY, path)))
    if any(each is None for each in found):
        raise ValueError(f"{name} is not found by MONAI and this library")
    return found


def defined_as(thing: Any) -> str:
    """Where a class or function is defined and how it is called there, this library as ``scripts``."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        return ""
    return re.sub(rf"^{LIBRARY}(?=\.)", "scripts", f"{module}.{name}")


def is_function(thing: Any) -> bool:
    """Whether expressions may call it."""
    return callable(thing) and defined_as(thing) in FUNCTIONS


def is_component(thing: Any) -> bool:
    """Whether a config may make an object of a class."""
    path = defined_as(thing)
    if not inspect.isclass(thing) or any(part.startswith("_") for part in path.split(".")):
        return False
    bases = next((COMPONENTS[key] for key in COMPONENTS if f"{path}.".startswith(f"{key}.")), ())
    if not issubclass(thing, bases) or EXCLUDED.fullmatch(thing.__name__):
        return False
    try:
        arguments = inspect.signature(thing).parameters
    except (TypeError, ValueError):
        return False
    fetches = "pretrained" in arguments and arguments["pretrained"].default is not False
    return not (fetches or UNSAFE_ARGUMENTS & set(arguments))


def check_target(target: Any) -> None:
    """Check the ``_target_`` of a component.

    Raises:
        ValueError: where it is none of what may be called, or no plain name.
    """
    if not isinstance(target, str):
        raise ValueError(f"expected a _target_ that is a name, got {target!r}")
    if fault := _target_fault(target):
        raise ValueError(fault)


@lru_cache(maxsize=1000)
def _target_fault(target: str) -> str:
    try:
        found = resolve(target)
    except ValueError as error:
        return f"calls {error}"
    strange = [defined_as(each) or target for each in found if not (is_component(each) or is_function(each))]
    return f"calls {target}, which is {strange[0]} and not among what a bundle may use" if strange else ""


def check_argument(name: str, value: Any) -> None:
    """Check an argument that MONAI resolves by name, or that makes components fetch or unpickle.

    Raises:
        ValueError: for another value than those allowed.
    """
    if name in ARGUMENTS and not isinstance(value, (dict, list)):
        allowed = ARGUMENTS[name]
        if not any(value is each or (isinstance(value, str) and value == each) for each in allowed):
            expected = ", ".join(repr(each) for each in allowed)
            raise ValueError(f"{name}: {value!r}; expected, written out, one of {expected}")


def find(root: str, names: list[str]) -> Any:
    """What an expression finds by a module's name and attributes.

    Raises:
        ValueError: for what is not there.
    """
    thing: Any = locate(root)
    for name in names:
        if name.startswith("_") or not hasattr(thing, name):
            raise ValueError(f"{'.'.join([root, *names])} is not found")
        thing = getattr(thing, name)
    return thing


def is_value(thing: Any) -> bool:
    """Whether it is a plain value of a library: a type of numbers, a layout, a number, a choice."""
    kinds = (torch.dtype, torch.memory_format, bool, int, float, enum.Enum)
    return isinstance(thing, kinds) or (inspect.isclass(thing) and issubclass(thing, np.generic))


def builtin(name: str) -> Callable[..., Any] | None:
    """A built-in function that expressions may call."""
    return getattr(builtins, name) if name in BUILTINS else None
