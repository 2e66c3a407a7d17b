"""A training run as a flat, frozen list of settings, and the folder that belongs to it."""

import csv
import dataclasses
import io
import math
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

from tfrs.errors import UserError
from tfrs.indices import INDICES, Entropy, parse_offsets
from tfrs.registry import DECODERS, ENCODERS, MODELS, OWN_SEGMENTERS
from tfrs.selection import HELP as WHERE
from tfrs.sensors import INPUTS
from tfrs.storage import write_text

FLAGS_FILE = "flags.txt"
REPORT = "report.json"
CHECKPOINTS = "checkpoints"
EXPORT = "export"
SEGMENT = "segment"  # kind of the runs that label pixels
MULTI_WORKER = "multi_worker"


def _setting(default, text: str):
    return field(default=default, metadata={"help": text})


_RANGES = {
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "patience": (1, math.inf),
    "plateau_factor": (0, 0.99),
    "plateau_patience": (1, math.inf),
    "cpu_devices": (1, math.inf),
    "freeze_encoder": (0, math.inf),
    "accumulate": (1, math.inf),
    "steps_per_execution": (1, math.inf),
    "save_every_steps": (0, math.inf),
    "windows": (0, math.inf),
    "seed": (0, 2**32 - 1),
    "threshold": (0, 1),
    "dropout": (0, 0.99),
    "learning_rate": (0, math.inf),
    "decay": (0, math.inf),
    "clip_norm": (0, math.inf),
    "ema": (0, 0.999999),
    "warmup_epochs": (0, math.inf),
    "label_smoothing": (0, 0.99),
}


