"""What models say they can do, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recbole_sid.capabilities import Capabilities, capabilities_of, lacks_teacher
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.generalization.members import is_id_model, is_sid_model
from recbole_sid.model.student import STAGES, Student
from recbole_sid.model.teacher import Teacher, is_teacher
from recbole_sid.registry import MODELS, get_model, get_trainer
from recbole_sid.trainer.distillation import DistillationTrainer
from recbole_sid.trainer.sid_trainer import SIDTrainer

STUDENTS, TEACHERS = ("SIDMLP", "SIDMLPPlusPlus"), ("TIGER", "CausalSID")


def able(capability: str) -> set[str]:
    return {
        name for name in (*MODELS, "BPR", "SASRec", "EASE") if getattr(capabilities_of(get_model(name)), capability)
    }


def test_capabilities_of_every_model() -> None:
    assert able("learns_from_teacher") == set(STUDENTS)
    assert able("retrieves") == set(MODELS)
    assert able("uses_semantic_ids") == set(MODELS) - {"TransitionMemory"}
    assert able("trains_windows") == {"CausalSID"}
    causal = {"encoder_attention": "causal"}
    assert get_model("TIGER").trains_windows_with(Config("TIGER", "ml-100k", config_dict=causal))
    assert not get_model("TIGER").trains_windows_with(Config("TIGER", "ml-100k"))
    assert get_model("CausalSID").trains_windows_with(Config("CausalSID", "ml-100k"))
    assert able("made_of") == {*STUDENTS, "SIDMLPHybrid", "AdaptiveEnsemble"}
    assert get_model("AdaptiveEnsemble").made_of == ("id_model_path", "sid_model_path")
    assert {name for name in MODELS if is_teacher(get_model(name))} == set(TEACHERS)
    assert {name for name in MODELS if is_sid_model(name)} == {*TEACHERS, *STUDENTS, "SIDMLPHybrid"}
    assert not is_sid_model("SASRec")
    assert {name for name in MODELS if is_id_model(name)} == {"TransitionMemory"}
    assert is_id_model("SASRec")
    assert not is_id_model("BPR")


def test_what_a_model_is_made_of_are_its_keys() -> None:
    for name in MODELS:
        model = get_model(name)
        assert issubclass(model, Capabilities)
        assert set(model.made_of) <= set(Config(name, "ml-100k").model_keys())


def test_a_name_alone_makes_no_teacher_and_no_student() -> None:
    """Types decide, not what attributes are called or which keys a property file has."""

    class Speaker:
        learns_from_teacher = True

        def teach(self) -> None: ...

    assert not is_teacher(Speaker)
    assert not capabilities_of(Speaker).learns_from_teacher


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_lacks_a_teacher_until_it_has_a_path(settings: Callable[..., dict[str, Any]], name: str) -> None:
    config = Config(name, "tiny", config_dict=settings(name))
    assert lacks_teacher(config)
    config["teacher_path"] = "teacher.pth"
    assert not lacks_teacher(config)


def test_no_other_model_lacks_a_teacher(settings: Callable[..., dict[str, Any]], data_path: Any) -> None:
    assert not lacks_teacher(Config("TIGER", "tiny", config_dict=settings("TIGER")))
    assert not lacks_teacher(Config("BPR", "tiny", config_dict={"data_path": str(data_path)}))


def test_types_of_teachers_and_students(prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("SIDMLP")
    student = get_model("SIDMLP")(config, train._dataset)
    assert isinstance(student, Student)
    assert student.teacher is None
    with pytest.raises(InputError, match="distilled from a teacher: set teacher_path"):
        student.required_teacher()
    config, train, _, _ = prepare("TIGER")
    assert isinstance(get_model("TIGER")(config, train._dataset), Teacher)


def test_stages_of_a_run_are_known_before_it(settings: Callable[..., dict[str, Any]]) -> None:
    changes = {"distill_stages": ["encoder", "decoder", "joint"], "encoder_epochs": 5, "epochs": 7, "joint_epochs": 3}
    config = Config("SIDMLPPlusPlus", "tiny", config_dict=settings("SIDMLPPlusPlus", **changes))
    trainer = get_trainer(config)
    assert trainer is DistillationTrainer
    stages = trainer.stages_of(config)
    assert [(stage.key, stage.epochs, stage.ranks) for stage in stages] == [
        ("encoder", 5, False),
        ("decoder", 7, True),
        ("joint", 3, True),
    ]
    config = Config("TIGER", "tiny", config_dict=settings("TIGER", epochs=4))
    assert [(stage.epochs, stage.ranks) for stage in SIDTrainer.stages_of(config)] == [(4, True)]
    assert [name for name, stage in STAGES.items() if not stage.trains_decoder] == ["encoder"]
