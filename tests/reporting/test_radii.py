from pathlib import Path

from rwp.reporting.radii import draw_radii, radii_frame
from tests.evaluation.samples import record


def test_accuracy_over_the_radius(tmp_path: Path):
    found = {"2/255": [record([True, True, False, True])], "1/255": [record([True] * 4)]}
    frame = radii_frame(found)
    assert list(frame["epsilon"]) == ["1/255", "2/255"]
    assert list(frame["accuracy"]) == [100.0, 75.0]
    assert (frame["low"] < frame["accuracy"]).all()
    paths = draw_radii(found, tmp_path / "radii")
    assert {path.suffix for path in paths} == {".csv", ".png", ".svg"}
    assert all(path.stat().st_size for path in paths)
