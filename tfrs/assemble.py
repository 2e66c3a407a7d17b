"""From the settings of an experiment to its devices, task, model, optimizer and batches."""

import os
from collections.abc import Mapping

import keras
import tensorflow as tf

from tfrs import aggregate, cluster, folds, hosts, pipeline, registry, segmentation, selection, tasks
from tfrs.errors import UserError, unknown
from tfrs.experiment import MULTI_WORKER, Experiment
from tfrs.models.build import build, build_segmenter
from tfrs.records import Records
from tfrs.segmentation import Segmentation
from tfrs.sensors import Sensor, resolve, select
from tfrs.tasks import Task
from tfrs.window_samples import cut_windows

OPTIMIZERS = {
    kind.__name__.lower(): kind
    for kind in (
        keras.optimizers.Adam,
        keras.optimizers.AdamW,
        keras.optimizers.Lamb,
        keras.optimizers.Nadam,
        keras.optimizers.RMSprop,
        keras.optimizers.SGD,
    )
}
SCHEDULES = ("constant", "cosine", "plateau")
PRECISIONS = ("", "bfloat16", "float16")


def prepare(experiment: Experiment) -> None:
    """Set seeds, precision and logical devices for the process.

    Raises:
        UserError: The precision is unknown, or TensorFlow is in use already.
    """
    if experiment.mixed_precision not in PRECISIONS:
        raise unknown("precision", experiment.mixed_precision, PRECISIONS[1:])
    keras.utils.set_random_seed(experiment.seed)
    if experiment.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(f"mixed_{experiment.mixed_precision}" if experiment.mixed_precision else "float32")
    if experiment.cpu_devices > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * experiment.cpu_devices)
        except RuntimeError as error:
            raise UserError("--cpu_devices must be set before TensorFlow is used in this process") from error


def devices(experiment: Experiment) -> tf.distribute.Strategy:
    """The process as of `prepare`, and a strategy over the devices that `--strategy` says.

    Raises:
        UserError: The devices cannot share the batch, or are not those of the flags or of the environment.
    """
    if experiment.strategy not in STRATEGIES:
        raise unknown("strategy", experiment.strategy, STRATEGIES)
    if experiment.cpu_devices > 1 and experiment.strategy not in ("auto", "mirrored"):
        raise UserError(f"--cpu_devices is for --strategy=mirrored, not {experiment.strategy}; leave it out")
    if experiment.strategy == "auto" and (together := cluster.find(os.environ)) and len(together.addresses) > 1:
        raise UserError(
            f"this is one of {len(together.addresses)} processes by TF_CONFIG or srun: give --strategy=multi_worker to train "
            "one model in all of them, or --strategy=mirrored and another --run_dir for each"
        )
    prepare(experiment)
    strategy = STRATEGIES[experiment.strategy]()
    replicas = strategy.num_replicas_in_sync
    if experiment.batch_size % replicas:
        raise UserError(f"--batch_size={experiment.batch_size} cannot be shared by {replicas} devices; give a multiple of it")
    return strategy


def _local_devices() -> list[str]:
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


STRATEGIES = {
    "auto": lambda: tf.distribute.MirroredStrategy(_local_devices()),
    "mirrored": lambda: tf.distribute.MirroredStrategy(_local_devices()),
    MULTI_WORKER: hosts.join,
    "one_device": lambda: tf.distribute.OneDeviceStrategy(_local_devices()[0]),
}


def records(experiment: Experiment) -> Records:
    """The records of an experiment, in its splits.

    Raises:
        UserError: There are none, or none that satisfy its conditions, or too few for its folds.
    """
    found = selection.where(Records(experiment.records), experiment.where)
    if experiment.folds:
        return folds.split(found, experiment.folds, experiment.fold, experiment.seed)
    if experiment.fold >= 0:
        raise UserError(f"--fold={experiment.fold} needs --folds, the number of them")
    return found


def task(experiment: Experiment, records: Records) -> Task:
    """The task of an experiment on records.

    Raises:
        UserError: The records do not serve for it, or a setting is of another task.
    """
    if experiment.task == Segmentation.name:
        _check_unused(experiment, "multi_label", "labels", "threshold", "threshold_inclusive")
        if experiment.encoder_weights == "none" and experiment.first_convolution != Experiment.first_convolution:
            raise UserError("--first_convolution is for networks with --encoder_weights; without, every layer starts at random")
        return segmentation.create(
            records,
            scheme=experiment.scheme,
            ignored=experiment.ignore,
            loss=experiment.loss,
            class_weights=experiment.class_weights,
            label_smoothing=experiment.label_smoothing,
        )
    if experiment.task in aggregate.TASKS:
        _check_unused(experiment, "multi_label", "labels", "threshold", "threshold_inclusive")
        _check_unused(experiment, Segmentation.name, "scheme", "ignore", "class_weights")
        if any(spec.startswith("cutmix") for spec in experiment.augment):
            raise UserError(f"--augment=cutmix mixes maps, but not the class of a patch that --task={experiment.task} needs")
        return aggregate.create(records, experiment.task, loss=experiment.loss, label_smoothing=experiment.label_smoothing)
    _check_unused(experiment, Segmentation.name, "ignore", "loss", "class_weights", "encoder_weights", "first_convolution")
    return tasks.create(
        experiment.task,
        records.schema,
        labels=experiment.labels,
        scheme=experiment.scheme,
        threshold=experiment.threshold,
        inclusive=experiment.threshold_inclusive,
        label_smoothing=experiment.label_smoothing,
    )


