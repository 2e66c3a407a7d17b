"""The whole training step with its pipeline, and with other options, against the same step on one batch in memory.

    python -m benchmarks.train --records=records/sen12ms --model=resnet50 --input=s2_ms --batch_size=8
    python -m benchmarks.train --records=records/eurosat --model=resnet_small --input=s2_all --batch_size=64 --steps=12

Ways alternate, and the median of the repeats counts. What the pipeline has prepared beforehand is used up before the clock
starts. Numbers are ratios to the first line, because absolute ones drift. On a CPU, where pipeline and model share the cores,
the time of the processor (all threads together) counts, which other work on the machine distorts little; on a GPU the clock.
"""

import dataclasses
import os
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("records", "records/sen12ms", "records to train on")
flags.DEFINE_string("model", "resnet50", "model")
flags.DEFINE_string("input", "s2_ms", "input")
flags.DEFINE_integer("batch_size", 8, "patches per step; a multiple of four")
flags.DEFINE_list("augment", ["dihedral"], "augmentations")
flags.DEFINE_integer("steps", 4, "steps of each repeat", lower_bound=1)
flags.DEFINE_integer("repeats", 5, "repeats, of which the median counts", lower_bound=1)
flags.DEFINE_list("options", ["pipeline", "jit_compile", "bfloat16", "accumulate", "steps_per_execution"], "what to compare")
TARGET = 0.03  # of a step, at most, for the pipeline


def ways(experiment) -> dict:
    """Settings of every way but the pipeline's, all of the same number of patches per update."""
    options = {
        "jit_compile": {"jit_compile": True},
        "bfloat16": {"mixed_precision": "bfloat16"},
        "accumulate": {"accumulate": 4, "batch_size": experiment.batch_size // 4},
        "steps_per_execution": {"steps_per_execution": FLAGS.steps},
    }
    chosen = {name: changes for name, changes in options.items() if name in FLAGS.options}
    return {"in memory": experiment} | {n: dataclasses.replace(experiment, **changes) for n, changes in chosen.items()}


def prepare(experiment, records):
    """A function (steps) -> seconds (clock, processor) on one batch in memory, and the same with the pipeline."""
    import tensorflow as tf

    from tfrs import assemble
    from tfrs.steps import make_train_steps

    strategy = assemble.devices(experiment)
    task = assemble.task(experiment, records)
    with strategy.scope():
        model = assemble.model(experiment, records, task)
        optimizer = assemble.optimizer(experiment, 1)
        optimizer.build(model.trainable_variables)
    settings = {"decay": experiment.decay, "accumulate": experiment.accumulate, "jit_compile": experiment.jit_compile}
    train_steps = make_train_steps(strategy, model, optimizer, task, **settings)
    batches = assemble.batches(experiment, records, task, "train", training=True)
    memory = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    memory, pipeline = (iter(strategy.experimental_distribute_dataset(data)) for data in (memory, batches.repeat()))
    train_steps = train_steps.get_concrete_function(
        memory, tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 3], tf.float64)
    )

    def run(iterator, steps):
        plan = np.full(steps, experiment.accumulate, np.int32)
        rows, start = tf.zeros((1, 3), tf.float64), np.array([time.perf_counter(), time.process_time()])
        for at in range(0, steps, experiment.steps_per_execution):
            rows = train_steps(iterator, tf.constant(plan[at : at + experiment.steps_per_execution]), rows)
        rows.numpy()
        return np.array([time.perf_counter(), time.process_time()]) - start

    def in_memory(steps):
        run(memory, 1)
        return run(memory, steps)

    def from_records(steps):
        run(pipeline, 2 + 2 * os.cpu_count())
        return run(pipeline, steps)

    in_memory(1)
    return in_memory, from_records


def main(_) -> None:
    from tfrs import command

    command.import_tensorflow()
    from tfrs.experiment import Experiment
    from tfrs.records import Records

    experiment = Experiment(
        records=FLAGS.records,
        model=FLAGS.model,
        input=FLAGS.input,
        batch_size=FLAGS.batch_size,
        augment=tuple(FLAGS.augment),
    )
    records, runs = Records(FLAGS.records), {}
    for name, settings in ways(experiment).items():
        in_memory, from_records = prepare(settings, records)
        runs[name] = in_memory
        if name == "in memory" and "pipeline" in FLAGS.options:
            runs["pipeline"] = from_records
    times = {name: [] for name in runs}
    for _ in range(FLAGS.repeats):
        for name, run in runs.items():
            times[name].append(run(FLAGS.steps))
    medians = {name: np.median(spent, axis=0) for name, spent in times.items()}
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{FLAGS.model}, {FLAGS.input}, {FLAGS.batch_size} patches a step; {machine}")
    print(f"{'':20} {'images/s':>9} {'time by the clock':>18} {'of the processor':>17}")
    for name, spent in medians.items():
        clock, processor = spent / medians["in memory"]
        target = f"  (target: at most {1 + TARGET})" if name == "pipeline" else ""
        print(f"{name:20} {FLAGS.batch_size * FLAGS.steps / spent[0]:9.1f} {clock:18.3f} {processor:17.3f}{target}")


if __name__ == "__main__":
    app.run(main)
