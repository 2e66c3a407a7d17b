"""A segmenter after a classifier, for patches that are called water or built-up only (Syrris et al. 2020, section 3.1)."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrs import aggregate, evaluate, pipeline, plots
from tfrs.errors import UserError
from tfrs.experiment import REPORT
from tfrs.export import read_card
from tfrs.labels import MERGES, WATER_BUILT_UP, merged_ids
from tfrs.records import Records
from tfrs.storage import write_text

OTHER = WATER_BUILT_UP.classes.index("Other")
BATCH = 64
SHOWN = 8  # patches in the figure


def run(classifier: Path, segmenter: Path, records: Records, split: str, output: Path) -> dict:
    """Score the pair on a split: `report.json`, `report.md` and `patches.png` in `output`.

    A patch that the classifier calls something else is Other in all of its pixels.

    Args:
        classifier: Export of a model of patches whose classes are those of EuroSAT, or already water, built-up and other.
        segmenter: Export of a model that labels pixels as water, built-up and other.

    Raises:
        UserError: An export is of another kind, or the records do not have what one takes.
    """
    first, second = read_card(classifier), read_card(segmenter)
    if first["scheme"] != WATER_BUILT_UP.name and (first["scheme"], WATER_BUILT_UP.name) not in MERGES:
        raise UserError(f"{classifier}: classes of {first['scheme']}, but --classifier takes those of EuroSAT")
    if first["task"] != "single_label":
        raise UserError(f"{classifier}: a model for {first['task']}; --classifier is one for --task=single_label")
    if second["scheme"] != WATER_BUILT_UP.name or second["output"]["layout"] == first["output"]["layout"]:
        raise UserError(f"{segmenter}: labels {second['scheme']}; --segmenter is a run of experiments.dual, e.g. with cnn_segm")
    task = aggregate.create(records, "aggregate", loss="cross_entropy", label_smoothing=0.0)
    classify, segment = (_serve(place, card) for place, card in ((classifier, first), (segmenter, second)))
    cover_of = np.array(merged_ids(first["scheme"], WATER_BUILT_UP.name))
    matrix, segmented, shown = np.zeros((len(WATER_BUILT_UP.classes),) * 2), 0, {}
    both = zip(_batches(records, split, first, task), _batches(records, split, second, task), strict=True)
    for (patches, target, weight), (images, *_) in both:
        covers = cover_of[classify(patches).argmax(-1)]
        maps = np.full(target.shape, OTHER, np.uint8)
        if (chosen := np.flatnonzero(covers != OTHER)).size:
            maps[chosen] = segment({name: tf.gather(image, chosen) for name, image in images.items()}).argmax(1)
        segmented += int(weight.numpy()[chosen].sum())
        matrix += task.confusion(target, tf.one_hot(maps, len(WATER_BUILT_UP.classes)), weight).numpy()
        shown = shown or _figure(images, target.numpy(), maps, int(weight.numpy().sum()))
    scores = {
        "model": f"{first['model']} and {second['model']}",
        "input": _spec(second),
        "task": task.name,
        "records": str(records.directory),
        "split": split,
        "patches": records.count(split),
        "segmented_patches": segmented,
        "unit": "pixels",
        **evaluate.task_scores(matrix, task),
    }
    output.mkdir(parents=True, exist_ok=True)
    plots.save(plots.maps(shown, WATER_BUILT_UP), output / "patches.png")
    write_text(
        output / "report.md", f"{evaluate.to_markdown(scores)}\n{segmented:,} patches were segmented, the others are Other.\n"
    )
    write_text(output / REPORT, json.dumps(scores, indent=1) + "\n")
    return scores


def _spec(card: Mapping) -> str:
    """The bands that a model takes, as `--input` names them."""
    return "+".join(f"{name}:{','.join(taken['bands'])}" for name, taken in card["inputs"].items())


def _batches(records: Records, split: str, card: Mapping, task: aggregate.Aggregate) -> tf.data.Dataset:
    return pipeline.load(records, split, inputs=_spec(card), task=task, batch_size=BATCH)


def _serve(export: Path, card: Mapping):
    loaded = tf.saved_model.load(str(export))
    serve = loaded.signatures["serving_default"]

    def probabilities(images: Mapping[str, tf.Tensor], _=loaded) -> np.ndarray:  # kept: its variables would go with it
        return serve(**images)[card["output"]["name"]].numpy()

    return probabilities


def _figure(images: Mapping[str, tf.Tensor], target: np.ndarray, maps: np.ndarray, count: int) -> dict:
    count = min(count, SHOWN)
    pictures = {name: plots.displayable(image.numpy()[:count, :3]) for name, image in images.items()}
    return pictures | {"reference": target[:count], "predicted": maps[:count]}
