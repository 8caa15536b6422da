from pathlib import Path

import pytest

from tests.faults import nan_on_one_rank


@pytest.mark.slow
def test_nan_on_one_process_of_two_skips_the_update_on_both_and_leaves_them_identical(interpreter, tmp_path):
    def launch(folder: Path) -> int:
        both = interpreter.launch(2, nan_on_one_rank.PROCESS, folder)
        assert {one.returncode for one in both} == {1}, both[0].stderr[-3000:]
        return 1

    assert nan_on_one_rank.run(tmp_path, launch) == {
        "skipped": [1, 1],  # updates of the encoder and of the noiser
        "ranks_identical": True,
        "equals_left_out": True,
        "stopped_with": 1,
        "ranks_named": [0, 1],
        "ok": True,
    }
