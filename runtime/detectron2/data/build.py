"""Building data loaders: load and filter the records, choose a sampler, batch."""

import itertools
import logging
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.utils.data as torchdata
from tabulate import tabulate
from termcolor import colored

from detectron2._left_out import left_out_function
from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import log_first_n

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)

__all__ = [
    "build_batch_data_loader",
    "build_detection_train_loader",
    "build_detection_test_loader",
    "get_detection_dataset_dicts",
    "load_proposals_into_dataset",
    "print_instances_class_histogram",
]

logger = logging.getLogger(__name__)

load_proposals_into_dataset = left_out_function("load_proposals_into_dataset", "precomputed proposals")
filter_images_with_few_keypoints = left_out_function("filter_images_with_few_keypoints", "keypoints")


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """The records that have at least one annotation that is not a crowd."""
    kept = [
        record
        for record in dataset_dicts
        if any(annotation.get("iscrowd", 0) == 0 for annotation in record["annotations"])
    ]
    logger.info(
        f"Left out {len(dataset_dicts) - len(kept)} images without usable annotations; {len(kept)} images remain."
    )
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log a table of the number of instances of each class; crowds do not count.

    Args:
        dataset_dicts: records with "annotations".
        class_names: their index is the category_id.

    Raises:
        ValueError: a category_id is not an index of `class_names`.
    """
    counts = np.zeros(len(class_names), dtype=int)
    for record in dataset_dicts:
        ids = np.array([a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)], dtype=int)
        wrong = ids[(ids < 0) | (ids >= len(class_names))]
        if len(wrong):
            raise ValueError(
                f"category_id {wrong[0]} in the annotations of {record.get('file_name', 'an image')} is not in "
                f"[0, {len(class_names)}), the indices of the class names in the metadata"
            )
        np.add.at(counts, ids, 1)

    def shorten(name: str) -> str:
        return name if len(name) <= 13 else f"{name[:11]}.."

    cells = [(shorten(name), int(count)) for name, count in zip(class_names, counts, strict=True)]
    columns = max(min(3, len(cells)), 1)
    if len(cells) > 1:
        cells += [(None, None)] * (-len(cells) % columns or columns)
        cells.append(("total", int(counts.sum())))
    rows = [list(itertools.chain(*cells[i : i + columns])) for i in range(0, len(cells), columns)]
    table = tabulate(
        rows,
        headers=["category", "#instances"] * columns,
        tablefmt="pipe",
        numalign="left",
        stralign="center",
    )
    message = f"Distribution of instances among all {len(class_names)} categories:\n{colored(table, 'cyan')}"
    log_first_n(logging.INFO, message, key="message")


def get_detection_dataset_dicts(
    names: str | list[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: list[str] | None = None,
    check_consistency: bool = True,
):
    """Load the records of registered data sets and join them.

    Args:
        names: one or several names in the DatasetCatalog.
        filter_empty: leave out images without annotations other than crowds.
        min_keypoints: must be 0 (keypoints are not covered).
        proposal_files: must be None (precomputed proposals are not covered).
        check_consistency: check that the sets have the same `thing_classes`, and log how many instances each
            class has.

    Returns:
        a list of records; or, where the first name is registered as a torch Dataset, that Dataset, several of
        them concatenated.

    Raises:
        KeyError: a name is not registered.
        ValueError: a data set is empty, or nothing is left after the filters.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("no data set is named: give at least one (DATASETS.TRAIN, dataloader.train.dataset.names)")
    loaded = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], torchdata.Dataset):
        return loaded[0] if len(loaded) == 1 else torchdata.ConcatDataset(loaded)

    for name, records in zip(names, loaded, strict=True):
        if not len(records):
            source = MetadataCatalog.get(name).get("json_file")
            where = f"its annotation file {source}" if source else "the function registered for it"
            raise ValueError(f"the data set '{name}' is empty: {where} lists no images. Check it, or leave it out.")
    if proposal_files is not None:
        loaded = [load_proposals_into_dataset(*pair) for pair in zip(loaded, proposal_files, strict=True)]
    records = list(itertools.chain.from_iterable(loaded))

    if "annotations" in records[0]:
        found = len(records)
        if filter_empty:
            records = filter_images_with_only_crowd_annotations(records)
        if min_keypoints > 0:
            records = filter_images_with_few_keypoints(records, min_keypoints)
        if check_consistency:
            _check_classes(names, records)
        if not records:
            raise ValueError(
                f"{', '.join(names)}: none of the {found} images has an annotation that can be used. Check the "
                "annotation files, or keep empty images with filter_empty=False "
                "(DATALOADER.FILTER_EMPTY_ANNOTATIONS False)."
            )
    return records


