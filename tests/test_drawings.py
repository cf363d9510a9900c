"""What the drawings of attention show, and that sliders redraw."""

import html
import json
import re

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.collections import LineCollection

from course_utils.classroom import sliders
from course_utils.classroom.drawings import LINE_WIDTH, draw_attention
from course_utils.classroom.sliders import explore

TOKENS = ["[CLS]", "$a", "b$", "[SEP]"]
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def no_figures_left():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """The outputs that explore() displays, in order."""
    outputs = []
    monkeypatch.setattr(sliders, "display", lambda bundle, raw: outputs.append(bundle))
    return outputs


def attention(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).softmax(-1)


def lines(ax) -> LineCollection:
    return next(c for c in ax.collections if isinstance(c, LineCollection))


def test_map_writes_each_weight_in_its_cell_and_each_token_at_its_axis():
    weights = attention(3, 4)
    draw_attention(weights, TOKENS[:3], TOKENS, title="b looks at a")
    ax = plt.gca()
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells == {(j, i): f"{weights[i, j]:.2f}" for i in range(3) for j in range(4)}
    assert [label.get_text() for label in ax.get_xticklabels()] == TOKENS
    assert [label.get_text() for label in ax.get_yticklabels()] == TOKENS[:3]
    assert ax.get_title() == "b looks at a"
    plt.gcf().canvas.draw()  # "$a" and "b$" are tokens, not formulas


def test_map_names_what_is_not_a_number():
    weights = torch.tensor([[float("nan"), 0.25], [float("-inf"), -1.5]])
    draw_attention(weights, ["a", "b"])
    assert [t.get_text() for t in plt.gca().texts] == ["NaN", "0.25", "−∞", "−1.50"]


def test_large_map_has_a_scale_in_place_of_numbers():
    draw_attention(attention(11, 11), list("abcdefghijk"))
    assert not plt.gca().texts
    assert len(plt.gcf().axes) == 2  # the map and its colour bar


def test_maps_of_all_heads_share_one_scale():
    draw_attention(attention(2, 3, 4, 4), TOKENS)
    maps = [ax for ax in plt.gcf().axes if ax.get_title(loc="center")]
    assert [ax.get_title(loc="center") for ax in maps][:2] == ["layer 0, head 0", "layer 0, head 1"]
    assert len(maps) == 6
    assert len({ax.images[0].get_clim() for ax in maps}) == 1


def test_a_line_is_as_wide_as_its_weight():
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.9, 0.1]])
    draw_attention(weights, ["x", "y"], ["a", "b", "c"], view="lines")
    drawn = lines(plt.gca())
    assert list(drawn.get_linewidths()) == pytest.approx(
        [LINE_WIDTH * w for w in (0.5, 0.25, 0.25, 0.9, 0.1)]  # none for the weight of 0
    )
    (_, y_start), (_, y_end) = drawn.get_segments()[3]  # from y to b
    heights = {t.get_text(): t.get_position()[1] for t in plt.gca().texts}
    assert (y_start, y_end) == (heights["y"], heights["b"])


def test_huggingface_tuple_is_the_same_as_the_stacked_tensor():
    stacked = attention(2, 3, 4, 4)
    for weights in (stacked, tuple(layer[None] for layer in stacked)):
        draw_attention(weights, TOKENS, layer=1, head=2)
    first, second = (plt.figure(n).axes[0].images[0].get_array() for n in plt.get_fignums())
    assert (first == second).all()
    assert torch.allclose(torch.as_tensor(first.data), stacked[1, 2])


def test_heads_draws_every_head_of_the_layer():
    weights = attention(2, 5, 4, 4)
    draw_attention(weights, TOKENS, view="heads", layer=1)
    panels = [ax for ax in plt.gcf().axes if ax.collections]
    assert [ax.get_title(loc="center") for ax in panels] == [f"head {j}" for j in range(5)]
    assert plt.gcf().get_suptitle() == "layer 1"
    kept = weights[1, 4][weights[1, 4] >= 0.01]
    assert list(lines(panels[4]).get_linewidths()) == pytest.approx((LINE_WIDTH * kept).tolist())


