"""Views: distributions and composition against torchvision, and dependence on the generator."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from ssltool.config import PretrainConfig
from ssltool.config.common import as_dict
from ssltool.data import views
from ssltool.data.preprocessing import IMAGENET, IMAGENET_MEAN, IMAGENET_STD
from ssltool.data.views import PAPER, PLAIN, PROBE, Recipe

N = 4000
"""Number of views compared with torchvision's."""

ACCEPT, REJECT = 1e-3, 1e-9
"""p-values of correct recipes are above ACCEPT, the smallest of wrong recipes is below REJECT; seeds are fixed."""

COLOUR = Recipe(jitter_p=1, gray_p=0.5, blur_p=0.5)

EVERYTHING = Recipe(solarize_p=0.4, rotation=25.0, erase_p=0.6)
"""Uses all parameters."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def torch_seed():
    """Torchvision uses the global random state; it is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        yield


# Distributions


def boxes_by_torchvision(height, width, scale):
    image = torch.empty(3, height, width)
    transform = v2.RandomResizedCrop(8, scale=scale)
    params = [transform.make_params([image]) for _ in range(N)]
    return torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in params])


def crop_p_values(ours, theirs, height, width):
    """One p-value per property of a crop."""

    def properties(boxes):
        top, left, h, w = boxes.double().unbind(1)
        return {
            "area": h * w / (height * width),
            "aspect": w / h,
            "top": (top / (height - h))[h < height],
            "left": (left / (width - w))[w < width],
            "corner": top / height + left / width,
        }

    a, b = properties(ours), properties(theirs)
    return {name: stats.ks_2samp(a[name], b[name]).pvalue for name in a}


@pytest.mark.parametrize("scale", [PAPER.crop_scale, PROBE.crop_scale], ids=str)
@pytest.mark.parametrize(("height", "width"), [(224, 224), (28, 28), (120, 160), (50, 200)])
def test_crops_are_distributed_as_random_resized_crops(torch_seed, height, width, scale):
    params = views.sample_params(N, Recipe(crop_scale=scale), generator())
    ours, theirs = views.crop_boxes(params, height, width), boxes_by_torchvision(height, width, scale)
    assert min(crop_p_values(ours, theirs, height, width).values()) > ACCEPT


@pytest.mark.parametrize("wrong", ["scale", "linear ratio", "narrow ratio", "corner", "one attempt"])
def test_wrongly_distributed_crops_are_rejected(torch_seed, monkeypatch, wrong):
    height, width = 120, 160
    recipe = Recipe(crop_scale=(0.25, 1.0)) if wrong == "scale" else PAPER
    params = views.sample_params(N, recipe, generator())
    if wrong == "linear ratio":
        share = (params.log_ratio - math.log(3 / 4)) / math.log(16 / 9)
        params = dataclasses.replace(params, log_ratio=(3 / 4 + share * (4 / 3 - 3 / 4)).log())
    if wrong == "narrow ratio":
        params = dataclasses.replace(params, log_ratio=0.8 * params.log_ratio)
    if wrong == "corner":
        params = dataclasses.replace(params, position=params.position.sqrt())
    if wrong == "one attempt":
        params = dataclasses.replace(params, area=params.area[:, :1], log_ratio=params.log_ratio[:, :1])
    ours, theirs = views.crop_boxes(params, height, width), boxes_by_torchvision(height, width, PAPER.crop_scale)
    assert min(crop_p_values(ours, theirs, height, width).values()) < REJECT


def jitter_by_torchvision(recipe):
    transform = v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    params = [transform.make_params([]) for _ in range(N)]
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    return torch.tensor([[p[name] for name in names] for p in params]), torch.stack([p["fn_idx"] for p in params])


def order_counts(orders):
    rows = [tuple(order) for order in orders.tolist()]
    return [rows.count(order) for order in itertools.permutations(range(4))]


def jitter_p_values(params, recipe):
    factors, orders = jitter_by_torchvision(recipe)
    p = {i: stats.ks_2samp(params.jitter[:, i], factors[:, i]).pvalue for i in range(4)}
    return p | {"order": stats.chi2_contingency([order_counts(params.jitter_order), order_counts(orders)]).pvalue}