def _check_unused(experiment: Experiment, task: str, *settings: str) -> None:
    """Raise a UserError for the first of the settings of another task that was given."""
    for name in settings:
        if getattr(experiment, name) != getattr(Experiment, name):
            raise UserError(f"--{name} is for --task={task}; this run's task is {experiment.task or 'to classify'}")


def sensors(experiment: Experiment, records: Records) -> dict[str, Sensor]:
    """The input's sensors, each with the bands it takes and the channels a model sees."""
    return select(records.sensors, resolve(experiment.input, records.sensors))


def model(experiment: Experiment, records: Records, task: Task, *, pretrained: bool = True) -> keras.Model:
    """The model of an experiment, from raw values to logits, with the weights that it starts from.

    Args:
        pretrained: Fetch the encoder's pretrained weights, if any; without, those of the run must follow.

    Raises:
        UserError: The model's name or a setting of it is unknown, or of another task.
    """
    size = records.schema.fields[next(iter(sensors(experiment, records)))].shape[-1]
    return network(experiment, sensors(experiment, records), task, records.statistics, size, pretrained=pretrained)


def network(
    experiment: Experiment,
    inputs: Mapping[str, Sensor],
    task: Task,
    statistics: Mapping[str, Mapping[str, Mapping[str, float]]],
    size: int,
    *,
    pretrained: bool,
) -> keras.Model:
    """As `model`, for sensors and statistics from elsewhere than records, such as a card."""
    options = {"normalization": experiment.normalization, "dropout": experiment.dropout, "entropy": experiment.entropy}
    if not task.dense:
        return build(experiment.model, inputs, task, statistics, fusion=experiment.fusion, **options)
    if experiment.fusion != Experiment.fusion:
        raise UserError("--fusion is for classifiers; segmentation concatenates the channels of all sensors")
    return build_segmenter(
        experiment.model,
        inputs,
        task,
        statistics,
        size=size,
        encoder_weights=experiment.encoder_weights,
        first_convolution=experiment.first_convolution,
        load=pretrained,
        **options,
    )


def learning_rate(experiment: Experiment, steps_per_epoch: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate, as a schedule where it depends on the step; a plateau is the training's.

    Raises:
        UserError: An unknown name, or a plateau that cannot be.
    """
    if experiment.schedule not in SCHEDULES:
        raise unknown("schedule", experiment.schedule, SCHEDULES)
    rate = experiment.learning_rate
    warmup = round(experiment.warmup_epochs * steps_per_epoch)
    if experiment.schedule == "plateau" and warmup:
        raise UserError("--warmup_epochs is for --schedule=constant and cosine; leave it out with --schedule=plateau")
    if experiment.schedule == "plateau" and experiment.plateau_patience >= experiment.patience:
        raise UserError(
            f"--plateau_patience={experiment.plateau_patience}: training stops after --patience={experiment.patience} epochs; "
            "give a smaller number"
        )
    if experiment.schedule == "cosine" or warmup:
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            max(1, experiment.epochs * steps_per_epoch - warmup),
            alpha=0.0 if experiment.schedule == "cosine" else 1.0,  # 1: stays at its highest
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    return rate


def optimizer(experiment: Experiment, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer with its learning-rate schedule; L2 decay is the training step's."""
    if experiment.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", experiment.optimizer, OPTIMIZERS)
    average = {"use_ema": True, "ema_momentum": experiment.ema} if experiment.ema else {}
    chosen = OPTIMIZERS[experiment.optimizer](learning_rate=learning_rate(experiment, steps_per_epoch), **average)
    return keras.optimizers.LossScaleOptimizer(chosen) if experiment.mixed_precision == "float16" else chosen


def margin_of(experiment: Experiment, task: Task) -> int:
    """Pixels to each side of one on which its class depends, for networks that see windows; 0 of others."""
    return registry.segmenter(experiment.model)(experiment.model).margin if task.dense else 0


def batches(
    experiment: Experiment,
    records: Records,
    task: Task,
    split: str,
    *,
    training: bool = False,
    epoch: int = 0,
    step: int = 0,
    worker: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Batches of a split: shuffled, augmented and cut into windows for training, else in stored order.

    Args:
        epoch, step, worker: Where training begins, and whose part of every batch (`pipeline.load`).

    Raises:
        UserError: As `pipeline.load`; windows are wanted of a network that has none.
    """
    margin = margin_of(experiment, task)
    if not margin and (experiment.windows or experiment.balance_windows):
        raise UserError(f"--windows and --balance_windows are for cnn_dual and cnn_segm; {experiment.model} sees whole patches")
    if experiment.balance_windows and not experiment.windows:
        raise UserError("--balance_windows needs a number of --windows per patch; without, all of them are taken")
    windows = training and margin and experiment.windows
    loaded = pipeline.load(
        records,
        split,
        inputs=experiment.input,
        task=task,
        batch_size=experiment.batch_size,
        augment=experiment.augment if training else (),
        sampling=experiment.sampling if training else "uniform",
        date=experiment.date,
        seed=experiment.seed if training else None,
        epoch=epoch,
        step=step,
        worker=(0, 1) if windows else worker,  # windows are drawn from a whole batch
        read=experiment.read,
    )
    if not (training and margin):
        return loaded
    cut = cut_windows(
        loaded,
        margin=margin,
        count=experiment.windows,
        balanced=experiment.balance_windows,
        seed=experiment.seed,
        epoch=epoch,
        step=step,
        steps=-(-records.count(split) // experiment.batch_size),
    )
    if not windows or worker == (0, 1):
        return cut
    index, count = worker
    return cut.rebatch(experiment.batch_size * windows // count, drop_remainder=True).shard(count, index)
