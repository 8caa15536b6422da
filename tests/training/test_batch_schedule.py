import itertools

import pytest

from adversarial_mlm.training.batch_schedule import (
    BatchStage,
    EpochPasses,
    Pass,
    accumulation,
    micro_steps_before,
    read_stages,
)


def walk(batches: int, stages: list[BatchStage], updates: int) -> list[tuple[int, list[int]]]:
    """Epoch and micro-batches of every update, one after the other, as they are meant to be."""
    taken, epoch, place = [], 0, 0
    for update in range(updates):
        size = [stage.size for stage in stages if stage.first_update <= update][-1]
        taken.append((epoch, list(range(place, min(place + size, batches)))))
        place += size
        if place >= batches:
            epoch, place = epoch + 1, 0
    return taken


STAGES = [
    [BatchStage(0, 1)],
    [BatchStage(0, 3)],
    [BatchStage(0, 1), BatchStage(7, 2)],
    [BatchStage(0, 2), BatchStage(3, 3), BatchStage(4, 1), BatchStage(11, 5)],
    [BatchStage(0, 1), BatchStage(10, 4)],  # at the end of an epoch of 5 or 10
]


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("batches", [1, 2, 5, 7, 10])
def test_every_update_is_known_from_its_number_alone(batches, stages):
    passes, taken = EpochPasses(batches, stages), walk(batches, stages, 40)
    for update, (epoch, micro_batches) in enumerate(taken):
        here = passes.at(update)
        assert (here.epoch, here.first) == (epoch, micro_batches[0]) == passes.position(update)
        assert min(here.first + here.accumulation, here.stop) == micro_batches[-1] + 1


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("batches", [1, 2, 5, 7, 10])
def test_passes_follow_each_other_without_gaps(batches, stages):
    passes, update = EpochPasses(batches, stages), 0
    for number in range(12):
        assert passes.index(update) == number
        here = passes.at(update)
        assert here.updates >= 1
        assert [passes.index(update + inside) for inside in range(here.updates)] == [number] * here.updates
        update += here.updates


def test_a_stage_goes_on_in_the_middle_of_an_epoch():
    passes = EpochPasses(10, [BatchStage(0, 1), BatchStage(7, 2)])
    assert passes.at(5) == Pass(epoch=0, first=5, stop=7, accumulation=1)
    assert passes.at(7) == Pass(epoch=0, first=7, stop=10, accumulation=2)
    assert passes.at(7).updates == 2 and passes.at(9) == Pass(epoch=1, first=0, stop=10, accumulation=2)


def test_the_papers_run_has_its_place_in_32_million_records():
    passes = EpochPasses(251_563, [BatchStage(0, 1), BatchStage(800_000, 2)])  # batches of 128
    assert passes.position(800_000) == (3, 800_000 - 3 * 251_563)
    assert passes.at(999_999).accumulation == 2
    assert passes.position(1_000_000) == (4, 1_200_000 - 4 * 251_563)  # what is left of epoch 3 is even


def test_micro_batches_of_whole_updates_are_counted_by_stage():
    stages = [BatchStage(0, 1), BatchStage(3, 4), BatchStage(5, 2)]
    sizes = [1, 1, 1, 4, 4, 2, 2, 2]
    assert [micro_steps_before(update, stages) for update in range(9)] == [0, *itertools.accumulate(sizes)]
    assert (
        micro_steps_before(6, [BatchStage(0, 2), BatchStage(0, 3), BatchStage(4, 1)]) == 14
    )  # a stage without an update


@pytest.mark.parametrize(
    ("points", "stages"),
    [
        (["128"], [BatchStage(0, 128)]),
        (["128@0", "256@800000"], [BatchStage(0, 128), BatchStage(800_000, 256)]),
        (["128@0 256@80%"], [BatchStage(0, 128), BatchStage(800_000, 256)]),
        (
            ["128@0%", "256@12.5%", "64@900000"],
            [BatchStage(0, 128), BatchStage(125_000, 256), BatchStage(900_000, 64)],
        ),
    ],
)
def test_sizes_are_read(points, stages):
    assert read_stages(points, "global_batch_size", 1_000_000) == stages


@pytest.mark.parametrize(
    "points",
    ["many", "1.5", "0", "-8", "128@5", "128@0 256", "128@0 256@0", "128@0 256@9 64@4", "1@0 2@100%", "1@0 2@-5%", ""],
)
def test_what_are_no_sizes_is_refused(points):
    with pytest.raises(ValueError, match=rf"global_batch_size must be .* got '{points}'"):
        read_stages([points], "global_batch_size", 1000)


def test_a_change_that_the_run_does_not_reach_is_refused():
    with pytest.raises(ValueError, match="changes at update 1,000, but max_steps is 1,000"):
        read_stages(["128@0", "256@1000"], "global_batch_size", 1000)
    with pytest.raises(ValueError, match="needs max_steps: set it in place of num_train_epochs"):
        read_stages(["128@0", "256@80%"], "global_batch_size", -1)
    assert read_stages(["128"], "global_batch_size", -1) == [BatchStage(0, 128)]


def test_accumulation_fills_up_what_the_processes_read_at_a_time():
    stages = [BatchStage(0, 128), BatchStage(800, 256)]
    assert accumulation(stages, "global_batch_size", 32, 4) == [BatchStage(0, 1), BatchStage(800, 2)]
    assert accumulation(stages, "global_batch_size", 32, 1) == [BatchStage(0, 4), BatchStage(800, 8)]
    with pytest.raises(ValueError, match="is 128, but must be a multiple of 96: .*processes \\(3\\)"):
        accumulation(stages, "global_batch_size", 32, 3)
