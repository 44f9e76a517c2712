"""What a model class can do that others cannot, said by the class itself; RecBole's models can none of it."""

from __future__ import annotations

from typing import Any, ClassVar

from recbole_sid.settings.declared import Settings


class Capabilities:
    """The capabilities of a model; its class overrides those that it has.

    Attributes:
        settings: declares the configuration keys of the model and its trainer.
        trains_windows: one pass over a long sequence trains all of its targets (`data.windows.Windows`), of which
            ``window_stride`` says how far they lie apart.
    """

    settings: ClassVar[type[Settings]] = Settings
    trains_windows: bool = False

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise InputError for values of `config` that this model cannot have; a `Config` is checked when made."""

    @classmethod
    def semantic_id_config(cls, config: Any) -> Any:
        """Return the configuration that decides the semantic IDs of a run."""
        return config


def capabilities_of(model_class: type) -> type[Capabilities]:
    """Return what says the capabilities of `model_class`: itself, or the class that has none."""
    return model_class if issubclass(model_class, Capabilities) else Capabilities
