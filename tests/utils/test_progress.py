import logging

from adversarial_mlm.utils import progress
from adversarial_mlm.utils.progress import Progress

logger = logging.getLogger(__name__)


def test_a_log_gets_a_line_a_minute_with_the_time_left(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    done = []
    shown = Progress(1000, lambda: f"{len(done)} of 10 proteins", logger, done_before=400)
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            now[0] += 25.0
            done.append(1)
            shown.advance(100)
        shown.close()
    # after 75 s, 300 of the 600 that were left are done
    assert [record.message for record in caplog.records] == ["3 of 10 proteins, 01:15 left"]
    assert shown.seconds == 100.0