@pytest.mark.parametrize("recipe", [PAPER, Recipe(brightness=1.6, contrast=0.2, saturation=0.8, hue=0.5)], ids=str)
def test_jitter_factors_and_order_are_distributed_as_color_jitters(torch_seed, recipe):
    assert min(jitter_p_values(views.sample_params(N, recipe, generator(1)), recipe).values()) > ACCEPT


@pytest.mark.parametrize(
    "wrong", [dict(brightness=0.3), dict(contrast=0.5), dict(saturation=0.6), dict(hue=0.15)], ids=str
)
def test_wrong_jitter_strength_is_rejected(torch_seed, wrong):
    params = views.sample_params(N, dataclasses.replace(PAPER, **wrong), generator(1))
    assert min(jitter_p_values(params, PAPER).values()) < REJECT


def test_wrong_jitter_order_is_rejected(torch_seed):
    params = views.sample_params(N, PAPER, generator(1))
    params = dataclasses.replace(params, jitter_order=torch.arange(4).expand(N, 4))
    assert jitter_p_values(params, PAPER)["order"] < REJECT


def flag_p_value(params, recipe):
    """p-value of the sixteen combinations of flip, jitter, grey and blur, if they are independent."""
    flags = [params.flip, params.jittered, params.gray, params.sigma > 0]
    chances = [recipe.flip_p, recipe.jitter_p, recipe.gray_p, recipe.blur_p]
    found, expected = [], []
    for wanted in itertools.product([False, True], repeat=4):
        together = torch.stack([f == w for f, w in zip(flags, wanted, strict=True)]).all(dim=0)
        found.append(int(together.sum()))
        expected.append(N * math.prod(p if w else 1 - p for p, w in zip(chances, wanted, strict=True)))
    return stats.chisquare(found, expected).pvalue


def test_flip_jitter_grey_and_blur_happen_independently_with_their_probabilities():
    assert flag_p_value(views.sample_params(N, PAPER, generator(2)), PAPER) > ACCEPT


@pytest.mark.parametrize("wrong", [dict(flip_p=0.4), dict(jitter_p=0.7), dict(gray_p=0.3), dict(blur_p=0.6)], ids=str)
def test_wrong_probability_is_rejected(wrong):
    assert flag_p_value(views.sample_params(N, dataclasses.replace(PAPER, **wrong), generator(2)), PAPER) < REJECT


def test_dependent_flags_are_rejected():
    params = views.sample_params(N, PAPER, generator(2))
    params = dataclasses.replace(params, sigma=params.flip * 1.0)
    assert flag_p_value(params, PAPER) < REJECT


def test_blur_sigma_is_distributed_as_gaussian_blurs(torch_seed):
    transform = v2.GaussianBlur(13, PAPER.blur_sigma)
    theirs = [transform.make_params([])["sigma"][0] for _ in range(N)]
    for low, accepted in [(0.1, True), (0.25, False)]:
        params = views.sample_params(N, Recipe(blur_p=1.0, blur_sigma=(low, 2.0)), generator(3))
        p = stats.ks_2samp(params.sigma, theirs).pvalue
        assert p > ACCEPT if accepted else p < REJECT


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_probabilities_of_zero_and_one_are_never_and_always(p):
    params = views.sample_params(N, Recipe(flip_p=p, jitter_p=p, gray_p=p, blur_p=p), generator())
    for happens in (params.flip, params.jittered, params.gray, params.sigma > 0):
        assert happens.float().mean() == p


# Crop boxes


@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 31), (31, 10), (224, 300)])
def test_crops_lie_inside_the_image_and_reach_every_border(height, width):
    top, left, h, w = views.crop_boxes(views.sample_params(N, PROBE, generator()), height, width).unbind(1)
    assert (h > 0).all() and (w > 0).all()
    assert top.min() == left.min() == 0
    assert (top + h).max() == height
    assert (left + w).max() == width


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (9, 64), (301, 40)])
def test_image_too_long_for_any_box_gives_torchvisions_central_crop(torch_seed, height, width):
    params = v2.RandomResizedCrop(8, scale=(0.9, 1.0)).make_params([torch.empty(3, height, width)])
    expected = [params[name] for name in ("top", "left", "height", "width")]
    boxes = views.crop_boxes(views.sample_params(20, Recipe(crop_scale=(0.9, 1.0)), generator()), height, width)
    assert boxes.tolist() == [expected] * 20