def test_lines_of_many_heads_have_sliders_and_a_picture_of_all_heads(shown):
    draw_attention(attention(2, 3, 4, 4), TOKENS, view="lines")
    (bundle,) = shown
    assert bundle["text/plain"] == "slider layer: 0 to 1; here 0\nslider head: 0 to 2; here 0"
    assert bundle["image/png"].startswith(b"\x89PNG") and WIDGET in bundle
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "shape, tokens, options, message",
    [
        ((4,), TOKENS, {}, r"weights must be .*got shape \(4,\)"),
        ((2, 2, 2, 4, 4), TOKENS, {}, "weights must be"),
        ((3, 4), TOKENS, {}, "3 queries × 4 keys, the tokens are 4 × 4"),
        ((4, 4), TOKENS, {"view": "heatmap"}, "view is 'heatmap': write one of map, lines"),
        ((2, 4, 4), TOKENS, {"head": 2}, "head 2 does not exist: the weights have 0 to 1"),
        ((2, 4, 4), TOKENS, {"layer": 1}, "layer 1 does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(shape, tokens, options, message):
    with pytest.raises(ValueError, match=message) as error:
        draw_attention(torch.zeros(shape), tokens, **options)
    assert "\n" not in str(error.value)


def test_a_batch_of_two_sentences_is_refused():
    with pytest.raises(ValueError, match="draw one sentence at a time"):
        draw_attention((torch.zeros(2, 3, 4, 4),), TOKENS)


@pytest.mark.parametrize("view", ["head_view", "model_view"])
def test_bertviz_page_fetches_nothing_and_is_the_same_each_time(view):
    pytest.importorskip("bertviz")
    weights = attention(2, 3, 4, 4)
    frame = draw_attention(weights, TOKENS, view=view)
    assert frame.page == draw_attention(weights, TOKENS, view=view).page
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", frame.page)
    assert "cdnjs" not in frame.page
    drawn = re.search(r'"attn": (.*?), "left_text"', frame.page).group(1)
    assert json.loads(drawn) == [[[[round(w, 3) for w in r] for r in h] for h in layer]
                                 for layer in weights.tolist()]  # fmt: skip
    assert html.escape(frame.page) in frame._repr_html_()
    assert repr(frame).endswith("of 2 layers × 3 heads over 4 tokens")
    assert len(frame._repr_html_()) < 450_000


def plot(height: float) -> None:
    print(f"height {height}")
    plt.subplots()[1].plot([0, height])
    plt.ylim(0, 10)


def test_moving_a_slider_redraws_the_picture_and_its_words(shown):
    from ipywidgets import HTML, FloatSlider, Image

    slider = FloatSlider(value=1.0, min=0.0, max=9.0)
    explore(plot, height=slider)
    box = _widget(shown[0])
    (picture,) = (w for w in box.children if isinstance(w, Image))
    (words,) = (w for w in box.children if isinstance(w, HTML))
    before = bytes(picture.value)
    slider.value = 8.0
    assert bytes(picture.value) != before and bytes(picture.value).startswith(b"\x89PNG")
    assert words.value == "<pre>height 8.0\n</pre>"
    slider.value = 1.0
    assert bytes(picture.value) == before == shown[0]["image/png"]
    assert not plt.get_fignums()


def test_explore_leaves_a_picture_and_the_range_where_no_kernel_runs(shown):
    explore(plot, height=(0.0, 9.0, 0.5))
    assert shown[0]["text/plain"] == "slider height: 0 to 9; here 4.5\nheight 4.5"
    explore(lambda how: print(how), how=["a", "b"])
    assert shown[1]["text/plain"] == "slider how: one of a, b; here a\na"
    assert "image/png" not in shown[1]


def test_explore_shows_a_later_error_in_the_figures_place(shown):
    from ipywidgets import HTML, IntSlider

    slider = IntSlider(value=1, min=0, max=3)
    explore(lambda n: print(1 / n), n=slider)
    slider.value = 0
    (words,) = (w for w in _widget(shown[0]).children if isinstance(w, HTML))
    assert "ZeroDivisionError: division by zero" in words.value


def test_a_slider_starts_at_the_default_of_its_argument(shown):
    def plot_at(height=4.0, **others):
        plot(height)

    explore(plot_at, height=(1.0, 5.0))
    assert "here 4" in shown[0]["text/plain"]


def test_explore_refuses_what_is_not_a_slider():
    with pytest.raises(ValueError, match="needs a slider"):
        explore(plot)
    with pytest.raises(ValueError, match="slider height=.* can not be made"):
        explore(plot, height=(9, 0))


def _widget(bundle: dict):
    import ipywidgets

    return ipywidgets.widgets.widget._instances[bundle[WIDGET]["model_id"]]
