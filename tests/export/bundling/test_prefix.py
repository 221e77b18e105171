"""The perturbing prefix against numpy: every layout, channel order, opset and precision, exact where it must be."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.bundling.prefix import wrap_attributes, wrap_similarity
from export.bundling.preprocessing import Preprocessing
from tests.support.models.networks import OLD_IR, SIZE, attribute_network, compute, network
from transforms.core.errors import BundleError, UsageError
from transforms.serving.runtime import session

H, W = SIZE
IMAGENET = Preprocessing("nchw", "rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NO_FILL = np.zeros((1, 1, 1, 3), np.float32)
KEEP = np.ones((1, H, W, 1), np.float32)

Layout = Literal["nchw", "nhwc"]


def identity(
    layout: Layout = "nchw", opset: int = 17, kind: int = TensorProto.FLOAT, names: tuple[str, str] = ("x", "y")
) -> onnx.ModelProto:
    """A network whose embedding is what it was fed."""
    shape: list[int | str] = ["b", 3, H, W] if layout == "nchw" else ["b", H, W, 3]
    graph = helper.make_graph(
        [helper.make_node("Flatten", [names[0]], [names[1]], axis=1)],
        "identity",
        [helper.make_tensor_value_info(names[0], kind, shape)],
        [helper.make_tensor_value_info(names[1], kind, ["b", 3 * H * W])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=OLD_IR)


def fed(
    preprocessing: Preprocessing, image: NDArray[Any], mask: NDArray[Any], fill: NDArray[Any], **how: Any
) -> NDArray[np.float32]:
    """What a network is fed behind the prefix, in its layout."""
    model = wrap_similarity(
        identity(preprocessing.layout, **how), preprocessing=preprocessing, size=SIZE, normalise=False
    )
    onnx.checker.check_model(model, full_check=True)
    rows = run(model, image, mask, fill)
    return rows.reshape(-1, 3, H, W) if preprocessing.layout == "nchw" else rows.reshape(-1, H, W, 3)


def run(model: onnx.ModelProto, image: NDArray[Any], mask: NDArray[Any], fill: NDArray[Any]) -> NDArray[np.float32]:
    feeds = {"image": image, "mask": mask.astype(np.float32), "fill": fill.astype(np.float32)}
    return np.asarray(session(model.SerializeToString()).run(["embedding"], feeds)[0])


def oracle(
    preprocessing: Preprocessing, image: NDArray[Any], mask: NDArray[Any], fill: NDArray[Any]
) -> NDArray[np.float64]:
    """The perturbed image normalised, pixel by pixel: its own arithmetic, none of ``Preprocessing.apply``."""
    count = max(len(image), len(mask))
    out = np.empty((count, H, W, 3))
    for n in range(count):
        for channel in range(3):
            source = channel if preprocessing.channels == "rgb" else 2 - channel
            x = image[n % len(image), :, :, source].astype(float)
            m = mask[n % len(mask), :, :, 0].astype(float)
            f = np.broadcast_to(fill[0, :, :, source].astype(float), (H, W))
            perturbed = m * x + (1 - m) * f
            out[n, :, :, channel] = (perturbed * preprocessing.scale - preprocessing.mean[channel]) / preprocessing.std[
                channel
            ]
    return out if preprocessing.layout == "nhwc" else np.moveaxis(out, 3, 1)


def some_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, H, W, 3), dtype=np.uint8)


def some_masks(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 1, (count, H, W, 1)).astype(np.float32)


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 18, 21])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_what_the_network_is_fed(layout: Layout, channels: Literal["rgb", "bgr"], opset: int) -> None:
    preprocessing = Preprocessing(layout, channels, 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image, mask, fill = some_images(1), some_masks(3), np.array([10.5, 200, 30]).reshape(1, 1, 1, 3)
    found = fed(preprocessing, image, mask, fill, opset=opset)
    np.testing.assert_allclose(found, oracle(preprocessing, image, mask, fill), atol=3e-6)


def test_a_fill_may_be_an_image() -> None:
    fill = np.random.default_rng(5).uniform(0, 255, (1, H, W, 3))
    image, mask = some_images(1), some_masks(2)
    np.testing.assert_allclose(fed(IMAGENET, image, mask, fill), oracle(IMAGENET, image, mask, fill), atol=3e-6)


@pytest.mark.parametrize(("images", "masks"), [(1, 4), (4, 1), (4, 4), (1, 1)])
def test_images_and_masks_broadcast(images: int, masks: int) -> None:
    image, mask, fill = some_images(images), some_masks(masks), np.full((1, 1, 1, 3), 77.0)
    found = fed(IMAGENET, image, mask, fill)
    assert len(found) == max(images, masks)
    np.testing.assert_allclose(found, oracle(IMAGENET, image, mask, fill), atol=3e-6)


def test_the_grid_rounds_to_nearest() -> None:
    """A grid that rounded down would shift every pixel by half a step, 5e-7 here."""
    image = some_images(1)
    error = fed(IMAGENET, image, KEEP, NO_FILL) - oracle(IMAGENET, image, KEEP, NO_FILL)
    assert np.abs(error).max() < 2e-6
    assert np.abs(error.mean(axis=(0, 2, 3))).max() < 1e-7


colours = st.tuples(*[st.floats(0, 255, width=32)] * 3)
triples = st.tuples(*[st.floats(-2, 2)] * 3)
deviations = st.tuples(*[st.floats(1e-3, 10)] * 3)


@settings(max_examples=40, deadline=None)
@given(
    fill=colours,
    other=colours,
    mean=triples,
    std=deviations,
    scale=st.sampled_from([1.0, 1 / 255, 1 / 127.5, 0.017]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    seed=st.integers(0, 99),
)
def test_masks_of_ones_and_zeros_are_exact(
    fill: tuple[float, ...],
    other: tuple[float, ...],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    scale: float,
    layout: Layout,
    seed: int,
) -> None:
    """1 gives the image whatever the fill, 0 the fill whatever the image, to the bit, and both what they should be."""
    preprocessing = Preprocessing(layout, "bgr", scale, mean, std)
    model = wrap_similarity(identity(layout), preprocessing=preprocessing, size=SIZE, normalise=False)
    opened = session(model.SerializeToString())
    image = some_images(2, seed)
    colour = [np.array(value, np.float32).reshape(1, 1, 1, 3) for value in (fill, other)]

    def feed(picture: NDArray[Any], mask: NDArray[Any], ground: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(opened.run(None, {"image": picture, "mask": mask, "fill": ground})[0])

    kept = feed(image, KEEP, colour[0])
    np.testing.assert_array_equal(kept, feed(image, KEEP, colour[1]))
    assert not (feed(image[:1], 0 * KEEP, colour[0]) - feed(image[1:], 0 * KEEP, colour[0])).any()
    as_image = np.broadcast_to(np.floor(colour[0]), (1, H, W, 3))
    np.testing.assert_array_equal(
        feed(as_image.astype(np.uint8), KEEP, colour[1]), feed(image[:1], 0 * KEEP, np.floor(colour[0]))
    )
    reach = max(
        max(255 * scale / deviation, abs(255 * scale - shift) / deviation, abs(shift) / deviation)
        for shift, deviation in zip(mean, std, strict=True)
    )
    exact = oracle(preprocessing, image, KEEP, colour[0]).reshape(2, -1)
    assert np.abs(kept - exact).max() <= reach * 2**-20


@settings(max_examples=25, deadline=None)
@given(fill=colours, level=st.floats(0, 1, width=32), mean=triples, std=deviations, seed=st.integers(0, 99))
def test_masks_in_between(
    fill: tuple[float, ...],
    level: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    seed: int,
) -> None:
    preprocessing = Preprocessing("nchw", "rgb", 1 / 255, mean, std)
    colour = np.array(fill, np.float32).reshape(1, 1, 1, 3)
    mask = np.concatenate([np.full((1, H, W, 1), level, np.float32), some_masks(1, seed)])
    image = some_images(1, seed)
    expected = oracle(preprocessing, image, mask, colour)
    np.testing.assert_allclose(
        fed(preprocessing, image, mask, colour), expected, atol=1e-5 * (1 + np.abs(expected).max())
    )


def test_an_embedding_is_of_length_one_and_zero_stays_zero() -> None:
    black = np.zeros((1, H, W, 3), np.uint8)
    pictures = np.concatenate([black, some_images(2)])
    plain = Preprocessing("nchw", "rgb", 1 / 255)
    rows = run(wrap_similarity(identity(), preprocessing=plain, size=SIZE), pictures, KEEP, NO_FILL)
    np.testing.assert_array_equal(rows[0], 0)
    np.testing.assert_allclose(np.linalg.norm(rows[1:], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 17, 18])
def test_layouts_and_channel_orders_of_one_network_embed_alike(opset: int) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain = wrap_similarity(network(opset=opset), preprocessing=IMAGENET, size=SIZE)
    turned = wrap_similarity(
        network(layout="nhwc", channels="bgr", opset=opset),
        preprocessing=Preprocessing("nhwc", "bgr", 1 / 255, mean[::-1], std[::-1]),
        size=SIZE,
    )
    image, mask, fill = some_images(1), some_masks(6), np.full((1, 1, 1, 3), 128.0)
    expected = compute(oracle(IMAGENET, image, mask, fill))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for model in (plain, turned):
        np.testing.assert_allclose(run(model, image, mask, fill), expected, atol=2e-6)


def test_half_precision_comes_back_as_float32() -> None:
    rows = run(wrap_similarity(network(half=True), preprocessing=IMAGENET, size=SIZE), some_images(3), KEEP, NO_FILL)
    expected = compute(IMAGENET.apply(some_images(3)))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-3)


def test_rows_do_not_depend_on_their_batch() -> None:
    opened = session(wrap_similarity(network(), preprocessing=IMAGENET, size=SIZE).SerializeToString())
    image, masks, fill = some_images(1), some_masks(9), np.full((1, 1, 1, 3), 9, np.float32)
    together = opened.run(None, {"image": image, "mask": masks, "fill": fill})[0]
    alone = [opened.run(None, {"image": image, "mask": masks[n : n + 1], "fill": fill})[0][0] for n in range(9)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("names", [("image", "embedding"), ("mask", "fill"), ("whymatch/flat", "network/image")])
def test_names_of_the_network_may_be_ours(names: tuple[str, str]) -> None:
    model = wrap_similarity(identity(names=names), preprocessing=IMAGENET, size=SIZE, normalise=False)
    image, mask, fill = some_images(1), some_masks(2), np.full((1, 1, 1, 3), 50.0)
    expected = oracle(IMAGENET, image, mask, fill).reshape(2, -1)
    np.testing.assert_allclose(run(model, image, mask, fill), expected, atol=3e-6)
    assert wrap_similarity(identity(names=names), preprocessing=IMAGENET, size=SIZE, input=names[0], output=names[1])


def test_an_inner_graph_may_use_an_outer_constant_of_our_name() -> None:
    """An If whose branches add the outer initializer called "fill", or subtract it."""

    def branch(kind: str) -> onnx.GraphProto:
        node = helper.make_node(kind, ["x", "fill"], [f"{kind}_out"])
        out = helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, None)
        return helper.make_graph([node], kind, [], [out])

    choose = helper.make_node("If", ["yes"], ["chosen"], then_branch=branch("Add"), else_branch=branch("Sub"))
    graph = helper.make_graph(
        [choose, helper.make_node("Flatten", ["chosen"], ["y"], axis=1)],
        "if",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, H, W])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3 * H * W])],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array([5], np.float32), "fill"),
        ],
    )
    given_network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=OLD_IR)
    before = given_network.SerializeToString(deterministic=True)
    model = wrap_similarity(given_network, preprocessing=IMAGENET, size=SIZE, normalise=False)
    image = some_images(2)
    expected = oracle(IMAGENET, image, KEEP, NO_FILL).reshape(2, -1) + 5
    np.testing.assert_allclose(run(model, image, KEEP, NO_FILL), expected, atol=3e-6)
    assert given_network.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_attributes(layout: Layout, activation: Literal["none", "sigmoid", "softmax"]) -> None:
    given_network = attribute_network(layout=layout, logits=activation != "none")
    names = ("logits" if activation != "none" else "confidences", "activations")
    model = wrap_attributes(
        given_network,
        preprocessing=Preprocessing(layout, "rgb", 1 / 255, IMAGENET.mean, IMAGENET.std),
        size=SIZE,
        scores_output=names[0],
        maps_output=names[1],
        activation=activation,
        maps_layout=layout,
    )
    onnx.checker.check_model(model, full_check=True)
    image = some_images(4)
    scores, maps = session(model.SerializeToString()).run(["scores", "maps"], {"image": image})
    bare = session(attribute_network(logits=True).SerializeToString())
    logits, expected_maps = bare.run(None, {"input": IMAGENET.apply(image)})
    expected = 1 / (1 + np.exp(-logits))
    if activation == "softmax":
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(maps, expected_maps, atol=1e-5)
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), logits, atol=1e-5)


def test_the_mean_as_a_colour() -> None:
    assert IMAGENET.fill_mean == pytest.approx((123.675, 116.28, 103.53))
    assert Preprocessing("nhwc", "bgr", 1.0, (103.939, 116.779, 123.68)).fill_mean == (123.68, 116.779, 103.939)
    assert Preprocessing(scale=1 / 127.5, mean=(1, 1, 1)).fill_mean == (127.5, 127.5, 127.5)
    assert Preprocessing(scale=1 / 255, mean=(-1, 0, 2)).fill_mean == (0, 0, 255)


def test_apply_is_the_definition() -> None:
    preprocessing = Preprocessing("nhwc", "bgr", 0.5, (1, 2, 3), (1, 2, 4))
    image = np.array([10, 20, 30], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(preprocessing.apply(image).ravel(), [14, 4, 0.5])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"layout": "hwc"}, "layout is 'hwc'"),
        ({"channels": "grey"}, "channels is 'grey'"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"mean": (0, 0)}, "mean is"),
        ({"std": (1, 0, 1)}, "std is"),
    ],
)
def test_preprocessing_is_checked(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Preprocessing(**wrong)


def test_networks_that_cannot_be_wrapped() -> None:
    def refused(model: onnx.ModelProto, told: str, **how: Any) -> None:
        with pytest.raises(BundleError, match=told):
            wrap_similarity(model, preprocessing=IMAGENET, size=SIZE, **how)

    two = network()
    two.graph.input.append(helper.make_tensor_value_info("text", TensorProto.INT64, ["b", 7]))
    refused(two, r"has 2 inputs.*--input")
    refused(two, "needs 'text'", input="input")
    refused(network(), "no input 'pixels'; it has input", input="pixels")
    refused(network(), "no output 'pooled'; it has output", output="pooled")
    more = network()
    more.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, None))
    refused(more, r"has 2 outputs.*--output")
    refused(network(opset=7), "opset 7")
    bytes_in = identity(kind=TensorProto.UINT8)
    refused(bytes_in, "expected float32 or float16")