def test_the_fallback_is_the_whole_image_if_its_aspect_ratio_is_allowed():
    params = views.sample_params(1, PAPER, generator())
    params = dataclasses.replace(params, area=torch.full((1, 10), 1.0), log_ratio=torch.full((1, 10), math.log(4 / 3)))
    assert views.crop_boxes(params, 40, 42).tolist() == [[0, 0, 40, 42]]


def test_the_first_valid_box_is_used():
    params = views.sample_params(1, PAPER, generator())
    area, log_ratio = torch.full((1, 10), 1.0), torch.full((1, 10), math.log(4 / 3))  # too wide for a square
    area[0, 3], log_ratio[0, 3], area[0, 5], log_ratio[0, 5] = 0.25, 0.0, 0.81, 0.0
    params = dataclasses.replace(params, area=area, log_ratio=log_ratio, position=torch.tensor([[0.5, 0.999]]))
    assert views.crop_boxes(params, 40, 40).tolist() == [[10, 20, 20, 20]]


# Dependence on the generator


def test_parameters_depend_only_on_the_generator():
    made = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            made.append(views.sample_params(16, EVERYTHING, generator(7)))
            assert torch.equal(torch.get_rng_state(), before)
    for field in dataclasses.fields(views.ViewParams):
        same = getattr(made[0], field.name)
        assert torch.equal(same, getattr(made[1], field.name)), field.name
        assert not torch.equal(same, getattr(views.sample_params(16, EVERYTHING, generator(8)), field.name)), field.name


def test_successive_samples_of_one_generator_differ():
    g = generator()
    first, second = views.sample_params(16, EVERYTHING, g), views.sample_params(16, EVERYTHING, g)
    for field in dataclasses.fields(views.ViewParams):
        assert not torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def test_slices_of_parameters_are_the_parameters_of_those_rows():
    params = views.sample_params(10, EVERYTHING, generator())
    parts = [params[:4], params[4:10]]
    for field in dataclasses.fields(views.ViewParams):
        rejoined = torch.cat([getattr(part, field.name) for part in parts])
        assert torch.equal(rejoined, getattr(params, field.name)), field.name


NUMBERS_OF_A_VIEW = 10 + 10 + 2 + 1 + 1 + 4 + 4 + 1 + 1 + 1
"""Ten areas and ratios, a place, whether to flip and to jitter, the jitter's order and parameters, whether to make grey
and to blur, and how far: what every view has drawn since the first release."""


@pytest.mark.parametrize("recipe", [PAPER, PROBE, PLAIN], ids=["paper", "probe", "plain"])
def test_unused_solarisation_rotation_and_erasing_use_no_random_numbers(recipe):
    g, counting = generator(7), generator(7)
    views.sample_params(16, recipe, g)
    torch.rand(16 * NUMBERS_OF_A_VIEW, generator=counting)
    assert torch.equal(g.get_state(), counting.get_state())


@pytest.mark.parametrize("more", [dict(solarize_p=0.4), dict(rotation=25.0), dict(erase_p=0.6)], ids=str)
def test_solarisation_rotation_and_erasing_do_not_change_other_parameters(more):
    plain = views.sample_params(16, PAPER, generator(7))
    params = views.sample_params(16, dataclasses.replace(PAPER, **more), generator(7))
    differing = {
        f.name
        for f in dataclasses.fields(views.ViewParams)
        if not torch.equal(getattr(plain, f.name), getattr(params, f.name))
    }
    wanted = {
        "solarize_p": {"solarized"},
        "rotation": {"angle"},
        "erase_p": {"erased", "erase_area", "erase_log_ratio", "erase_position"},
    }
    assert differing == wanted[next(iter(more))]


