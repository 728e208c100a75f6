"""Knowledge review and layer-to-layer composed by hand, and what training needs of them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core import (
    AttentionBasedFusion,
    FAMOptions,
    FrequencyAttention,
    KnowledgeReview,
    LayerToLayer,
    WindowCrossAttention,
    hierarchical_context_loss,
    mse_loss,
)
from tests.core.core_reference import batch_norm, conv1x1, nearest, sub_state

STUDENT, MID, TEACHER = [4, 6, 8], [6, 6, 4], [5, 7, 3]  # widths differ, agree, differ
MAP_SIZES = [8, 5, 2]
FUSIONS = ["cross_attention", "abf", "none"]
COMBINATIONS = [
    *({"fusion": f, "transform": "conv3x3"} for f in FUSIONS),
    *(
        {"fusion": f, "transform": "fam", "fam": FAMOptions(filter=k)}
        for f, k in itertools.product(FUSIONS, ["dense", "banded", "separable"])
    ),
]


def student_maps(n: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Shallow to deep."""
    return [torch.randn(n, c, s, s, dtype=dtype) for c, s in zip(STUDENT, MAP_SIZES, strict=True)]


def is_dense(options: dict[str, object]) -> bool:
    return options.get("fam") == FAMOptions(filter="dense")


def make_review(seed: int = 0, **options: object) -> KnowledgeReview:
    torch.manual_seed(seed)
    options.setdefault("sizes", MAP_SIZES if is_dense(options) else None)
    return KnowledgeReview(STUDENT, MID, TEACHER, **options)


