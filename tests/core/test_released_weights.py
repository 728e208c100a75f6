"""Weights of the released FAM-KD code give the released outputs, to 1e-5 relative."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fam_det.core import (
    AttentionBasedFusion,
    FAMOptions,
    FrequencyAttention,
    KnowledgeReview,
    WindowCrossAttention,
    load_released,
)
from tests.core.core_reference import (
    as_double,
    prefixed,
    random_conv_norm,
    random_released_attention,
    random_released_block,
    random_released_fam,
    released_attention,
    released_block,
    released_distiller,
    released_fam,
    released_window,
    spectral_filter,
)

SIZES = [1, 7, 8, 16, 20, 21, 32, 40]
# four stages; the deepest is a pooled feature
STUDENT, MID, TEACHER = [4, 8, 12, 12], [4, 8, 8, 12], [8, 8, 12, 16]
STAGE_SIZES = [20, 10, 5, 1]


def assert_relative(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """The largest difference over the largest value."""
    assert got.shape == want.shape
    assert ((got.double() - want).abs().max() / want.abs().max()).item() < tolerance


def released_state(map_sizes: Sequence[int]) -> dict[str, Tensor]:
    """A random distiller of four stages; as in the released configs, IN_CHANNELS ends in 1."""
    torch.manual_seed(0)
    residuals, state = [*MID[1:], 1], {}
    for i in reversed(range(4)):
        block = random_released_block(
            STUDENT[i], residuals[i], MID[i], TEACHER[i], map_sizes[i], fuse=i < 3
        )
        state |= prefixed(f"atfs.{3 - i}.", block)
    return state


def distiller() -> KnowledgeReview:
    return KnowledgeReview(STUDENT, MID, TEACHER, sizes=STAGE_SIZES)


def student_maps(sizes: Sequence[int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, c, s, s, dtype=dtype) for c, s in zip(STUDENT, sizes, strict=True)]


# the transcription itself


@pytest.mark.parametrize("size", [1, 7, 8, 20, 21])
def test_the_transcribed_formula_equals_explicit_dft_sums(size) -> None:
    torch.manual_seed(0)
    state = as_double(random_released_fam(2, 3, size))
    state["rate1"].fill_(1.0)
    state["rate2"].fill_(0.0)
    x = torch.randn(1, 2, size, size, dtype=torch.float64)
    k = released_window(size, size)[..., None, None] * state["weights1"].permute(2, 3, 0, 1)
    torch.testing.assert_close(released_fam(x, state), spectral_filter(x, k), rtol=0, atol=1e-11)


def test_the_released_window_is_empty_under_20_pixels_and_lopsided_from_there_on() -> None:
    for size in (1, 7, 8, 16, 19):
        assert released_window(size, size).min() == 1
    for size, radius in [(20, 1), (21, 1), (39, 1), (40, 2), (60, 3)]:
        zeroed = [k for k in range(size) if released_window(size, size)[k, 0] == 0]
        assert zeroed == [*range(radius), *range(size - radius, size)]  # -radius is in, radius not


# modules


@pytest.mark.parametrize("size", SIZES)
def test_frequency_attention_gives_the_released_outputs(size) -> None:
    torch.manual_seed(0)
    state = random_released_fam(2, 3, size)
    fam = FrequencyAttention(2, 3, size=size)
    assert load_released(fam, state) == []
    x = torch.randn(2, 2, size, size)
    assert_relative(fam(x), released_fam(x.double(), as_double(state)))


@pytest.mark.parametrize("size", [(21, 40), (40, 7), (1, 20), (20, 1)])
def test_frequency_attention_gives_the_released_outputs_on_rectangles(size) -> None:
    torch.manual_seed(0)
    state = random_released_fam(2, 3, *size)
    fam = FrequencyAttention(2, 3, size=size)
    load_released(fam, state)
    x = torch.randn(2, 2, *size)
    assert_relative(fam(x), released_fam(x.double(), as_double(state)))


@pytest.mark.parametrize("size", SIZES)
def test_in_float64_the_released_outputs_are_met_to_rounding(size) -> None:
    torch.manual_seed(0)
    state = as_double(random_released_fam(2, 3, size))
    fam = FrequencyAttention(2, 3, size=size).double()
    load_released(fam, state)
    x = torch.randn(2, 2, size, size, dtype=torch.float64)
    assert_relative(fam(x), released_fam(x, state), 1e-12)


@pytest.mark.parametrize("high_pass", ["none", "ideal", "gaussian", "butterworth"])
def test_the_modules_own_high_pass_is_switched_off(high_pass) -> None:
    torch.manual_seed(0)
    state = random_released_fam(2, 3, 20)
    fam = FrequencyAttention(2, 3, FAMOptions(high_pass=high_pass, cutoff=0.5), size=20)
    load_released(fam, state)
    x = torch.randn(1, 2, 20, 20)
    assert_relative(fam(x), released_fam(x.double(), as_double(state)))


@pytest.mark.parametrize("size", [1, 7, 20])
def test_attention_gives_the_released_outputs(size) -> None:
    torch.manual_seed(0)
    state = random_released_attention(8)
    attention = WindowCrossAttention(8)
    assert load_released(attention, state) == []
    x, y = torch.randn(2, 8, size, size), torch.randn(2, 8, size, size)
    assert_relative(attention(x, y), released_attention(x.double(), y.double(), as_double(state)))


@pytest.mark.parametrize("student", [4, 8])
@pytest.mark.parametrize("residual", [8, 12])
def test_a_fusion_block_gives_the_released_outputs(student, residual) -> None:
    torch.manual_seed(0)
    state = random_released_block(student, residual, 8, 6, 20, fuse=True)
    review = KnowledgeReview([student, 4], [8, residual], [6, 6], sizes=[20, 10])
    block = review.blocks[0].eval()
    assert load_released(block, state) == []
    x, y = torch.randn(2, student, 20, 20), torch.randn(2, residual, 10, 10)
    expected = released_block(x.double(), y.double(), as_double(state), 20)
    for got, want in zip(block(x, y), expected, strict=True):
        assert_relative(got, want)


def test_a_deepest_block_gives_the_released_outputs_and_ignores_conv1() -> None:
    torch.manual_seed(0)
    state = random_released_block(4, 1, 8, 6, 7, fuse=False)
    block = KnowledgeReview([4], [8], [6], sizes=[7]).blocks[0].eval()
    assert set(load_released(block, state)) == set(prefixed("conv1.", random_conv_norm(1, 8)))
    x = torch.randn(2, 4, 7, 7)
    expected = released_block(x.double(), None, as_double(state), 7)
    for got, want in zip(block(x, None), expected, strict=True):
        assert_relative(got, want)


@pytest.mark.parametrize("map_sizes", [STAGE_SIZES, [40, 20, 5, 1], [16, 8, 4, 1]])
def test_the_distiller_gives_the_released_outputs(map_sizes) -> None:
    """Also where the student's maps have other sizes than the teacher's."""
    state = released_state(STAGE_SIZES)
    review = distiller()
    ignored = load_released(review, state)
    assert set(ignored) == set(prefixed("atfs.0.conv1.", random_conv_norm(1, 12)))
    assert len(ignored) == 6
    maps = student_maps(map_sizes)
    expected = released_distiller([m.double() for m in maps], as_double(state), STAGE_SIZES)
    for got, want in zip(review.eval()(maps), expected, strict=True):
        assert_relative(got, want)


def test_in_float64_the_distiller_meets_the_released_outputs_to_rounding() -> None:
    state = as_double(released_state(STAGE_SIZES))
    review = distiller().double()
    load_released(review, state)
    maps = student_maps(STAGE_SIZES, torch.float64)
    expected = released_distiller(maps, state, STAGE_SIZES)
    for got, want in zip(review.eval()(maps), expected, strict=True):
        assert_relative(got, want, 1e-11)


def test_a_whole_released_checkpoint_loads_and_its_networks_are_ignored() -> None:
    """The released trainer saves the distiller with student and teacher, in a DataParallel."""
    state = released_state(STAGE_SIZES)
    others = {"student.fc.weight": torch.randn(2, 2), "teacher.fc.weight": torch.randn(2, 2)}
    review = distiller()
    ignored = load_released(review, prefixed("module.", state | others))
    for network in ("student", "teacher"):
        assert sum(name.endswith(f"{network}.fc.weight") for name in ignored) == 1
    assert len(ignored) == 8
    same = distiller()
    load_released(same, state)
    maps = student_maps(STAGE_SIZES)
    outputs = zip(review.eval()(maps), same.eval()(maps), strict=True)
    assert all(torch.equal(a, b) for a, b in outputs)


# training goes on


def test_batch_norm_statistics_and_counters_are_loaded() -> None:
    state = released_state(STAGE_SIZES)
    review = distiller()
    load_released(review, state)
    own = review.state_dict()
    for stage in range(4):
        norm = f"blocks.{stage}.transform.1."
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(own[norm + name], state[f"atfs.{3 - stage}.conv2.1.{name}"])


def test_loading_changes_neither_the_state_dict_nor_shares_memory_with_it() -> None:
    state = released_state(STAGE_SIZES)
    before = {k: v.clone() for k, v in state.items()}
    review = distiller()
    load_released(review, state)
    with torch.no_grad():
        for p in review.parameters():
            p.add_(1.0)
    assert list(state) == list(before)
    assert all(torch.equal(state[k], before[k]) for k in before)


def test_every_loaded_parameter_still_trains() -> None:
    review = distiller()
    load_released(review, released_state(STAGE_SIZES))
    sum(t.square().mean() for t in review(student_maps(STAGE_SIZES))).backward()
    assert all(p.grad is not None for p in review.parameters())
    assert not any(p.is_complex() for p in review.parameters())


# errors


@pytest.mark.parametrize("name", ["weights1", "rate1", "rate2", "w0.weight", "w0.bias"])
def test_a_missing_name_raises_an_error_that_names_it(name) -> None:
    state = random_released_fam(2, 3, 4)
    del state[name]
    with pytest.raises((KeyError, ValueError), match=name):
        load_released(FrequencyAttention(2, 3, size=4), state)


def test_weights_of_another_size_raise_an_error_with_got_and_expected() -> None:
    with pytest.raises(ValueError, match="(?s)5.*4"):
        load_released(FrequencyAttention(2, 3, size=4), random_released_fam(2, 3, 5))
    # 4 and 5 columns have a half plane of the same 3; the rows agree
    with pytest.raises(ValueError, match="(?s)5.*4"):
        load_released(FrequencyAttention(2, 3, size=(4, 4)), random_released_fam(2, 3, 4, 5))


def test_a_failed_load_leaves_the_module_as_it_was() -> None:
    review = distiller()
    before = {k: v.clone() for k, v in review.state_dict().items()}
    state = released_state(STAGE_SIZES)
    del state["atfs.3.conv2.0.weights1"]
    with pytest.raises((KeyError, ValueError)):
        load_released(review, state)
    assert all(torch.equal(v, before[k]) for k, v in review.state_dict().items())


@pytest.mark.parametrize("kind", ["banded", "separable"])
def test_only_a_dense_filter_can_take_released_weights(kind) -> None:
    with pytest.raises((ValueError, TypeError), match="dense"):
        load_released(
            FrequencyAttention(2, 3, FAMOptions(filter=kind), size=4), random_released_fam(2, 3, 4)
        )


def test_a_module_without_released_counterpart_raises_an_error_that_names_it() -> None:
    with pytest.raises((ValueError, TypeError), match="AttentionBasedFusion"):
        load_released(AttentionBasedFusion(4), {})