@dataclass(frozen=True)
class Experiment:
    """Every setting of a run. The defaults are those of Schmitt & Wu 2021, section 3.3, and of its reference code."""

    model: str = _setting(
        "resnet50",
        f"a classifier ({', '.join(MODELS)}), or a segmenter: {', '.join(OWN_SEGMENTERS)}, or <decoder>_<encoder> of "
        f"{', '.join(DECODERS)} and {', '.join(ENCODERS)}",
    )
    input: str = _setting(
        "s2_ms",
        f"one of {', '.join(INPUTS)}, or bands and indices in order, e.g. B04,B03,NDVI or s2:B04,B03+s1:VV; "
        f"indices: {', '.join(INDICES)}",
    )
    records: str = _setting("records/sen12ms", "folder of the records, or one above it (the newest version is taken)")
    where: tuple[str, ...] = _setting((), WHERE)
    folds: int = _setting(
        0,
        "cross-validation: divide the records of all splits anew into so many folds, class by class, with --seed; "
        "--fold is test, the next one val, the others train; statistics stay those of the manifest. 0: the records' splits",
    )
    fold: int = _setting(-1, "number of the fold that is test, from 0; -1: each, in a run of its own below --run_dir")
    run_dir: str = _setting("", "folder of the run; empty: runs/<experiment>-<model>-<input>-<time>")
    task: str = _setting(
        "",
        "multi_label, single_label, segmentation, or (experiments.dual) dual or aggregate; empty: multi_label where the "
        "records have multi-labels",
    )
    labels: str = _setting(
        "", "multi_label: stored (the records' own), or fractions (classes above --threshold); empty: as the data set has it"
    )
    scheme: str = _setting(
        "",
        "merge the records' classes into this scheme: igbp_simplified, dfc2020, bigearthnet_19 or multisenge_urban; "
        "empty: that of the records' labels",
    )
    threshold: float = _setting(0.1, "multi_label: a class is a label above this fraction of the patch")
    threshold_inclusive: bool = _setting(
        False, "multi_label: a fraction equal to the threshold is a label too (reference code)"
    )
    ignore: tuple[str, ...] = _setting(
        (), "segmentation: classes to leave out, by name, e.g. Savanna or '\"Groves, Hedges\",Wetlands'"
    )
    loss: str = _setting(
        "cross_entropy", "segmentation: cross_entropy, focal, dice, jaccard, or a sum such as cross_entropy+0.5*dice"
    )
    class_weights: str = _setting(
        "none",
        "segmentation, in cross_entropy and focal: none, or by the frequency f in train: inverse (1/f), sum_1000, "
        "balanced (mean over the pixels 1), median (frequency balancing)",
    )
    encoder_weights: str = _setting("none", "segmentation: none, imagenet, or a file with weights of the encoder")
    first_convolution: str = _setting(
        "mean", "encoder weights for other than three channels: mean (of the kernels of the three) or random"
    )
    init_from: str = _setting("", "a run or export whose weights this run starts from, as far as they fit, by name and band")
    freeze_encoder: int = _setting(
        0,
        "epochs in which the encoder stays as it is (batch normalisation in inference mode), for --init_from or "
        "--encoder_weights; the optimizer begins anew after them, and the schedule goes on",
    )
    fusion: str = _setting("early", "early (channel concatenation) or late (an encoder per sensor)")
    normalization: str = _setting("records", "statistics of the records, or a published set: sen12ms, bigearthnet")
    entropy_levels: int = _setting(Entropy.levels, "eNDVI: number of grey levels of NDVI, 2 to 16")
    entropy_window: int = _setting(Entropy.window, "eNDVI: side of the moving window in pixels, odd, 3 to 31")
    entropy_offsets: tuple[str, ...] = _setting(
        tuple(f"{row}:{column}" for row, column in Entropy.offsets),
        "eNDVI: row:column from one pixel of a pair to the other, for each kind of neighbour",
    )
    dropout: float = _setting(0.0, "dropout rate before the last layer")
    windows: int = _setting(0, "cnn_dual, cnn_segm: windows learned from per patch and epoch, drawn by --seed; 0: all")
    balance_windows: bool = _setting(False, "draw the windows of a batch from its patches so that each class has as many")
    augment: tuple[str, ...] = _setting(
        (),
        "augmentations in order: dihedral, crop:SIZE, resized_crop:SIZE:SMALLEST_AREA, rotate:DEGREES, noise:STD, "
        "brightness:AMOUNT, contrast:AMOUNT, speckle:LOOKS, band_dropout:P, modality_dropout:P, cutout:SIZE, and last "
        "mixup:ALPHA or cutmix:ALPHA",
    )
    sampling: str = _setting(
        "uniform",
        "training: uniform (every record once an epoch), or balanced (drawn so that classes come equally often; a record of "
        "several counts for the rarest)",
    )
    date: str = _setting("", "records of series, one image of each: first, or random (in training another each epoch)")
    epochs: int = _setting(100, "largest number of epochs")
    batch_size: int = _setting(64, "patches per step, over all devices")
    optimizer: str = _setting("adam", "adam, adamw, lamb, nadam, rmsprop or sgd")
    learning_rate: float = _setting(1e-3, "learning rate (its highest, with a schedule)")
    decay: float = _setting(1e-5, "L2 decay, added to the gradients of all weights as in PyTorch's Adam")
    clip_norm: float = _setting(0.0, "shorten the gradients of all weights together to this norm, before the decay; 0: never")
    ema: float = _setting(
        0.0, "score, keep and export the moving average of the weights with this momentum, e.g. 0.999; 0: none"
    )
    schedule: str = _setting("constant", "learning rate over the epochs: constant, cosine (to 0 at the last epoch) or plateau")
    plateau_factor: float = _setting(0.1, "plateau: what the learning rate is multiplied by")
    plateau_patience: int = _setting(5, "plateau: after this many epochs without a better average F1 on val")
    warmup_epochs: float = _setting(0.0, "epochs over which the learning rate rises linearly from 0")
    label_smoothing: float = _setting(0.0, "single_label, segmentation: share of the target spread over all classes")
    patience: int = _setting(10, "stop after this many epochs without a better average F1 on val")
    seed: int = _setting(0, "seed of weights, order and augmentation")
    deterministic: bool = _setting(False, "only ways of computing that give the same bits again (slower)")
    read: str = _setting(
        "auto",
        "random (memory-mapped), sequential (a stream through a shuffle buffer), or auto: sequential on network file systems",
    )
    mixed_precision: str = _setting("", "bfloat16 or float16: compute in it, keep float32 weights")
    accumulate: int = _setting(
        1, "batches per update of the weights: as one batch of so many times the size, but for batch normalisation and mixup"
    )
    jit_compile: bool = _setting(False, "compile the gradients by XLA; slower on CPUs")
    steps_per_execution: int = _setting(1, "updates per call of the training step, for small networks on fast devices")
    save_every_steps: int = _setting(0, "save the state after so many updates of an epoch too, not only at its end; 0: never")
    profile: bool = _setting(False, "write a profile of a few steps for TensorBoard")
    strategy: str = _setting(
        "auto",
        "devices to train on: auto or mirrored (all of this host), one_device, or multi_worker (those of all processes that "
        "TF_CONFIG or SLURM names, which are given the same command)",
    )
    cpu_devices: int = _setting(1, "split the CPU into this many logical devices, to try several replicas without GPUs")

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"--{name}={getattr(self, name)} is out of range; give {low} to {high}")
        _ = self.entropy  # which refuses settings out of range

    @property
    def entropy(self) -> Entropy:
        """How texture indices are computed."""
        return Entropy(self.entropy_levels, self.entropy_window, parse_offsets(self.entropy_offsets))

    def to_flags(self) -> str:
        """The settings as a flag file, one flag a line."""
        return "".join(f"--{f.name}={_text(getattr(self, f.name))}\n" for f in fields(self))

    @classmethod
    def from_flags(cls, text: str) -> "Experiment":
        """The settings of a flag file written by `to_flags`."""
        pairs = dict(line.removeprefix("--").split("=", 1) for line in text.splitlines() if line.startswith("--"))
        known = {f.name: f for f in fields(cls)}
        return cls(**{name: _value(known[name].default, text) for name, text in pairs.items() if name in known})


