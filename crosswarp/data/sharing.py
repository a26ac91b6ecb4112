"""What is read from files, shared by all that need it at one time: an image is decoded and prepared once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import numpy as np
from monai.data import CacheDataset, ImageReader
from monai.transforms import Randomizable, Transform
from monai.transforms.traits import RandomizableTrait

from ..files import file_state
from .datalist import FILE_KEYS, files_of
from .room import placed
from .stored import Stored

# what a transform has that does not decide what it does: generators of those that draw, MONAI's tracing
PASSING = (np.random.RandomState, threading.local)


class ReadOnce:
    """Remembers decoded images and prepared samples, for all who ask, as long as it lives.

    Samples, which have the size of the networks' grid, are all kept, where ``room`` places them; of the
    images as their files store them those that come first, up to a limit.

    Args:
        max_bytes: of images as they are stored.
    """

    def __init__(self, max_bytes: int = 2**30) -> None:
        self.room = max_bytes
        self.samples: list[Sample] = []
        self.images: dict[Hashable, Stored] = {}
        _living.add(self)

    def forget(self) -> None:
        """Give the memory back, and remember no more."""
        _living.discard(self)
        self.samples.clear()
        self.images.clear()


class Sample(dict):
    """A prepared sample: one object, however many data sets hold it."""

    @classmethod
    def of(cls, item: Mapping[Any, Any]) -> Sample:
        """A sample in memory, or where there is no room in mapped files."""
        sample = cls()
        sample.update(placed(item, sample))
        return sample


_living: WeakSet[ReadOnce] = WeakSet()
_samples: WeakValueDictionary[Hashable, Sample] = WeakValueDictionary()


def decoded(path: Path, decode: Callable[[Path], Stored]) -> Stored:
    """What a file stores: decoded, or a copy of what a :class:`ReadOnce` remembers of it."""
    if not _living:
        return decode(path)
    key = states(path)
    for memory in list(_living):
        if key in memory.images:
            return replace(memory.images[key], array=memory.images[key].array.copy())
    stored = decode(path)
    for memory in list(_living):
        if stored.array.nbytes <= memory.room:
            memory.room -= stored.array.nbytes
            memory.images[key] = replace(stored, array=stored.array.copy())
    return stored


class SharedDataset(CacheDataset):
    """MONAI's ``CacheDataset``, whose samples are those of all others that prepare the same files alike.

    Two data sets that overlap, and with a :class:`ReadOnce` those of a whole chain, hold a sample once and
    prepare it once, in memory up to a limit (:mod:`~.room`). As there, transforms from the first random one
    on are run anew each time.

    Args:
        data: records of a datalist.
        transform: a ``Compose``.
        num_workers: threads that prepare; 0 or 1 for none beside the caller's.
        seed: of random transforms, with the number of the sample: what they draw for it does not depend on
            who prepares it, and when.
    """

    def __init__(self, data: Any, transform: Any, num_workers: int = 0, seed: int = 0) -> None:
        self.seed = seed
        super().__init__(data, transform, num_workers=num_workers, progress=False)

    def _transform(self, index: int) -> Any:
        if isinstance(self.transform, Randomizable):
            seed = np.random.SeedSequence([self.seed, index]).generate_state(1)[0]
            self.transform.set_random_state(seed=int(seed))
        return super()._transform(index)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Sample]:
        if self.num_workers == 1:  # a pool of a single thread would only wait for it
            return [self._load_cache_item(index) for index in indices or range(self.cache_num)]
        return super()._fill_cache(indices)

    def _load_cache_item(self, idx: int) -> Sample:
        record = self.data[idx]
        files = [states(Path(record[key])) for key in FILE_KEYS if key in record]
        try:
            key = value_of([record, files, self._deterministic()])
            sample = _samples.get(key)
        except TypeError:  # what has no value is nobody else's
            return Sample.of(super()._load_cache_item(idx))
        if sample is None:
            sample = _samples[key] = Sample.of(super()._load_cache_item(idx))
        for memory in list(_living):
            memory.samples.append(sample)
        return sample

    def _deterministic(self) -> Sequence[Any]:
        first = self.transform.get_index_of_first(
            lambda each: isinstance(each, RandomizableTrait) or not isinstance(each, Transform)
        )
        return self.transform.transforms[:first]


def states(path: Path) -> tuple[Hashable, ...]:
    """The state of each file that holds an image, with its path; see :func:`~.datalist.files_of`."""
    return tuple((str(each), file_state(each)) for each in files_of(path))


def value_of(thing: Any) -> Hashable:
    """What an object is made of, equal for two objects that do the same.

    Raises:
        TypeError: for what cannot be compared.
    """
    if isinstance(thing, Mapping):
        return tuple((key, value_of(value)) for key, value in thing.items())
    if isinstance(thing, (list, tuple)):
        return tuple(map(value_of, thing))
    if isinstance(thing, np.ndarray):
        return thing.shape, str(thing.dtype), thing.tobytes()
    if isinstance(thing, (Transform, ImageReader)):
        return type(thing), value_of({k: v for k, v in vars(thing).items() if not isinstance(v, PASSING)})
    hash(thing)  # plain values are compared as such, all else is equal to itself alone
    return thing
