"""What the commands that train have in common."""

from tfrs import command, flags


def launch(kind: str) -> None:
    """Train the run that the flags ask for; with --folds and no --fold, one for each fold."""
    experiment = flags.experiment()
    if experiment.folds and experiment.fold < 0:
        from tfrs import cross_validation

        print(cross_validation.run(experiment, kind, flags.given()))
        return
    command.import_tensorflow()
    from tfrs import train

    if scores := train.run(experiment, kind):
        print(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