def test_the_size_of_a_recipe_does_not_change_parameters():
    plain, small = (
        views.sample_params(16, dataclasses.replace(EVERYTHING, size=size), generator(7)) for size in (None, 12)
    )
    assert all(
        torch.equal(getattr(plain, f.name), getattr(small, f.name)) for f in dataclasses.fields(views.ViewParams)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_views_of_a_slice_equal_that_slice_of_the_whole_batchs_views(pixels, channels):
    images, params = pixels(10, channels, 24, 30), views.sample_params(10, EVERYTHING, generator())
    whole = views.train_view(images, params, 16, IMAGENET)
    parts = torch.cat(
        [views.train_view(images[rows], params[rows], 16, IMAGENET) for rows in (slice(0, 3), slice(3, 10))]
    )
    assert (whole - parts).abs().max() < 1e-5


# Composition


def erased_box(params, i, size):
    """The box that ``RandomErasing`` would take of the drawn areas and ratios: the first that is smaller than the
    image; None if there is none."""
    for area, log_ratio in zip(params.erase_area[i].double(), params.erase_log_ratio[i].double(), strict=True):
        area, ratio = area.item() * size * size, math.exp(log_ratio)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < size and w < size:
            top, left = (params.erase_position[i] * torch.tensor([size - h + 1, size - w + 1])).int().tolist()
            return top, left, h, w
    return None


def view_by_torchvision(image, params, i, size):
    """One view of one image, with the drawn parameters, by torchvision's functional operations."""
    box = views.crop_boxes(params[i : i + 1], *image.shape[-2:])[0].tolist()
    x = tv.resized_crop(image.float() / 255, *box, [size, size], antialias=True)
    x = tv.horizontal_flip(x) if params.flip[i] else x
    x = tv.rotate(x, params.angle[i].item(), InterpolationMode.BILINEAR)
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    if params.jittered[i]:
        for number in params.jitter_order[i].tolist():
            x = adjust[number](x, params.jitter[i, number].item())
    x = tv.rgb_to_grayscale(x, 3) if params.gray[i] else x
    x = tv.gaussian_blur(x, [13, 13], [params.sigma[i].item()]) if params.sigma[i] > 0 else x
    x = tv.solarize(x, 127.5 / 255) if params.solarized[i] else x
    x = tv.normalize(x, IMAGENET_MEAN, IMAGENET_STD)
    erased = erased_box(params, i, size) if params.erased[i] else None
    return tv.erase(x, *erased, torch.zeros(1)) if erased else x


@pytest.mark.parametrize(
    "recipe",
    [
        PAPER,
        PROBE,
        COLOUR,
        dataclasses.replace(PAPER, solarize_p=0.5),
        dataclasses.replace(PLAIN, rotation=15.0),
        dataclasses.replace(PAPER, erase_p=1.0, erase_scale=(0.4, 0.5)),
        dataclasses.replace(COLOUR, solarize_p=0.3, erase_p=0.7),
    ],
    ids=["paper", "probe", "colour", "solarised", "turned", "erased", "colour solarised erased"],
)
def test_view_equals_torchvisions_operations_in_the_sampled_order(pixels, recipe):
    images, params = pixels(40, 3, 30, 26), views.sample_params(40, recipe, generator(4))
    expected = torch.stack([view_by_torchvision(image, params, i, 20) for i, image in enumerate(images)])
    difference = (views.train_view(images, params, 20, IMAGENET) - expected).abs()
    assert difference.max() < 2e-4  # float rounding through six operations


def test_rotation_precedes_colour_jitter(pixels):
    images, params = (
        pixels(20, 3, 30, 30),
        views.sample_params(20, dataclasses.replace(EVERYTHING, erase_p=0.0), generator(4)),
    )
    expected = torch.stack([view_by_torchvision(image, params, i, 20) for i, image in enumerate(images)])
    difference = (views.train_view(images, params, 20, IMAGENET) - expected).abs()
    # A place rounds by some 1e-6 of a pixel, and turning the hue of a nearly grey pixel magnifies what comes of it.
    assert difference.mean() < 1e-4 and difference.quantile(0.99) < 2e-3


# Erasing


def boxes_by_random_erasing(size, scale):
    transform = v2.RandomErasing(1.0, scale)
    params = [transform.make_params([torch.empty(3, size, size)]) for _ in range(N)]
    return torch.tensor([[p["i"], p["j"], p["h"], p["w"]] for p in params if p["v"] is not None])


def boxes_erased(params, size):
    """The boxes that are 0 in finished views of white images, (top, left, height, width) each."""
    white = torch.ones(len(params.erased), 1, size, size)
    inside = views.finish(white, params, IMAGENET)[:, 0] == 0
    rows, columns = inside.any(dim=2), inside.any(dim=1)
    assert torch.equal(inside, rows[:, :, None] & columns[:, None, :])
    found = [rows.int().argmax(dim=1), columns.int().argmax(dim=1), rows.sum(dim=1), columns.sum(dim=1)]
    return torch.stack(found, dim=1)[inside.any(dim=(1, 2))]


def erasing(**changes):
    return dataclasses.replace(PLAIN, **({"erase_p": 1.0, "erase_scale": (0.4, 0.5)} | changes))


@pytest.mark.parametrize("scale", [(0.02, 0.33), (0.4, 0.5), (0.9, 0.99)], ids=str)
def test_erased_boxes_are_distributed_as_random_erasings(torch_seed, scale):
    ours = boxes_erased(views.sample_params(N, erasing(erase_scale=scale), generator(6)), 32)
    theirs = boxes_by_random_erasing(32, scale)
    assert min(crop_p_values(ours, theirs, 32, 32).values()) > ACCEPT
    assert stats.fisher_exact([[len(ours), N - len(ours)], [len(theirs), N - len(theirs)]]).pvalue > ACCEPT


@pytest.mark.parametrize("wrong", ["scale", "ratio", "corner", "one attempt"])
def test_wrongly_distributed_erased_boxes_are_rejected(torch_seed, wrong):
    params = views.sample_params(N, erasing(erase_scale=(0.4, 0.55) if wrong == "scale" else (0.4, 0.5)), generator(6))
    if wrong == "ratio":
        params = dataclasses.replace(params, erase_log_ratio=params.erase_log_ratio / 2)
    if wrong == "corner":
        params = dataclasses.replace(params, erase_position=params.erase_position.sqrt())
    if wrong == "one attempt":
        kept = {name: getattr(params, name)[:, :1] for name in ("erase_area", "erase_log_ratio")}
        params = dataclasses.replace(params, **kept)
    ours, theirs = boxes_erased(params, 32), boxes_by_random_erasing(32, (0.4, 0.5))
    p = min(crop_p_values(ours, theirs, 32, 32).values())
    if wrong == "one attempt":
        p = stats.fisher_exact([[len(ours), N - len(ours)], [len(theirs), N - len(theirs)]]).pvalue
    assert p < REJECT


def test_boxes_as_high_as_the_view_are_not_erased():
    params = views.sample_params(1, erasing(), generator())
    whole = dataclasses.replace(params, erase_area=torch.ones(1, 10), erase_log_ratio=torch.zeros(1, 10))
    assert len(boxes_erased(whole, 20)) == 0
    area = torch.ones(1, 10)
    area[0, 4], area[0, 6] = 0.25, 0.49
    second = dataclasses.replace(whole, erase_area=area, erase_position=torch.tensor([[0.5, 0.999]]))
    assert boxes_erased(second, 20).tolist() == [[5, 10, 10, 10]]


def test_views_are_erased_and_solarised_with_their_probabilities():
    params = views.sample_params(N, Recipe(solarize_p=0.2, erase_p=0.7), generator(2))
    for found, p in ((params.solarized, 0.2), (params.erased, 0.7)):
        assert stats.binomtest(int(found.sum()), N, p).pvalue > ACCEPT
        assert stats.binomtest(int(found.sum()), N, p + 0.1).pvalue < REJECT
    assert abs(np.corrcoef(params.solarized, params.erased)[0, 1]) < 4 / math.sqrt(N)


def test_angles_are_uniform_in_both_directions():
    params = views.sample_params(N, Recipe(rotation=15.0), generator(2))
    assert stats.kstest(params.angle, stats.uniform(-15.0, 30.0).cdf).pvalue > ACCEPT
    assert stats.kstest(params.angle, stats.uniform(-20.0, 40.0).cdf).pvalue < REJECT


def test_grey_views_equal_those_of_the_same_images_as_rgb(pixels):
    images, params = pixels(40, 1, 28, 28), views.sample_params(40, COLOUR, generator(5))
    as_rgb = views.train_view(images.expand(-1, 3, -1, -1), params, 28, IMAGENET)
    made = views.train_view(images, params, 28, IMAGENET)
    assert made.shape == (40, 3, 28, 28)
    assert (made - as_rgb).abs().max() < 1e-3 / min(IMAGENET_STD)  # the luma weights sum to .9999


def test_views_do_not_modify_the_images(pixels):
    images = pixels(8, 3, 20, 20)
    before = images.clone()
    made = views.train_view(images, views.sample_params(8, COLOUR, generator()), 20, IMAGENET)
    views.eval_view(images, IMAGENET.at(20))
    assert made.dtype == torch.float32
    assert torch.equal(images, before)


# The validation transform


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 300, 260), 224), ((3, 40, 64), 32), ((3, 96, 96), 64), ((3, 33, 20), 16)], ids=str
)
def test_evaluation_view_equals_resize_centre_crop_and_normalize(pixels, shape, size):
    images = pixels(2, *shape)
    transform = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize({224: 256, 64: 73, 32: 37, 16: 18}[size], antialias=True),  # 256 / 224 of the side
            v2.CenterCrop(size),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    # Float rounding of a place in 300 pixels, on noise, divided by the deviations.
    assert (views.eval_view(images, IMAGENET.at(size)) - transform(images)).abs().max() < 2e-4


