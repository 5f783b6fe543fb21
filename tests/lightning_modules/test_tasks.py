import pytest

from lightning_modules.record import degradation_summary
from lightning_modules.tasks import TASKS, task_of

NODES: dict[str, dict[str, object]] = {
    "simple": {"_target_": "datamodules.degradations.Degradation", "blur": 0, "noise": 0},
    "blur": {"_target_": "datamodules.degradations.Degradation", "blur": [0.5, 2.0]},
    "realistic": {"_target_": "datamodules.realistic.RealisticDegradation"},
    "tone": {"_target_": "datamodules.tone.ToneDegradation", "exposure": [-2.0, 1.0]},
}


@pytest.mark.parametrize(
    ("node", "scale", "task"),
    [
        ("simple", 2, "super-resolution"),
        ("simple", 1, "restoration"),
        ("blur", 1, "deblurring"),
        ("blur", 2, "deblurring"),
        ("realistic", 4, "restoration"),
        ("tone", 1, "tone"),
    ],
)
def test_the_degradation_in_training_tells_the_task(node: str, scale: int, task: str) -> None:
    assert task_of(degradation_summary(NODES[node]), scale) == task
    assert task in TASKS