def _text(value) -> str:
    if isinstance(value, tuple):  # as absl reads lists: a class name may hold a comma
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        return line.getvalue()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(default, text: str):
    if isinstance(default, bool):
        return text == "true"
    if isinstance(default, tuple):
        return tuple(next(csv.reader([text]), ()))
    return type(default)(text)


def open_run(experiment: Experiment, kind: str) -> tuple[Experiment, Path]:
    """The run's folder, made or continued, and the settings with its path.

    Without a `run_dir`, the newest unfinished run of the same settings under `runs/` is continued, else one is begun.

    Raises:
        UserError: The folder belongs to a run with other settings.
    """
    experiment = place_run(experiment, kind)
    folder = Path(experiment.run_dir)
    found = _read_flags(folder)
    # The same folder may be named by another path; the settings are what must agree.
    if found and (other := _differences(found, dataclasses.replace(experiment, run_dir=found.run_dir))):
        raise UserError(f"{folder} holds a run with other settings ({other}); give another --run_dir, or delete the folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FLAGS_FILE, experiment.to_flags())
    return experiment, folder


def place_run(experiment: Experiment, kind: str) -> Experiment:
    """The settings with the run's folder: as given, or that of the newest unfinished run of the same settings, or a new one.

    Raises:
        UserError: Several processes would each make their own.
    """
    if experiment.run_dir:
        return experiment
    if experiment.strategy == MULTI_WORKER:
        raise UserError("--strategy=multi_worker needs --run_dir, the same for all processes, in a folder that all of them see")
    name = f"{kind}-{experiment.model}-{''.join(c if c.isalnum() or c == '_' else '-' for c in experiment.input)}"
    for folder in sorted(Path("runs").glob(f"{name}-*"), reverse=True):
        same = dataclasses.replace(experiment, run_dir=str(folder))
        if not is_finished(folder) and _read_flags(folder) == same:
            return same
    return dataclasses.replace(experiment, run_dir=f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def is_begun(folder: Path) -> bool:
    """Whether a run has saved the state of an epoch."""
    return (folder / CHECKPOINTS / "checkpoint").exists()


def is_finished(folder: Path) -> bool:
    """Whether a run is trained and exported; the export comes last, and as a whole."""
    return (folder / EXPORT).exists()


def read_run(folder: Path) -> Experiment:
    """The settings of a run.

    Raises:
        UserError: The folder is not that of a run.
    """
    experiment = _read_flags(folder)
    if experiment is None:
        raise UserError(f"{folder}: no {FLAGS_FILE} there; give the folder of a run with --run_dir")
    return experiment


def _read_flags(folder: Path) -> Experiment | None:
    path = folder / FLAGS_FILE
    return Experiment.from_flags(path.read_text()) if path.is_file() else None


def _differences(found: Experiment, wanted: Experiment) -> str:
    pairs = [(f.name, getattr(found, f.name), getattr(wanted, f.name)) for f in fields(found)]
    return ", ".join(f"{name}: {_text(old)} there, {_text(new)} asked for" for name, old, new in pairs if old != new)