def _check_classes(names: list[str], records: list[dict]) -> None:
    try:
        class_names = MetadataCatalog.get(names[0]).thing_classes
        check_metadata_consistency("thing_classes", names)
    except AttributeError:  # a data set without class names has nothing to compare or to count by
        return
    print_instances_class_histogram(records, class_names)


def build_batch_data_loader(
    dataset,
    sampler,
    total_batch_size,
    *,
    aspect_ratio_grouping=False,
    num_workers=0,
    collate_fn=None,
    drop_last: bool = True,
    single_gpu_batch_size=None,
    prefetch_factor=2,
    persistent_workers=False,
    pin_memory=False,
    seed=None,
    **kwargs,
):
    """A loader of batches: like `torch.utils.data.DataLoader`, but it gives lists of elements, can group them by aspect
    ratio, and divides a sampler's indices among its workers by batches.

    Args:
        dataset: map-style or iterable.
        sampler: the order of a map-style data set; None for an iterable one.
        total_batch_size: over all processes; must be a multiple of their number.
        aspect_ratio_grouping: make batches of images that are all wider than high, or all not; elements then need
            "width" and "height", and incomplete batches are always dropped.
        num_workers: of each process.
        collate_fn: from a list of elements to a batch; by default the list itself.
        drop_last: leave out the last, incomplete batch.
        single_gpu_batch_size: batch size of each process, in place of `total_batch_size`.
        prefetch_factor, persistent_workers, pin_memory: see `torch.utils.data.DataLoader`.
        seed: of the generator that gives workers their seeds.
        kwargs: more arguments of `torch.utils.data.DataLoader`.
    """
    batch_size = _batch_size_per_process(total_batch_size, single_gpu_batch_size)
    logger.info(f"Making batches of {batch_size} per process")
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable data set has its own order: sampler must be None"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)

    generator = None if seed is None else torch.Generator()
    if generator is not None:
        generator.manual_seed(seed)
    options = {
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
        "generator": generator,
        **kwargs,
    }
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or trivial_batch_collator
        return torchdata.DataLoader(
            dataset, batch_size=batch_size, drop_last=drop_last, collate_fn=collate_fn, **options
        )
    assert drop_last, "aspect_ratio_grouping drops incomplete batches: it cannot go with drop_last=False"
    # Workers give single elements, and the groups form here.
    elements = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
    batches = AspectRatioGroupedDataset(elements, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)


def _batch_size_per_process(total: int | None, single: int | None) -> int:
    if single:
        if total:
            raise ValueError("give either total_batch_size or single_gpu_batch_size, not both")
        return single
    processes = get_world_size()
    is_multiple = total > 0 and total % processes == 0
    assert is_multiple, (
        f"the total batch size ({total}) must be a positive multiple of the number of processes ({processes})"
    )
    return total // processes


def _training_records(cfg, names: list[str]):
    """The records of some training sets, filtered as a yacs config says."""
    return get_detection_dataset_dicts(
        names,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def _category_factors(cfg, records: list[dict]) -> torch.Tensor:
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )


def _build_weighted_sampler(cfg, enable_category_balance: bool = False) -> RepeatFactorTrainingSampler:
    """A sampler that repeats whole data sets by DATASETS.TRAIN_REPEAT_FACTOR (pairs of name and factor, 1 where a
    set is not named), and with `enable_category_balance` also images by the categories they contain.
    """
    weights = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    unknown = set(weights) - set(cfg.DATASETS.TRAIN)
    assert not unknown, f"DATASETS.TRAIN_REPEAT_FACTOR names {sorted(unknown)}, which DATASETS.TRAIN does not"
    sets = {name: _training_records(cfg, [name]) for name in cfg.DATASETS.TRAIN}
    factors = torch.cat([torch.full((len(r),), float(weights.get(name, 1))) for name, r in sets.items()])
    if enable_category_balance:
        factors = factors * torch.cat([_category_factors(cfg, records) for records in sets.values()])
        factors = factors / factors.min()
    logger.info(f"Repeating data sets by {weights}, with category balance: {enable_category_balance}")
    return RepeatFactorTrainingSampler(factors)


