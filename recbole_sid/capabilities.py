"""What a model class can do that others cannot, said by the class itself; RecBole's models can none of it."""

from __future__ import annotations

from typing import Any, ClassVar

from recbole_sid.settings.declared import Settings


class ChecksConfig:
    """A model or trainer that refuses configurations."""

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise InputError for values of `config` that are not possible; a `Config` is checked when made."""


class Capabilities(ChecksConfig):
    """The capabilities of a model; its class overrides those that it has.

    Attributes:
        settings: declares the configuration keys of the model and its trainer.
        uses_semantic_ids: its dataset has semantic IDs, built from the features of items or read from a file.
        retrieves: it finds items by a search, ``beam_size`` wide, with `retrieve`, and learns without negatives.
        trainer: ``"module:class"`` of what trains it, imported when it does; empty: RecBole's.
        trains_windows: one pass over a long sequence trains all of its targets (`data.windows.Windows`), of which
            ``window_stride`` says how far they lie apart.
        learns_from_teacher: it is distilled from the teacher in ``teacher_path``, or else from one that
            ``teacher_model`` and ``teacher_config`` describe, whose answers ``distill_cache`` can keep.
        made_of: configuration keys that name the checkpoints of models that it is made of; its own checkpoint holds
            what it keeps of them.
    """

    settings: ClassVar[type[Settings]] = Settings
    uses_semantic_ids: ClassVar[bool] = False
    retrieves: ClassVar[bool] = False
    trainer: ClassVar[str] = ""
    trains_windows: bool = False
    learns_from_teacher: ClassVar[bool] = False
    made_of: ClassVar[tuple[str, ...]] = ()

    @property
    def scores_every_item(self) -> bool:
        """Whether `full_sort_predict` scores all items, not the retrieved ones only."""
        return False

    @classmethod
    def trains_windows_with(cls, config: Any) -> bool:
        """Say whether a run trains windows."""
        return cls.trains_windows

    @classmethod
    def trainer_with(cls, config: Any) -> str:
        """Return what trains a run, as `trainer`."""
        return cls.trainer

    @classmethod
    def learns_with(cls, settings: Any) -> bool:
        """Return whether a run with `settings`, a dictionary or Config, is distilled from a teacher."""
        return cls.learns_from_teacher

    @classmethod
    def reads_features(cls, config: Any) -> bool:
        """Say whether a run reads the features of items."""
        return cls.uses_semantic_ids

    @classmethod
    def left_to_validation(cls, config: Any) -> list[str]:
        """Return the keys that are not set and whose values a run therefore chooses on validation."""
        return []

    @classmethod
    def semantic_id_config(cls, config: Any) -> Any:
        """Return the configuration that decides the semantic IDs of a run."""
        return config


def capabilities_of(model_class: type) -> type[Capabilities]:
    """Return what says the capabilities of `model_class`: itself, or the class that has none."""
    return model_class if issubclass(model_class, Capabilities) else Capabilities


def lacks_teacher(config: Any) -> bool:
    """Say whether a run is of a student whose teacher has to be trained, or found, first."""
    return capabilities_of(config.model_class).learns_with(config) and not config["teacher_path"]