def test_evaluation_view_at_the_images_own_size_is_the_images_standardised(pixels):
    images = pixels(3, 3, 28, 28)
    expected = tv.normalize(images.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
    assert (views.eval_view(images, IMAGENET.at(28)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("size", [28, 16])
def test_evaluation_view_of_grey_images_has_three_channels(pixels, size):
    images = pixels(3, 1, 28, 28)
    made = views.eval_view(images, IMAGENET.at(size))
    assert made.shape == (3, 3, size, size)
    assert (made - views.eval_view(images.expand(-1, 3, -1, -1), IMAGENET.at(size))).abs().max() < 1e-5


def test_means_and_deviations_are_imagenets():
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(crop_size=224)
    assert (list(IMAGENET_MEAN), list(IMAGENET_STD)) == (preset.mean, preset.std)
    assert (IMAGENET.at(224).resize, preset.resize_size[0]) == (256, 256)


def test_paper_recipe_is_the_published_one():
    assert (PAPER.crop_scale, PAPER.flip_p, PAPER.jitter_p, PAPER.gray_p) == ((0.2, 1.0), 0.5, 0.8, 0.2)
    assert (PAPER.brightness, PAPER.contrast, PAPER.saturation, PAPER.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (PAPER.blur_p, PAPER.blur_sigma) == (0.5, (0.1, 2.0))


def recipe(**settings):
    return views.recipe_of(as_dict(PretrainConfig(**({"blur_p": 0.5} | settings))))


def test_recipe_of_a_run_with_the_default_settings_and_blur_is_the_papers():
    assert recipe() == PAPER
    assert recipe(blur_p=None) == dataclasses.replace(PAPER, blur_p=0.0)


@pytest.mark.parametrize("name", ["flip_p", "jitter_p", "gray_p", "blur_p", "solarize_p"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_recipe_of_a_run_changes_only_the_given_probabilities(name, value):
    assert recipe(**{name: value}) == dataclasses.replace(PAPER, **{name: value})


def test_recipe_of_a_run_crops_down_to_its_smallest_area():
    assert recipe(crop_min=0.08) == dataclasses.replace(PAPER, crop_scale=(0.08, 1.0))


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0, 2.5])
def test_jitter_scales_all_four_of_the_papers_strengths(strength):
    found = recipe(jitter=strength)
    strengths = (found.brightness, found.contrast, found.saturation, found.hue)
    assert strengths == pytest.approx(tuple(strength * of for of in (0.4, 0.4, 0.4, 0.1)))
    kept = {name: getattr(PAPER, name) for name in ("brightness", "contrast", "saturation", "hue")}
    assert dataclasses.replace(found, **kept) == PAPER


def test_pixels_of_standardised_views_are_the_pixels_that_they_were_made_from():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    assert torch.equal(views.to_pixels(views.standardise(images.float() / 255, IMAGENET), IMAGENET), images)
    beyond = views.to_pixels(torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1), IMAGENET)
    assert beyond.flatten(1).tolist() == [[0, 0, 0], [255, 255, 255]]