def _training_sampler(cfg, dataset) -> torchdata.Sampler:
    """The sampler that DATALOADER.SAMPLER_TRAIN names."""
    name = cfg.DATALOADER.SAMPLER_TRAIN
    makers: dict[str, Callable[[], torchdata.Sampler]] = {
        "TrainingSampler": lambda: TrainingSampler(len(dataset), seed=cfg.SEED),
        "RepeatFactorTrainingSampler": lambda: RepeatFactorTrainingSampler(
            _category_factors(cfg, dataset), seed=cfg.SEED
        ),
        "RandomSubsetTrainingSampler": lambda: RandomSubsetTrainingSampler(
            len(dataset), cfg.DATALOADER.RANDOM_SUBSET_RATIO
        ),
        "WeightedTrainingSampler": lambda: _build_weighted_sampler(cfg),
        "WeightedCategoryTrainingSampler": lambda: _build_weighted_sampler(cfg, enable_category_balance=True),
    }
    if name not in makers:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN is {name!r}; known are {', '.join(makers)}")
    logger.info(f"Using training sampler {name}")
    return makers[name]()


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None) -> dict[str, Any]:
    if dataset is None:
        dataset = _training_records(cfg, cfg.DATASETS.TRAIN)
    if mapper is None:
        mapper = DatasetMapper(cfg, True)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _training_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _mapped(dataset, mapper: Callable | None) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset,
    *,
    mapper,
    sampler=None,
    total_batch_size,
    aspect_ratio_grouping=True,
    num_workers=0,
    collate_fn=None,
    **kwargs,
):
    """The loader for training: an endless stream of lists of mapped records. Call it with these arguments, or with a
    yacs config as ``build_detection_train_loader(cfg, mapper=None, ...)``.

    Args:
        dataset: a list of records (see `get_detection_dataset_dicts`) or a torch Dataset, map-style or iterable.
        mapper: from a record to the model's input; None uses the elements as they are.
        sampler: by default a `TrainingSampler`; None for an iterable data set.
        total_batch_size, aspect_ratio_grouping, num_workers, collate_fn, kwargs: see `build_batch_data_loader`.
    """
    dataset = _mapped(dataset, mapper)
    if not isinstance(dataset, torchdata.IterableDataset):
        sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        assert isinstance(sampler, torchdata.Sampler), f"sampler must be a torch Sampler, got {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(cfg, dataset_name, mapper=None) -> dict[str, Any]:
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
    proposal_files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        proposal_files = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(name)] for name in names]
    dataset = get_detection_dataset_dicts(names, filter_empty=False, proposal_files=proposal_files)
    is_stream = isinstance(dataset, torchdata.IterableDataset)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if is_stream else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list[Any] | torchdata.Dataset,
    *,
    mapper: Callable[[dict[str, Any]], Any],
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> torchdata.DataLoader:
    """The loader for inference: every element once over all processes, in batches. Call it with these arguments, or
    with a yacs config as ``build_detection_test_loader(cfg, dataset_name, mapper=None)``.

    Args:
        dataset: a list of records or a torch Dataset, map-style or iterable.
        mapper: from a record to the model's input; None uses the elements as they are.
        sampler: by default an `InferenceSampler`; None for an iterable data set.
        batch_size: of each process. 1 is what published speeds are measured with.
        num_workers: of each process.
        collate_fn: from a list of elements to a batch; by default the list itself.
    """
    dataset = _mapped(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable data set has its own order: sampler must be None"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def trivial_batch_collator(batch: list) -> list:
    """The list of elements itself."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed torch, numpy and `random` in a DataLoader worker, differently in each, from the seed torch gave it."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
