"""Experiment -> absl flags, and back."""

from dataclasses import fields

from absl import flags

from tfrs.experiment import Experiment

_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple: flags.DEFINE_list,
}


def define(**defaults) -> None:
    """Define a flag for every setting; `defaults` replaces those of this command."""
    for setting in fields(Experiment):
        default = defaults.get(setting.name, setting.default)
        default = list(default) if isinstance(default, tuple) else default  # absl knows no tuples
        _DEFINE[type(setting.default)](setting.name, default, setting.metadata["help"])


def given() -> dict[str, str]:
    """The settings that flags or a flag file name, as text; all others have the command's defaults."""
    settings = dict(line.removeprefix("--").split("=", 1) for line in experiment().to_flags().splitlines())
    return {name: text for name, text in settings.items() if flags.FLAGS[name].present}


def experiment() -> Experiment:
    """The settings that were given as flags."""
    values = {setting.name: flags.FLAGS[setting.name].value for setting in fields(Experiment)}
    return Experiment(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