def randomise_norms(module: nn.Module) -> None:
    """Give every BatchNorm statistics and parameters that no initial value resembles."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            with torch.no_grad():
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 1.5)
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_()


def review_by_hand(review: KnowledgeReview, maps: list[Tensor], fusion: str, relu: bool):
    """The stages from the deepest up, in eval mode; fusion and FAM are tested elsewhere."""
    outputs, residual = [], None
    for i in reversed(range(len(maps))):
        block = review.blocks[i]
        state = dict(block.named_parameters()) | dict(block.named_buffers())

        def project(x: Tensor, name: str, widths_differ: bool, state=state) -> Tensor:
            if fusion == "abf":  # ReviewKD projects the student map at every stage, and has no ReLU
                if name == "project_residual" and not widths_differ:
                    return x
            elif not widths_differ:
                assert not sub_state(state, f"{name}.")
                return x
            x = conv1x1(x, state[f"{name}.0.weight"])
            x = batch_norm(x, sub_state(state, f"{name}.1."))
            return x if fusion == "abf" else x.relu()

        x = project(maps[i], "project", STUDENT[i] != MID[i])
        if residual is not None and fusion != "none":
            y = project(residual, "project_residual", MID[i + 1] != MID[i])
            x = block.fusion(x, nearest(y, MAP_SIZES[i]))
        residual = x
        body = block.transform[0]
        if isinstance(body, FrequencyAttention):
            out = body(x)
        else:
            assert body.bias is None
            out = F.conv2d(x, body.weight, padding=1)
        out = batch_norm(out, sub_state(state, "transform.1."))
        outputs.append(out.relu() if relu else out)
    return outputs[::-1]


@pytest.mark.parametrize("options", COMBINATIONS)
@pytest.mark.parametrize("relu", [None, True, False])
def test_review_equals_its_parts_composed_by_hand(options, relu) -> None:
    review = make_review(relu=relu, **options).double().eval()
    randomise_norms(review)
    maps = student_maps(dtype=torch.float64)
    ends_in_relu = options["transform"] == "fam" if relu is None else relu
    expected = review_by_hand(review, maps, options["fusion"], ends_in_relu)
    outputs = review(maps)
    assert [tuple(t.shape) for t in outputs] == [
        (2, c, s, s) for c, s in zip(TEACHER, MAP_SIZES, strict=True)
    ]
    for got, want in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_each_fusion_is_its_module_and_the_deepest_stage_has_none() -> None:
    for fusion, cls in [("cross_attention", WindowCrossAttention), ("abf", AttentionBasedFusion)]:
        review = make_review(fusion=fusion)
        found = [m.channels for m in review.modules() if isinstance(m, cls)]
        assert found == MID[:-1]
    unfused = make_review(fusion="none")
    assert not [
        m for m in unfused.modules() if isinstance(m, WindowCrossAttention | AttentionBasedFusion)
    ]


def test_without_fusion_a_stage_sees_its_own_map_alone() -> None:
    review = make_review(fusion="none").eval()
    maps = student_maps()
    before = review(maps)
    after = review([maps[0], maps[1] + 1, maps[2]])
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("fusion", ["cross_attention", "abf"])
def test_the_residual_flows_from_deep_to_shallow_only(fusion) -> None:
    review = make_review(fusion=fusion).eval()
    maps = student_maps()
    before = review(maps)
    after = review([maps[0], maps[1] + 1, maps[2]])
    assert not torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


def test_filter_defaults_to_dense_with_sizes_and_takes_any_size_without() -> None:
    with_sizes = make_review(sizes=MAP_SIZES)
    shapes = {n: tuple(p.shape) for n, p in with_sizes.named_parameters()}
    for i, (size, c_in, c_out) in enumerate(zip(MAP_SIZES, MID, TEACHER, strict=True)):
        name = f"blocks.{i}.transform.0.filter.weight"
        assert shapes[name] == (size, size // 2 + 1, c_in, c_out, 2)
    without = make_review()
    for scale in (1, 2):
        maps = [F.interpolate(m, scale_factor=scale) for m in student_maps()]
        sizes = [tuple(t.shape[2:]) for t in without(maps)]
        assert sizes == [(scale * s, scale * s) for s in MAP_SIZES]


def test_one_mid_width_serves_all_stages() -> None:
    torch.manual_seed(0)
    one = KnowledgeReview(STUDENT, 6, TEACHER)
    many = KnowledgeReview(STUDENT, [6, 6, 6], TEACHER)
    assert {n: p.shape for n, p in one.named_parameters()} == {
        n: p.shape for n, p in many.named_parameters()
    }


def test_rectangular_sizes_and_maps_larger_than_them() -> None:
    """A map of another size than its stage's is resized by the nearest neighbour."""
    review = make_review(sizes=[(4, 6), (3, 2), 2], fusion="none").double().eval()
    maps = [
        torch.randn(2, c, h, w, dtype=torch.float64)
        for c, (h, w) in zip(STUDENT, [(8, 12), (3, 2), (1, 1)], strict=True)
    ]
    resized = [
        F.interpolate(m, size, mode="nearest")
        for m, size in zip(maps, [(4, 6), (3, 2), (2, 2)], strict=True)
    ]
    outputs = review(maps)
    assert [tuple(t.shape[2:]) for t in outputs] == [(4, 6), (3, 2), (2, 2)]
    for got, want in zip(outputs, review(resized), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_stage_has_nothing_to_fuse(fusion) -> None:
    review = KnowledgeReview([4], 6, [5], fusion=fusion)
    (out,) = review([torch.randn(2, 4, 3, 3)])
    assert out.shape == (2, 5, 3, 3)
    out.sum().backward()
    assert all(p.grad is not None for p in review.parameters())


@pytest.mark.parametrize("relu", [None, True, False])
@pytest.mark.parametrize("sizes", [None, MAP_SIZES])
def test_layer_to_layer_is_fam_batch_norm_and_relu_on_each_level(sizes, relu) -> None:
    torch.manual_seed(0)
    distiller = LayerToLayer(STUDENT, TEACHER, sizes=sizes, relu=relu).double().eval()
    randomise_norms(distiller)
    fams = [m for m in distiller.modules() if isinstance(m, FrequencyAttention)]
    norms = [m for m in distiller.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(fams) == len(norms) == 3
    maps = student_maps(dtype=torch.float64)
    for out, x, fam, norm in zip(distiller(maps), maps, fams, norms, strict=True):
        state = dict(norm.named_parameters()) | dict(norm.named_buffers())
        expected = batch_norm(fam(x), state)
        expected = expected if relu is False else expected.relu()
        torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)


def test_without_the_relu_outputs_are_signed_and_with_it_they_are_not() -> None:
    maps = student_maps()
    for options in ({"fusion": "cross_attention"}, {"fusion": "abf", "transform": "conv3x3"}):
        assert min(t.min() for t in make_review(relu=False, **options)(maps)) < 0
        assert min(t.min() for t in make_review(relu=True, **options)(maps)) == 0
    assert min(t.min() for t in LayerToLayer(STUDENT, TEACHER, relu=False)(maps)) < 0


# ---------------------------------------------------------------- training


def assert_everything_gets_a_gradient(distiller: nn.Module, maps: list[Tensor]) -> None:
    """One backward pass of both losses reaches every parameter and every student map."""
    maps = [m.requires_grad_() for m in maps]
    outputs = distiller(maps)
    teacher = [torch.randn_like(t) for t in outputs]
    losses = [
        mse_loss(s, t) + hierarchical_context_loss(s, t)
        for s, t in zip(outputs, teacher, strict=True)
    ]
    torch.stack(losses).sum().backward()
    without = [name for name, p in distiller.named_parameters() if p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in distiller.parameters())
    assert all(m.grad is not None and torch.isfinite(m.grad).all() for m in maps)
    assert all(m.grad.abs().sum() > 0 for m in maps)


@pytest.mark.parametrize("options", COMBINATIONS)
@pytest.mark.parametrize("mid", [MID, 6, 4])
def test_every_parameter_and_map_gets_a_gradient_in_one_backward(options, mid) -> None:
    torch.manual_seed(0)
    sizes = MAP_SIZES if is_dense(options) else None
    review = KnowledgeReview(STUDENT, mid, TEACHER, sizes=sizes, relu=False, **options)
    assert_everything_gets_a_gradient(review, student_maps())


@pytest.mark.parametrize("kind", ["dense", "banded", "separable"])
def test_every_parameter_of_layer_to_layer_gets_a_gradient(kind) -> None:
    torch.manual_seed(0)
    sizes = MAP_SIZES if kind == "dense" else None
    distiller = LayerToLayer(STUDENT, TEACHER, sizes=sizes, relu=False, fam=FAMOptions(filter=kind))
    assert_everything_gets_a_gradient(distiller, student_maps())


@pytest.mark.parametrize("options", COMBINATIONS)
def test_batch_norm_survives_a_1x1_map_with_one_image_in_training(options) -> None:
    torch.manual_seed(0)
    sizes = [4, 2, 1] if is_dense(options) else None
    review = KnowledgeReview(STUDENT, MID, TEACHER, sizes=sizes, relu=False, **options).train()
    maps = [torch.randn(1, c, s, s) for c, s in zip(STUDENT, [4, 2, 1], strict=True)]
    assert_everything_gets_a_gradient(review, maps)
    for name, buffer in review.named_buffers():
        assert torch.isfinite(buffer.float()).all(), name


def test_a_lone_value_neither_moves_nor_collapses_the_running_statistics() -> None:
    """By its own statistics a lone value would always be zero, whatever the student does."""
    review = KnowledgeReview([4], 4, [4], fusion="none", relu=False).train()
    outputs = [review([torch.randn(1, 4, 1, 1)])[0] for _ in range(2)]
    assert all(torch.isfinite(t).all() for t in outputs)
    assert not torch.equal(outputs[0], outputs[1])
    for name, buffer in review.named_buffers():
        if name.endswith("running_var"):
            assert (buffer > 0).all()


def test_larger_maps_in_training_are_normalised_by_the_batch() -> None:
    review = make_review(relu=False)
    for t in review(student_maps(n=4)):
        mean, var = t.mean(dim=(0, 2, 3)), t.var(dim=(0, 2, 3), unbiased=False)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
        torch.testing.assert_close(var, torch.ones_like(var), rtol=0, atol=2e-2)


@pytest.mark.parametrize("options", COMBINATIONS)
def test_batched_equals_single_in_eval_mode(options) -> None:
    review = make_review(**options).double().eval()
    randomise_norms(review)
    maps = student_maps(3, torch.float64)
    batched = review(maps)
    for i in range(3):
        for single, whole in zip(review([m[i : i + 1] for m in maps]), batched, strict=True):
            torch.testing.assert_close(single, whole[i : i + 1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("options", COMBINATIONS)
def test_no_parameter_or_buffer_is_complex(options) -> None:
    for module in (make_review(**options), LayerToLayer(STUDENT, TEACHER, sizes=MAP_SIZES)):
        tensors = [*module.parameters(), *module.buffers(), *module.state_dict().values()]
        assert not any(t.is_complex() for t in tensors)


@pytest.mark.parametrize("options", COMBINATIONS)
def test_two_training_runs_are_bitwise_equal(options) -> None:
    def run() -> list[Tensor]:
        review = make_review(seed=5, **options)
        optimizer = torch.optim.SGD(review.parameters(), lr=0.05, momentum=0.9)
        maps = student_maps()
        for _ in range(3):
            optimizer.zero_grad()
            sum(t.square().mean() for t in review(maps)).backward()
            optimizer.step()
        return [*review(maps), *review.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("options", COMBINATIONS)
def test_a_saved_state_gives_the_same_outputs_in_a_new_module(options) -> None:
    review, other = make_review(seed=0, **options), make_review(seed=1, **options)
    randomise_norms(review)
    other.load_state_dict(review.state_dict())
    maps = student_maps()
    outputs = zip(review.eval()(maps), other.eval()(maps), strict=True)
    assert all(torch.equal(a, b) for a, b in outputs)


def test_the_given_lists_and_maps_are_not_changed() -> None:
    maps = student_maps()
    before = [m.clone() for m in maps]
    make_review()(maps)
    assert len(maps) == 3
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))


def test_training_to_a_fixed_target_lowers_the_loss() -> None:
    for options in ({"fusion": "cross_attention"}, {"fusion": "abf", "transform": "conv3x3"}):
        review = make_review(relu=False, **options)
        optimizer = torch.optim.SGD(review.parameters(), lr=0.1, momentum=0.9)
        maps = student_maps()
        targets = [torch.randn_like(t) for t in review(maps)]
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = sum(mse_loss(s, t) for s, t in zip(review(maps), targets, strict=True))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]


# ---------------------------------------------------------------- errors


def test_unknown_options_raise_errors_that_list_what_exists() -> None:
    with pytest.raises(ValueError, match="(?s)fusion.*sum.*abf"):
        make_review(fusion="sum")
    with pytest.raises(ValueError, match="(?s)transform.*conv1x1.*conv3x3"):
        make_review(transform="conv1x1")
    with pytest.raises(ValueError, match="(?s)transform.*conv1x1.*conv3x3"):
        LayerToLayer(STUDENT, TEACHER, transform="conv1x1")
    for build in (make_review, lambda **o: LayerToLayer(STUDENT, TEACHER, **o)):
        with pytest.raises(ValueError, match="size"):
            build(fam=FAMOptions(filter="dense"), sizes=None)
        with pytest.raises(ValueError, match="grid.*7"):
            build(fam=FAMOptions(grid=7))


def test_lists_of_different_lengths_raise_errors_that_name_them() -> None:
    with pytest.raises(ValueError, match="teacher_channels"):
        KnowledgeReview(STUDENT, MID, TEACHER[:2])
    with pytest.raises(ValueError, match="mid_channels"):
        KnowledgeReview(STUDENT, MID[:2], TEACHER)
    with pytest.raises(ValueError, match="sizes"):
        KnowledgeReview(STUDENT, MID, TEACHER, sizes=[4, 2])
    with pytest.raises(ValueError, match="teacher_channels"):
        LayerToLayer(STUDENT, TEACHER[:2])
    with pytest.raises(ValueError, match="sizes"):
        LayerToLayer(STUDENT, TEACHER, sizes=[4, 2])


def test_odd_mid_channels_with_cross_attention_raise_an_error_that_names_them() -> None:
    with pytest.raises(ValueError, match=r"channels.*5"):
        KnowledgeReview(STUDENT, 5, TEACHER)


def test_no_stages_raise_an_error() -> None:
    with pytest.raises(ValueError, match="student_channels"):
        KnowledgeReview([], [], [])
    with pytest.raises(ValueError, match="student_channels"):
        LayerToLayer([], [])


@pytest.mark.parametrize("build", [make_review, lambda: LayerToLayer(STUDENT, TEACHER)])
def test_a_wrong_number_of_maps_raises_an_error_with_got_and_expected(build) -> None:
    with pytest.raises(ValueError, match=r"(?s)maps.*2.*3"):
        build()(student_maps()[:2])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_map_of_wrong_channels_raises_an_error_with_got_and_expected(fusion, level) -> None:
    maps = student_maps()
    maps[level] = torch.randn(2, 9, 4, 4)
    with pytest.raises(ValueError, match=rf"(?s)9.*{STUDENT[level]}"):
        make_review(fusion=fusion)(maps)
